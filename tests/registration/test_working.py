"""What two images share: where each is to be believed, and what cannot be registered at all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from patient.errors import FrameMismatch, InputError, NotTrusted
from patient.geometry import Box, Geometry
from patient.volume import Mask, Volume
from registration.method import RegistrationContext
from registration.transforms import Points, Rigid, Space
from registration.working import DIVISIBLE, MARGIN, Working, foreground, measured, numbers, reduced, working_pair

GRID = Geometry((30, 40, 40), (4.0, 3.0, 3.0), (-58.5, -58.5, 10.0), frame_of_reference="1.2.3", image="planning")
OTHER = replace(GRID, image="fraction")
CENTRE = GRID.points((np.array(GRID.shape) - 1) / 2)


def places(grid: Geometry) -> Points:
    return grid.points(np.moveaxis(np.indices(grid.shape), 0, -1))


def body(grid: Geometry = GRID) -> Volume[np.float32]:
    """A cylinder of soft tissue in air with a lung in it, from the first plane to the last; some noise."""
    x, y, _ = np.moveaxis(places(grid) - CENTRE, -1, 0)
    array = np.where(np.hypot(x, 1.3 * y) < 45, 40.0, -1000.0)
    array[np.hypot(x - 15, y) < 12] = -800.0
    return Volume((array + np.random.default_rng(0).normal(0, 10, grid.shape)).astype(np.float32), grid)


def paired(
    fixed: Volume[np.float32], moving: Volume[np.float32], shift: tuple[float, float, float] = (0, 0, 0), **known: object
) -> Working:
    start = Rigid.of(np.eye(3), shift, Space.of(fixed.geometry), Space.of(moving.geometry))
    context = RegistrationContext(**known)  # type: ignore[arg-type]
    return working_pair(fixed, moving, start, context, 6.0, 100_000)


@pytest.mark.parametrize("value", [0.0, -1000.0])
def test_a_constant_image_is_refused_by_its_name(value: float) -> None:
    flat = np.full(GRID.shape, value, np.float32)
    with pytest.raises(InputError, match="fixed image is constant"):
        paired(Volume(flat, GRID), body(OTHER))
    with pytest.raises(InputError, match="moving image is constant"):
        paired(body(), Volume(flat, OTHER))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_image_without_numbers_is_refused_by_its_name(value: float) -> None:
    empty = np.full(GRID.shape, value, np.float32)
    with pytest.raises(InputError, match="fixed image holds hardly any numbers"):
        paired(Volume(empty, GRID), body(OTHER))
    empty[:5] = 40.0
    with pytest.raises(InputError, match="moving image holds hardly any numbers"):
        paired(body(), Volume(empty, OTHER))


def test_numbers_of_one_value_between_nans_are_constant() -> None:
    array = np.full(GRID.shape, 40.0, np.float32)
    array[:5] = np.nan
    with pytest.raises(InputError, match="constant"):
        numbers(Volume(array, GRID), "fixed")


def test_some_nans_become_the_lowest_number_and_the_callers_image_is_left_alone() -> None:
    image = Volume(np.maximum(body().array, -1024), GRID)
    image.array[:, :4] = np.nan
    found = numbers(image, "fixed")
    assert np.isfinite(found.array).all()
    assert (found.array[:, :4] == np.nanmin(image.array)).all()
    np.testing.assert_array_equal(found.array[:, 4:], image.array[:, 4:])
    assert np.isnan(image.array[:, :4]).all()
    whole = Volume(np.maximum(body().array, -1024), GRID)
    assert numbers(whole, "fixed").array is whole.array


def test_an_empty_mask_is_refused_with_what_to_do() -> None:
    none: Mask = Volume(np.zeros(GRID.shape, bool), GRID)
    with pytest.raises(InputError, match=r"mask of the fixed image is empty.*Leave it out"):
        paired(body(), body(OTHER), fixed_mask=none)
    with pytest.raises(InputError, match="mask of the moving image is empty"):
        paired(body(), body(OTHER), moving_mask=Volume(none.array, OTHER))


def test_a_mask_of_another_image_is_refused_even_in_one_frame_of_reference() -> None:
    whole = np.ones(GRID.shape, bool)
    with pytest.raises(InputError, match="mask of the fixed image belongs to another"):
        paired(body(), body(OTHER), fixed_mask=Volume(whole, OTHER))
    with pytest.raises(InputError, match="mask of the moving image belongs to another"):
        paired(body(), body(OTHER), moving_mask=Volume(whole, GRID))
    with pytest.raises(InputError, match="another"):
        paired(body(), body(OTHER), fixed_mask=Volume(whole, replace(GRID, frame_of_reference="9.9")))


def test_a_start_of_other_images_is_refused() -> None:
    with pytest.raises(FrameMismatch):
        working_pair(
            body(), body(OTHER), Rigid.identity(Space.of(OTHER), Space.of(GRID)), RegistrationContext(), 6.0, 100_000
        )


def test_images_that_hardly_overlap_are_not_trusted_and_it_says_by_how_much() -> None:
    with pytest.raises(NotTrusted, match=r"holds 0 % of the fixed one.*hardly overlap.*one patient"):
        paired(body(), body(OTHER), (0, 0, 500))
    with pytest.raises(NotTrusted, match=r"holds [1-9] % of the fixed one"):
        paired(body(), body(OTHER), (0, 0, 112))


def test_what_lies_outside_the_moving_image_is_noted() -> None:
    whole, half = paired(body(), body(OTHER)), paired(body(), body(OTHER), (0, 0, 60))
    assert whole.notes == ()
    (note,) = half.notes
    assert note in [f"{n} % of the fixed image lies outside the moving one" for n in range(44, 57)]


def test_the_grid_holds_the_body_with_room_and_divides_into_cells() -> None:
    pair = paired(body(), body(OTHER))
    grid = pair.grid
    assert Space.of(grid) == Space.of(GRID)
    assert len(set(grid.spacing)) == 1
    assert all(n % DIVISIBLE == 0 for n in grid.shape)
    assert pair.fixed.shape == pair.moving.shape == pair.fixed_valid.shape == pair.moving_valid.shape == grid.shape
    ends = np.array([CENTRE - (44, 33, 55), CENTRE + (44, 33, 55)])
    index = grid.indices(ends)
    room = (MARGIN - 2 * max(GRID.spacing)) / grid.spacing[0]
    assert (index > room).all()
    assert (index < np.array(grid.shape) - 1 - room).all()


def test_coarser_voxels_are_taken_where_there_would_be_too_many() -> None:
    start = Rigid.identity(Space.of(GRID), Space.of(OTHER))
    fine, coarse = (working_pair(body(), body(OTHER), start, RegistrationContext(), 4.0, n) for n in (10**6, 8000))
    assert fine.grid.spacing[0] == pytest.approx(4.0)
    assert coarse.grid.spacing[0] > 6.0
    assert np.prod(coarse.grid.shape) < np.prod(fine.grid.shape) / 2


def test_the_moving_image_is_seen_through_the_start() -> None:
    """The fraction's grid lies 30 mm more to the left; the start says so, and the two lie on one another."""
    shifted = replace(OTHER, origin=(-28.5, -58.5, 10.0))
    pair = paired(body(), Volume(body().array, shifted), (30.0, 0, 0))
    both = pair.fixed_valid & pair.moving_valid
    assert both.sum() > 0.95 * pair.fixed_valid.sum()
    assert np.abs(pair.fixed - pair.moving)[both].mean() < 1.0


