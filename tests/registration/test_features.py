"""Registration by points: phantoms full of texture, moved by what is known."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from scipy import ndimage

from patient.errors import Cancelled, FrameMismatch, InputError, NotTrusted
from patient.geometry import Box, Geometry
from patient.volume import Mask, Volume
from registration.features import RigidByFeatures, find_matches
from registration.keypoints import APART, keypoints, scene
from registration.method import Fit, Method, RegistrationContext
from registration.resampling import resampled
from registration.transforms import Points, Rigid, Space

GRID = Geometry((46, 54, 54), (3.0, 2.5, 2.5), (-67.0, -67.0, 20.0), image="planning")
OTHER = replace(GRID, image="fraction")
CENTRE = GRID.points((np.array(GRID.shape) - 1) / 2)


@cache
def phantom(seed: int) -> Volume[np.float32]:
    """An ellipsoid of blobs of all sizes in air, HU."""
    rng = np.random.default_rng(seed)
    texture = sum(
        width**1.5 * ndimage.gaussian_filter(rng.normal(size=GRID.shape), [width / s for s in GRID.spacing])
        for width in (4, 8)
    )
    texture = 300 * texture / texture.std()
    inside = (((GRID.points(np.moveaxis(np.indices(GRID.shape), 0, -1)) - CENTRE) / (60, 56, 85)) ** 2).sum(axis=-1) < 1
    return Volume(np.where(inside, np.clip(texture, -400, 1500), -1000).astype(np.float32), GRID)


def known(degrees: float = 7.0, shift: tuple[float, float, float] = (12.0, -9.0, 10.0)) -> Rigid:
    """fraction_from_planning: about the z axis and the middle of the image."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    return Rigid.of(turn, CENTRE + shift - turn @ CENTRE, Space.of(GRID), Space.of(OTHER))


def moved(image: Volume[np.float32], by: Rigid, noise: float = 0.0) -> Volume[np.float32]:
    other = resampled(by.inverse(), image, OTHER, -1000.0)
    return Volume(other.array + np.random.default_rng(9).normal(0, noise, GRID.shape).astype(np.float32), OTHER)


def fitted(fixed: Volume[np.float32], moving: Volume[np.float32], **context: object) -> Fit:
    return RigidByFeatures().fit(fixed, moving, RegistrationContext(**context))  # type: ignore[arg-type]


def off(fit: Fit, truth: Rigid) -> float:
    """mm, the largest at the corners of a box in the body."""
    corners = CENTRE + 40 * np.array(np.meshgrid(*[(-1, 1)] * 3)).reshape(3, -1).T
    found = fit.moving_from_fixed.points(corners, Space.of(GRID))
    return float(np.linalg.norm(found - truth.points(corners, Space.of(GRID)), axis=1).max())


def test_a_known_move_is_found_and_a_landmark_says_in_which_direction() -> None:
    assert isinstance(RigidByFeatures(), Method)
    image = phantom(1)
    landmark: Points = GRID.points((30, 22, 40))
    marked = Volume(image.array.copy(), GRID)
    marked.array[29:32, 21:24, 39:42] = 2500
    other = moved(marked, known())
    fit = fitted(marked, other)
    assert off(fit, known()) < 1.0
    bright = OTHER.points(ndimage.center_of_mass(np.where(other.array > 1600, other.array, 0)))
    assert np.linalg.norm(fit.moving_from_fixed.points(landmark, Space.of(GRID)) - bright) < 1.5
    assert isinstance(fit.moving_from_fixed, Rigid)
    evidence = fit.evidence
    assert evidence.matches is not None
    assert evidence.inliers is not None
    assert evidence.residual is not None
    assert 15 < evidence.inliers <= evidence.matches
    assert 0 < evidence.residual < 2


def test_noise_shading_and_contrast_do_not_matter() -> None:
    other = moved(phantom(1), known(), noise=50)
    ramp = np.linspace(-60, 60, GRID.shape[2], dtype=np.float32)
    drifted = Volume((other.array + 1000) * 0.9 - 950 + ramp, OTHER)
    assert off(fitted(phantom(1), drifted), known()) < 2.0


def test_half_of_the_body_is_enough() -> None:
    fixed = phantom(1).cropped(Box((0, 0, 0), (32, 54, 54)))
    other = moved(phantom(1), known(), noise=30).cropped(Box((14, 0, 0), (46, 54, 54)))
    assert off(fitted(fixed, other), known()) < 2.5


