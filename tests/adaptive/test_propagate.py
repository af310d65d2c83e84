import numpy as np
import pytest

from adaptive.decision.rules import Propagation, StructurePolicy
from adaptive.propagation.planned_surface import surface_of
from adaptive.propagation.propagate import propagated
from adaptive.propagation.propagated import Made
from adaptive.propagation.rebuild import rebuilt, without_ingredients
from adaptive.propagation.shape import centre, common, filled
from contour.engine import Finding, Flag
from patient.geometry import Box
from patient.loop import Loop
from patient.outline import loops_of_field
from patient.structures import Structure
from patient.volume import Field, Level, Volume
from tests.adaptive.placing import PLAN, SHIFT, TODAY, alignment, shrinking, stage

RADIUS = 15.0
DEFORM, RIGID = StructurePolicy(Propagation.DEFORM), StructurePolicy(Propagation.RIGID)
RECONCILE, FRESH = StructurePolicy(Propagation.RECONCILE), StructurePolicy(Propagation.FRESH)


def drawn(name: str, radius: float = RADIUS, at=(0.0, 0.0, 0.0), kind: str = "ORGAN") -> Structure:
    angle = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    loops = []
    for k in range(PLAN.shape[0]):
        z = PLAN.origin[2] + k * PLAN.spacing[0]
        if abs(z - at[2]) < radius:
            r = np.sqrt(radius**2 - (z - at[2]) ** 2)
            loops.append(Loop(np.column_stack([at[0] + r * np.cos(angle), at[1] + r * np.sin(angle), np.full(120, z)])))
    return Structure(name, 1, kind, drawn=tuple(loops))


def ball(radius: float, at) -> Field:
    points = TODAY.points(np.moveaxis(np.indices(TODAY.shape), 0, -1))
    distance = np.linalg.norm(points - np.asarray(at), axis=-1) - radius
    box = Box.of(distance < 0).padded(1, TODAY.shape)
    return Field(Volume(distance[box.slices].astype(np.float32), TODAY.cropped(box)), Level.DISTANCE)


def cc(field: Field) -> float:
    part = common(field.geometry, field)
    return float(filled(part, field).sum(dtype=np.int64)) / 64 * part.voxel_cc


def made(structure, policy, of, fresh=None):
    return propagated(structure, surface_of(structure, PLAN), policy, of, fresh)


def test_a_structure_goes_where_the_registration_says_finer_than_voxels():
    found = made(drawn("GTV"), RIGID, stage(alignment()))
    assert np.abs(centre(found.field) - SHIFT).max() < 0.1
    assert cc(found.field) == pytest.approx(4 / 3 * np.pi * RADIUS**3 / 1000, rel=0.02)
    assert (found.made, found.flags, found.seen) == (Made.RIGID, (), 1.0)


@pytest.mark.parametrize("part", [0.1, 0.3])
def test_a_structure_that_shrank_loses_what_it_lost(part):
    of = stage(alignment(push=shrinking(SHIFT, RADIUS, part)))
    found = made(drawn("GTV"), DEFORM, of)
    assert cc(found.field) / cc(found.as_planned) == pytest.approx(1 - part, abs=0.025)
    assert found.made is Made.DEFORMED


def test_its_contours_lie_on_todays_planes():
    found = made(drawn("GTV"), DEFORM, stage(alignment(push=lambda at: 0 * at)))
    planes = TODAY.indices(np.concatenate([loop.points for loop in loops_of_field(found.field)]))[:, 0]
    assert np.abs(planes - np.rint(planes)).max() < 1e-6


def test_a_ptv_without_a_recipe_is_copied_rigidly_and_flagged_whatever_the_policy_says():
    of = stage(alignment(push=shrinking(SHIFT, RADIUS, 0.3)))
    found = made(drawn("PTV", kind="PTV"), DEFORM, of)
    assert found.made is Made.RIGID
    assert [flag.code for flag in found.flags] == ["ptv_without_recipe"]
    assert cc(found.field) == pytest.approx(cc(found.as_planned))


def test_a_margin_is_rebuilt_from_todays_structure_not_deformed():
    of = stage(alignment(push=shrinking(SHIFT, RADIUS, 0.3)))
    ctv = made(drawn("CTV"), DEFORM, of)
    ptv = made(drawn("PTV", RADIUS + 4.0, kind="PTV"), StructurePolicy(Propagation.DEFORM, "CTV + 4 mm"), of)
    again = rebuilt(ptv, [ctv], of)
    assert again is not None
    radius = RADIUS * 0.7 ** (1 / 3) + 4.0
    assert cc(again.field) == pytest.approx(4 / 3 * np.pi * radius**3 / 1000, rel=0.08)
    assert (again.made, again.flags) == (Made.REBUILT, ())


def test_a_recipe_that_is_not_the_plans_is_flagged():
    of = stage(alignment())
    ctv = made(drawn("CTV"), RIGID, of)
    ptv = made(drawn("PTV", RADIUS + 8.0, kind="PTV"), StructurePolicy(Propagation.DEFORM, "CTV + 4 mm"), of)
    again = rebuilt(ptv, [ctv], of)
    assert again is not None
    assert [flag.code for flag in again.flags] == ["recipe_differs"]


