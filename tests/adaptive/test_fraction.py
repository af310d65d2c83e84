from dataclasses import replace

import numpy as np
import pytest

from adaptive.alignment.alignment import Alignment
from adaptive.decision.decision import Verdict
from adaptive.decision.policy import load_policy
from adaptive.fraction import Fraction, PlanSide, TodaySide, adapt
from adaptive.propagation.propagated import Made
from contour.engine import Finding, NotInImage, Offer
from patient.dose import Dose
from patient.volume import Volume
from tests.adaptive.placing import PLAN, SHIFT, TODAY, alignment, shrinking
from tests.adaptive.test_propagate import RADIUS, ball, drawn
from tests.figures import figure

POLICY = """
schema = 1
version = "t"
description = "for tests"
[structures.GTV]
propagate = "reconcile"
metrics = ["D95%"]
[structures.External]
propagate = "fresh"
[rules.tumour_shrinks]
structures = ["GTV"]
quantity = "volume"
unit = "%"
compare = "relative"
falls_below = -20.0
consequence = "replan"
source = "example, site to set"
"""
STRUCTURES = (drawn("GTV"), drawn("Cord", 6.0, (0.0, 30.0, 0.0)), drawn("BODY", 40.0, kind="EXTERNAL"))


class Kept:
    """An alignment that was kept, so that nothing is registered."""

    def __init__(self, made: Alignment) -> None:
        self.made = made

    def load(self) -> Alignment:
        return self.made

    def keep(self, made: Alignment) -> None:
        raise AssertionError("registered again")


class Engine:
    """Finds a ball for a body, and no tumour."""

    name, version = "balls", "1"

    def offers(self):
        return {"External": Offer("ball"), "GTV": Offer("ball")}

    def contour(self, image, wanted, context):
        for name in wanted:
            yield Finding(name, ball(38.0, SHIFT)) if name == "External" else NotInImage(name, "no tumour seen")


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    path = tmp_path_factory.mktemp("p") / "site.toml"
    path.write_text(POLICY)
    return load_policy(str(path))


def run(policy, made: Alignment, fractions: int | None = 30, **today) -> Fraction:
    rng = np.random.default_rng(0)
    images = [Volume(rng.normal(0, 20, g.shape).astype(np.int16), g) for g in (PLAN, TODAY)]
    dose = Dose(Volume(np.full(PLAN.shape, 60.0, dtype=np.float32), replace(PLAN, image="")), plan_uid="1.2.9")
    plan = PlanSide(images[0], STRUCTURES, (0.0, 0.0, 0.0), dose, fractions)
    side = TodaySide(images[1], **{"patient_position": "HFS"} | today)
    return adapt(plan, side, policy, {"balls": Engine()}, alignments=Kept(made))


def test_a_tumour_that_shrank_asks_for_what_the_policy_says(policy):
    found = run(policy, alignment(push=shrinking(SHIFT, RADIUS, 0.4), error=0.3))
    assert found.decision.verdict is Verdict.REPLAN
    volume = next(m for m in found.measurements if (m.structure, m.quantity) == ("GTV", "volume"))
    assert figure(volume).relative == pytest.approx(-0.4, abs=0.04)
    assert all(m.trust for m in found.measurements if m.structure == "GTV")


def test_what_is_not_trusted_is_still_drawn_and_leads_to_a_persons_look(policy):
    found = run(policy, alignment(push=shrinking(SHIFT, RADIUS, 0.4), trusted=False))
    assert [one.made for one in found.structures][:2] == [Made.DEFORMED, Made.DEFORMED]
    assert found.decision.verdict is Verdict.REVIEW
    assert "made so" in found.decision.reasons
    assert not any(m.trust for m in found.measurements if m.structure == "GTV")
    assert found.dose is not None


def test_an_engine_contours_what_the_policy_wants_afresh_by_its_own_name_for_it(policy):
    found = run(policy, alignment())
    body = next(one for one in found.structures if one.name == "BODY")
    assert body.made is Made.FRESH
    assert body.disagreement is not None
    assert body.disagreement.mean == pytest.approx(2.0, abs=0.3)
    assert found.engines == {"balls": "1"}
    assert next(one for one in found.structures if one.name == "GTV").made is Made.RIGID


def test_without_a_number_of_fractions_nothing_is_said_of_dose(policy):
    found = run(policy, alignment(), fractions=None)
    assert found.dose is None
    assert any("number of fractions" in note for note in found.notes)
    assert not any(m.unit == "Gy" for m in found.measurements)


def test_where_nobody_says_how_the_patient_lay_there_is_no_couch_correction(policy):
    found = run(policy, alignment(), patient_position="")
    assert found.couch is None
    assert not any(m.quantity.startswith("setup") for m in found.measurements)
