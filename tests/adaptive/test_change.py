"""Change since the plan, on shapes of which the truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from adaptive.change.body import air_change, outline_change, separations
from adaptive.change.compare import drift_of, residual_of
from adaptive.change.structures import Change, overlap_change, setup, structure_change
from adaptive.decision.decision import Verdict, decide
from adaptive.decision.measurement import Measured
from adaptive.decision.policy import load_policy
from adaptive.propagation.shape import centre, common, filled, filled_each
from adaptive.propagation.surface_distance import Ground
from patient.errors import FrameMismatch, InputError
from patient.geometry import Box, Geometry
from patient.loop import Loop
from patient.structures import Structure
from patient.trust import GIVEN
from patient.volume import Field, Level, Volume
from registration.couch import AXES, CouchCorrection, iec_from_lps
from registration.transforms import Rigid, Space
from tests.adaptive.placing import PLAN, TODAY, alignment
from tests.figures import DOUBTED, figure

GRID = Geometry((24, 60, 64), (3.0, 1.0, 1.0), (-32.0, -30.0, -36.0), frame_of_reference="1.2")
FLIPPED = Geometry((64, 60, 26), (1.0, 1.1, 2.5), (30.0, 31.0, 34.0), ((-1, 0, 0), (0, -1, 0), (0, 0, -1)))
WIDE = Geometry((20, 60, 80), (3.0, 5.0, 5.0), (-200.0, -150.0, -30.0))
R = 18.2
SHRUNK = R * 0.7 ** (1 / 3)


def points(grid: Geometry) -> np.ndarray:
    return grid.points(np.moveaxis(np.indices(grid.shape), 0, -1))


def ball(
    radius: float = R, centre=(0.3, 0.2, 0.1), grid: Geometry = GRID, kind: str = "distance", axes=(1.0, 1.0, 1.0)
) -> Field:
    """An ellipsoid in its own box; its distance is exact where it is a ball."""
    mm = (np.linalg.norm((points(grid) - centre) / axes, axis=-1) - radius).astype(np.float32)
    box = Box.of(mm < 0).padded(2, grid.shape)
    if kind == "distance":
        return Field(Volume(mm, grid).cropped(box), Level.DISTANCE)
    values = np.clip(0.5 - mm / 4, 0, 1) if kind == "probability" else mm < 0
    return Field(Volume(values.astype(np.float32), grid).cropped(box))


def ground(grid: Geometry = GRID, position: str = "HFS", seen: np.ndarray | None = None, **more) -> Ground:
    return Ground(Volume(np.ones(grid.shape, bool) if seen is None else seen, grid), position, **{"trust": GIVEN, **more})


def values(change: Change) -> dict[str, float]:
    return {m.quantity: figure(m).value for m in change.measurements}


@pytest.mark.parametrize("grid", [GRID, FLIPPED])
@pytest.mark.parametrize("kind", ["distance", "probability", "mask"])
def test_the_volume_of_a_parotid_sized_ball_is_right_to_1_percent(grid: Geometry, kind: str) -> None:
    change = structure_change("Parotid_L", ball(grid=grid, kind=kind), ball(SHRUNK, grid=grid, kind=kind), ground(grid))
    volume = next(m for m in change.measurements if m.quantity == "volume")
    assert figure(volume).planned == pytest.approx(4 / 3 * np.pi * R**3 / 1000, rel=0.01)
    assert figure(volume).value == pytest.approx(4 / 3 * np.pi * SHRUNK**3 / 1000, rel=0.01)
    assert figure(volume).relative == pytest.approx(-0.30, abs=0.01)


@pytest.mark.parametrize(("radius", "within"), [(6.2, 0.015), (12.0, 0.003), (18.2, 0.002)])
def test_thick_slices_do_not_cut_the_corners_of_a_round_structure(radius: float, within: float) -> None:
    change = structure_change("GTV", ball(radius), ball(radius), ground())
    assert values(change)["volume"] == pytest.approx(4 / 3 * np.pi * radius**3 / 1000, rel=within)


@pytest.mark.parametrize("grid", [GRID, FLIPPED])
def test_a_shrunk_ball_lost_the_same_on_every_side(grid: Geometry) -> None:
    change = structure_change("GTV", ball(grid=grid), ball(SHRUNK, grid=grid), ground(grid))
    got, lost = values(change), R - SHRUNK
    assert got["mean_surface_distance"] == pytest.approx(lost, abs=0.05)
    assert got["hd95"] == pytest.approx(lost, abs=0.25)
    assert got["shift"] == pytest.approx(0, abs=0.02)
    assert got["dice"] == pytest.approx(2 * 0.7 / 1.7, abs=0.005)
    assert change.map is not None
    assert change.map.area.sum() == pytest.approx(4 * np.pi * R**2, rel=0.02)
    for side in ("left", "right", "anterior", "posterior", "superior", "inferior"):
        assert getattr(change.map.towards, side) == pytest.approx(-lost, abs=0.15), side


def test_nothing_changed_gives_zeros() -> None:
    got = values(structure_change("GTV", ball(), ball(), ground()))
    for quantity in ("shift", "mean_surface_distance", "hd95"):
        assert got[quantity] == pytest.approx(0, abs=1e-4)
    assert got["dice"] == 1.0


@pytest.mark.parametrize(
    ("side", "direction"),
    [
        ("left", (1, 0, 0)),
        ("right", (-1, 0, 0)),
        ("anterior", (0, -1, 0)),
        ("posterior", (0, 1, 0)),
        ("superior", (0, 0, 1)),
        ("inferior", (0, 0, -1)),
    ],
)
@pytest.mark.parametrize("grid", [GRID, FLIPPED])
def test_what_moves_to_one_side_grew_there_and_shrank_opposite(grid: Geometry, side: str, direction) -> None:
    to = np.array((0.3, 0.2, 0.1)) + 2.0 * np.array(direction)
    change = structure_change("GTV", ball(12, grid=grid), ball(12, to, grid), ground(grid))
    assert change.map is not None
    sides = ["left", "right", "anterior", "posterior", "superior", "inferior"]
    moved = {s: getattr(change.map.towards, s) for s in sides}
    opposite = sides[sides.index(side) ^ 1]
    assert moved[side] == max(moved.values()) > 1.2
    assert moved[opposite] == min(moved.values()) < -1.2
    others = [v for s, v in moved.items() if s not in (side, opposite)]
    assert np.allclose(others, 0, atol=0.25)


@pytest.mark.parametrize("position", sorted(AXES))
def test_a_shift_is_said_along_the_couchs_axes_for_every_position(position: str) -> None:
    moved = np.array((1.5, -2.5, 3.5))
    got = values(structure_change("GTV", ball(12, (0, 0, 0)), ball(12, moved), ground(position=position)))
    along = [got[f"shift_{n}"] for n in ("lateral", "longitudinal", "vertical")]
    np.testing.assert_allclose(along, iec_from_lps(position) @ moved, atol=0.05)
    assert got["shift"] == pytest.approx(np.linalg.norm(moved), abs=0.05)


def test_a_supine_patients_tumour_that_rises_is_said_to_rise() -> None:
    """Head first supine: anterior is up, left is to the right of a viewer who faces the gantry."""
    got = values(structure_change("GTV", ball(12, (0, 0, 0)), ball(12, (1, -3, 0)), ground()))
    assert got["shift_vertical"] == pytest.approx(3, abs=0.05)
    assert got["shift_lateral"] == pytest.approx(1, abs=0.05)


@settings(max_examples=15, deadline=None)
@given(st.tuples(*[st.floats(-4, 4)] * 3), st.floats(9, 17), st.tuples(*[st.floats(0.8, 1.15)] * 3))
def test_any_ellipsoid_anywhere_keeps_its_volume_and_place(shift, radius, axes) -> None:
    got = structure_change("A", ball(12), ball(radius, shift, axes=axes), ground())
    volume = next(m for m in got.measurements if m.quantity == "volume")
    true = 4 / 3 * np.pi * radius**3 * np.prod(axes) / 1000
    assert figure(volume).value == pytest.approx(true, rel=0.02 if true < 4 else 0.01)
    assert values(got)["shift"] == pytest.approx(np.linalg.norm(np.array(shift) - (0.3, 0.2, 0.1)), abs=0.12)


def test_what_the_field_of_view_does_not_show_counts_on_neither_side() -> None:
    seen = points(GRID)[..., 2] < 0
    whole = structure_change("Cord", ball(), ball(), ground())
    cut = structure_change("Cord", ball(), ball(), ground(seen=seen))
    volumes = [next(m for m in c.measurements if m.quantity == "volume") for c in (whole, cut)]
    height = -1.5 - 0.1  # the last seen plane is that at -3 mm, and it reaches half a slice further
    true = np.pi * (2 * R**3 / 3 + R**2 * height - height**3 / 3) / 1000
    assert figure(volumes[1]).value == figure(volumes[1]).planned == pytest.approx(true, rel=0.01)
    assert "not seen today" in volumes[1].basis
    assert "not seen today" not in volumes[0].basis
    assert "shift" not in values(cut)
    assert any("field of view" in note for note in cut.notes)


def test_a_structure_that_today_ends_with_the_image_did_not_shrink() -> None:
    """Today's field ends at the image's edge; the plan's goes on. Neither volume nor surface may call that a loss."""
    seen = points(GRID)[..., 2] < 4
    today = ball()
    cropped = Field(today.volume.cropped(Box((0, 0, 0), (13, 64, 64))), Level.DISTANCE)
    change = structure_change("Cord", today, cropped, ground(seen=seen))
    got = {m.quantity: m for m in change.measurements}
    assert figure(got["volume"]).relative == pytest.approx(0, abs=0.001)
    assert figure(got["hd95"]).value == pytest.approx(0, abs=0.01)
    assert change.map is not None
    assert np.abs(change.map.outward).max() < 0.5