def test_only_what_the_masks_hold_is_valid() -> None:
    low, high = np.zeros(GRID.shape, bool), np.ones(GRID.shape, bool)
    low[:20], high[:10] = True, False
    pair = paired(body(), body(OTHER), fixed_mask=Volume(low, GRID), moving_mask=Volume(high, OTHER))
    z = pair.grid.points(np.argwhere(pair.fixed_valid))[:, 2]
    assert z.max() < 10.0 + 4.0 * 20
    z = pair.grid.points(np.argwhere(pair.moving_valid))[:, 2]
    assert z.min() > 10.0 + 4.0 * 9


def test_a_brink_reaches_into_the_air_around_a_mask_and_into_no_tissue_beside_it() -> None:
    image, start = body(), Rigid.identity(Space.of(GRID), Space.of(OTHER))
    x, y, _ = np.moveaxis(places(GRID) - CENTRE, -1, 0)
    left = Volume((np.hypot(x, 1.3 * y) < 45) & (x > 0), GRID)
    context = RegistrationContext(fixed_mask=left)
    bare, wide = (working_pair(image, body(OTHER), start, context, 3.0, 10**6, 0, boundary) for boundary in (0, 2))
    added = wide.fixed_valid & ~bare.fixed_valid
    assert not (bare.fixed_valid & ~wide.fixed_valid).any()
    assert added.sum() > 0.05 * bare.fixed_valid.sum()
    assert wide.fixed[added].max() < -500
    apart = ndimage.distance_transform_edt(~bare.fixed_valid)[added]
    assert apart.max() <= 2.0
    at = bare.grid.points(np.argwhere(added)) - CENTRE
    assert (np.hypot(at[:, 0], 1.3 * at[:, 1]) > 41).all()


