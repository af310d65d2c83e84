"""Patches that a network learns from, drawn from cases: turned, stretched, mirrored, and as another scanner would show them.

The patch of step n is a function of the seed and n alone. A structure that nobody contoured in a patient is unknown there;
so are the slices beyond the ends of a structure that stops where the treated region stops. A mirrored patch has its left and
right structures exchanged; where only one side of a pair is learnt, no patch is mirrored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.transforms.intensity.array import RandAdjustContrast, RandGaussianNoise, RandGaussianSmooth
from monai.transforms.spatial.array import RandAffine
from numpy.typing import NDArray
from torch import Tensor

from contour.cases import TrainingCase
from contour.unet import Architecture

AIR = -1000
ROTATION = 0.15
"""Radians about each axis."""
SCALING = 0.1
SHIFT_HU = 30.0
GAIN = 0.1
NOISE_HU = 40.0
ANYWHERE = 0.15
"""Share of the patches that are centred anywhere in the patient, not on a structure."""
JITTER = 0.2
"""Of the patch: how far from its centre the chosen voxel may lie."""


@dataclass(frozen=True)
class OpenEnd:
    """A structure that is contoured only as far as the treated region goes.

    Args:
        above_mm, below_mm: how far beyond its last contoured slice nobody knows whether it goes on; farther it is absent.
    """

    structure: str
    above_mm: float
    below_mm: float


@dataclass(frozen=True, eq=False)
class Patch:
    """What one step learns from: HU `[1, z, y, x]`, truth and where it is known `[structures, z, y, x]`."""

    hu: Tensor
    truth: Tensor
    known: Tensor


class Patches:
    """Draws patches from cases, each structure as often as any other.

    Args:
        cases: at least one; their `labels` bits are `names` in order.
        names: what the bits stand for.
        architecture: its structures are what is learnt; they may be fewer than `names`.
        open_ends: structures without a natural end in these data.
    """

    def __init__(
        self,
        cases: Sequence[TrainingCase],
        names: Sequence[str],
        architecture: Architecture,
        open_ends: Sequence[OpenEnd] = (),
    ) -> None:
        self._architecture = architecture
        self._bits = [names.index(s) for s in architecture.structures]
        self._mirrored = _exchanged(architecture.structures)
        self._held = [self._prepared(case, names, open_ends) for case in cases]
        self._having = {
            n: [i for i, held in enumerate(self._held) if len(held.where[n])] for n in range(len(architecture.structures))
        }
        self._drawable = [n for n, having in self._having.items() if having]

    def _prepared(self, case: TrainingCase, names: Sequence[str], open_ends: Sequence[OpenEnd]) -> _Held:
        """The case cut to the patient, with half a patch around it."""
        data = (case.hu > AIR + 100) | (case.labels > 0)
        spans = [np.flatnonzero(data.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
        inside = tuple(slice(int(s[0]), int(s[-1]) + 1) for s in spans)
        around = [(p // 2, p // 2) for p in self._architecture.patch]
        hu = np.pad(case.hu[inside], around, constant_values=AIR)
        labels = np.pad(case.labels[inside], around)
        where, spans_z = [], []
        for structure, bit in zip(self._architecture.structures, self._bits, strict=True):
            at = (
                np.argwhere(labels >> np.uint32(bit) & np.uint32(1))
                if structure in case.known
                else np.empty((0, 3), np.int64)
            )
            where.append(at.astype(np.int16))
            spans_z.append(
                _known_planes(structure, at, case.spacing[0], hu.shape[0], open_ends) if len(at) else (0, 0, 0, 0)
            )
        return _Held(hu, labels, where, np.array(spans_z), case.known)

    def draw(self, seed: int, step: int) -> Patch:
        """The patch of a step: the same for the same seed and step."""
        rng = np.random.default_rng((seed, step))
        organ = int(rng.choice(self._drawable))
        held = self._held[int(rng.choice(self._having[organ]))]
        size = np.array(self._architecture.patch)
        if rng.random() < ANYWHERE:
            centre = rng.integers(size // 2, np.array(held.hu.shape) - size // 2)
        else:
            centre = held.where[organ][int(rng.integers(len(held.where[organ])))] + rng.uniform(-JITTER, JITTER, 3) * size
        # Half as large again, so that a turned patch has something to show in its corners.
        larger = (size * 3) // 2
        start = np.rint(centre - larger / 2).astype(int)
        block, bits = _cut(held.hu, start, larger, AIR), _cut(held.labels, start, larger, 0)
        planes = np.arange(start[0], start[0] + larger[0])
        return self._augmented(block, bits, self._unknown(held, planes), rng)

    def _unknown(self, held: _Held, planes: NDArray[np.int_]) -> NDArray[np.bool_]:
        """`[structure, plane]`: where nobody knows whether the structure is."""
        low, first, last, high = (held.planes[:, n, None] for n in range(4))
        return ((planes >= low) & (planes < first)) | ((planes > last) & (planes <= high)) | (high == 0)

    def _augmented(
        self, hu: NDArray[np.int16], bits: NDArray[np.uint32], unknown: NDArray[np.bool_], rng: np.random.Generator
    ) -> Patch:
        """Turned, stretched, mirrored, in other noise and another calibration."""
        seed = int(rng.integers(2**31))
        affine = RandAffine(
            prob=0.8,
            rotate_range=(ROTATION,) * 3,
            scale_range=(SCALING,) * 3,
            spatial_size=self._architecture.patch,
            padding_mode="border",
        )
        # One bit more than the structures' says in which planes each is unknown, so that it turns with the image.
        codes = np.zeros(bits.shape, np.int64)
        count = len(self._bits)
        for n, bit in enumerate(self._bits):
            codes |= (bits >> np.uint32(bit) & np.uint32(1)).astype(np.int64) << n
            codes |= unknown[n][:, None, None].astype(np.int64) << (count + n)
        image = torch.from_numpy(hu.astype(np.float32))[None]
        turned = affine.set_random_state(seed=seed)(image, mode="bilinear", randomize=True)
        grid = affine.set_random_state(seed=seed)(
            torch.from_numpy(codes.astype(np.float32))[None], mode="nearest", randomize=True
        )
        picture, coded = (
            torch.as_tensor(turned).as_subclass(Tensor),
            torch.as_tensor(grid).as_subclass(Tensor)[0].round().long(),
        )
        channels = torch.arange(2 * count)[:, None, None, None]
        channel = (coded[None] >> channels) & 1
        truth, known = channel[:count].float(), 1.0 - channel[count:].float()
        if rng.random() < 0.5 and self._mirrored is not None:
            picture, truth, known = picture.flip(-1), truth.flip(-1)[self._mirrored], known.flip(-1)[self._mirrored]
        return Patch(self._degraded(picture, rng), truth, known)

    def _degraded(self, picture: Tensor, rng: np.random.Generator) -> Tensor:
        """As another scanner or protocol would show it."""
        seed = int(rng.integers(2**31))
        air = picture <= AIR + 1
        out = picture * float(1 + rng.uniform(-GAIN, GAIN)) + float(rng.uniform(-SHIFT_HU, SHIFT_HU))
        changes = (
            RandGaussianSmooth((0.3, 0.8), (0.3, 0.8), (0.3, 0.8), prob=0.2),
            RandGaussianNoise(prob=0.3, std=NOISE_HU),
            RandAdjustContrast(prob=0.15, gamma=(0.8, 1.25)),
        )
        for change in changes:
            change.set_random_state(seed=seed)
            out = torch.as_tensor(change(out)).as_subclass(Tensor)
        if rng.random() < 0.5:
            out = torch.where(air, torch.full_like(out, float(AIR)), out)
        return out


@dataclass(frozen=True, eq=False)
class _Held:
    hu: NDArray[np.int16]
    labels: NDArray[np.uint32]
    where: list[NDArray[np.int16]]
    planes: NDArray[np.int_]
    """`[structure, 4]`: unknown from, first, last, unknown to; zeros for a structure that is unknown everywhere."""
    known: tuple[str, ...]


def other_side(structure: str) -> str:
    """The TG-263 name of the mirror image: `Parotid_L` for `Parotid_R`; itself for one that has no side."""
    parts = structure.split("_")
    swap = {"L": "R", "R": "L"}
    return "_".join(swap.get(part, part) for part in parts)


def _exchanged(structures: Sequence[str]) -> list[int] | None:
    """Which structure each becomes in a mirror; None where one would become a structure that is not learnt."""
    others = [other_side(structure) for structure in structures]
    return [list(structures).index(other) for other in others] if set(others) <= set(structures) else None


def _known_planes(
    structure: str, at: NDArray[np.int_], spacing: float, planes: int, open_ends: Sequence[OpenEnd]
) -> tuple[int, int, int, int]:
    first, last = int(at[:, 0].min()), int(at[:, 0].max())
    for end in open_ends:
        if end.structure == structure:
            below, above = math.ceil(min(end.below_mm / spacing, planes)), math.ceil(min(end.above_mm / spacing, planes))
            return first - below, first, last, max(1, last + above)
    return first, first, last, max(1, last)


def _cut(array: NDArray, start: NDArray[np.int_], size: NDArray[np.int_], outside: int) -> NDArray:
    """A block of an array, with `outside` where the array does not reach."""
    stop = start + size
    low, high = np.maximum(start, 0), np.minimum(stop, array.shape)
    if (high <= low).any():
        return np.full(tuple(size), outside, array.dtype)
    block = array[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    return np.pad(
        block, [(int(a - s), int(e - b)) for a, s, e, b in zip(low, start, stop, high, strict=True)], constant_values=outside
    )