def test_a_structure_outside_the_field_of_view_is_not_measured() -> None:
    change = structure_change("Cord", ball(), ball(), ground(seen=np.zeros(GRID.shape, bool)))
    assert change.measurements == ()
    assert change.map is None
    assert "Cord" in change.notes[0]


def test_a_structure_beyond_the_image_is_not_measured() -> None:
    """The plan's may lie wherever the couch put it, on voxels that today's image does not have."""
    away = ball()
    shifted = Geometry(away.geometry.shape, GRID.spacing, tuple(GRID.points((-99, 5, 5)).tolist()), frame_of_reference="1.2")
    far = Field(Volume(away.volume.array, shifted), Level.DISTANCE)
    assert structure_change("Cord", far, ball(), ground()).measurements == ()


@pytest.mark.parametrize("kind", ["distance", "mask"])
def test_a_structure_of_a_few_voxels_is_measured(kind: str) -> None:
    small = ball(1.8, (0, 0, 0), kind=kind)
    got = values(structure_change("Cochlea_L", small, ball(1.8, (1, 0, 0), kind=kind), ground()))
    assert got["shift"] == pytest.approx(1, abs=0.15)
    assert 0 < got["hd95"] < 2


def test_the_centre_of_a_ball_is_its_centre() -> None:
    np.testing.assert_allclose(centre(ball(12, (1.2, -3.4, 2.1))), (1.2, -3.4, 2.1), atol=0.05)


