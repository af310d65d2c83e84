import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from patient.errors import FrameMismatch
from patient.geometry import Geometry
from patient.loop import Loop
from patient.outline import (
    COARSEST,
    MOST_POINTS,
    SMOOTH_MM,
    _keyholed,
    _mirrored_plane,
    _polygons,
    coarsely_simplified,
    loops_of_field,
    loops_of_mask,
)
from patient.rasterisation import mask_of_loops, mask_of_united_loops
from patient.volume import Field, Level, Volume

OBLIQUE = ((0.0, np.sin(0.2), np.cos(0.2)), (0.0, np.cos(0.2), -np.sin(0.2)), (1.0, 0.0, 0.0))


@settings(max_examples=150, deadline=None)
@given(arrays(bool, (3, 9, 11)), st.booleans())
def test_a_mask_comes_back_from_its_contours(array, oblique):
    g = Geometry(array.shape, (2.5, 1.1, 0.7), (10, -20, 30), OBLIQUE if oblique else Geometry.axes)
    loops = loops_of_mask(Volume(array, g))
    for back in (mask_of_loops(loops, g), mask_of_united_loops(loops, g)):
        assert (back.placed_in(g).array == array).all()


def test_a_hole_is_a_channel_in_one_loop_and_an_island_in_it_another():
    array = np.zeros((1, 15, 15), bool)
    array[0, 1:14, 1:14] = True
    array[0, 4:11, 4:11] = False
    array[0, 6:9, 6:9] = True
    g = Geometry(array.shape, (1, 1, 1))
    loops = loops_of_mask(Volume(array, g))
    assert len(loops) == 2
    assert (mask_of_loops(loops, g).placed_in(g).array == array).all()


@given(st.floats(3.3, 9.0), st.floats(-0.4, 0.4), st.floats(-0.4, 0.4))
def test_a_fields_contour_lies_on_the_surface_within_a_tenth_of_a_pixel(radius, dy, dx):
    y, x = np.mgrid[:24, :24]
    away = np.hypot(y - 12 - dy, x - 12 - dx) - radius
    g = Geometry((1, 24, 24), (3, 1, 1))
    for values, level in ((np.clip(0.5 - away / 4, 0, 1), Level.PROBABILITY), (away, Level.DISTANCE)):
        (loop,) = loops_of_field(Field(Volume(values[None].astype(np.float32), g), level))
        assert np.abs(np.hypot(loop.points[:, 1] - 12 - dy, loop.points[:, 0] - 12 - dx) - radius).max() < 0.1


def test_a_field_that_leaves_the_picture_is_closed_at_its_side():
    g = Geometry((1, 5, 5), (1, 1, 1))
    (loop,) = loops_of_field(Field(Volume(np.ones((1, 5, 5), np.float32), g)))
    assert (mask_of_loops([loop], g).placed_in(g).array).all()


def test_numbers_that_are_none_are_outside():
    values = np.full((1, 6, 6), np.nan, np.float32)
    values[0, 2:4, 2:4] = 1
    g = Geometry((1, 6, 6), (1, 1, 1))
    assert mask_of_loops(loops_of_field(Field(Volume(values, g))), g).array.sum() == 4


def test_loops_that_cross_are_united_and_loops_that_nest_are_holes_unless_asked_otherwise():
    g = Geometry((1, 12, 12), (1, 1, 1))
    square = np.array([[1.5, 1.5, 0], [6.5, 1.5, 0], [6.5, 6.5, 0], [1.5, 6.5, 0]])
    loops = [Loop(square), Loop((square + (3, 3, 0))[::-1])]
    assert mask_of_loops(loops, g).array.sum() == 25 + 25 - 4
    nested = [loops[0], Loop(np.array([[2.5, 2.5, 0], [5.5, 2.5, 0], [5.5, 5.5, 0], [2.5, 5.5, 0]]))]
    assert mask_of_loops(nested, g).array.sum() == 25 - 9
    assert mask_of_united_loops(nested, g).array.sum() == 25


def test_a_loop_that_stands_twice_does_not_vanish():
    g = Geometry((1, 12, 12), (1, 1, 1))
    square = np.array([[1.5, 1.5, 0], [6.5, 1.5, 0], [6.5, 6.5, 0], [1.5, 6.5, 0]])
    assert mask_of_loops([Loop(square), Loop(square.copy())], g).array.sum() == 25


def test_a_loop_between_planes_is_not_moved_to_one():
    g = Geometry((3, 12, 12), (2, 1, 1))
    with pytest.raises(FrameMismatch):
        mask_of_loops([Loop(np.array([[1, 1, 1.0], [5, 1, 1.0], [5, 5, 1.0]]))], g)


