"""What happens to the sample patient from fraction to fraction, in closed form, from today's points to the plan's.

    plan_from_fraction = shrinking . weight loss . day's bend . flexion . setup

each map smooth and invertible. It is then sampled on a grid of nodes and taken linearly between them: that field, which is
written, is the truth, and image and structures of the day are mapped through it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from data_samples.planned import TUMOURS, Planned
from patient.geometry import Box, Geometry
from patient.volume import Volume
from registration.transforms import Displacement, Points, Rigid, Space

PIVOT = (0.0, 5.0, -110.0)
"""LPS mm about which the neck bends: a lower cervical vertebra."""
STILL, FREE, SLANT = -165.0, -60.0, 0.5
"""Heights in mm below which the shoulders stay, and above which the head turns as a whole; the height falls by `SLANT` from
front to back, so that the chin goes with the head and the neck's back does not."""
NECK = (-185.0, -150.0, -80.0, -40.0)
"""z in mm: fat is lost between the middle two, and nothing beyond the outer two."""
DEPTH = 35.0
"""mm below the skin where loss of weight is no longer felt."""
TAPER = 20.0
"""mm around a shrinking organ over which its surroundings follow."""
BONE = 250.0
"""HU; what is denser keeps its shape."""
HELD, HELD_ORGAN = 15.0, 6.0
"""mm from bone within which fat, and what surrounds a shrinking organ, is held back."""
ROUNDS, VOXEL = 3, 1.5
"""How often, and on how many mm, the shrinking is tried until volumes are right."""
BEND_WIDTH = 30.0
"""mm, of what is different every day."""


@dataclass(frozen=True)
class Change:
    """One fraction against the plan.

    Args:
        shift: mm (x, y, z) LPS by which the isocentre's tissue lies off.
        turn: degrees about x, y, z through the isocentre (rotation vector).
        flexion: degrees by which the chin is lower.
        weight_loss: mm by which the neck's skin lies deeper.
        parotids: part of their volume that is gone.
        tumour: the same of both GTVs.
        bend: mm, longest of the day's own smooth bend.
    """

    shift: tuple[float, float, float]
    turn: tuple[float, float, float]
    flexion: float
    weight_loss: float
    parotids: float
    tumour: float
    bend: float


def course_of_changes(fractions: int, seed: int) -> tuple[Change, ...]:
    """A course in which everything that shrinks does so steadily, up to its largest on the last image.

    Setup errors have a systematic part, a drift and a random part (1.5 mm and 0.7 degrees, one standard deviation).
    """
    rng = np.random.default_rng([seed, 3])
    systematic, drift, tilt = rng.normal(0, 1.5, 3), rng.normal(0, 1.5, 3), rng.normal(0, 0.5, 3)
    found = []
    for n in range(1, fractions + 1):
        done = n / fractions
        shift, turn = systematic + done * drift + rng.normal(0, 1.5, 3), tilt + rng.normal(0, 0.7, 3)
        flexion, lost = round(float(3.0 * done + rng.normal(0, 0.5)), 3), round(0.3 * done, 4)
        found.append(Change(_three(shift), _three(turn), flexion, round(5.0 * done, 3), lost, lost, 1.5))
    return tuple(found)


