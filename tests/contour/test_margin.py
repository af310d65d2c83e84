"""Margins against the analytic Minkowski sum of ellipsoids with a margin's kernel, at positions between voxels."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from contour.derive import derive
from contour.recipe import parse
from patient.drawn import field_of_structure
from patient.geometry import Geometry
from patient.outline import loops_of_field
from patient.structures import Loop, Structure
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
