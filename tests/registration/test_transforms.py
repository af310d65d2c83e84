"""Transforms on grids turned in any way: direction, images, inverses, and the same answer from points and from pulling."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from patient.errors import FrameMismatch, UnsupportedGeometry
from patient.geometry import Geometry, Triple
from patient.volume import Field, Level, Mask, Volume
from registration.inverse import inverse_of
from registration.resampling import resampled, resampled_field, resampled_mask
from registration.transforms import (
    Affine,
    Chain,
    Displacement,
    Points,
    Rigid,
    Space,
    composed,
    displacements,
    jacobian,
    sampled,
)

A, B, C = Space("planning", "1.2.3"), Space("fraction", "1.2.3"), Space("other", "4.5.6")
"""A and B share a frame of reference, as two scans of one session do."""
few = settings(max_examples=25, deadline=None)


def turn(x: float, y: float, z: float) -> NDArray[np.float64]:
    """Degrees about x, then y, then z."""
    whole = np.eye(3)
    for axis, degrees in enumerate((x, y, z)):
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        one = np.eye(3)
        p, q = (axis + 1) % 3, (axis + 2) % 3
        one[p, p] = one[q, q] = c
        one[p, q], one[q, p] = -s, s
        whole = one @ whole
    return whole


angle = st.integers(-18000, 18000).map(lambda hundredths: hundredths / 100)
turns = st.builds(turn, angle, angle, angle)
shifts = st.tuples(*[st.floats(-100, 100)] * 3)
seeds = st.integers(0, 2**32 - 1)


@st.composite
def rigids(draw: st.DrawFn, source: Space = A, target: Space = B) -> Rigid:
    return Rigid.of(draw(turns), draw(shifts), source, target)


@st.composite
def grids(draw: st.DrawFn, of: Space = A, shape: tuple[int, int, int] = (7, 9, 8)) -> Geometry:
    """Oblique, mirrored, in any order of axes."""
    rows = draw(turns)[list(draw(st.permutations(range(3))))] * draw(st.sampled_from((-1, 1)))
    spacing: Triple = draw(st.tuples(*[st.floats(1.0, 5.0)] * 3))
    k, j, i = (tuple(float(v) for v in row) for row in rows)
    return Geometry(shape, spacing, draw(shifts), (k, j, i), of.frame_of_reference, of.image)  # type: ignore[arg-type]


def within(grid: Geometry, seed: int, room: float = 0.0, many: int = 60) -> Points:
    """Points between the nodes, `room` voxels away from the outermost."""
    share = np.random.default_rng(seed).random((many, 3))
    return grid.points(room + share * (np.array(grid.shape) - 1 - 2 * room))


def around(centre: Points, side: float, half: float, of: Space) -> Geometry:
    """Cubes around a place."""
    x, y, z = (float(v) for v in np.asarray(centre) - half)
    n = int(np.ceil(2 * half / side)) + 1
    return Geometry((n, n, n), (side, side, side), (x, y, z), frame_of_reference=of.frame_of_reference, image=of.image)


def places(grid: Geometry) -> Points:
    return grid.points(np.moveaxis(np.indices(grid.shape), 0, -1))


SMOOTH = around(np.zeros(3), 4.0, 60.0, A)


def bent(push: tuple[float, float, float], source: Space = A, target: Space = A) -> Displacement:
    """A bump of 20 mm that moves its middle by `push` mm and its surroundings ever less."""
    grid = replace(SMOOTH, image=source.image, frame_of_reference=source.frame_of_reference)
    bump = np.exp(-(places(grid) ** 2).sum(axis=-1, keepdims=True) / (2 * 20.0**2))
    return Displacement((bump * push).astype(np.float32), grid, source, target)


@few
@given(rigids(), seeds)
def test_there_and_back_is_where_one_was(b_from_a: Rigid, seed: int) -> None:
    at = within(SMOOTH, seed)
    back = b_from_a.inverse()
    assert isinstance(back, Rigid)
    assert (back.source, back.target) == (B, A)
    np.testing.assert_allclose(back.points(b_from_a.points(at, A), B), at, atol=1e-9)


@few
@given(rigids(A, B), rigids(B, C), seeds)
def test_composed_is_one_after_the_other_and_stays_rigid(b_from_a: Rigid, c_from_b: Rigid, seed: int) -> None:
    at = within(SMOOTH, seed)
    whole = composed(c_from_b, b_from_a)
    assert isinstance(whole, Rigid)
    assert (whole.source, whole.target) == (A, C)
    np.testing.assert_allclose(whole.points(at, A), c_from_b.points(b_from_a.points(at, A), B), atol=1e-9)


@few
@given(rigids())
def test_a_rigid_keeps_distances(b_from_a: Rigid) -> None:
    ends = b_from_a.points([(0, 0, 0), (30, -40, 120)], A)
    assert np.linalg.norm(ends[1] - ends[0]) == pytest.approx(130)


def test_the_name_says_the_direction() -> None:
    """A marker at x = 5 of the planning image lies at x = 17 of the fraction's: fraction_from_planning takes 5 to 17."""
    fraction_from_planning = Rigid.of(np.eye(3), (12, 0, 0), A, B)
    np.testing.assert_allclose(fraction_from_planning.points((5, 1, 2), A), (17, 1, 2))
    np.testing.assert_allclose(fraction_from_planning.inverse().points((17, 1, 2), B), (5, 1, 2))