def test_a_recipe_without_its_ingredient_leaves_a_flagged_rigid_copy():
    of = stage(alignment())
    ptv = made(drawn("PTV", kind="PTV"), StructurePolicy(Propagation.DEFORM, "CTV + 4 mm"), of)
    assert rebuilt(ptv, [], of) is None
    copied = without_ingredients(ptv, of)
    assert copied.made is Made.RIGID
    assert [flag.code for flag in copied.flags] == ["not_rebuilt"]


def test_what_the_field_of_view_cuts_is_completed_and_flagged():
    seen = np.ones(TODAY.shape, dtype=bool)
    seen[:, :, 36:] = False
    found = made(drawn("GTV"), DEFORM, stage(alignment(), seen))
    assert found.seen is not None
    assert 0.5 < found.seen < 0.8
    assert [flag.code for flag in found.flags] == ["completed"]
    assert cc(found.field) == pytest.approx(4 / 3 * np.pi * RADIUS**3 / 1000, rel=0.02)


def test_a_structure_that_leaves_the_image_is_continued_as_an_estimate_and_drawn_only_inside():
    found = made(drawn("Cord", at=(0.0, 0.0, 30.0)), RIGID, stage(alignment()))
    assert cc(found.whole) == pytest.approx(cc(made(drawn("Cord"), RIGID, stage(alignment())).whole), rel=0.1)
    assert cc(found.field) < 0.9 * cc(found.whole)
    assert TODAY.box_of(found.field.geometry).stop[0] <= TODAY.shape[0]
    assert found.seen == pytest.approx(cc(found.field) / cc(found.whole), abs=0.05)


def test_what_lies_elsewhere_or_belongs_to_the_couch_is_said_not_drawn():
    of = stage(alignment(shift=(0.0, 0.0, 200.0)))
    assert made(drawn("GTV"), DEFORM, of).reason
    assert made(drawn("Couch", kind="SUPPORT"), DEFORM, stage(alignment())).reason
    assert made(Structure("Point", drawn=()), DEFORM, stage(alignment())).reason


def test_two_answers_are_blended_by_their_confidence_and_their_disagreement_is_said():
    of = stage(alignment(error=5.0))  # confidence one half
    fresh = Finding("GTV", ball(RADIUS - 4.0, SHIFT), confidence=0.5)
    found = made(drawn("GTV"), RECONCILE, of, fresh)
    assert found.made is Made.RECONCILED
    assert found.disagreement is not None
    assert found.disagreement.mean == pytest.approx(4.0, abs=0.25)
    radius = (cc(found.field) * 1000 * 3 / 4 / np.pi) ** (1 / 3)
    assert radius == pytest.approx(RADIUS - 2.0, abs=0.3)


def test_a_mere_suggestion_moves_no_propagated_contour_and_is_compared():
    of = stage(alignment(error=5.0))
    doubted = Finding("GTV", ball(RADIUS - 4.0, SHIFT), 0.9, (Flag("suggestion", "a suggestion"),))
    alone, found = made(drawn("GTV"), DEFORM, of), made(drawn("GTV"), RECONCILE, of, doubted)
    assert (found.made, cc(found.field), bool(found.trust)) == (alone.made, cc(alone.field), True)
    assert [flag.code for flag in found.flags] == ["compared_only"]
    assert found.disagreement is not None
    assert found.disagreement.mean == pytest.approx(4.0, abs=0.25)
    assert f"{found.disagreement.mean:.1f} mm" in found.flags[0].detail


@pytest.mark.parametrize("code", ["suggestion", "low_confidence"])
def test_nothing_is_decided_on_a_fresh_contour_that_a_person_has_to_look_at(code: str):
    doubted = Finding("GTV", ball(RADIUS, SHIFT), flags=(Flag(code, "look at it"),))
    found = made(drawn("GTV"), FRESH, stage(alignment()), doubted)
    assert (found.made, bool(found.trust)) == (Made.FRESH, False)
    assert made(drawn("GTV"), FRESH, stage(alignment()), Finding("GTV", ball(RADIUS, SHIFT))).trust


def test_without_an_engine_a_fresh_contour_becomes_a_propagated_one_and_says_so():
    found = made(drawn("GTV"), FRESH, stage(alignment()), "not in this image")
    assert found.field is not None
    assert [flag.code for flag in found.flags] == ["not_afresh"]
    assert not made(drawn("GTV"), RECONCILE, stage(alignment()), None).flags


def test_a_fresh_contour_is_completed_by_the_propagated_one_where_nothing_is_seen():
    seen = np.ones(TODAY.shape, dtype=bool)
    seen[:, :, 41:] = False
    fresh = Finding("GTV", ball(RADIUS, SHIFT))
    found = made(drawn("GTV"), FRESH, stage(alignment(), seen), fresh)
    assert cc(found.field) == pytest.approx(4 / 3 * np.pi * RADIUS**3 / 1000, rel=0.03)
    assert "completed" in [flag.code for flag in found.flags]


def test_what_stands_on_a_registration_that_is_not_trusted_is_marked():
    found = made(drawn("GTV"), DEFORM, stage(alignment(trusted=False)))
    assert found.field is not None
    assert not found.trust
