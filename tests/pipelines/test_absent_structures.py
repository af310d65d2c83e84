"""Why a structure is not there: the field of view, no model, a model that is not confident; told apart, and never green."""

from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from contour.engine import NoModel, NotConfident, NotInImage
from contour.template import load_template
from contour.truncation import Extent
from pipelines.planning.contouring import pairs_compared, state_of
from pipelines.planning.reasons import reasons_of
from pipelines.records.case import CaseResult, FlagRecord, StructureRecord


@pytest.mark.parametrize(
    ("absent", "state"), [(NotInImage, "not_in_image"), (NoModel, "no_model"), (NotConfident, "not_confident")]
)
def test_an_engines_kind_of_reason_is_the_records_state(absent, state):
    assert state_of(absent("Heart", "why")) == state


@pytest.mark.parametrize("state", ["not_in_image", "no_model", "not_confident", "not_drawn"])
def test_a_required_organ_that_is_missing_is_a_reason_for_review_whoever_is_to_blame(state):
    (said,) = reasons_of([StructureRecord(name="SpinalCord", state=state, required=True, reason="why")])
    assert said.startswith("SpinalCord is required and not there (")
    assert said.endswith("): why")


def test_what_a_model_is_not_confident_of_is_looked_at_though_nobody_requires_it():
    assert reasons_of([StructureRecord(name="Larynx", state="not_confident", reason="why")])
    assert not reasons_of([StructureRecord(name="Larynx", state="not_in_image", reason="why")])


def test_an_abrupt_end_sends_a_case_to_review():
    flag = FlagRecord(code="abrupt_end", detail="does not taper")
    assert reasons_of([StructureRecord(name="Lung_R", state="contoured", flags=(flag,))]) == ("Lung_R: does not taper",)


def test_a_chest_is_not_green_without_heart_oesophagus_and_cord():
    assert {w.name for w in load_template("thorax").structures if w.required} >= {"Heart", "Esophagus", "SpinalCord"}


def test_a_head_and_neck_is_not_green_without_what_every_plan_is_limited_by():
    required = {w.name for w in load_template("head_neck").structures if w.required}
    assert required >= {"Brainstem", "SpinalCord", "Parotid_L", "Parotid_R"}
    assert not required & {"Larynx", "Esophagus", "Bone_Mandible"}


def test_a_lung_short_of_its_twin_is_flagged_on_its_own_record():
    records = [StructureRecord(name=name, state="contoured") for name in ("Lung_L", "Lung_R")]
    whole = Extent(np.full(40, 100), foot=60.0, head=260.0, below=60.0, above=60.0, volume_cc=1500.0)
    left, right = pairs_compared(records, {"Lung_L": whole, "Lung_R": replace(whole, head=200.0, above=120.0)})
    assert not left.flags
    assert [flag.code for flag in right.flags] == ["uneven_pair"]
    assert reasons_of([left, right]) == ("Lung_R: ends 60 mm short of Lung_L at the superior end",)


@pytest.mark.parametrize(("old", "new"), [("not_trusted", "not_confident"), ("not_offered", "no_model")])
def test_results_of_schema_1_0_are_still_read(old, new):
    result = CaseResult.model_validate(
        {"schema": "1.0", "case": "c", "verdict": "publish", "structures": [{"name": "Heart", "state": old}]}
    )
    assert result.structures[0].state == new


def test_other_words_for_a_state_are_refused():
    with pytest.raises(ValidationError):
        StructureRecord.model_validate({"name": "Heart", "state": "gone"})