def test_a_surface_error_becomes_intervals_and_distrust_travels() -> None:
    change = structure_change("GTV", ball(), ball(SHRUNK), ground(surface_error=0.5, trust=DOUBTED, basis="deformed"))
    volume = next(m for m in change.measurements if m.quantity == "volume")
    assert figure(volume).interval is not None
    half = 4 * np.pi * SHRUNK**2 * 0.5 / 1000
    assert figure(volume).interval[1] - figure(volume).value == pytest.approx(half, rel=0.03)
    assert not any(m.trust for m in change.measurements)
    assert all("deformed" in m.basis for m in change.measurements)


def test_fields_of_another_frame_are_refused() -> None:
    with pytest.raises(FrameMismatch):
        structure_change("GTV", ball(grid=FLIPPED), ball(grid=FLIPPED), ground())
    with pytest.raises(InputError, match="patient position is none of"):
        structure_change("GTV", ball(), ball(), ground(position="SITTING"))


def test_overlap_of_two_balls_is_the_lens_between_them() -> None:
    def lens(d: float, r: float = 12.0) -> float:
        return np.pi * (4 * r + d) * (2 * r - d) ** 2 / 12 / 1000

    target = ball(12, (-8, 0, 0), kind="probability")
    got = overlap_change("Parotid_L", "PTV_7000", (ball(12, (4, 0, 0)), target), (ball(12, (0, 0, 0)), target), ground())
    assert got.quantity == "overlap_PTV_7000"
    assert figure(got).planned == pytest.approx(lens(12), rel=0.04)
    assert figure(got).value == pytest.approx(lens(8), rel=0.04)
    apart = overlap_change("A", "B", (ball(6, (20, 20, 0)), target), (ball(6, (9, 0, 0)), target), ground())
    assert figure(apart).planned == 0.0
    assert figure(apart).value > 0


