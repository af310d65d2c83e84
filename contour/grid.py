"""An image on a network's grid, and what the network found there back on the image's.

Both ways are a small matrix for each axis: means of whole blocks where these give a grid that the network knows,
interpolation elsewhere. The image's own voxels are touched once, plane by plane, inside the body's box only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import csr_array
from scipy.special import expit, logit

from patient.geometry import Box, Geometry
from patient.reorientation import UPRIGHT, Reorientation
from patient.volume import Volume

Spacing = tuple[float, float, float]
Floats = NDArray[np.float32]

AIR = -1000.0
BODY = -400.0
"""HU: denser is body, or what it lies on."""
COARSE = 4.0
"""mm between the voxels that are looked at to find the body."""
LARGE = 0.02
"""Of the largest piece of the body: smaller ones are rails, cables, markers."""
AROUND = 8.0
"""mm around the body that are kept: ears and nose are thinner than what is looked for."""
SURE = 1e-4
"""Probability of less, or of more than one minus it, says no more about where a surface lies."""
OBLIQUE = 0.98
"""Cosine below which an image's axis does not run along the network's: a patient's head may be turned by so much."""


@dataclass(frozen=True)
class Grid:
    """How an image is resampled for a network. All triples are in the order of the network's own array axes.

    Args:
        patch: voxels that the network sees at once. Larger windows would be cheaper, but the network is used to the mean and
            spread of such a block: half as long again cost 0.02 of Dice, twice as long 0.05.
        spacing: mm; None for the image's own.
        finest, coarsest: mm between which the image's own voxels, or means of whole blocks of them, are taken as they are;
            None where only `spacing` will do.
        axes: the direction of each array axis: S to the head, I to the feet, L and R, A and P. `SPL` is `[z, y, x]` in LPS;
            a network that was trained on `[x, y, z]` in RAS has `RAS`.
        overlap: share of a patch that neighbouring windows have in common.
    """

    patch: tuple[int, int, int]
    spacing: Spacing | None = None
    finest: Spacing | None = None
    coarsest: Spacing | None = None
    axes: str = UPRIGHT
    overlap: float = 0.25

    def spacing_for(self, axis: int, own: float) -> tuple[float, int]:
        """mm along an axis for an image with voxels of `own` mm, and how many of them make a block (0: interpolated)."""
        if self.spacing is None:
            return own, 1
        wanted = self.spacing[axis]
        low, high = (
            (wanted, wanted) if self.finest is None or self.coarsest is None else (self.finest[axis], self.coarsest[axis])
        )
        blocks = range(max(1, int(np.floor(low / own))), int(np.ceil(high / own)) + 1)
        fitting = [n for n in blocks if low * 0.995 <= n * own <= high * 1.005]
        if not fitting:
            return wanted, 0
        best = 1 if 1 in fitting else min(fitting, key=lambda n: abs(np.log(n * own / wanted)))
        return best * own, best


