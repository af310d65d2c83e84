"""Rigid registration on phantoms whose place is known."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from patient.errors import Cancelled, FrameMismatch, InputError, NotTrusted
from patient.geometry import Geometry
from patient.volume import Mask, Volume
from registration.method import Fit, Method, RegistrationContext
from registration.rigid import RigidByIntensity, split_half
from registration.transforms import Rigid, Space

LANDMARK = np.array((-22.0, 14.0, 18.0))
BALLS = [  # centre LPS mm, radius mm, HU
    ((0, 0, 0), 44, 30),
    ((18, 10, -12), 13, 500),
    ((-15, -18, 8), 12, -300),
    (tuple(LANDMARK), 8, 800),
    ((5, -22, -22), 9, 250),
    ((24, -8, 20), 10, -150),
]
GRID = Geometry((44, 54, 54), (3.0, 2.5, 2.5), (-66.0, -66.0, -64.5), frame_of_reference="1.2.3", image="plan")


def phantom(grid: Geometry, position: Rigid | None = None, noise: float = 5.0, seed: int = 0) -> Volume[np.int16]:
    """Balls in air, painted at the voxels of any grid, lying where `position` (moving_from_fixed) takes them."""
    points = grid.points(np.moveaxis(np.indices(grid.shape), 0, -1))
    if position is not None:
        points = (points - position.translation) @ position.rotation
    array = np.full(grid.shape, -1000.0)
    for centre, radius, value in BALLS:
        inside = np.clip(radius - np.linalg.norm((points - centre) * (1.0, 1.2, 0.9), axis=-1) + 0.5, 0, 1)
        array = array * (1 - inside) + value * inside
    return Volume((array + np.random.default_rng(seed).normal(0, noise, grid.shape)).astype(np.int16), grid)


def turned(about: tuple[float, float, float], degrees: float) -> NDArray[np.float64]:
    """Rodrigues' matrix."""
    x, y, z = np.asarray(about) / np.linalg.norm(about)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.radians(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def move(to: Geometry, shift: tuple[float, ...] = (11.0, -9.0, 8.0), degrees: float = 8.0) -> Rigid:
    return Rigid.of(turned((1, 2, -1), degrees), shift, Space.of(GRID), Space.of(to))


def registered(fixed: Volume[Any], moving: Volume[Any], **known: Any) -> Fit:
    return RigidByIntensity(starts=2).fit(fixed, moving, RegistrationContext(**known))


def missed(fit: Fit, truth: Rigid) -> float:
    """mm, the largest error over the balls."""
    centres = np.array([centre for centre, _, _ in BALLS], dtype=float)
    got = fit.moving_from_fixed.points(centres, truth.source)
    return float(np.linalg.norm(got - truth.points(centres, truth.source), axis=-1).max())


FRACTION = replace(GRID, frame_of_reference="9.8.7", image="fraction")
FLIPPED = replace(
    FRACTION, origin=(66.0, 66.0, 64.5), axes=((0.0, 0.0, -1.0), (0.0, -1.0, 0.0), (-1.0, 0.0, 0.0)), image="flipped"
)
SAGITTAL = replace(FRACTION, shape=(54, 44, 54), spacing=(2.5, 3.0, 2.5), axes=((1.0, 0, 0), (0, 0, 1.0), (0, 1.0, 0)))
THICK = replace(FRACTION, shape=(22, 54, 54), spacing=(6.0, 2.5, 2.5), image="thick")
THIN = replace(FRACTION, shape=(200, 48, 48), spacing=(0.5, 2.5, 2.5), origin=(-50.0, -66.0, -46.0), image="thin")


@pytest.mark.parametrize(
    "grid", [FRACTION, FLIPPED, SAGITTAL, THICK, THIN], ids=["same", "flipped", "sagittal", "6mm", "0.5mm"]
)
def test_a_known_move_is_found_on_any_grid(grid: Geometry) -> None:
    truth = move(grid)
    fit = registered(phantom(GRID), phantom(grid, truth, seed=1))
    assert isinstance(fit.moving_from_fixed, Rigid)
    assert missed(fit, truth) < (1.0 if grid is THICK else 0.5)


def test_direction_is_moving_from_fixed() -> None:
    """A bright ball at a known place in each image: the map takes the fixed one's to the moving one's, not back."""
    truth = move(FRACTION, (12.0, 0.0, 0.0), 0.0)
    fixed, moving = phantom(GRID), phantom(FRACTION, truth)
    seen = [np.array(v.geometry.points(np.argwhere(v.array > 700)).mean(axis=0)) for v in (fixed, moving)]
    np.testing.assert_allclose(seen[1] - seen[0], (12, 0, 0), atol=0.5)
    found = registered(fixed, moving).moving_from_fixed.points(seen[0], Space.of(GRID))
    np.testing.assert_allclose(found, seen[1], atol=0.5)


def test_other_modality_where_bright_is_dark() -> None:
    truth = move(FRACTION)
    moving = phantom(FRACTION, truth, seed=1)
    hu = moving.array.astype(float)
    signal = np.where(hu < -600, 0, np.where(hu > 150, 60, 400 + np.abs(hu)))
    assert missed(registered(phantom(GRID), Volume(signal, FRACTION)), truth) < 1.0


def test_drifted_noisy_and_cut_by_a_field_of_view() -> None:
    truth = move(FRACTION, (6.0, -5.0, 7.0), 5.0)
    hu = phantom(FRACTION, truth, noise=60, seed=1).array * 0.9 + 60
    x, y, _ = np.moveaxis(FRACTION.points(np.moveaxis(np.indices(FRACTION.shape), 0, -1)), -1, 0)
    hu[np.hypot(x - 4, y + 3) > 40] = -1000
    assert missed(registered(phantom(GRID), Volume(hu.astype(np.int16), FRACTION)), truth) < 1.0


def test_halves_of_a_body_that_one_rigid_map_describes_agree_with_the_whole() -> None:
    truth = move(FRACTION)
    halves = split_half(phantom(GRID), phantom(FRACTION, truth, seed=1), truth, RegistrationContext())
    assert halves.mm < 1.5
    assert halves.degrees < 1.5


def test_halves_of_a_body_that_is_bent_otherwise_go_apart() -> None:
    """Above the middle as the truth says, below it 9 mm aside: no rigid map is right for both."""
    truth, aside = move(FRACTION, (0.0, 0.0, 0.0), 0.0), move(FRACTION, (9.0, 0.0, 0.0), 0.0)
    above, below = phantom(FRACTION, truth, seed=1), phantom(FRACTION, aside, seed=1)
    bent = np.where(FRACTION.points(np.moveaxis(np.indices(FRACTION.shape), 0, -1))[..., 2] > 0, above.array, below.array)
    assert split_half(phantom(GRID), Volume(bent, FRACTION), truth, RegistrationContext()).mm > 5.0


def test_same_seed_same_answer_whatever_the_threads() -> None:
    fixed, moving = phantom(GRID), phantom(FRACTION, move(FRACTION), seed=1)
    one, two = (
        RigidByIntensity(starts=2, workers=n).fit(fixed, moving, RegistrationContext(seed=5)).moving_from_fixed
        for n in (1, 2)
    )
    assert isinstance(one, Rigid)
    assert isinstance(two, Rigid)
    np.testing.assert_array_equal(one.matrix, two.matrix)


def test_masks_weight_and_start_are_used() -> None:
    """Far away from where any search would look, but somebody knows; a second body in the image is masked out."""
    truth = move(FRACTION, (5.0, -4.0, 6.0), 40.0)
    fixed, moving = phantom(GRID), phantom(FRACTION, truth, seed=1)
    inside: Mask = Volume(fixed.array > -1200, GRID)
    start = move(FRACTION, (0.0, 0.0, 0.0), 36.0)
    fit = registered(fixed, moving, fixed_mask=inside, weight=Volume(fixed.array > -500, GRID), start=start)
    assert missed(fit, truth) < 0.5


def test_no_numbers_here_and_there() -> None:
    truth = move(FRACTION)
    moving = phantom(FRACTION, truth).array.astype(float)
    moving[:, :4] = np.nan
    assert missed(registered(phantom(GRID), Volume(moving, FRACTION)), truth) < 0.5


@pytest.mark.parametrize("value", [0.0, -1000.0, np.nan])
def test_images_without_content_are_refused(value: float) -> None:
    empty = Volume(np.full(GRID.shape, value), GRID)
    for pair in ((empty, phantom(GRID)), (phantom(GRID), empty)):
        with pytest.raises(InputError):
            registered(*pair)


def test_empty_mask_is_refused() -> None:
    with pytest.raises(InputError, match="mask of the moving image is empty"):
        registered(phantom(GRID), phantom(GRID), moving_mask=Volume(np.zeros(GRID.shape, dtype=bool), GRID))


def test_images_of_nothing_in_common_are_not_trusted() -> None:
    rng = np.random.default_rng(0)
    one, other = (Volume(rng.normal(size=GRID.shape), grid) for grid in (GRID, FRACTION))
    with pytest.raises(NotTrusted, match="in common"):
        registered(one, other)


def test_start_of_other_images_is_refused() -> None:
    start = Rigid.identity(Space("somebody"), Space("else"))
    with pytest.raises(FrameMismatch):
        registered(phantom(GRID), phantom(FRACTION), start=start)


def test_cancelled() -> None:
    event = threading.Event()
    event.set()
    with pytest.raises(Cancelled):
        registered(phantom(GRID), phantom(FRACTION), cancelled=event)


def test_it_is_a_method() -> None:
    assert isinstance(RigidByIntensity(), Method)
