"""Why a structure is not there: the field of view, no model, a model that is not confident; told apart, and never green."""

import pytest
from pydantic import ValidationError

from contour.engine import NoModel, NotConfident, NotInImage
from contour.template import load_template
from pipelines.contouring import reasons_of, state_of
from pipelines.result import CaseResult, FlagRecord, StructureRecord


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


@pytest.mark.parametrize(("old", "new"), [("not_trusted", "not_confident"), ("not_offered", "no_model")])
def test_results_of_schema_1_0_are_still_read(old, new):
    result = CaseResult.model_validate(
        {"schema": "1.0", "case": "c", "verdict": "publish", "structures": [{"name": "Heart", "state": old}]}
    )
    assert result.structures[0].state == new


def test_other_words_for_a_state_are_refused():
    with pytest.raises(ValidationError):
        StructureRecord.model_validate({"name": "Heart", "state": "gone"})