@dataclass(frozen=True)
class Axis:
    """One axis of an image and the network's: voxel n of the network's lies at `first + n * step` of the image's.

    Args:
        image, network: how many voxels either has.
        block: how many of the image's make one of the network's, exactly; 0 where it is interpolated.
    """

    image: int
    network: int
    first: float
    step: float
    block: int

    @staticmethod
    def of(image: int, own: float, grid: Grid, axis: int) -> Axis:
        """The network's voxels over an image's, edge to edge."""
        spacing, block = grid.spacing_for(axis, own)
        step = float(block) if block else spacing / own
        network = max(1, int(np.ceil(image / step - 1e-6)))
        # What is left over is shared by both ends where voxels are interpolated anyway; blocks begin with the first voxel.
        over = 0.0 if block else (network * step - image) / 2
        return Axis(image, network, (step - 1) / 2 - over, step, block)

    @property
    def exact(self) -> bool:
        return self.block == 1

    def down(self) -> csr_array:
        """`[network, image]`: what each of the network's voxels takes of the image's; rows add up to 1."""
        at = self.first + self.step * np.arange(self.network)[:, None]
        away = np.abs(np.arange(self.image)[None] - np.clip(at, 0, self.image - 1))
        if self.block:
            weights = (np.abs(np.arange(self.image)[None] - at) < self.block / 2).astype(np.float64)
        else:
            weights = np.maximum(0.0, 1.0 - away / max(1.0, self.step))
        return csr_array((weights / weights.sum(axis=1, keepdims=True)).astype(np.float32))

    def up(self, image: slice, network: slice) -> csr_array:
        """`[image voxels, network voxels]`: cubic interpolation (Catmull-Rom), the ends repeated; rows add up to 1."""
        at = (np.arange(image.start, image.stop) - self.first) / self.step
        base = np.floor(at).astype(int)
        t = at - base
        shares = (
            (-t + 2 * t**2 - t**3) / 2,
            (2 - 5 * t**2 + 3 * t**3) / 2,
            (t + 4 * t**2 - 3 * t**3) / 2,
            (-(t**2) + t**3) / 2,
        )
        weights = np.zeros((len(at), network.stop - network.start), np.float32)
        for offset, share in zip((-1, 0, 1, 2), shares, strict=True):
            column = np.clip(base + offset, network.start, network.stop - 1) - network.start
            np.add.at(weights, (np.arange(len(at)), column), share.astype(np.float32))
        return csr_array(weights)

    def covering(self, network: slice) -> slice:
        """The image's voxels over a run of the network's."""
        low = np.ceil(self.first + self.step * (network.start - 0.5))
        high = np.floor(self.first + self.step * (network.stop - 0.5))
        return slice(max(0, int(low)), min(self.image, int(high) + 1))


class ResampledImage:
    """An image resampled to a network's grid.

    Attributes:
        hu: float32, axes as the grid asks.
        geometry: where `hu` lies in the patient.
    """

    def __init__(self, image: Volume[np.generic], grid: Grid) -> None:
        self._reorientation = Reorientation.of(image.geometry, grid.axes)
        turned = self._reorientation.upright(image)
        self._box = body_box(turned)
        part = turned.cropped(self._box)
        self._fine = part.geometry
        sizes = zip(part.array.shape, part.geometry.spacing, strict=True)
        self._axes = tuple(Axis.of(n, own, grid, axis) for axis, (n, own) in enumerate(sizes))
        self.hu = _down(part.array, self._axes)
        self.geometry = _network_geometry(part.geometry, self._axes)
        self._straight: Geometry | None = None
        if np.abs(np.asarray(self.geometry.axes)).max(axis=1).min() < OBLIQUE:
            self._straight = _straight(self.geometry, self._reorientation)
            self.hu, self._bent = _sampled(self.hu, self.geometry, self._straight, AIR), self.geometry
            self.geometry = self._straight

    def along(self, part: Volume[np.bool_]) -> Floats:
        """A mask on the image's voxels, or on a box of them, resampled as the image was: what share of each voxel it fills.

        Raises:
            FrameMismatch: it is on other voxels.
        """
        turned = self._reorientation.upright(part)
        inside = self._fine.box_of(turned.geometry).padded(0, self._fine.shape)
        whole = Volume(np.zeros(self._fine.shape, np.bool_), self._fine)
        values = _down((whole if inside.empty else turned.placed_in(self._fine)).array, self._axes)
        return values if self._straight is None else _sampled(values, self._bent, self._straight, 0.0)

    def back(self, values: Floats) -> Volume[np.float32]:
        """Probabilities on the whole of the network's grid as a box of the image's own voxels around what is not nothing.

        Logits are interpolated, not probabilities: a network's are nearly straight across a surface. With every second voxel
        of its maps left out, cubic logits gave them back with a Dice of 0.89, cubic probabilities 0.87, linear ones 0.84.

        Args:
            values: zero away from what is to be mapped back.
        """
        if self._straight is not None:
            values = _sampled(values, self._straight, self._bent, 0.0)
        box = Box.of(values > 0).padded(1, values.shape)
        image = tuple(axis.covering(run) for axis, run in zip(self._axes, box.slices, strict=True))
        wide = box.padded(2, values.shape)
        fine = _logit(values[wide.slices])
        for n, (axis, run, own) in enumerate(zip(self._axes, image, wide.slices, strict=True)):
            if axis.exact:
                fine = fine.take(range(run.start - own.start, run.stop - own.start), axis=n)
            else:
                fine = _along(axis.up(run, own), fine, n)
        start, stop = zip(*((run.start, run.stop) for run in image), strict=True)
        return self._reorientation.back(Volume(expit(fine), self._fine.cropped(Box(start, stop))))