def body(a: float, b: float, aside: float = 0.0, grid: Geometry = WIDE, hollow: bool = False) -> Field:
    """An elliptic cylinder (half axes in mm) as signed distance, to first order."""
    p = points(grid)
    scaled = np.hypot((p[..., 0] - aside) / a, p[..., 1] / b)
    slope = np.hypot((p[..., 0] - aside) / a**2, p[..., 1] / b**2) / np.maximum(scaled, 1e-6)
    mm = (scaled - 1) / np.maximum(slope, 1e-6)
    return Field(Volume(np.clip(mm, -30, 30).astype(np.float32), grid), Level.DISTANCE)


def test_a_body_that_lost_weight_lost_width_and_outline() -> None:
    where = ground(WIDE)
    change = outline_change("External", body(150, 100), body(144, 97), where)
    got = values(change)
    assert got["outline_lost"] == pytest.approx(np.pi * (150 * 100 - 144 * 97) * 60 / 1000, rel=0.03)
    assert got["outline_gained"] == pytest.approx(0, abs=1)
    assert got["outline_max"] == pytest.approx(6, abs=0.4)
    assert change.map is not None
    assert change.map.towards.superior is None, "the scan's end is no surface of the body"
    widths = {m.quantity: m for m in separations(body(150, 100), body(144, 97), (0, 0, 0), (-15, 0, 15), where).measurements}
    assert len(widths) == 6
    for level in ("-15", "+0", "+15"):
        assert figure(widths[f"separation_lateral@{level}mm"]).planned == pytest.approx(300, abs=0.6)
        assert figure(widths[f"separation_lateral@{level}mm"]).change == pytest.approx(-12, abs=0.3)
        assert figure(widths[f"separation_AP@{level}mm"]).change == pytest.approx(-6, abs=0.3)


def test_a_width_whose_end_is_not_seen_is_not_given() -> None:
    seen = np.hypot(points(WIDE)[..., 0], points(WIDE)[..., 1]) < 130
    change = separations(body(150, 100), body(144, 97), (0, 0, 0), (0,), ground(WIDE, seen=seen))
    assert [m.quantity for m in change.measurements] == ["separation_AP@+0mm"]
    assert "separation_lateral@+0mm" in change.notes[0]


def test_a_width_beside_or_above_the_body_is_not_given() -> None:
    change = separations(body(150, 100), body(150, 100), (0, 0, 0), (500,), ground(WIDE))
    assert change.measurements == ()
    assert len(change.notes) == 2


def test_a_width_through_a_structures_centre_carries_its_name() -> None:
    change = separations(body(150, 100), body(150, 100), (20, 5, 0), (0,), ground(WIDE), structure="Larynx")
    assert {m.structure for m in change.measurements} == {"Larynx"}
    assert all("Larynx" in m.basis for m in change.measurements)


def test_air_is_counted_inside_the_body_but_not_in_lungs_or_at_the_skin() -> None:
    grid = WIDE
    p = points(grid)
    hu = np.where(np.hypot(p[..., 0] / 150, p[..., 1] / 100) < 1, 0, -1000).astype(np.int16)
    cavity = np.linalg.norm(p - (60, 0, 0), axis=-1) < 20
    lung = np.linalg.norm(p - (-60, 0, 0), axis=-1) < 25
    before, now = hu.copy(), hu.copy()
    before[lung] = now[lung] = -900
    now[cavity] = -1000
    lungs = [Field(Volume(lung.astype(np.float32), grid))]
    bodies = body(150, 100), body(150, 100)
    images = (Volume(before, grid), bodies[0]), (Volume(now, grid), bodies[1])
    got = air_change(*images, ground(grid), besides=(lungs, lungs))
    assert figure(got).planned == 0.0
    assert figure(got).value == pytest.approx(cavity.sum() * grid.voxel_cc)
    near = air_change(*images, ground(grid), near=ball(15, (60, 60, 0), grid), name="PTV_7000")
    assert near.structure == "PTV_7000"
    assert figure(near).value == 0.0, "25 mm lie between target and cavity"
    nearer = air_change(*images, ground(grid), near=ball(15, (60, 45, 0), grid), name="PTV_7000")
    assert 0 < figure(nearer).value < figure(got).value