def test_points_and_open_lines_enclose_nothing():
    g = Geometry((1, 9, 9), (1, 1, 1))
    triangle = np.array([[1, 1, 0.0], [7, 1, 0.0], [7, 7, 0.0]])
    assert not mask_of_loops([Loop(triangle, kind="OPEN_PLANAR"), Loop(triangle[:1], kind="POINT")], g).array.any()


def _rings_of(loops):
    """Each loop as the polygons that the even-odd rule makes of it: a keyhole's channel falls away."""
    return [shapely.make_valid(shapely.Polygon(loop.points[:, :2])) for loop in loops]


def _traced(values, tolerance):
    """Polygons of a field, and as the even-odd rule makes them of keyholed loops: a channel falls away."""
    polygons = [polygon for polygon, _ in _polygons(_mirrored_plane(-values), tolerance)]
    whole = shapely.MultiPolygon([shapely.Polygon(outer, holes) for outer, *holes in polygons])
    return whole, [shapely.make_valid(shapely.Polygon(_keyholed(outer, holes))) for outer, *holes in polygons]


@settings(max_examples=100, deadline=None)
@given(
    st.floats(8.0, 40.0), st.floats(0.7, 2.0), st.floats(-0.5, 0.5), st.floats(0.0, 0.6), st.floats(0.03, 3.0)
)  # fmt: skip
def test_the_sides_of_a_thin_ring_never_cross_however_far_its_points_are_thinned_out(
    radius, thick, off, squeezed, tolerance
):
    y, x = np.mgrid[:96, :96]
    away = np.hypot((y - 48 - off) * (1 + squeezed), x - 48 + off) - radius
    _never_crosses((np.abs(away) - thick / 2).astype(np.float32), tolerance)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.8, 3.0), st.floats(0.03, 3.0))
def test_no_contour_of_any_field_crosses_itself_or_another_one(seed, smooth, tolerance):
    values = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(64, 64)), smooth).astype(np.float32)
    _never_crosses(values, tolerance)


DUST = 0.1
"""Pixels: a ring of less area may be left out altogether."""


def _never_crosses(values, tolerance):
    whole, loops = _traced(values, tolerance)
    assert shapely.is_valid(whole)
    assert sum(loop.area for loop in loops) == pytest.approx(whole.area, rel=1e-6)
    assert shapely.union_all(loops).area == pytest.approx(whole.area, rel=1e-6)
    exact, _ = _traced(values, 1e-6)
    rings = [ring for part in exact.geoms for ring in shapely.get_rings(part) if shapely.Polygon(ring).area > DUST]
    off = shapely.distance(shapely.points(shapely.get_coordinates(rings)), whole.boundary)
    assert not len(off) or off.max() <= tolerance + 1e-5


def test_contours_of_very_many_points_are_simplified_further_and_say_by_how_much():
    j, i = np.mgrid[:400, :400]
    angle, away = np.arctan2(j - 200, i - 200), np.hypot(j - 200, i - 200)
    g = Geometry((1, 400, 400), (3, 1, 1))
    smooth, ragged = (
        loops_of_field(Field(Volume((away - 150 - high * np.sin(n * angle))[None].astype(np.float32), g), Level.DISTANCE))
        for high, n in ((0.0, 1), (12.0, 160))
    )
    assert {loop.tolerance for loop in smooth} == {SMOOTH_MM}
    assert coarsely_simplified(smooth, g) == ""
    reached = max(loop.tolerance for loop in ragged)
    assert reached > SMOOTH_MM
    assert all(len(loop.points) <= MOST_POINTS or reached > COARSEST / 2 for loop in ragged)
    said = coarsely_simplified([Loop(ragged[0].points, tolerance=0.6)], g)
    assert said == "contours of more than 2000 points were simplified by up to 0.60 mm"


@pytest.mark.parametrize("radius", [7.5, 15.0, 40.0])
@pytest.mark.parametrize("level", list(Level))
def test_a_fields_contour_has_the_area_of_what_is_round(radius, level):
    """Chords cut little off: within half a percent on pixels of 1.27 mm; so has a hole."""
    n = int(2 * radius / 1.27) + 12
    g = Geometry((1, n, n), (3, 1.27, 1.27))
    y, x = np.mgrid[:n, :n] * 1.27
    away = np.hypot(y - 0.635 * n + 0.3, x - 0.635 * n - 0.4) - radius
    for sign in (1.0, -1.0):
        values = np.clip(0.5 - sign * away / 40, 0, 1) if level is Level.PROBABILITY else sign * away
        found = sum(_area(loop.points) for loop in loops_of_field(Field(Volume(values[None].astype(np.float32), g), level)))
        whole = (1.27 * n) ** 2 if sign < 0 else 0.0
        assert abs(whole - found) == pytest.approx(np.pi * radius**2, rel=5e-3)


def _area(points):
    x, y = points[:, 0], points[:, 1]
    return abs(0.5 * np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))
