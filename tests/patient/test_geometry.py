import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patient.errors import FrameMismatch, UnsupportedGeometry
from patient.geometry import Box, Geometry
from patient.reorientation import Reorientation
from patient.volume import Volume, mask_at

rotations = st.tuples(st.floats(-3, 3), st.floats(-3, 3), st.floats(-3, 3))


def _axes(angles):
    a, b, c = angles
    rx = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    ry = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    rz = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return tuple(map(tuple, rx @ ry @ rz))


@given(rotations, st.tuples(*[st.floats(0.3, 6)] * 3), st.tuples(*[st.floats(-500, 500)] * 3))
def test_an_index_is_found_again_from_its_point(angles, spacing, origin):
    g = Geometry((5, 6, 7), spacing, origin, _axes(angles))
    index = np.array([[0, 0, 0], [1.5, 2, 3], [4, 5, 6]])
    assert np.allclose(g.indices(g.points(index)), index, atol=1e-6)


@given(rotations, st.tuples(*[st.integers(0, 3)] * 3))
def test_a_crop_knows_where_it_lies_in_its_whole(angles, start):
    g = Geometry((8, 9, 10), (2.5, 1.1, 0.9), (3, -4, 5), _axes(angles), "1.2.3")
    box = Box(start, tuple(s + 4 for s in start))
    assert g.box_of(g.cropped(box)) == box


def test_a_padded_grid_holds_the_whole_where_it_was_with_the_voxels_asked_for_beyond_each_end():
    whole = Geometry((4, 5, 6), (3.0, 2.0, 1.0), (10.0, -20.0, 30.0))
    assert whole.padded((1, 2, 3)).box_of(whole) == Box((1, 2, 3), (5, 7, 9))
    assert whole.padded((1, 2, 3)).shape == (6, 9, 12)
    assert whole.padded(2).same_grid(whole.padded((2, 2, 2)))


def test_another_frame_of_reference_is_not_the_same_place():
    a, b = (Geometry((2, 2, 2), (1, 1, 1), frame_of_reference=f) for f in ("1", "2"))
    with pytest.raises(FrameMismatch):
        a.box_of(b)
    assert not a.same_grid(b)


def test_half_a_voxel_apart_is_another_grid():
    a, b = Geometry((2, 2, 2), (1, 1, 1)), Geometry((2, 2, 2), (1, 1, 1), (0.5, 0, 0))
    with pytest.raises(FrameMismatch):
        a.box_of(b)


def test_axes_that_are_not_perpendicular_are_refused():
    with pytest.raises(UnsupportedGeometry):
        Geometry((2, 2, 2), (1, 1, 1), axes=((0, 0.3, 1), (0, 1, 0), (1, 0, 0)))


@given(st.permutations([0, 1, 2]), st.tuples(*[st.booleans()] * 3))
def test_an_upright_view_shows_the_same_points_and_turns_back(order, flips):
    rows = np.eye(3)[order] * np.where(flips, -1, 1)[:, None]
    g = Geometry((3, 4, 5), (1.0, 2.0, 3.0), (7, 8, 9), tuple(map(tuple, rows)))
    image = Volume(np.arange(60).reshape(3, 4, 5), g)
    turn = Reorientation.of(g)
    upright = turn.upright(image)
    assert np.allclose(upright.geometry.axes, ((0, 0, 1), (0, 1, 0), (1, 0, 0)))
    value = upright.array[1, 1, 1]
    assert np.allclose(upright.geometry.points((1, 1, 1)), g.points(np.argwhere(image.array == value)[0]))
    again = turn.back(upright)
    assert (again.array == image.array).all()
    assert again.geometry.same_grid(g)


def test_the_box_of_an_empty_mask_is_empty():
    assert Box.of(np.zeros((3, 3, 3), bool)).empty


@given(rotations, st.tuples(*[st.floats(-3, 8)] * 3))
def test_a_mask_at_a_point_is_what_its_nearest_voxel_says_and_false_beyond_it(angles, index):
    rng = np.random.default_rng(0)
    mask = Volume(rng.random((4, 5, 6)) < 0.5, Geometry((4, 5, 6), (2.5, 1.1, 0.9), (3, -4, 5), _axes(angles)))
    point = mask.geometry.points(index)
    nearest = tuple(np.rint(mask.geometry.indices(point)).astype(int))
    beyond = any(not 0 <= n < size for n, size in zip(nearest, mask.array.shape, strict=True))
    assert mask_at(mask, point) == (False if beyond else mask.array[nearest])


def test_a_mask_at_points_keeps_their_shape_and_is_false_where_a_point_is_no_number():
    mask = Volume(np.ones((2, 2, 2), dtype=bool), Geometry((2, 2, 2), (1, 1, 1)))
    points = np.zeros((3, 2, 3))
    points[1, 0, 2] = np.nan
    assert (mask_at(mask, points) == [[True, True], [False, True], [True, True]]).all()


@given(st.tuples(*[st.integers(-9, 9)] * 3))
def test_a_volume_placed_in_a_grid_that_it_does_not_reach_is_nothing_but_the_outside(start):
    whole = Geometry((4, 5, 6), (2.0, 1.0, 1.5))
    part = whole.cropped(Box(start, tuple(s + 3 for s in start)))
    placed = Volume(np.ones((3, 3, 3), dtype=np.uint8), part).placed_in(whole, outside=7)
    within = np.zeros(whole.shape, dtype=bool)
    within[tuple(slice(max(0, s), max(0, s + 3)) for s in start)] = True
    assert (placed.array == np.where(within, 1, 7)).all()