@few
@given(rigids(), st.data())
def test_what_is_pulled_lies_where_points_say(b_from_a: Rigid, data: st.DataObject) -> None:
    """A blob of b, seen on a grid of a: its middle is taken to where the blob is in b."""
    theirs = data.draw(grids(B, (21, 22, 23)).map(lambda g: replace(g, spacing=(2.0, 2.5, 3.0))))
    blob = theirs.points((9.3, 10.8, 11.4))
    bright = np.exp(-((places(theirs) - blob) ** 2).sum(axis=-1) / (2 * 6.0**2)).astype(np.float32)
    mine = around(b_from_a.inverse().points(blob, B) + (1.3, -2.1, 0.7), 2.5, 18.0, A)
    seen = resampled(b_from_a, Volume(bright, theirs), mine, 0.0)
    weight = np.clip(seen.array.astype(np.float64) - 0.2, 0, None)
    middle = (places(mine) * weight[..., None]).sum(axis=(0, 1, 2)) / weight.sum()
    assert seen.geometry is mine
    assert np.linalg.norm(b_from_a.points(middle, A) - blob) < 0.2


def test_a_third_image_is_refused_everywhere() -> None:
    b_from_a = Rigid.identity(A, B)
    a, b, c = (replace(SMOOTH, shape=(4, 4, 4), image=s.image, frame_of_reference=s.frame_of_reference) for s in (A, B, C))
    values = np.zeros((4, 4, 4), np.float32)
    with pytest.raises(FrameMismatch, match="other"):
        b_from_a.points((0, 0, 0), C)
    with pytest.raises(FrameMismatch, match="volume"):
        resampled(b_from_a, Volume(values, c), a, 0.0)
    with pytest.raises(FrameMismatch, match="grid"):
        resampled(b_from_a, Volume(values, b), c, 0.0)
    with pytest.raises(FrameMismatch):
        composed(b_from_a, b_from_a)
    with pytest.raises(FrameMismatch):
        composed(bent((1, 0, 0), C, A), b_from_a)
    with pytest.raises(FrameMismatch, match="link"):
        Chain((b_from_a, Rigid.identity(C, A)))


def test_two_images_of_one_frame_of_reference_are_still_two() -> None:
    b_from_a = Rigid.of(np.eye(3), (3, 0, 0), A, B)
    with pytest.raises(FrameMismatch):
        b_from_a.points((0, 0, 0), B)
    b = replace(SMOOTH, image=B.image)
    with pytest.raises(FrameMismatch):
        resampled(b_from_a, Volume(np.zeros(b.shape, np.float32), b), b, 0.0)
    with pytest.raises(FrameMismatch):
        resampled_mask(b_from_a, Volume(np.zeros(b.shape, bool), SMOOTH), SMOOTH)


def test_one_image_of_two_frames_of_reference_is_refused() -> None:
    with pytest.raises(FrameMismatch):
        Rigid.identity(A, B).points((0, 0, 0), replace(A, frame_of_reference="9.9"))