def test_what_a_couch_that_only_shifts_leaves_is_what_the_rotation_does_to_the_farthest_point_of_a_target() -> None:
    turn, iso = Rotation.from_euler("z", 3, degrees=True).as_matrix(), (10.0, 0.0, 0.0)
    of = replace(alignment(), rigid=Rigid.of(turn, (6.0, -4.0, 5.0), Space.of(TODAY), Space.of(PLAN)))
    points = np.array([[10.0, 60.0, 0.0], [10.0, -20.0, 0.0], [0.0, 0.0, 0.0]])
    drawn = [Structure("PTV", 1, "PTV", drawn=(Loop(points),)), Structure("Cord", 2, "ORGAN")]
    (got,) = residual_of(CouchCorrection(1, 2, 3, 0, 0, 3, iso), of, iso, drawn)
    assert figure(got).value == pytest.approx(2 * 60 * np.sin(np.radians(1.5)))
    assert residual_of(None, of, iso, drawn) == residual_of(CouchCorrection(0, 0, 0, 0, 0, 0, iso), of, iso, drawn[1:]) == ()


def test_corrections_that_change_from_day_to_day_are_no_drift_and_those_that_go_one_way_are() -> None:
    def days(moves) -> list[Measured]:
        made = [setup(CouchCorrection(*move, 0, 0, 0, (0, 0, 0)), GIVEN) for move in moves]
        return [Measured(n, figures) for n, figures in enumerate(made, 1)]

    still = days([(6.6, 0, 0), (0, 6.6, 0), (0, 0, 6.6)] * 2)
    away = days([(n, 0, 2 * n) for n in range(6)])
    (none,), (some,) = (drift_of(d[-1].measurements, 6, d[:-1]) for d in (still, away))
    assert figure(none).value == pytest.approx(0)
    assert figure(some).value == pytest.approx(np.hypot(3, 6))
    assert drift_of(away[4].measurements, 5, away[:4]) == ()
    doubted = Measured(2, tuple(m.given(DOUBTED) for m in away[1].measurements))
    assert drift_of(away[-1].measurements, 6, [away[0], doubted, *away[2:-1]]) == ()


@pytest.mark.parametrize("name", ["head_neck", "thorax", "prostate"])
def test_a_couch_correction_of_the_size_of_a_setup_error_asks_for_nothing(name: str) -> None:
    policy = load_policy(name)
    policy = replace(policy, rules=tuple(rule for rule in policy.rules if rule.quantity.startswith("setup")))
    quantities = {rule.quantity for rule in policy.rules}
    assert quantities == {"setup", "setup_rotation", "setup_residual", "setup_drift"}
    for move, verdict in ((6.6, Verdict.CONTINUE), (25.0, Verdict.REVIEW)):
        today = Measured(1, setup(CouchCorrection(move, 0, 0, 0, 0, 0.5, (0, 0, 0)), GIVEN, error=1.5))
        assert decide(policy, [], today, [], registration=GIVEN).verdict is verdict


def test_setup_is_the_couchs_correction_with_its_length_and_angle() -> None:
    correction = CouchCorrection(3.0, -4.0, 12.0, 2.0, -1.0, 0.5, (0.0, 0.0, 0.0))
    got = {m.quantity: m for m in setup(correction, GIVEN, error=1.0)}
    assert figure(got["setup"]).value == pytest.approx(13)
    assert figure(got["setup"]).interval == pytest.approx((12, 14))
    assert figure(got["setup_longitudinal"]).value == -4.0
    true = np.degrees(Rotation.from_euler("xyz", (2.0, -1.0, 0.5), degrees=True).magnitude())
    assert figure(got["setup_rotation"]).value == pytest.approx(true)
    assert got["setup_yaw"].unit == "degrees"


def test_filling_two_fields_at_once_is_filling_each_and_both() -> None:
    one, other = ball(12, (0, 0, 0)), ball(11, (4, -3, 2))
    part = common(GRID, one, other)
    a, b, both = filled_each(part, one, other)
    assert (a == filled(part, one)).all()
    assert (b == filled(part, other)).all()
    assert (both <= np.minimum(a, b)).all()
    apart = filled(part, ball(12, (0, 0, 0)), ball(2, (25, 0, 0)))
    assert not apart.any()
    lens = 1 / 12 * np.pi * (12 + 11 - (d := np.sqrt(29))) ** 2 * (d + 2 * 23 - 3 * (12 - 11) ** 2 / d)
    assert float(both.sum()) / 64 * part.voxel_cc == pytest.approx(lens / 1000, rel=0.01)