def test_axes_that_run_another_way_change_nothing() -> None:
    other = moved(phantom(1), known())
    last = tuple(float(v) for v in OTHER.points((45, 0, 53)))
    (k, j, i), size = OTHER.axes, OTHER.shape
    axes = (tuple(-v for v in k), tuple(-v for v in i), j)
    grid = replace(
        OTHER,
        shape=(size[0], size[2], size[1]),
        spacing=(3.0, 2.5, 2.5),
        origin=last,
        axes=axes,  # type: ignore[arg-type]
    )
    turned = Volume(other.array[::-1, :, ::-1].transpose(0, 2, 1), grid)
    assert off(fitted(phantom(1), turned), known()) < 1.0


def test_an_affine_answer_follows_a_shrunken_patient() -> None:
    narrow = replace(OTHER, spacing=(2.85, 2.5, 2.5))
    fit = RigidByFeatures(affine=True).fit(phantom(1), Volume(phantom(1).array, narrow), RegistrationContext())
    corner = GRID.points((40.0, 40.0, 20.0))
    assert np.linalg.norm(fit.moving_from_fixed.points(corner, Space.of(GRID)) - narrow.points((40.0, 40.0, 20.0))) < 1.5


def test_unrelated_images_are_refused() -> None:
    with pytest.raises(NotTrusted, match="agree"):
        fitted(phantom(1), Volume(phantom(2).array, OTHER))


def test_the_same_again_is_the_same() -> None:
    other = moved(phantom(1), known(), noise=40)
    one, two = (fitted(phantom(1), other).moving_from_fixed for _ in range(2))
    assert np.array_equal(one.points(CENTRE, Space.of(GRID)), two.points(CENTRE, Space.of(GRID)))


def test_only_what_a_mask_holds_is_looked_at() -> None:
    """Half of the image moves otherwise: the mask says which half counts."""
    left, right = known(5, (8.0, 0.0, 0.0)), known(-5, (-8.0, 6.0, 0.0))
    one, two = moved(phantom(1), left).array, moved(phantom(1), right).array
    half = np.arange(GRID.shape[0])[:, None, None] < 23
    other = Volume(np.where(half, one, two), OTHER)
    for mask, truth in ((half, left), (~half, right)):
        wanted: Mask = Volume(np.broadcast_to(mask, GRID.shape).copy(), GRID)
        assert off(fitted(phantom(1), other, fixed_mask=wanted), truth) < 3.0
        crop = wanted.cropped(Box.of(wanted.array))
        points = find_matches(phantom(1), other, RegistrationContext(fixed_mask=crop)).fixed
        assert len(points) > 10
        inside = crop.geometry.indices(points)
        assert (inside > -1).all()
        assert (inside < crop.geometry.shape).all()


def test_landmarks_near_a_start_are_right() -> None:
    rough = known(6, (9.0, -7.0, 12.0))
    pairs = find_matches(phantom(1), moved(phantom(1), known(), noise=20), RegistrationContext(), rough)
    missed = np.linalg.norm(known().points(pairs.fixed, Space.of(GRID)) - pairs.moving, axis=1)
    assert len(pairs) > 100
    assert np.median(missed) < 1.5
    assert (missed < 5).mean() > 0.95
    assert ((pairs.score > 0) & (pairs.score <= 1.001)).all()
    with pytest.raises(FrameMismatch):
        find_matches(phantom(1), Volume(phantom(1).array, OTHER), RegistrationContext(), rough.inverse())


def test_points_are_spread() -> None:
    found = keypoints(scene(phantom(1), None, "fixed")).points
    apart = np.linalg.norm(found[:, None] - found[None], axis=2) + 99 * np.eye(len(found))
    assert apart.min() > APART / 2


def test_what_cannot_be_registered_is_said() -> None:
    image = phantom(1)
    with pytest.raises(InputError, match="constant"):
        fitted(image, Volume(np.zeros(GRID.shape, np.float32), OTHER))
    hole = image.array.copy()
    hole[3, 3, 3] = np.nan
    with pytest.raises(InputError, match="no numbers"):
        fitted(image, Volume(hole, OTHER))
    with pytest.raises(InputError, match="empty"):
        fitted(image, Volume(image.array, OTHER), fixed_mask=Volume(np.zeros(GRID.shape, bool), GRID))
    context = RegistrationContext()
    context.cancelled.set()
    with pytest.raises(Cancelled):
        RigidByFeatures().fit(image, Volume(image.array, OTHER), context)
