"""Margins against the analytic Minkowski sum of ellipsoids with a margin's kernel, at positions between voxels."""

import numpy as np
import pytest
import shapely
from hypothesis import example, given, settings
from hypothesis import strategies as st

from contour.derived_structures import derive
from contour.recipe import parse
from contour.surface_points import refined
from patient.geometry import Geometry, Slices
from patient.loop import Loop
from patient.manual_contours import field_of_structure
from patient.outline import loops_of_field
from patient.structures import Structure
from patient.volume import Field, Level, Volume

SPACINGS = [(3.0, 1.27, 1.27), (1.0, 1.0, 1.0), (2.0, 0.98, 0.98), (5.0, 1.17, 1.17)]


def _normals(n=8000):
    at = np.arange(n) + 0.5
    z, turn = 1 - 2 * at / n, np.pi * (1 + np.sqrt(5)) * at
    return np.column_stack([np.sqrt(1 - z * z) * np.cos(turn), np.sqrt(1 - z * z) * np.sin(turn), z])


NORMALS = _normals()


def _support(half_axes, margins):
    """How far an ellipsoid (x, y, z) with margins (L, R, A, P, S, I) reaches along each normal: both supports added."""
    left, right, front, back, head, foot = margins
    there = np.where(NORMALS > 0, (left, back, head), (right, front, foot))
    return np.linalg.norm(NORMALS * half_axes, axis=1) + np.linalg.norm(NORMALS * there, axis=1)


def _off(points, half_axes, margins):
    """mm from the true surface, outside positive."""
    return (points @ NORMALS.T - _support(half_axes, margins)).max(axis=1)


def _grid(half_axes, margins, spacing, middle):
    room = np.asarray(half_axes)[::-1] + max(margins) + 12
    shape = tuple(int(n) for n in np.ceil(2 * room / spacing) + 1)
    start = -(np.array(shape) - 1) / 2 * spacing + np.asarray(middle) * spacing
    return Geometry(shape, spacing, tuple(float(v) for v in start[::-1]))


def _ellipsoid(half_axes, grid):
    """Its signed distance, to first order: exact at the surface, of slope 1 there."""
    points = grid.points(np.moveaxis(np.indices(grid.shape), 0, -1))
    one, two = (np.linalg.norm(points / np.power(half_axes, n), axis=-1) for n in (1, 2))
    values = np.where(one > 0.3, one * (one - 1) / np.maximum(two, 1e-6), -0.5 * min(half_axes))
    return Field(Volume(values.astype(np.float32), grid), Level.DISTANCE)


def _grown(half_axes, margins, spacing, middle, sign="+"):
    grid = _grid(half_axes, margins, spacing, middle)
    sides = ", ".join(f"{side} {mm:.4f}" for side, mm in zip("LRAPSI", margins, strict=True))
    made = derive(parse(f"A {sign} ({sides}) mm"), {"A": _ellipsoid(half_axes, grid)}, grid)
    assert isinstance(made, Field)
    return made


def _points(field):
    return np.concatenate([loop.points for loop in loops_of_field(field)])


margins_by_side = st.tuples(*[st.sampled_from([0.0, 2.0, 3.0, 5.0, 7.0, 10.0])] * 6).filter(lambda m: max(m) > 0)
middles = st.tuples(*[st.floats(-0.5, 0.5)] * 3)
sizes = st.tuples(*[st.floats(8.0, 16.0)] * 3)


@settings(max_examples=12, deadline=None)
@given(sizes, margins_by_side, st.sampled_from(SPACINGS), middles)
def test_margins_by_side_are_the_minkowski_sum_to_a_tenth_of_a_voxel(half_axes, margins, spacing, middle):
    off = np.abs(_off(_points(_grown(half_axes, margins, spacing, middle)), half_axes, margins))
    assert off.mean() < 0.1 * min(spacing)
    assert np.quantile(off, 0.99) < 0.1 * max(spacing)


