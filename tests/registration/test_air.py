"""Air: however it is written it is air, and a lung that the image's edge cuts open is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from patient.geometry import Geometry
from patient.volume import Volume
from registration.air import above_air
from registration.deformable import Deformable
from registration.keypoints import scene, seen_through
from registration.levels import Pyramid
from registration.method import RegistrationContext
from registration.transforms import Rigid, Space, displacements
from registration.working import foreground, measured, numbers

GRID = Geometry((30, 44, 48), (4.0, 3.0, 3.0), (-70.5, -64.5, 10.0), image="planning")
OTHER = replace(GRID, image="today", origin=(-66.5, -66.5, 12.0))
Z, Y, X = np.moveaxis(GRID.points(np.moveaxis(np.indices(GRID.shape), 0, -1)), -1, 0)[::-1]
TISSUE = np.hypot(X - 40.0, Y) < 90.0
LUNG = (((X - 40.0) / 62.0) ** 2 + (Y / 48.0) ** 2 < 1) & ((Z - 70.0) ** 2 < 45.0**2)
"""The body reaches beyond the image at its left side; its lung is cut open there."""


def chest(grid: Geometry = GRID, seed: int = 0) -> Volume[np.int16]:
    """A body with texture of all sizes and a lung, both cut by the image's left side, in noisy air; HU."""
    rng = np.random.default_rng(5)
    texture = sum(w**1.5 * ndimage.gaussian_filter(rng.normal(size=GRID.shape), w / 3) for w in (4, 8))
    texture = texture / np.std(texture)
    hu = np.where(LUNG, -860.0 + 60.0 * texture, np.where(TISSUE, np.clip(100.0 * texture, -250, 900), -1000.0))
    noise = np.random.default_rng(seed).normal(0, 8, GRID.shape)
    return Volume(np.rint(np.clip(hu + noise, -1024, 3000)).astype(np.int16), grid)


def padded(image: Volume[np.int16], hu: int) -> Volume[np.int16]:
    """Beyond a scanned circle the scanner wrote a number of its own."""
    return Volume(np.where(np.hypot(X - 20.0, Y) > 90.0, hu, image.array).astype(np.int16), image.geometry)


def test_nothing_below_air_is_left_and_the_callers_image_stays_as_it_was() -> None:
    image = padded(chest(), -2048)
    found = above_air(image)
    assert found.array.dtype == np.int16
    assert found.array.min() == -1024
    assert image.array.min() == -2048
    np.testing.assert_array_equal(found.array, padded(chest(), -1024).array)


def test_an_image_without_anything_below_air_is_not_copied() -> None:
    image = chest()
    assert above_air(image) is image
    assert numbers(image, "fixed").array is image.array


def test_padding_of_minus_2048_gives_the_same_transform_as_air() -> None:
    context = RegistrationContext(start=Rigid.identity(Space.of(GRID), Space.of(OTHER)))
    found = [
        Deformable(voxel=6.0).fit(padded(chest(), hu), padded(chest(OTHER, 1), hu), context).moving_from_fixed
        for hu in (-2048, -1024)
    ]
    np.testing.assert_array_equal(*(displacements(transform, GRID) for transform in found))


def seen_by_rigid(image: Volume[np.int16]) -> NDArray[np.float32]:
    return Pyramid.of(image, None, "fixed").fine.array


def seen_by_features(image: Volume[np.int16]) -> NDArray[np.float32]:
    return scene(image, None, "fixed").image.array


def seen_by_features_through_a_start(image: Volume[np.int16]) -> NDArray[np.float32]:
    itself = Rigid.identity(Space.of(GRID), Space.of(GRID))
    return seen_through(itself, image, None, scene(image, None, "fixed").image.geometry, "moving").image.array


@pytest.mark.parametrize("seen", [seen_by_rigid, seen_by_features, seen_by_features_through_a_start])
def test_padding_of_minus_2048_is_seen_as_air_by_every_method(
    seen: Callable[[Volume[np.int16]], NDArray[np.float32]],
) -> None:
    np.testing.assert_array_equal(*(seen(padded(chest(), hu)) for hu in (-2048, -1024)))


def in_body_of_rigid(image: Volume[np.int16]) -> float:
    found = Pyramid.of(image, None, "fixed")
    return shown(found.body, found.fine.geometry)


def in_body_of_deformable(image: Volume[np.int16]) -> float:
    found = foreground(Volume(image.array.astype(np.float32), image.geometry))
    return shown(found.array, found.geometry)


def in_body_of_features(image: Volume[np.int16]) -> float:
    found = scene(image, None, "fixed").looked
    return shown(found.array, found.geometry)


def shown(body: NDArray[np.bool_], grid: Geometry) -> float:
    """Part of the lung that is in a body found."""
    at = GRID.points(np.argwhere(LUNG)[::5])
    index = np.rint(grid.indices(at)).astype(int)
    inside = ((index >= 0) & (index < np.array(grid.shape))).all(axis=1)
    return float(body[tuple(index[inside].T)].sum() / len(at))


FINDERS = (in_body_of_rigid, in_body_of_deformable, in_body_of_features)


@pytest.mark.parametrize("share", FINDERS)
def test_a_lung_that_the_images_side_cuts_open_is_looked_at(share: Callable[[Volume[np.int16]], float]) -> None:
    assert share(chest()) > 0.9


def test_air_around_a_body_at_the_images_side_is_none_of_it() -> None:
    found = foreground(Volume(chest().array.astype(np.float32), GRID)).array
    assert not found[ndimage.binary_erosion(~TISSUE, iterations=2)].any()


def test_lung_whose_lowest_values_were_cut_off_was_measured() -> None:
    """An eighth of its voxels hold one number, joined to each other and to the image's side."""
    noise = np.random.default_rng(2).normal(0, 120, GRID.shape)
    array = np.where(LUNG, np.maximum(-860.0 + noise, -1000.0), np.where(TISSUE, 40.0 + noise, -1000.0))
    array[:, :, -8:] = np.where(LUNG, array, 40.0 + noise)[:, :, -8:]
    found = measured(Volume(array.astype(np.int16), GRID)).array > 0.5
    assert (array[LUNG] == -1000).mean() > 0.1
    assert found[LUNG].mean() > 0.99
    assert not found[ndimage.binary_erosion(~TISSUE, iterations=3)].any()
