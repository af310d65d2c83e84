"""The DVH against analytic ones (after Nelms 2015, Med Phys 42:4435), its figures, its band, and what it refuses."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from adaptive.dose.dvh import BIN, DvhInterval, Metric, dvh, dvh_interval
from adaptive.dose.lattice import HALF_SLICE, NOTHING_BEYOND, End, lattice
from patient.dose import Dose
from patient.errors import FrameMismatch, InputError, PolicyError
from patient.geometry import Geometry
from patient.loop import Loop
from patient.structures import Structure
from patient.volume import Field, Level, Volume

FRAME = "1.2.3"
GRID = Geometry((41, 41, 41), (2.5, 2.5, 2.5), (-50.0, -50.0, -50.0), frame_of_reference=FRAME)
ANGLES = np.linspace(0, 2 * np.pi, 180, endpoint=False)
UNIT = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1) * np.sqrt(2 * np.pi / 180 / np.sin(2 * np.pi / 180))
"""A circle as a polygon of the same area, pi."""
NO_TURN = Rotation.identity()


def _disc(radius, z, centre=(0.0, 0.0)):
    return np.column_stack([radius * UNIT + centre, np.full(len(UNIT), z)])


def _structure(*points, turn=NO_TURN, shift=(0, 0, 0)):
    return Structure("Test", drawn=tuple(Loop(turn.apply(p) + np.asarray(shift)) for p in points))


def _cylinder(radius=15.0, planes=11, spacing=2.0, **how):
    return _structure(*(_disc(radius, spacing * (k - (planes - 1) / 2)) for k in range(planes)), **how)


def _sphere(radius=20.0, spacing=1.0, **how):
    z = np.arange(-radius + spacing / 2, radius, spacing)
    return _structure(*(_disc(np.sqrt(radius**2 - v**2), v) for v in z), **how)


def _linear(along, grid=GRID, base=30.0):
    """Dose that grows linearly by `along` Gy/mm; trilinear interpolation gives it exactly."""
    points = grid.points(np.moveaxis(np.indices(grid.shape), 0, -1))
    return Dose(Volume((base + points @ np.asarray(along, float)).astype(np.float32), grid))


def _dvh(structure, dose, **how):
    return dvh(structure, dose, frame_of_reference=FRAME, **how)


def _segment(t):
    """Share of a circle of radius 1 beyond the chord at t."""
    return (np.arccos(t) - t * np.sqrt(1 - t * t)) / np.pi


def _cap(t):
    """Share of a sphere of radius 1 beyond the plane at t."""
    return (2 - 3 * t + t**3) / 4


def test_a_plane_whose_contour_is_smaller_than_a_cell_adds_nothing_and_breaks_nothing():
    discs = [_disc(15.0, 2.0 * k) for k in range(5)]
    whole, tipped = _structure(*discs), _structure(*discs, _disc(0.02, 10.0))
    found = [_dvh(one, _linear((0.5, 0, 0)), plane_spacing=2.0, resolution=1.0) for one in (whole, tipped)]
    assert found[1].volume_cc == pytest.approx(found[0].volume_cc, rel=0.01)
    assert found[1].mean == pytest.approx(found[0].mean, abs=0.05)


@pytest.mark.parametrize(
    ("along", "share", "half"), [((0.5, 0, 0), _segment, 7.5), ((0, 0, 1.0), lambda t: (1 - t) / 2, 11.0)]
)
def test_a_cylinder_in_a_linear_dose_has_its_analytic_dvh(along, share, half):
    found = _dvh(_cylinder(), _linear(along))
    assert found.volume_cc == pytest.approx(np.pi * 15**2 * 22 / 1000, rel=1e-3)
    for t in np.linspace(-0.95, 0.95, 21):
        assert found.volume_at(30 + t * half) == pytest.approx(100 * share(t), abs=0.25)
        assert found.dose_at_percent(100 * share(t)) == pytest.approx(30 + t * half, abs=0.05)
    assert found.mean == pytest.approx(30, abs=0.01)


@pytest.mark.parametrize("along", [(0.5, 0, 0), (0, 0, 0.5), (0.3, 0, 0.4)])
def test_a_sphere_in_a_linear_dose_has_its_analytic_dvh(along):
    found = _dvh(_sphere(), _linear(along))
    assert found.volume_cc == pytest.approx(4 / 3 * np.pi * 8, rel=2e-3)
    for t in np.linspace(-0.9, 0.9, 13):
        assert found.volume_at(30 + 10 * t) == pytest.approx(100 * _cap(t), abs=0.25)


def test_a_small_sphere_on_thick_slices_keeps_its_figures_within_a_hundredth():
    small = _structure(*(_disc(np.sqrt(36 - z * z), z) for z in (-4.5, -1.5, 1.5, 4.5)))
    found = _dvh(small, _linear((1.0, 0, 0)))
    assert found.volume_cc == pytest.approx(np.pi * 0.297, rel=3e-3)  # summed areas; the sphere has pi * 0.288
    assert found.dose_at_percent(50) == pytest.approx(30, abs=0.02)
    assert found.volume_at(33) == pytest.approx(100 * _cap(0.5), abs=1)


def test_the_end_rule_says_what_lies_beyond_the_end_contours():
    slab, plane = (_dvh(_cylinder(), _linear((0, 0, 1.0)), end=end) for end in (HALF_SLICE, NOTHING_BEYOND))
    assert plane.volume_cc / slab.volume_cc == pytest.approx(20 / 22, rel=1e-3)
    assert slab.maximum - plane.maximum == pytest.approx(1.0, abs=0.02)
    assert (slab.end, plane.end) == (HALF_SLICE, NOTHING_BEYOND)


@pytest.mark.parametrize(
    ("end", "planes"),
    [(End(0.25), 10.5), (End(0.5, most=0.4), 10.4), (End(0.5, most=9.0), 11), (End(1.0), 12), (End(0.0), 10)],
)
def test_what_lies_beyond_the_ends_is_a_part_of_a_slice_with_a_limit_in_mm(end, planes):
    found = _dvh(_cylinder(), _linear((0, 0, 0)), end=end)
    assert found.volume_cc == pytest.approx(np.pi * 15**2 * 2 * planes / 1000, rel=1e-3)
    assert found.end == end


def test_a_small_structure_says_how_much_its_volume_depends_on_its_ends():
    small, large = (_dvh(_cylinder(radius, 4, 3.0), _linear((0, 0, 0)), end=NOTHING_BEYOND) for radius in (5.0, 15.0))
    assert small.volume_cc == pytest.approx(np.pi * 25 * 9 / 1000, rel=5e-3)
    said = next(note for note in small.notes if "beyond its end contours" in note)
    assert "0.71 cc with nothing" in said
    assert "0.94 cc with half a slice" in said
    assert not large.notes


@pytest.mark.parametrize("end", [HALF_SLICE, NOTHING_BEYOND, End(0.25)], ids=str)
@pytest.mark.parametrize("spacing", [1.0, 3.0])
def test_a_cone_has_its_analytic_dvh_by_the_end_rule_that_it_was_cut_by(end, spacing):
    """Slabs of exact area, in a dose that falls across: volume within 1 %, doses within 0.5 % of the largest."""
    radii = 3.0 + 0.5 * spacing * np.arange(8)
    at = spacing * np.arange(8)
    thick = np.full(8, spacing)
    thick[[0, -1]] = spacing / 2 + end.beyond(spacing)
    found = _dvh(_structure(*(_disc(r, z) for r, z in zip(radii, at, strict=True))), _linear((0.5, 0, 0)), end=end)
    areas = np.pi * radii**2 * thick
    assert found.volume_cc == pytest.approx(areas.sum() / 1000, rel=0.01)
    for gray in (28.0, 30.0, 31.0):
        share = _segment(np.clip((gray - 30) / 0.5 / radii, -1, 1)) @ areas / areas.sum()
        assert found.dose_at_percent(100 * share) == pytest.approx(gray, abs=0.005 * found.maximum)


def test_a_nested_loop_is_a_hole():
    ring = _structure(*(_disc(r, 2.0 * k) for k in range(-5, 6) for r in (15.0, 5.0)))
    assert _dvh(ring, _linear((0, 0, 0))).volume_cc == pytest.approx(np.pi * 200 * 22 / 1000, rel=2e-3)


def test_a_plane_left_out_is_a_gap_and_is_said():
    discs = [_disc(15.0, 2.0 * k) for k in range(-5, 6) if k not in (0, 1)]
    found = _dvh(_structure(*discs), _linear((0, 0, 1.0)))
    assert found.volume_cc == pytest.approx(np.pi * 225 * 18 / 1000, rel=2e-3)
    assert any("missing at 1 places" in note for note in found.notes)


def test_unevenly_spaced_contours_each_stand_for_half_the_way_to_the_next():
    found = _dvh(_structure(*(_disc(10.0, z) for z in (0, 2, 4, 7, 10))), _linear((0, 0, 0)), plane_spacing=2.5)
    assert found.volume_cc == pytest.approx(np.pi * 100 * 12.5 / 1000, rel=2e-3)


def test_one_contour_alone_needs_the_thickness_of_its_plane():
    alone = _structure(_disc(10.0, 0.0))
    with pytest.raises(InputError, match="one slice"):
        _dvh(alone, _linear((0, 0, 0)))
    for end in (HALF_SLICE, NOTHING_BEYOND):
        found = _dvh(alone, _linear((0, 0, 0)), plane_spacing=3.0, end=end)
        assert found.volume_cc == pytest.approx(np.pi * 0.3, rel=2e-3), "it stands for its slice"


def test_a_field_has_the_dvh_of_its_loops():
    grid = replace(GRID, spacing=(2.0, 1.5, 1.5), origin=(-30.0, -30.0, -40.0))
    points = grid.points(np.moveaxis(np.indices(grid.shape), 0, -1))
    field = Field(Volume((np.linalg.norm(points, axis=-1) - 20).astype(np.float32), grid), Level.DISTANCE)
    found = _dvh(Structure("Test", field=field), _linear((0.5, 0, 0)))
    assert found.plane_spacing == 2.0
    assert found.volume_cc == pytest.approx(4 / 3 * np.pi * 8, rel=5e-3)
    assert found.volume_at(35) == pytest.approx(100 * _cap(0.5), abs=0.5)


def test_what_the_dose_does_not_cover_is_left_out_and_said():
    found = _dvh(_cylinder(shift=(50.0, 0, 0)), _linear((0.5, 0, 0)))
    assert found.covered == pytest.approx(0.5, abs=0.002)
    assert found.covered_cc == pytest.approx(found.volume_cc / 2, rel=4e-3)
    assert found.minimum > 30 + 0.5 * 34.9
    assert any("left out" in note for note in found.notes)
    assert found.dose_at_cc(found.volume_cc) is None
    unknown = _linear((0.5, 0, 0))
    unknown.volume.array[:, :, 20:] = np.nan
    assert _dvh(_cylinder(), unknown).covered == pytest.approx(_segment(2.5 / 15), abs=0.002)


@pytest.mark.parametrize("structure", [_cylinder(shift=(500.0, 0, 0)), Structure("Test", drawn=())])
def test_figures_are_undefined_where_there_is_no_dose_or_no_volume(structure):
    found = _dvh(structure, _linear((0, 0, 0)))
    assert found.covered == 0
    assert {found.metric(name, 2.0) for name in ("D95%", "D0.03cc", "V20Gy", "Dmean", "Dmin", "Dmax", "HI", "EUD")} == {None}


def test_the_dose_to_more_cc_than_there_are_is_undefined():
    found = _dvh(_structure(*(_disc(1.0, z) for z in (0, 2))), _linear((0, 0, 0)))
    assert found.volume_cc == pytest.approx(np.pi * 0.004, rel=0.01)
    assert found.metric("Dmax") is None
    assert found.metric("D0.01cc") == 30.0


def test_a_uniform_dose_gives_one_number_everywhere():
    found = _dvh(_sphere(), _linear((0, 0, 0), base=2.0))
    assert {found.metric(name, -8) for name in ("D98%", "D2%", "D0.03cc", "Dmean", "Dmin", "EUD")} == {2.0}
    assert (found.volume_at(2.0), found.volume_at(2.0001), found.homogeneity) == (100.0, 0.0, 0.0)


def test_the_equivalent_uniform_dose_runs_from_minimum_over_mean_to_maximum():
    found = _dvh(_sphere(), _linear((0.5, 0, 0)))
    assert found.eud(1) == pytest.approx(found.mean, abs=BIN)
    # of a sphere: E[(30 + 10 t)^2] = 900 + 100 / 5
    assert found.eud(2) == pytest.approx(np.sqrt(920), abs=0.02)
    assert found.eud(-300) == pytest.approx(found.minimum, abs=1.5)
    assert found.eud(300) == pytest.approx(found.maximum, abs=1.5)
    with pytest.raises(ValueError, match="does not exist"):
        found.eud(0)
    with pytest.raises(PolicyError, match="exponent"):
        found.metric("EUD")


@pytest.mark.parametrize(
    "name", ["D0%", "D101%", "D0cc", "D95", "V20", "V95%", "d95%", "Dmaximum", " D95%", "D95%%", "D1e1%", ""]
)
def test_an_unknown_figure_is_refused(name):
    with pytest.raises(PolicyError):
        Metric.named(name)


def test_a_figure_says_its_unit():
    assert [Metric.named(name).unit for name in ("D95%", "D2cc", "V20Gy", "Dmean", "HI", "EUD")] == [
        "Gy",
        "Gy",
        "%",
        "Gy",
        "",
        "Gy",
    ]


def test_a_dose_of_another_frame_or_an_uncertainty_is_refused():
    dose = _linear((0, 0, 0))
    with pytest.raises(FrameMismatch):
        dvh(_sphere(), dose, frame_of_reference="1.9")
    with pytest.raises(InputError, match="uncertainty"):
        _dvh(_sphere(), replace(dose, kind="ERROR"))


def _band(error, along=(0.5, 0, 0)):
    grid = GRID if np.ndim(error) else replace(GRID)
    volume = Volume(np.broadcast_to(np.asarray(error, np.float32), GRID.shape).copy(), grid)
    return dvh_interval(_sphere(), _linear(along), volume, frame_of_reference=FRAME)


def test_a_constant_error_shifts_the_band_by_itself():
    bounds = _band(1.5)
    for name in ("D95%", "D2%", "Dmean"):
        low, high = bounds.interval(name)
        value = bounds.nominal.metric(name)
        assert (value - low, high - value) == pytest.approx((1.5, 1.5), abs=0.02)
    assert bounds.low.minimum >= 0


def test_an_unknown_error_gives_no_interval():
    error = np.full(GRID.shape, 1.0)
    error[20] = np.nan
    assert _band(error).interval("Dmean") is None
    with pytest.raises(InputError, match="negative"):
        _band(-1.0)
    with pytest.raises(FrameMismatch):
        dvh_interval(
            _sphere(), _linear((0, 0, 0)), Volume(np.zeros((2, 2, 2), np.float32), replace(GRID, shape=(2, 2, 2))),
            frame_of_reference=FRAME,
        )  # fmt: skip


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_the_band_holds_every_dose_within_its_error(seed):
    random = np.random.default_rng(seed)
    gray = random.uniform(20, 40, GRID.shape).astype(np.float32)
    error = random.uniform(0, 4, GRID.shape).astype(np.float32)
    truth = gray + error * random.uniform(-1, 1, GRID.shape).astype(np.float32)
    cylinder = _cylinder(planes=5)
    bounds = dvh_interval(cylinder, Dose(Volume(gray, GRID)), Volume(error, GRID), frame_of_reference=FRAME, resolution=1.0)
    assert isinstance(bounds, DvhInterval)
    true = _dvh(cylinder, Dose(Volume(truth, GRID)), resolution=1.0)
    for name in ("D98%", "D50%", "D0.03cc", "Dmean", "V30Gy", "HI", "EUD"):
        low, high = bounds.interval(name, 4.0)
        assert low - BIN <= true.metric(name, 4.0) <= high + BIN


turns = st.tuples(*[st.floats(-180, 180)] * 3).map(lambda angles: Rotation.from_euler("xyz", angles, degrees=True))
shifts = st.tuples(*[st.floats(-30, 30)] * 3)


@settings(max_examples=15, deadline=None)
@given(turn=turns, shift=shifts)
def test_moving_structure_and_dose_together_changes_nothing(turn, shift):
    along = np.array([0.3, -0.2, 0.4])
    still = _dvh(_cylinder(), _linear(along), resolution=1.0)
    x, y, z = turn.apply(GRID.origin) + shift
    axes = tuple(tuple(map(float, turn.apply(axis))) for axis in GRID.axes)
    moved = Dose(Volume(_linear(along).volume.array, replace(GRID, origin=(x, y, z), axes=axes)))
    found = _dvh(_cylinder(turn=turn, shift=shift), moved, resolution=1.0)
    assert found.volume_cc == pytest.approx(still.volume_cc, rel=3e-3)
    assert found.mean == pytest.approx(still.mean, abs=0.03)
    for percent in (98, 50, 2):
        assert found.dose_at_percent(percent) == pytest.approx(still.dose_at_percent(percent), abs=0.15)


@settings(max_examples=15, deadline=None)
@given(turn=turns)
def test_turning_the_dose_grid_alone_changes_nothing_in_a_linear_dose(turn):
    axes = tuple(tuple(map(float, turn.apply(axis))) for axis in GRID.axes)
    x, y, z = turn.apply(GRID.origin)
    grid = replace(GRID, origin=(x, y, z), axes=axes)
    still, turned = (_dvh(_cylinder(), _linear((0.3, -0.2, 0.4), on), resolution=1.0) for on in (GRID, grid))
    assert turned.volume_cc == still.volume_cc
    assert turned.covered == 1
    np.testing.assert_allclose(
        np.cumsum(turned.cc[:6000]), np.cumsum(np.pad(still.cc, (0, 6000))[: len(turned.cc[:6000])]), atol=0.02
    )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), scale=st.floats(0.01, 80))
def test_a_dvh_falls_from_all_to_nothing_and_its_figures_are_in_order(seed, scale):
    gray = np.random.default_rng(seed).exponential(scale, GRID.shape).astype(np.float32)
    found = _dvh(_cylinder(planes=3), Dose(Volume(gray, GRID)), resolution=1.5)
    volumes = [found.volume_at(gy) for gy in np.linspace(0, found.maximum + 1, 50)]
    assert (volumes[0], volumes[-1]) == (100.0, 0.0)
    assert (np.diff(volumes) <= 1e-9).all()
    doses = [found.dose_at_percent(percent) for percent in np.linspace(0, 100, 41)]
    assert (np.diff(doses) <= 1e-9).all()
    assert found.minimum <= found.mean <= found.maximum
    for percent in (95, 50, 5):
        if found.maximum > 20 * BIN:
            assert found.volume_at(found.dose_at_percent(percent)) == pytest.approx(percent, abs=0.3)


def test_cells_fill_a_structure_once():
    cells = lattice(_cylinder(), resolution=1.0)
    centres = np.concatenate([s.points + offset for s in cells.slabs for offset in s.offsets])
    assert len(np.unique(np.round(centres, 6), axis=0)) == len(centres)
    assert np.abs(centres[:, 2]).max() < 11