def test_the_mask_may_be_a_crop_of_the_image() -> None:
    array = np.zeros(GRID.shape, bool)
    array[5:20, 10:30, 12:28] = True
    mask: Mask = Volume(array, GRID)
    start = Rigid.identity(Space.of(GRID), Space.of(OTHER))
    one, two = (
        working_pair(body(), body(OTHER), start, RegistrationContext(fixed_mask=m), 5.37, 100_000)
        for m in (mask, mask.cropped(Box.of(array)))
    )
    np.testing.assert_allclose(one.grid.origin, two.grid.origin, atol=1e-9)
    assert one.grid.shape == two.grid.shape
    np.testing.assert_array_equal(one.fixed_valid, two.fixed_valid)


@settings(max_examples=25, deadline=None)
@given(st.tuples(*[st.integers(1, 13)] * 3), st.tuples(*[st.sampled_from((0.8, 1.0, 2.5, 5.0))] * 3), st.floats(1, 12))
def test_averaging_moves_nothing(shape: tuple[int, int, int], spacing: tuple[float, float, float], voxel: float) -> None:
    """A ramp stays the same ramp at the places of the coarser voxels."""
    grid = replace(GRID, shape=shape, spacing=spacing, axes=((0.0, 0.0, -1.0), (0.6, 0.8, 0.0), (-0.8, 0.6, 0.0)))
    slope = (0.7, -1.3, 2.1)
    small = reduced(Volume((places(grid) @ slope).astype(np.float32), grid), voxel)
    np.testing.assert_allclose(small.array, places(small.geometry) @ slope, atol=1e-3)
    assert all(new <= max(old, 1.5 * voxel) for new, old in zip(small.geometry.spacing, spacing, strict=True))


def test_a_mask_is_not_averaged() -> None:
    with pytest.raises(ValueError, match="mask"):
        reduced(Volume(np.ones(GRID.shape, bool), GRID), 8.0)


def overlap(found: Mask, truth: np.ndarray) -> float:
    return 2 * float((found.array & truth).sum()) / float(found.array.sum() + truth.sum())


def inside() -> np.ndarray:
    x, y, _ = np.moveaxis(places(GRID) - CENTRE, -1, 0)
    return np.hypot(x, 1.3 * y) < 45


def test_the_body_is_found_with_its_lungs() -> None:
    found = foreground(body())
    assert overlap(found, inside()) > 0.95
    x, y, _ = np.moveaxis(places(GRID) - CENTRE, -1, 0)
    assert found.array[np.hypot(x - 15, y) < 12].all()


@pytest.mark.parametrize("row", [32, 35], ids=["touching", "below"])
def test_a_couch_is_no_body(row: int) -> None:
    """A sheet of two voxels across the whole image, under the patient or touching: what reaches out to the sides is left."""
    image = body()
    sheet = np.zeros(GRID.shape, bool)
    sheet[:, row : row + 2] = True
    sheet &= ~inside()
    image.array[sheet] = 0.0
    found = foreground(image)
    assert overlap(found, inside()) > 0.93
    assert (found.array & sheet).sum() < 0.4 * sheet.sum()


def test_the_body_is_found_in_numbers_that_are_no_hounsfield_units() -> None:
    image = body()
    signal = Volume(np.clip((image.array + 1000) * 0.4, 0, None).astype(np.float32), GRID)
    assert overlap(foreground(signal), inside()) > 0.9


def test_padding_around_a_field_of_view_was_not_measured() -> None:
    x, y, _ = np.moveaxis(places(GRID) - CENTRE, -1, 0)
    image = body()
    outside = np.hypot(x, y) > 50
    image.array[outside] = -1024.0
    image.array[15, 20, 20] = -1024.0
    found = measured(image)
    assert set(np.unique(found.array)) == {0.0, 1.0}
    np.testing.assert_array_equal(found.array == 0, outside)


def test_an_image_without_padding_was_measured_everywhere() -> None:
    assert (measured(body()).array == 1).all()


def test_padding_is_not_valid_in_either_image() -> None:
    x, y, _ = np.moveaxis(places(GRID) - CENTRE, -1, 0)
    cut = body()
    cut.array[np.hypot(x, y) > 30] = -1024.0
    pair = paired(body(), Volume(cut.array, OTHER))
    at = pair.grid.points(np.argwhere(pair.moving_valid)) - CENTRE
    assert np.hypot(at[:, 0], at[:, 1]).max() < 33.0
    assert pair.notes
    pair = paired(cut, body(OTHER))
    at = pair.grid.points(np.argwhere(pair.fixed_valid)) - CENTRE
    assert np.hypot(at[:, 0], at[:, 1]).max() < 33.0
