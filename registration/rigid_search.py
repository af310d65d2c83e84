"""Where a rigid registration begins: places are tried on the coarse level, without ITK."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk  # noqa: N813 - as everybody writes it
from numpy.typing import NDArray
from scipy import ndimage

from patient.geometry import Geometry
from registration.levels import COARSE, ROOM, Pyramid, Vector
from registration.method import RegistrationContext
from registration.mutual_information import normalised_mutual_information
from registration.transforms import Rigid, Space

BINS = 32
LEAST_OVERLAP = 0.25
"""Of the smaller body: with less in common, two images say nothing of each other."""


@dataclass(frozen=True)
class Frame:
    """Six numbers, three angles (rad, ITK's Euler ZXY) and three shifts (mm), about a centre in the fixed image."""

    centre: Vector
    source: Space
    target: Space

    def euler(self, six: Vector) -> sitk.Euler3DTransform:
        transform = sitk.Euler3DTransform()
        transform.SetCenter(self.centre.tolist())
        transform.SetParameters(six.tolist())
        return transform

    def map(self, six: Vector) -> tuple[Vector, Vector]:
        """R `[3, 3]` and t `[3]` of p -> R p + t."""
        rotation = np.asarray(self.euler(six).GetMatrix()).reshape(3, 3)
        return rotation, self.centre - rotation @ self.centre + six[3:]

    def rigid(self, six: Vector) -> Rigid:
        return Rigid.of(*self.map(six), self.source, self.target)

    def six(self, rotation: Vector, of_centre: Vector) -> Vector:
        """From a rotation and where the centre goes."""
        transform = self.euler(np.zeros(6))
        u, _, vt = np.linalg.svd(rotation)
        transform.SetMatrix((u @ vt).ravel().tolist(), 1e-6)
        return np.array([*transform.GetParameters()[:3], *(of_centre - self.centre)])


@dataclass(frozen=True)
class Judge:
    """Scores places on the coarse level without ITK, quickly, and so that little overlap is no advantage."""

    points: Vector
    values: NDArray[np.intp]
    moving: NDArray[np.float32]
    grid: Geometry
    seen: NDArray[np.bool_]
    frame: Frame
    share: float

    @staticmethod
    def of(still: Pyramid, moved: Pyramid, frame: Frame, context: RegistrationContext) -> Judge:
        fixed, moving = still.level(COARSE, ROOM / 2), moved.level(COARSE, 2 * ROOM)
        at = np.argwhere(fixed.mask.array)
        rng = np.random.default_rng(context.seed)
        if len(at) > 10_000:
            at = at[np.sort(rng.choice(len(at), 10_000, replace=False))]
        values = _classes(fixed.image.array, fixed.mask.array)[tuple(at.T)]
        classes = _classes(moving.image.array, moving.mask.array).astype(np.float32)
        share = min(
            1.0,
            moving.mask.array.sum()
            * moving.image.geometry.voxel_cc
            / (fixed.mask.array.sum() * fixed.image.geometry.voxel_cc),
        )
        return Judge(
            fixed.image.geometry.points(at), values, classes, moving.image.geometry, moving.mask.array, frame, share
        )

    def _there(self, six: Vector) -> tuple[Vector, NDArray[np.bool_]]:
        rotation, shift = self.frame.map(six)
        indices = self.grid.indices(self.points @ rotation.T + shift)
        nearest = np.rint(indices).astype(np.intp)
        inside = np.all((nearest >= 0) & (nearest < np.asarray(self.grid.shape)), axis=1, keepdims=False)
        inside[inside] = self.seen[tuple(nearest[inside].T)]
        return indices, inside

    def overlap(self, six: Vector) -> float:
        """Of the samples that could lie in the moving image, how many do."""
        return float(self._there(six)[1].mean() / self.share)

    def score(self, six: Vector) -> float:
        """Normalised mutual information, 1 (none) to 2; 0 where too little overlaps."""
        indices, inside = self._there(six)
        if inside.mean() < LEAST_OVERLAP * self.share:
            return 0.0
        found = ndimage.map_coordinates(self.moving, indices[inside].T, order=1, mode="nearest")
        joint = np.bincount(self.values[inside] * BINS + np.rint(found).astype(np.intp), minlength=BINS * BINS)
        return normalised_mutual_information(joint.reshape(BINS, BINS), 0.0)


def _classes(values: NDArray[np.float32], where: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Numbers as classes 0 to BINS - 1, equally wide between the 1st and 99th percentile."""
    low, high = np.percentile(values[where], (1, 99))
    scaled = (values - low) / max(float(high - low), 1e-6) * (BINS - 1)
    return np.clip(np.rint(scaled), 0, BINS - 1).astype(np.intp)


def starts_of(frame: Frame, still: Pyramid, moved: Pyramid, context: RegistrationContext) -> list[Vector]:
    """As the headers say, centre on centre, and what the caller knows."""
    places = [np.zeros(6), np.array([0, 0, 0, *(moved.centre() - still.centre())])]
    if context.start is not None:
        frame.target.admit(context.start.target, "The start")
        places.append(frame.six(context.start.rotation, context.start.points(frame.centre, frame.source)))
    return places


def tried(judge: Judge, starts: Sequence[Vector], context: RegistrationContext) -> list[Vector]:
    """What the caller knows, then the best places around all starts: shifts first, then turns around the best of them."""
    shifts = [np.array([0, 0, 0, *by]) for by in itertools.product((-30.0, -15.0, 0.0, 15.0, 30.0), repeat=3)]
    turns = [np.array([*by, 0, 0, 0]) for by in itertools.product((-0.14, 0.0, 0.14), repeat=3)]
    context.check_cancelled()
    shifted = _best(judge, [start + by for start in starts for by in shifts])[:5]
    context.check_cancelled()
    turned = _best(judge, [place + by for place in shifted for by in turns])
    apart = list(starts[2:])
    for place in [*turned[:40], *starts[:2]]:
        if all(np.linalg.norm((place - other) * (100, 100, 100, 1, 1, 1)) > 12 for other in apart):
            apart.append(place)
    return apart


def _best(judge: Judge, places: Sequence[Vector]) -> list[Vector]:
    scores = [judge.score(place) for place in places]
    order = np.argsort(-np.asarray(scores), kind="stable")
    return [places[n] for n in order if scores[n] > 0]
