"""Deformable registration: phantoms full of texture, bent by what is known."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import cache
from importlib.metadata import entry_points

import numpy as np
import pytest
import torch
from scipy import ndimage

from patient.errors import Cancelled, InputError, NotTrusted
from patient.geometry import Geometry
from patient.volume import Mask, Volume
from registration.deformable import Deformable
from registration.deformation.nodes import at_places
from registration.deformation.search import SEARCHES, Cells
from registration.demons import Demons
from registration.inverse import inverse_of
from registration.method import Matches, Method, RegistrationContext
from registration.resampling import resampled
from registration.transforms import Displacement, Points, Rigid, Space, Transform, composed, displacements, jacobian

GRID = Geometry((48, 60, 60), (3.0, 3.0, 3.0), (-88.5, -88.5, -70.5), image="planning")
OTHER = replace(GRID, image="today")
NODES = Geometry((15, 19, 19), (10.0, 10.0, 10.0), (-90.0, -90.0, -70.0), image="today")
HERE, THERE = Space.of(GRID), Space.of(OTHER)


def _at() -> Points:
    return GRID.points(np.moveaxis(np.indices(GRID.shape), 0, -1))


@cache
def inside() -> Mask:
    return Volume(((_at() / (70, 64, 90)) ** 2).sum(axis=-1) < 1, GRID)


@cache
def planning() -> Volume[np.int16]:
    """A body of blobs of all sizes, HU."""
    rng = np.random.default_rng(7)
    texture = sum(w**1.5 * ndimage.gaussian_filter(rng.normal(size=GRID.shape), w / 3) for w in (4, 9))
    hu = np.where(inside().array, np.clip(300 * texture / np.std(texture), -300, 900), -1000.0)
    return Volume(hu.astype(np.int16), GRID)


@cache
def bend() -> Displacement:
    """planning_from_today: smooth, 10 mm at most."""
    rng = np.random.default_rng(3)
    vectors = np.stack([ndimage.gaussian_filter(rng.normal(size=NODES.shape), 2.5) for _ in range(3)], axis=-1)
    vectors *= 10.0 / np.linalg.norm(vectors, axis=-1).max()
    return Displacement(vectors.astype(np.float32), NODES, THERE, HERE)


@cache
def today(noise: float = 20.0) -> Volume[np.int16]:
    """The same patient, bent."""
    bent = resampled(bend(), planning(), OTHER, -1000.0).array
    grain = np.random.default_rng(1).normal(0, noise, GRID.shape)
    return Volume(np.rint(np.clip(bent + grain, -1024, 3000)).astype(np.int16), OTHER)


@cache
def truth() -> Transform:
    return inverse_of(bend())


def start() -> Rigid:
    return Rigid.identity(HERE, THERE)


def off(found: object, at: Points) -> np.ndarray:
    return np.linalg.norm(found.points(at, HERE) - truth().points(at, HERE), axis=-1)  # type: ignore[attr-defined]


def deep_points() -> Points:
    """In the body, away from its skin and from the ends of the image."""
    deep = ndimage.binary_erosion(inside().array, iterations=5)
    deep[:6] = deep[-6:] = False
    return GRID.points(np.argwhere(deep)[::37])


@cache
def fitted():
    return Deformable(voxel=3.0).fit(planning(), today(), RegistrationContext(start=start())).moving_from_fixed


def test_a_known_bend_is_found_to_a_fraction_of_a_voxel():
    at = deep_points()
    before = np.linalg.norm(truth().points(at, HERE) - at, axis=-1)
    assert before.mean() > 2.5
    assert off(fitted(), at).mean() < 0.5
    assert np.percentile(off(fitted(), at), 95) < 1.2


def test_the_field_folds_nowhere():
    assert jacobian(fitted(), GRID).array.min() > 0.0


def test_the_same_seed_gives_the_same_field():
    again = Deformable(voxel=3.0).fit(planning(), today(), RegistrationContext(start=start())).moving_from_fixed
    assert np.array_equal(displacements(again, NODES), displacements(fitted(), NODES))


@pytest.mark.parametrize("cores", [1, 3])
def test_a_field_is_read_alike_by_any_number_of_cores(cores: int):
    chance = np.random.default_rng(0)
    values, places = chance.normal(size=(2, 5, 6, 7)), chance.uniform(-1.0, 7.0, (3, 11, 7))
    right = [ndimage.map_coordinates(v, places.reshape(3, -1), order=1, mode="nearest").reshape(11, 7) for v in values]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(cores)
        found = at_places(*(torch.from_numpy(v).float() for v in (values, places)))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_allclose(found.numpy(), right, atol=1e-5)


def test_cells_of_every_size_hold_the_mean_of_what_is_valid():
    chance = np.random.default_rng(0)
    values, valid = chance.uniform(0, 1, (2, 12, 24, 12)), chance.uniform(0, 1, (12, 24, 12)) < 0.3
    cells = Cells.of(torch.from_numpy(values).float(), torch.from_numpy(valid))
    for size in {cell for cell, _ in SEARCHES}:
        share, mean = cells[size].share.numpy(), cells[size].values.numpy()
        for at in np.ndindex(share.shape):
            part = tuple(slice(n * size, (n + 1) * size) for n in at)
            assert share[at] == pytest.approx(valid[part].mean(), abs=1e-5)
            if valid[part].mean() > 0.02:
                right = values[(slice(None), *part)][:, valid[part]].mean(axis=1)
                np.testing.assert_allclose(mean[(slice(None), *at)], right, atol=1e-5)


def test_it_makes_its_own_rigid_start_where_none_is_given():
    shift = Rigid.of(np.eye(3), (25.0, -15.0, 10.0), THERE, replace(THERE, image="moved"))
    moved = replace(OTHER, image="moved", origin=tuple(np.add(OTHER.origin, (25.0, -15.0, 10.0)).tolist()))
    found = Deformable(voxel=3.0).fit(planning(), Volume(today().array, moved), RegistrationContext()).moving_from_fixed
    at = deep_points()
    right = composed(shift, truth()).points(at, HERE)
    assert np.linalg.norm(found.points(at, HERE) - right, axis=-1).mean() < 0.7


def test_where_the_other_image_ends_nothing_is_drawn_out_of_sight():
    half = OTHER.cropped(replace(OTHER.box, stop=(26, *OTHER.shape[1:])))
    cut = Volume(np.ascontiguousarray(today().array[:26]), half)
    found = Deformable(voxel=3.0).fit(planning(), cut, RegistrationContext(start=start())).moving_from_fixed
    at = deep_points()
    near_the_end = at[np.abs(at[:, 2] - half.points((25, 0, 0))[2]) < 9]
    assert len(near_the_end) > 20
    assert off(found, near_the_end).mean() < 3.0


def test_what_lies_outside_of_the_fixed_mask_is_not_looked_at():
    left = Volume(inside().array & (_at()[..., 0] > 0), GRID)
    spoilt = today().array.copy()
    spoilt[:, :, :26] = np.random.default_rng(0).integers(-1000, 2000, spoilt[:, :, :26].shape)
    context = RegistrationContext(start=start(), fixed_mask=left)
    found = Deformable(voxel=3.0).fit(planning(), Volume(spoilt, OTHER), context).moving_from_fixed
    at = deep_points()
    assert off(found, at[at[:, 0] > 20]).mean() < 0.8


def test_what_is_kept_rigid_keeps_its_distances():
    bone = Volume((_at() ** 2).sum(axis=-1) < 24**2, GRID)
    at = GRID.points(np.argwhere(bone.array)[::29])

    def stretched(found: object) -> float:
        moved = found.points(at, HERE)  # type: ignore[attr-defined]
        a, b = (np.linalg.norm(p[:, None] - p[None], axis=-1) for p in (at, moved))
        return float(np.abs(a - b).mean())

    kept = Deformable(voxel=3.0).fit(planning(), today(), RegistrationContext(start=start(), rigid=bone)).moving_from_fixed
    assert stretched(kept) < 0.5 * stretched(fitted())


def test_a_base_of_the_lung_that_moves_by_seventy_millimetres_is_followed():
    tall = Geometry((90, 40, 40), (3.0, 3.0, 3.0), (-58.5, -58.5, -133.5), image="out")
    height = tall.points(np.stack([np.arange(90), np.zeros(90), np.zeros(90)], axis=-1))[:, 2]
    rise = np.clip((100.0 - height) / 200.0, 0, 1)
    lower = height - 70.0 * rise**2 * (3 - 2 * rise)
    rng = np.random.default_rng(11)
    texture = sum(w**1.5 * ndimage.gaussian_filter(rng.normal(size=tall.shape), w / 3) for w in (4, 9))
    out = np.clip(300 * texture / np.std(texture), -900, 900)
    came_from = np.interp(height, lower, np.arange(90.0))
    breathed_in = ndimage.map_coordinates(
        out, np.stack(np.broadcast_arrays(came_from[:, None, None], *np.indices((40, 40)))), order=1, mode="nearest"
    )
    moving = Volume((breathed_in + rng.normal(0, 20, tall.shape)).astype(np.int16), replace(tall, image="in"))
    fixed, context = Volume(out.astype(np.int16), tall), RegistrationContext()
    still = Rigid.identity(Space.of(tall), Space.of(moving.geometry))
    fit = Deformable(voxel=3.0).fit(fixed, moving, replace(context, start=still))
    shown = np.flatnonzero(lower > height[0] + 15)[:-5]
    at = tall.points(np.stack([shown, np.full(len(shown), 20), np.full(len(shown), 20)], axis=-1))
    there = at + np.outer((lower - height)[shown], (0, 0, 1))
    apart = np.linalg.norm(fit.moving_from_fixed.points(at, Space.of(tall)) - there, axis=-1)
    assert np.abs(lower - height)[shown].max() > 50
    assert np.median(apart) < 0.7
    assert apart.max() < 4.0


def test_landmarks_draw_where_the_image_says_nothing():
    plain = Volume(np.where(inside().array, 0, -1000).astype(np.int16), GRID)
    grain = np.random.default_rng(2).normal(0, 20, GRID.shape)
    same = Volume(np.rint(plain.array + grain).astype(np.int16), OTHER)
    at = GRID.points(np.argwhere(ndimage.binary_erosion(inside().array, iterations=9))[::61])
    known = Matches(at, at + (0.0, 0.0, 6.0), np.ones(len(at)))
    without, drawn = (
        Deformable(voxel=3.0).fit(plain, same, RegistrationContext(start=start(), landmarks=m)).moving_from_fixed
        for m in (None, known)
    )
    missed = [np.linalg.norm(t.points(at, HERE) - known.moving, axis=-1).mean() for t in (without, drawn)]
    assert missed[1] < 0.5 * missed[0]


@pytest.mark.parametrize("method", [Deformable(voxel=4.0), Demons()], ids=["deformable", "demons"])
def test_a_cancelled_run_stops(method: Method):
    stop = threading.Event()
    stop.set()
    with pytest.raises(Cancelled):
        method.fit(planning(), today(), RegistrationContext(start=start(), cancelled=stop))


@pytest.mark.parametrize("method", [Deformable(voxel=4.0), Demons()], ids=["deformable", "demons"])
def test_a_constant_image_is_refused(method: Method):
    with pytest.raises(InputError):
        method.fit(planning(), Volume(np.zeros(GRID.shape, np.int16), OTHER), RegistrationContext(start=start()))


def test_images_that_do_not_overlap_are_not_bent_onto_each_other():
    away = Rigid.of(np.eye(3), (0.0, 0.0, 400.0), HERE, THERE)
    with pytest.raises(NotTrusted):
        Deformable(voxel=4.0).fit(planning(), today(), RegistrationContext(start=away))


def test_demons_find_the_bend_of_images_of_one_kind():
    found = Demons().fit(planning(), today(), RegistrationContext(start=start())).moving_from_fixed
    at = deep_points()
    assert off(found, at).mean() < 0.5 * np.linalg.norm(truth().points(at, HERE) - at, axis=-1).mean()


def test_every_method_is_found_by_its_entry_point():
    found = {point.name: point.load()() for point in entry_points(group="recontour.registrations")}
    assert {"rigid", "features", "deformable", "demons"} <= set(found)
    assert all(isinstance(method, Method) and method.name == name for name, method in found.items())