def body_box(image: Volume[np.generic]) -> Box:
    """A box around the body, seen on every few voxels; the whole image where there is nothing like a body."""
    steps = [max(1, int(COARSE / s + 0.5)) for s in image.geometry.spacing]
    small = _numbers(image.array[tuple(slice(s // 2, None, s) for s in steps)])
    dense = small > BODY
    thick = ndimage.binary_opening(dense, ndimage.generate_binary_structure(3, 1))
    labels = cc3d.connected_components(thick, connectivity=6)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    if not sizes.any():
        return image.geometry.box
    box = Box.of((sizes >= LARGE * sizes.max())[labels] & thick)
    start = tuple(a * s for a, s in zip(box.start, steps, strict=True))
    stop = tuple(b * s for b, s in zip(box.stop, steps, strict=True))
    around = [int(np.ceil(AROUND / s)) for s in image.geometry.spacing]
    return Box(start, stop).padded(around, image.array.shape)  # type: ignore[arg-type]


def _down(array: NDArray[np.generic], axes: tuple[Axis, ...]) -> Floats:
    """The image on the network's grid: plane by plane, then along the first axis."""
    if all(axis.exact for axis in axes):
        return _numbers(array)
    first, rows, columns = (axis.down() for axis in axes)
    planes = np.empty((len(array), axes[1].network, axes[2].network), np.float32)
    for plane, out in zip(array, planes, strict=True):
        out[...] = (columns @ (rows @ _numbers(plane)).T).T
    return planes if axes[0].exact else _along(first, planes, 0)


def _along(matrix: csr_array, values: Floats, axis: int) -> Floats:
    """A matrix applied along one axis. Few of its numbers are not zero, and no library's threads are in each other's way."""
    lines = np.moveaxis(values, axis, 0)
    made = matrix @ lines.reshape(len(lines), -1)
    return np.moveaxis(made.reshape(-1, *lines.shape[1:]), 0, axis)


def _numbers(array: NDArray[np.generic]) -> Floats:
    """HU as float32; what is no number is air."""
    values = array.astype(np.float32)
    if np.issubdtype(array.dtype, np.floating):
        values = np.nan_to_num(values, copy=False, nan=AIR, posinf=3071.0, neginf=AIR)
    return values


def _logit(values: Floats) -> Floats:
    sure = np.float32(SURE)
    return logit(np.clip(values, sure, 1 - sure))


def _network_geometry(fine: Geometry, axes: tuple[Axis, ...]) -> Geometry:
    x, y, z = (float(v) for v in fine.points([axis.first for axis in axes]))
    k, j, i = (own * axis.step for own, axis in zip(fine.spacing, axes, strict=True))
    shape = (axes[0].network, axes[1].network, axes[2].network)
    return replace(fine, shape=shape, spacing=(k, j, i), origin=(x, y, z))


def _straight(bent: Geometry, reorientation: Reorientation) -> Geometry:
    """The grid along the patient's axes that holds an oblique one."""
    rows = np.zeros((3, 3))
    for axis, vector in enumerate(np.asarray(bent.axes)):
        rows[axis, int(np.argmax(np.abs(vector)))] = np.sign(vector[np.argmax(np.abs(vector))])
    corners = bent.points(np.array(np.meshgrid(*((0, n - 1) for n in bent.shape))).reshape(3, -1).T)
    along = corners @ rows.T
    low, high = along.min(axis=0), along.max(axis=0)
    shape = tuple(int(np.ceil((b - a) / s)) + 1 for a, b, s in zip(low, high, bent.spacing, strict=True))
    x, y, z = (float(v) for v in low @ rows)
    axes = tuple(tuple(float(v) for v in row) for row in rows)
    return replace(bent, shape=shape, origin=(x, y, z), axes=axes)  # type: ignore[arg-type]


def _sampled(values: Floats, here: Geometry, there: Geometry, outside: float) -> Floats:
    """Values of one grid at the voxels of another, linear, `outside` where there are none."""
    matrix = there.steps @ np.linalg.inv(here.steps)
    offset = here.indices(there.origin)
    return ndimage.affine_transform(values, matrix.T, offset, there.shape, order=1, cval=outside, output=np.float32)