@settings(max_examples=8, deadline=None)
@given(st.floats(9.0, 16.0), st.floats(0.5, 9.0), st.sampled_from(SPACINGS), middles)
@example(16.0, 6.0, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
def test_an_equal_margin_is_the_same_written_once_or_by_side(radius, mm, spacing, middle):
    grid = _grid((radius,) * 3, (mm,) * 6, spacing, middle)
    found = {"A": _ellipsoid((radius,) * 3, grid)}
    for text in (
        f"A + {mm:.4f} mm",
        "A + (" + ", ".join(f"{side} {mm + 1e-4 * (side == 'L'):.4f}" for side in "LRAPSI") + ") mm",
    ):
        made = derive(parse(text), found, grid)
        assert isinstance(made, Field)
        off = np.linalg.norm(_points(made), axis=1) - radius - mm
        assert np.abs(off).mean() < 0.05 * max(spacing)
        assert np.abs(off).max() < 0.1 * max(spacing)


@settings(max_examples=8, deadline=None)
@given(st.floats(10.0, 18.0), st.tuples(*[st.sampled_from([0.0, 1.5, 3.0])] * 6), st.sampled_from(SPACINGS), middles)
def test_shrinking_by_side_leaves_what_the_kernel_fits_into(radius, margins, spacing, middle):
    """A point stays where the kernel around it lies inside: none of it is farther from the middle than the radius."""
    if max(margins) == 0:
        return
    points = _points(_grown((radius,) * 3, margins, spacing, middle, sign="-"))
    left, right, front, back, head, foot = margins
    kernel = NORMALS * np.where(NORMALS > 0, (left, back, head), (right, front, foot))
    off = np.array([np.linalg.norm(point + kernel, axis=1).max() for point in points]) - radius
    assert np.abs(off).mean() < 0.1 * min(spacing)
    assert np.quantile(np.abs(off), 0.99) < 0.1 * max(spacing)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_a_margin_around_drawn_contours_is_right_to_a_tenth_of_a_voxel_beside_them(spacing):
    radius, mm = 15.0, (6.0, 6.0, 6.0, 4.0, 6.0, 6.0)
    grid = _grid((radius,) * 3, mm, spacing, (0.3, 0.2, -0.4))
    turn = np.linspace(0, 2 * np.pi, 240, endpoint=False)
    loops = [
        Loop(np.column_stack([r * np.cos(turn), r * np.sin(turn), np.full(240, z)]))
        for z in (grid.points((k, 0, 0))[2] for k in range(grid.shape[0]))
        if abs(z) < radius and (r := np.sqrt(radius**2 - z * z)) > 0
    ]
    drawn = field_of_structure(Structure("Drawn", drawn=tuple(loops)), grid)
    assert drawn is not None
    made = derive(parse("A + (L 6, R 6, A 6, P 4, S 6, I 6) mm"), {"A": drawn}, grid)
    assert isinstance(made, Field)
    points = _points(made)
    beside = np.abs(points[:, 2]) < 0.7 * radius
    off = np.abs(_off(points[beside], (radius,) * 3, mm))
    assert off.mean() < 0.1 * max(spacing)


def test_a_margin_of_nothing_on_a_side_leaves_that_side_where_it_was():
    spacing, radius = (3.0, 1.27, 1.27), 12.0
    field = _grown((radius,) * 3, (0.0, 8.0, 0.0, 0.0, 0.0, 0.0), spacing, (0.2, 0.4, 0.1))
    points = _points(field)
    left = points[points[:, 0] > 1.0]
    assert np.abs(np.linalg.norm(left, axis=1) - radius).max() < 0.3
    assert points[:, 0].min() == pytest.approx(-radius - 8.0, abs=0.3)


def test_a_small_structure_in_a_large_margin_leaves_no_hole():
    grid = _grid((2.5,) * 3, (10.0,) * 6, (3.0, 1.27, 1.27), (0.5, 0.3, 0.1))
    made = derive(parse("A + (L 10, R 10, A 10, P 9, S 10, I 10) mm"), {"A": _ellipsoid((2.5,) * 3, grid)}, grid)
    assert isinstance(made, Field)
    assert all(np.linalg.norm(loop.points[:, :2].mean(axis=0)) < 2 for loop in loops_of_field(made))
    assert len({loop.points[0, 2] for loop in loops_of_field(made)}) == len(loops_of_field(made)), "one loop a slice"


def _drawn_ball(radius, grid, heights):
    turn = np.linspace(0, 2 * np.pi, 240, endpoint=False)
    loops = [
        Loop(np.column_stack([r * np.cos(turn), r * np.sin(turn), np.full(240, z)]))
        for z in heights
        if abs(z) < radius and (r := np.sqrt(radius**2 - z * z)) > 0
    ]
    drawn = field_of_structure(Structure("Drawn", drawn=tuple(loops)), grid)
    assert drawn is not None
    return drawn


def _area(field):
    return sum(shapely.Polygon(loop.points[:, :2]).area for loop in loops_of_field(field))


@settings(max_examples=10, deadline=None)
@given(st.floats(6.0, 20.0), st.sampled_from(["5 mm", "(L 6, R 6, A 6, P 4, S 6, I 6) mm"]), middles)
def test_contours_that_taper_are_closed_as_they_taper_before_a_margin_is_made(radius, margin, middle):
    """The surface of a drawn ball with a margin, ends and all, to 0.5 mm; areas within half a percent from 20 mm across."""
    grid = _grid((radius,) * 3, (6.0,) * 6, (3.0, 1.27, 1.27), middle)
    heights = [grid.points((k, 0, 0))[2] for k in range(grid.shape[0])]
    made = derive(parse(f"A + {margin}"), {"A": _drawn_ball(radius, grid, heights)}, grid)
    assert isinstance(made, Field)
    mm = (5.0,) * 6 if margin == "5 mm" else (6.0, 6.0, 6.0, 4.0, 6.0, 6.0)
    assert np.abs(_off(_points(made), (radius,) * 3, mm)).max() < 0.5
    if margin == "5 mm":
        true = sum(np.pi * max(0.0, (radius + 5) ** 2 - z * z) for z in heights)
        assert _area(made) == pytest.approx(true, rel=5e-3 if radius >= 10 else 2e-2)


def test_contours_that_end_bluntly_end_midway_to_the_next_slice():
    grid = Geometry((20, 40, 40), (3.0, 1.27, 1.27), (-25.0, -25.0, -28.5))
    turn = np.linspace(0, 2 * np.pi, 240, endpoint=False)
    tube = [Loop(np.column_stack([10 * np.cos(turn), 10 * np.sin(turn), np.full(240, z)])) for z in (-1.5, 1.5, 4.5, 7.5)]
    drawn = field_of_structure(Structure("Tube", drawn=tuple(tube)), grid)
    assert drawn is not None
    along = drawn.volume.array[:, *np.array(drawn.volume.array.shape[1:]) // 2]
    last = int(np.flatnonzero(along < 0)[-1])
    share = along[last] / (along[last] - along[last + 1])
    assert share == pytest.approx(0.5, abs=0.1)


@settings(max_examples=6, deadline=None)
@given(st.lists(st.sampled_from([2.0, 3.0, 4.0]), min_size=25, max_size=25), st.floats(-1.0, 1.0))
def test_margins_are_right_where_slices_are_not_evenly_spaced(steps, start):
    """A ball of 15 mm and 6 mm around it, drawn on slices of 2 to 4 mm and written on the same ones."""
    heights = start - 40 + np.cumsum([0.0, *steps, *[4.0] * 8])
    slices = Slices(tuple((-40.0, -40.0, float(z)) for z in heights), (64, 64))
    whole = int((heights[-1] - heights[0]) / 2.0) + 1
    grid = Geometry((whole, 64, 64), (2.0, 1.27, 1.27), (-40.0, -40.0, float(heights[0])), slices=slices)
    for text, mm in (("A + 6 mm", (6.0,) * 6), ("A + (L 6, R 6, A 6, P 4, S 6, I 6) mm", (6.0, 6.0, 6.0, 4.0, 6.0, 6.0))):
        made = derive(parse(text), {"A": _drawn_ball(15.0, grid, heights)}, grid)
        assert isinstance(made, Field)
        points = _points(made)
        assert np.abs(points[:, 2, None] - heights).min(axis=1).max() < 0.05, "on the image's own slices"
        off = np.abs(_off(points, (15.0,) * 3, mm))
        assert off.mean() < 0.1
        assert off.max() < 0.5


def test_a_body_on_coarse_voxels_is_not_refined_within_its_slices():
    body = np.full((30, 96, 96), -50.0, dtype=np.float32)
    fine, step = refined(body, (10.0, 5.0, 5.0))
    assert (fine.shape[1:], step[1:].tolist()) == ((96, 96), [5.0, 5.0])