def _three(values: NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = (round(float(v), 3) for v in values)
    return x, y, z


def setup(change: Change, isocentre: tuple[float, float, float], fraction: Space, plan: Space) -> Rigid:
    """`plan_from_fraction` of the setup error alone."""
    turn, centre = Rotation.from_rotvec(change.turn, degrees=True).as_matrix(), np.array(isocentre)
    return Rigid.of(turn, centre + change.shift - turn @ centre, plan, fraction).inverse()  # type: ignore[return-value]


def plan_from_fraction(patient: Planned, change: Change, grid: Geometry, plan: Space, seed: tuple[int, int]) -> Displacement:
    """The truth of one fraction.

    Args:
        patient: on the day of planning.
        change: since then.
        grid: where the field's nodes lie, in the fraction's space.
        plan: the planning image.
        seed: of the course, and the fraction's number.
    """
    fraction = Space.of(grid)
    bone = _distance_to_bone(patient)
    before = _chained(_flexion(change), _bend(patient, change, seed), _weight_loss(patient, bone, change))
    bent = _chained(before, _shrinking(patient, bone, change, before))
    placed = setup(change, patient.isocentre, fraction, plan)
    vectors = np.empty((*grid.shape, 3), np.float32)
    inner = np.moveaxis(np.indices(grid.shape[1:], dtype=np.float64), 0, -1)
    for k in range(grid.shape[0]):
        at = grid.points(np.concatenate([np.full((*grid.shape[1:], 1), float(k)), inner], axis=-1))
        vectors[k] = bent(placed.points(at, fraction)) - at
    return Displacement(vectors, grid, fraction, plan)


Map = Callable[[Points], Points]


def _chained(*maps: Map) -> Map:
    def through(points: Points) -> Points:
        for one in maps:
            points = one(points)
        return points

    return through


def _distance_to_bone(patient: Planned) -> Volume[np.float32]:
    """mm, 0 inside; the larynx counts as bone, which its cartilage is as good as."""
    grid = patient.hu.geometry
    dense = (ndimage.gaussian_filter(patient.hu.array, 0.7) > BONE) | (patient.surfaces["Larynx"].array < 0)
    away = ndimage.distance_transform_edt(~dense, sampling=grid.spacing).astype(np.float32)
    return Volume(ndimage.gaussian_filter(away, 0.7), grid)


def _flexion(change: Change) -> Map:
    pivot = np.array(PIVOT)

    def back(points: Points) -> Points:
        angle = np.radians(change.flexion) * _rise(points[..., 2] - SLANT * points[..., 1], STILL, FREE)
        y, z = points[..., 1] - pivot[1], points[..., 2] - pivot[2]
        sine, cosine = np.sin(angle), np.cos(angle)
        out = points.copy()
        out[..., 1], out[..., 2] = pivot[1] + cosine * y + sine * z, pivot[2] - sine * y + cosine * z
        return out

    return back


def _bend(patient: Planned, change: Change, seed: tuple[int, int]) -> Map:
    rng, fine = np.random.default_rng([*seed, 4]), patient.hu.geometry
    coarse = 4
    shape = tuple(n // coarse + 1 for n in fine.shape)
    width = BEND_WIDTH / (coarse * fine.spacing[0])
    parts = np.stack([ndimage.gaussian_filter(rng.standard_normal(shape), width) for _ in range(3)], axis=-1)
    parts *= change.bend / np.linalg.norm(parts, axis=-1).max()

    def back(points: Points) -> Points:
        at = np.moveaxis(fine.indices(points) / coarse, -1, 0)
        return points + np.stack([ndimage.map_coordinates(parts[..., n], at, order=1, mode="nearest") for n in range(3)], -1)

    return back


def _weight_loss(patient: Planned, bone: Volume[np.float32], change: Change) -> Map:
    """Today's skin lies deeper: points near it come from further out, along the outline's own smoothed normals."""
    skin = patient.surfaces["External"]
    smooth = ndimage.gaussian_filter(skin.array, 10.0 / skin.geometry.spacing[0])
    normals = np.stack(np.gradient(smooth, skin.geometry.spacing[0])[::-1], axis=-1)
    depth = Volume(smooth, skin.geometry)

    def back(points: Points) -> Points:
        z, deep = points[..., 2], _at(depth, points)
        felt = _rise(z, NECK[0], NECK[1]) * (1 - _rise(z, NECK[2], NECK[3])) * _rise(deep, -DEPTH, 0.0)
        felt *= _rise(_at(bone, points), 0.0, HELD)
        outward = np.stack([_at(Volume(normals[..., n], depth.geometry), points) for n in range(3)], axis=-1)
        return points + change.weight_loss * felt[..., None] * outward

    return back


def _shrinking(patient: Planned, bone: Volume[np.float32], change: Change, before: Map) -> Map:
    """Parotids toward their deep side, tumours toward their middle, each by so much that its volume is what it should be."""
    lost = {"Parotid_L": change.parotids, "Parotid_R": change.parotids, **dict.fromkeys(TUMOURS, change.tumour)}
    surfaces = {name: patient.surfaces[name] for name in lost}
    centres = {name: _centre(surface, name.startswith("Parotid")) for name, surface in surfaces.items()}
    stretch = dict.fromkeys(lost, 1.0)

    def back(points: Points) -> Points:
        for name, surface in surfaces.items():
            near = (1 - _rise(_at(surface, points), 0.0, TAPER)) * _rise(_at(bone, points), -1.0, HELD_ORGAN)
            points = points + (stretch[name] - 1) * near[..., None] * (points - centres[name])
        return points

    for _ in range(ROUNDS):
        for name, surface in surfaces.items():
            left = _volume(surface, _chained(before, back)) / _volume(surface, lambda points: points)
            stretch[name] *= (left / (1 - lost[name])) ** (1 / 3)
    return back


def _centre(surface: Volume[np.float32], deep: bool) -> NDArray[np.float64]:
    """Of a structure, or for a gland half way to its deep side."""
    inside = surface.geometry.points(np.argwhere(surface.array < 0))
    centre = inside.mean(axis=0)
    if deep:
        centre[0] -= np.sign(centre[0]) * np.ptp(inside[:, 0]) / 4
    return np.asarray(centre)


def _volume(surface: Volume[np.float32], back: Map) -> float:
    """In voxels of `VOXEL` mm, of what `back` takes into a structure."""
    grid = surface.geometry
    box = Box.of(surface.array < 0).padded(round(9 / grid.spacing[0]), grid.shape)
    shape = tuple(int(n * grid.spacing[0] / VOXEL) for n in box.shape)
    fine = replace(grid.cropped(box), shape=shape, spacing=(VOXEL,) * 3)
    there = back(fine.points(np.moveaxis(np.indices(shape), 0, -1)))
    return float(np.clip(0.5 - _at(surface, there) / VOXEL, 0, 1).sum())


def _rise(values: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """0 below `low`, 1 above `high`, smooth between."""
    part = np.clip((values - low) / (high - low), 0, 1)
    return part * part * (3 - 2 * part)


def _at(volume: Volume[np.float32], points: Points) -> NDArray[np.float64]:
    return ndimage.map_coordinates(
        volume.array, np.moveaxis(volume.geometry.indices(points), -1, 0), order=1, mode="nearest", output=np.float64
    )