@pytest.mark.parametrize(
    "wrong",
    [
        np.diag((1.001, 1, 1)),
        np.diag((0.9, 0.9, 0.9)),
        np.diag((1, 1, -1)),
        -np.eye(3),
        np.array([[1, 0.01, 0], [0, 1, 0], [0, 0, 1]]),
    ],
    ids=["stretched", "shrunken", "mirrored", "inside out", "sheared"],
)
@pytest.mark.parametrize("about", [0.0, 37.0])
def test_a_rigid_refuses_what_no_couch_does(wrong: NDArray[np.float64], about: float) -> None:
    with pytest.raises(UnsupportedGeometry, match="not rigid"):
        Rigid.of(turn(about, -about, 2 * about) @ wrong, (0, 0, 0), A, B)


@pytest.mark.parametrize(
    "matrix",
    [np.eye(3), np.full((4, 4), np.nan), np.zeros((4, 4)), np.diag((1.0, 1, 0, 1)), np.diag((1.0, 1, 1, 2))],
    ids=["3 x 3", "NaN", "zeros", "flat", "projective"],
)
def test_no_affine_matrix_is_refused(matrix: NDArray[np.float64]) -> None:
    with pytest.raises(UnsupportedGeometry):
        Affine(matrix, A, B)


@few
@given(turns, shifts)
def test_a_rigid_gives_back_what_decimals_took(rotation: NDArray[np.float64], shift: Triple) -> None:
    """As a file with five decimals has it."""
    found = Rigid.of(np.round(rotation, 5), shift, A, B)
    np.testing.assert_allclose(found.rotation @ found.rotation.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(found.rotation, rotation, atol=2e-5)
    np.testing.assert_array_equal(found.translation, shift)


@given(st.floats(0, 180))
def test_degrees_are_the_whole_angle(degrees: float) -> None:
    about = turn(20, 40, -70)
    found = Rigid.of(about @ turn(0, 0, degrees) @ about.T, (0, 0, 0), A, B).degrees()
    assert found == pytest.approx(degrees, abs=1e-4)


@few
@given(rigids())
def test_a_matrix_is_the_same_to_itk(b_from_a: Rigid) -> None:
    itk = b_from_a.itk()
    for at in within(SMOOTH, 1, many=5):
        np.testing.assert_allclose(b_from_a.points(at, A), itk.TransformPoint(at.tolist()), atol=1e-9)


@few
@given(grids(), seeds)
def test_a_displacement_is_itks_own_however_its_grid_is_turned(grid: Geometry, seed: int) -> None:
    vectors = np.random.default_rng(seed).normal(0, 5, (*grid.shape, 3)).astype(np.float32)
    warp = Displacement(vectors, grid, A, B)
    itk = warp.itk()
    at = within(grid, seed, room=1e-3)
    np.testing.assert_allclose(warp.points(at, A), [itk.TransformPoint(p) for p in at.tolist()], atol=1e-5)


@few
@given(grids())
def test_vectors_are_of_the_patient_not_of_the_grid(grid: Geometry) -> None:
    """The same push to the left at every node is a push to the left, whichever way the axes run."""
    vectors = np.broadcast_to(np.float32((7, 0, 0)), (*grid.shape, 3))
    at = within(grid, 0, room=0.01)
    np.testing.assert_allclose(Displacement(vectors, grid, A, B).points(at, A) - at, [(7, 0, 0)] * len(at), atol=1e-9)


def test_a_displacement_that_is_no_number_is_refused() -> None:
    for bad in (np.nan, np.inf):
        vectors = np.zeros((*SMOOTH.shape, 3), np.float32)
        vectors[3, 4, 5, 1] = bad
        with pytest.raises(UnsupportedGeometry, match="no number"):
            Displacement(vectors, SMOOTH, A, B)


def test_vectors_that_do_not_fit_their_grid_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        Displacement(np.zeros((2, 3, 4, 3), np.float32), SMOOTH, A, B)


def test_a_chain_applies_the_first_first() -> None:
    turned, shifted = Rigid.of(turn(0, 0, 90), (0, 0, 0), A, B), Rigid.of(np.eye(3), (10, 0, 0), B, C)
    chain = Chain((turned, shifted))
    assert (chain.source, chain.target) == (A, C)
    np.testing.assert_allclose(chain.points((1, 0, 0), A), (10, 1, 0), atol=1e-12)
    np.testing.assert_allclose(chain.itk().TransformPoint((1.0, 0.0, 0.0)), (10, 1, 0), atol=1e-12)


@few
@given(rigids(), seeds)
def test_a_chain_is_the_same_to_itk_and_composed_makes_it_flat(b_from_a: Rigid, seed: int) -> None:
    near = Rigid.of(b_from_a.rotation, (3, -2, 5), A, B)
    chain = composed(near.inverse(), composed(near, bent((4, -5, 3))))
    assert isinstance(chain, Chain)
    assert len(chain.parts) == 3
    at = within(SMOOTH, seed, room=0.01, many=10)
    np.testing.assert_allclose(chain.points(at, A), bent((4, -5, 3)).points(at, A), atol=1e-9)
    np.testing.assert_allclose(chain.points(at, A), [chain.itk().TransformPoint(p) for p in at.tolist()], atol=1e-5)


@few
@given(rigids())
def test_a_matrix_is_inverted_exactly(b_from_a: Rigid) -> None:
    back = inverse_of(b_from_a)
    np.testing.assert_allclose(back.points(b_from_a.points((1, 2, 3), A), B), (1, 2, 3), atol=1e-9)


@settings(max_examples=8, deadline=None)
@given(turns, st.tuples(*[st.floats(-8, 8)] * 3), st.booleans())
def test_a_smooth_chain_is_inverted_to_a_fiftieth_of_a_millimetre(
    rotation: NDArray[np.float64], push: Triple, bend_last: bool
) -> None:
    rigid = Rigid.of(rotation, (5, -8, 3), A, B)
    b_from_a = composed(bent(push, B, B), rigid) if bend_last else composed(rigid, bent(push))
    middle = np.zeros(3) if bend_last else rigid.points((0, 0, 0), A)
    grid = around(middle, 4.0, 32.0, B)
    back = inverse_of(b_from_a)
    assert (back.source, back.target) == (B, A)
    at = within(grid, 3, many=300)
    assert np.linalg.norm(b_from_a.points(back.points(at, B), A) - at, axis=-1).max() < 0.02 * np.sqrt(3)


def test_a_field_that_folds_is_led_back_to_one_of_the_places_it_came_from() -> None:
    folding = bent((60, 0, 0), A, B)
    at = places(around(np.zeros(3), 4.0, 40.0, B))
    missed = np.linalg.norm(folding.points(inverse_of(folding).points(at, B), A) - at, axis=-1)
    assert np.percentile(missed, 95) < 0.05


@few
@given(rigids(), grids())
def test_a_rigid_keeps_volume(b_from_a: Rigid, grid: Geometry) -> None:
    np.testing.assert_allclose(jacobian(b_from_a, grid).array, 1.0, atol=1e-4)


@few
@given(grids(), st.tuples(*[st.floats(0.5, 1.6)] * 3))
def test_the_jacobian_of_a_field_that_scales_is_its_scale(grid: Geometry, scale: Triple) -> None:
    vectors = ((places(grid) - grid.origin) * (np.array(scale) - 1)).astype(np.float32)
    found = jacobian(Displacement(vectors, grid, A, B), grid)
    assert found.geometry is grid
    np.testing.assert_allclose(found.array, np.prod(scale), rtol=1e-4)


def test_a_field_that_turns_space_inside_out_has_a_negative_jacobian() -> None:
    vectors = (places(SMOOTH) * (-1.5, 0, 0)).astype(np.float32)
    np.testing.assert_allclose(jacobian(Displacement(vectors, SMOOTH, A, B), SMOOTH).array, -0.5, rtol=1e-4)


def test_a_jacobian_of_one_plane_is_refused() -> None:
    with pytest.raises(UnsupportedGeometry, match="two nodes"):
        jacobian(Rigid.identity(A, B), replace(SMOOTH, shape=(1, 5, 5)))


@few
@given(rigids(), grids(), seeds)
def test_displacements_are_what_points_say(b_from_a: Rigid, grid: Geometry, seed: int) -> None:
    field = Displacement(displacements(b_from_a, grid), grid, A, B)
    at = within(grid, seed, room=1e-3)
    np.testing.assert_allclose(field.points(at, A), b_from_a.points(at, A), atol=1e-3)


@few
@given(grids(), seeds)
def test_between_nodes_values_are_linear_and_more_than_half_a_step_beyond_them_there_is_nothing(
    grid: Geometry, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    slope, size = rng.normal(size=3), np.array(grid.shape)
    ramp = np.moveaxis(np.indices(grid.shape), 0, -1) @ slope + 1000.0
    index = rng.random((50, 3)) * (size - 1)
    np.testing.assert_allclose(sampled(ramp, grid, grid.points(index)), index @ slope + 1000.0)
    np.testing.assert_allclose(sampled(ramp, grid, places(grid)), ramp)
    axis, side = rng.integers(3), rng.integers(2)
    index[:, axis] = side * (size[axis] - 1) + (2 * side - 1) * (0.51 + 3 * rng.random(50))
    assert not sampled(ramp, grid, grid.points(index)).any()


@few
@given(rigids(), st.data())
def test_a_ball_keeps_its_volume_and_its_place(b_from_a: Rigid, data: st.DataObject) -> None:
    theirs = data.draw(grids(B, (23, 23, 23)).map(lambda g: replace(g, spacing=(2.0, 2.2, 2.4))))
    middle = theirs.points((11.2, 10.9, 11.1))
    ball: Mask = Volume(np.linalg.norm(places(theirs) - middle, axis=-1) < 15.0, theirs)
    mine = around(b_from_a.inverse().points(middle, B) + (0.8, -0.4, 0.3), 2.0, 20.0, A)
    found = resampled_mask(b_from_a, ball, mine)
    assert found.array.dtype == np.bool_
    assert found.array.sum() * mine.voxel_cc == pytest.approx(ball.array.sum() * theirs.voxel_cc, rel=0.04)
    centre = places(mine)[found.array].mean(axis=0)
    assert np.linalg.norm(b_from_a.points(centre, A) - middle) < 0.5


def test_a_mask_pulled_onto_its_own_voxels_is_itself_even_where_its_crop_ends() -> None:
    grid = replace(SMOOTH, image=B.image)
    whole = np.random.default_rng(0).random(grid.shape) > 0.5
    found = resampled_mask(Rigid.identity(A, B), Volume(whole, grid), SMOOTH)
    np.testing.assert_array_equal(found.array, whole)


def test_a_distance_beyond_its_grid_is_outside() -> None:
    """A field of distances knows nothing beyond its crop: that is not taken for inside."""
    grid = around(np.zeros(3), 2.0, 8.0, B)
    distance = (np.linalg.norm(places(grid), axis=-1) - 6.0).astype(np.float32)
    found = resampled_field(Rigid.identity(A, B), Field(Volume(distance, grid), Level.DISTANCE), SMOOTH)
    assert found.level is Level.DISTANCE
    inside = found.mask().array
    np.testing.assert_array_equal(inside, np.linalg.norm(places(SMOOTH), axis=-1) < 6.0)


def test_where_the_other_image_has_nothing_the_value_given_is_seen() -> None:
    b = around(np.zeros(3), 4.0, 10.0, B)
    seen = resampled(Rigid.identity(A, B), Volume(np.full(b.shape, 40, np.int16), b), SMOOTH, -1024.0)
    assert seen.array.dtype == np.float32
    assert set(np.unique(seen.array)) == {-1024.0, 40.0}


def test_the_nearest_rigid_map_of_points_that_were_turned_and_moved_is_that_move():
    points = np.random.default_rng(0).normal(0, 40, (50, 3))
    turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1.0]])
    found = Rigid.nearest(points, points @ turn.T + (3.0, -2.0, 5.0), Space("a"), Space("b"))
    assert np.allclose(found.rotation, turn)
    assert np.allclose(found.translation, (3.0, -2.0, 5.0))
    assert np.linalg.det(Rigid.nearest(points, points * (1, 1, -1), Space("a"), Space("b")).rotation) > 0
