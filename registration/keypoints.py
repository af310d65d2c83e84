"""Distinct points of an image, and what each looks like from where it stands.

Everything happens on an upright working grid in LPS, so that two images taken with different axes are seen the same way.
Points are corners of the structure tensor (Förstner and Gülch 1987). A point is described by the directions of the gradient
around it, pooled in Gaussians on two shells as DAISY does in the plane (Tola 2010, IEEE PAMI 32:815), here on the corners of
an icosahedron. Gradients are compressed before pooling, so a shift or a scaling of the numbers, a slow shading, or a vessel
that fills with contrast changes little; a turn of some 10 degrees stays within the pools.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 - as everybody writes it
from numpy.typing import NDArray
from scipy import ndimage

from patient.errors import InputError
from patient.geometry import Box, Geometry
from patient.parallel import each
from patient.volume import Mask, Volume
from registration.air import above_air, with_hollows
from registration.resampling import resampled, resampled_mask
from registration.transforms import Points, Rigid, Space, Transform, placed, sampled

SPACING = 2.5
"""mm, of the working grid."""
POINTS = 1500
"""At most, an image."""
APART = 2.5
"""mm: of two points nearer than this only the more distinct one is kept."""
AIR = -500
"""HU: less is outside of a body, or a hollow in it."""
_GOLDEN = (1 + 5**0.5) / 2
ICOSAHEDRON: Points = np.array(
    [np.roll((0, a, b * _GOLDEN), n) for n in range(3) for a in (-1, 1) for b in (-1, 1)]
) / np.hypot(1, _GOLDEN)
"""Twelve directions (x, y, z), evenly spread."""
INNER, OUTER = 11.0, 24.0
"""mm: radii of the shells on which gradients are pooled."""
BLOCK = 3
"""Voxels from the middle of a block that is compared to its side."""
NARROW, WIDE = 4.0, 8.0
"""mm: Gaussian widths of the pools, at the centre and on the inner shell, and on the outer."""


@dataclass(frozen=True, eq=False)
class Scene:
    """An image ready to be searched.

    Args:
        image: float32 `[z, y, x]`, finite, on an upright grid of `SPACING`.
        looked: bool, the same grid: where gradients are believed.
    """

    image: Volume[np.float32]
    looked: Mask

    @cached_property
    def gradient(self) -> NDArray[np.float32]:
        """`[3 (x, y, z), z, y, x]` float32: directions kept, lengths scaled to 0-1, the usual one near 0.7."""
        smooth = ndimage.gaussian_filter(self.image.array, 1.0, truncate=3)
        gradient = np.stack([ndimage.correlate1d(smooth, (-0.5, 0, 0.5), axis=axis) for axis in (2, 1, 0)])
        gradient *= self.looked.array
        length = np.sqrt((gradient**2).sum(axis=0))
        usual = float(np.percentile(length[self.looked.array], 60))
        gradient /= np.sqrt(length**2 + max(usual, 1e-6) ** 2)
        return gradient


@dataclass(frozen=True, eq=False)
class Keypoints:
    """Distinct points of an image, the most distinct first.

    Args:
        points: `[n, 3]` LPS mm, finer than the grid.
        strength: `[n]`, how distinct, in no unit.
        described: `[n, pools, 12]` float32, gradient directions around each.
        seen: `[n, pools]` float32, 1 where a pool lies in what is looked at, 0 where not.
    """

    points: Points
    strength: NDArray[np.float32]
    described: NDArray[np.float32]
    seen: NDArray[np.float32]


def scene(volume: Volume[Any], mask: Mask | None, name: str) -> Scene:
    """An image as it is searched: upright, of `SPACING`, cropped to what is looked at.

    Args:
        volume: `[z, y, x]`, any numbers, on a grid turned in any way.
        mask: what to look at, on the volume's grid or a crop; None for the body (what is not air around it, couch taken
            away), or for everything where the image holds no air or no HU.
        name: of the image, for messages.

    Raises:
        InputError: the image is constant or holds no numbers, or the mask is empty.
        FrameMismatch: the mask is of another image.
    """
    array = volume.array
    if not np.issubdtype(array.dtype, np.integer) and not np.isfinite(array).all():
        raise InputError(f"The {name} image holds values that are no numbers", why="Nothing can be compared with them")
    if array.min() == array.max():
        raise InputError(f"The {name} image is constant", why="There is nothing in it to register by")
    if mask is not None and not mask.array.any():
        raise InputError(f"The mask of the {name} image is empty", why="There is nothing to look at")
    volume = above_air(volume)
    here = Space.of(volume.geometry)
    grid = upright(volume.geometry)
    itself = Rigid.identity(here, here)
    image = resampled(itself, shrunk(volume), grid, np.nan)
    valid = np.isfinite(image.array)
    image.array[~valid] = volume.array.min()
    return _framed(image, valid, None if mask is None else resampled_mask(itself, mask, grid).array, name)


def seen_through(start: Transform, volume: Volume[Any], mask: Mask | None, onto: Geometry, name: str) -> Scene:
    """The other image's scene, resampled to a grid of this one by a first guess. Raises as `scene`.

    Args:
        start: from the grid's image to the volume's.
        volume: of the other image.
        mask: of the other image, or None.
        onto: a working grid.
        name: of the volume, for messages.
    """
    volume = above_air(volume)
    image = resampled(start, shrunk(volume), onto, np.nan)
    valid = np.isfinite(image.array)
    image.array[~valid] = volume.array.min()
    return _framed(image, valid, None if mask is None else resampled_mask(start, mask, onto).array, name)


def _framed(image: Volume[np.float32], valid: NDArray[np.bool_], given: NDArray[np.bool_] | None, name: str) -> Scene:
    """What is looked at is cut out; a given mask loses its rim, whose edge is not the patient's."""
    looked = _body(image) if given is None else ndimage.binary_erosion(given)
    looked &= ndimage.binary_erosion(valid, border_value=1)
    box = Box.of(looked)
    if box.empty:
        raise InputError(f"Nothing of the {name} image lies in what is to be looked at")
    box = box.padded(3, image.geometry.shape)
    looked_at = Volume(looked, image.geometry).cropped(box)
    return Scene(image.cropped(box), looked_at)


def shrunk(volume: Volume[Any]) -> Volume[np.float32]:
    """Whole blocks of voxels averaged where they are finer than half the working grid: noise goes, detail below it too."""
    image = placed(sitk.GetImageFromArray(volume.array), volume.geometry)
    factors = [max(1, int(SPACING / spacing + 0.1)) for spacing in volume.geometry.spacing]
    factors = [min(f, n) for f, n in zip(factors, volume.geometry.shape, strict=True)]
    image = sitk.BinShrink(sitk.Cast(image, sitk.sitkFloat32), factors[::-1])
    i, j, k = image.GetSpacing()
    array = sitk.GetArrayFromImage(image)
    x, y, z = image.GetOrigin()
    return Volume(array, replace(volume.geometry, shape=array.shape, spacing=(k, j, i), origin=(x, y, z)))


def upright(geometry: Geometry) -> Geometry:
    """The upright grid of `SPACING` that holds an image, whichever way its own axes run."""
    top = np.asarray(geometry.shape) - 1
    corners = geometry.points(np.stack(np.meshgrid(*zip((0, 0, 0), top, strict=True)), axis=-1).reshape(-1, 3))
    low, high = corners.min(axis=0), corners.max(axis=0)
    i, j, k = (int(v) for v in np.floor((high - low) / SPACING + 1e-6) + 1)
    rest = (high - low) - (np.array([i, j, k]) - 1) * SPACING
    x, y, z = (float(v) for v in low + rest / 2)
    return Geometry(
        (k, j, i),
        (SPACING, SPACING, SPACING),
        (x, y, z),
        frame_of_reference=geometry.frame_of_reference,
        image=geometry.image,
    )


def _body(image: Volume[np.float32]) -> NDArray[np.bool_]:
    """The largest piece that is not air, its hollows, and its skin."""
    array = image.array
    if np.percentile(array[::2, ::4, ::4], 1) > AIR:
        return np.ones(array.shape, dtype=bool)
    solid = ndimage.binary_erosion(array > AIR, iterations=2, border_value=1)
    labels, count = ndimage.label(solid)
    if not count:
        return np.ones(array.shape, dtype=bool)
    body = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    body = with_hollows(ndimage.binary_dilation(body, iterations=2), image)
    return ndimage.binary_dilation(body, iterations=2)


def keypoints(scene: Scene) -> Keypoints:
    """The most distinct points of a scene, at most `POINTS`, `APART` from one another, described."""
    gradient = scene.gradient
    strength = _distinctness(gradient)
    wide = 2 * round(APART / SPACING) + 1
    top = (strength == ndimage.maximum_filter(strength, wide)) & (strength > 0) & scene.looked.array
    for axis in range(3):
        border = [slice(None)] * 3
        for end in (slice(0, 2), slice(-2, None)):
            border[axis] = end
            top[tuple(border)] = False
    at = np.argwhere(top)
    order = np.argsort(-strength[tuple(at.T)], kind="stable")[:POINTS]
    at = at[order]
    points = scene.image.geometry.points(at + _between(strength, at))
    described, seen = _described(gradient, scene.looked, points)
    return Keypoints(points, strength[tuple(at.T)], described, seen)


def _distinctness(gradient: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 / trace of the inverse structure tensor (Förstner and Gülch 1987): high where no direction is without an edge."""

    def summed(pair: tuple[int, int]) -> NDArray[np.float32]:
        return ndimage.gaussian_filter(gradient[pair[0]] * gradient[pair[1]], 1.2, truncate=3)

    xx, yy, zz, xy, xz, yz = each(summed, [(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)])
    minors = (yy * zz - yz * yz) + (xx * zz - xz * xz) + (xx * yy - xy * xy)
    determinant = xx * (yy * zz - yz * yz) - xy * (xy * zz - yz * xz) + xz * (xy * yz - yy * xz)
    return np.where(minors > 1e-9, determinant / np.maximum(minors, 1e-9), 0).astype(np.float32)


def _between(strength: NDArray[np.float32], at: NDArray[np.intp]) -> NDArray[np.float64]:
    """Where between the voxels the peak lies: a parabola along each of the last three axes, `[n, 3]` voxels (k, j, i)."""
    out = np.zeros((len(at), 3))
    for axis in range(3):
        step = np.eye(at.shape[1], dtype=np.intp)[axis - 3]
        before, here, after = (strength[tuple((at + n * step).T)].astype(np.float64) for n in (-1, 0, 1))
        bend = before - 2 * here + after
        out[:, axis] = np.where(bend < 0, 0.5 * (before - after) / np.minimum(bend, -1e-12), 0)
    return np.clip(out, -0.5, 0.5)


def sharpened(a: Scene, b: Scene, points: Points, guess: Points, reach: int) -> tuple[Points, NDArray[np.float32]]:
    """Where in b the surroundings of a's points are found, finer than the grid, and how like they are there.

    Blocks of gradients, `2 * BLOCK + 1` voxels wide, are compared at every whole step within `reach` voxels of the guess
    (normalised correlation), and a parabola goes through the best and its neighbours.

    Args:
        a, b: two scenes of which the grids share their voxels, as `seen_through` makes them.
        points: `[n, 3]` LPS mm in a.
        guess: `[n, 3]` LPS mm in b, on the common grid.
        reach: voxels.

    Returns:
        `[n, 3]` LPS mm in b, and the correlation there, -1 to 1; -1 where the best lies on the rim of what was searched.
    """
    at_a, at_b = (np.rint(s.image.geometry.indices(p)).astype(np.intp) for s, p in ((a, points), (b, guess)))
    side, width = 2 * BLOCK + 1, 2 * reach + 1
    from_a, around = _blocks(a, at_a, BLOCK), _blocks(b, at_b, BLOCK + reach)
    length_a = np.einsum("nczyx,nczyx->n", from_a, from_a)

    def like(step: tuple[int, ...]) -> NDArray[np.float32]:
        from_b = around[(..., *(slice(n, n + side) for n in step))]
        lengths = length_a * np.einsum("nczyx,nczyx->n", from_b, from_b)
        return np.einsum("nczyx,nczyx->n", from_a, from_b) / np.sqrt(np.maximum(lengths, 1e-6))

    steps = list(np.ndindex(width, width, width))
    found = np.stack(each(like, steps), axis=-1).reshape(-1, width, width, width)
    padded = np.pad(found, ((0, 0), *((1, 1),) * 3), constant_values=-1)
    highest = np.asarray(found.reshape(len(found), -1).argmax(axis=1), dtype=np.intp)
    best = np.stack(np.unravel_index(highest, found.shape[1:]), axis=-1)
    top = found[(np.arange(len(found)), *best.T)]
    rim = ((best == 0) | (best == width - 1)).any(axis=1)
    fine = best - reach + _between(padded, np.c_[np.arange(len(found)), best + 1])
    moved = b.image.geometry.points(at_b + fine) - a.image.geometry.points(at_a)
    return points + moved, np.where(rim, -1, top).astype(np.float32)


def _blocks(scene: Scene, at: NDArray[np.intp], half: int) -> NDArray[np.float32]:
    """Gradients around voxels, `[n, 3, z, y, x]`, `half` voxels to each side; the outermost voxels go on outside."""
    k, j, i = (
        np.clip(at[:, axis, None] + np.arange(-half, half + 1), 0, n - 1)
        for axis, n in enumerate(scene.image.geometry.shape)
    )
    return scene.gradient[:, k[:, :, None, None], j[:, None, :, None], i[:, None, None, :]].swapaxes(0, 1)


def _described(
    gradient: NDArray[np.float32], looked: Mask, points: Points
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Gradient directions pooled around points: `[n, pools, 12]`; and which pools are seen, `[n, pools]`."""
    inner, outer = (
        np.concatenate([points[:, None] + radius * corners for radius, corners in shells], axis=1)
        for shells in (((0.0, ICOSAHEDRON[:1]), (INNER, ICOSAHEDRON)), ((OUTER, ICOSAHEDRON),))
    )
    grid = looked.geometry
    k, j, i = (-(-n // 2) for n in grid.shape)
    halved = replace(grid, shape=(k, j, i), spacing=(2 * SPACING, 2 * SPACING, 2 * SPACING))

    def pooled(direction: NDArray[np.float32]) -> NDArray[np.float64]:
        along = np.maximum(np.tensordot(direction, gradient, axes=1), 0) ** 2
        along = ndimage.gaussian_filter(along, NARROW / SPACING, truncate=2.5)
        near = sampled(along, grid, inner)
        along = ndimage.gaussian_filter(along[::2, ::2, ::2], np.sqrt(WIDE**2 - NARROW**2) / (2 * SPACING), truncate=2.5)
        return np.concatenate([near, sampled(along, halved, outer)], axis=1)

    values = np.stack(each(pooled, list(ICOSAHEDRON.astype(np.float32))), axis=-1)
    inside = ndimage.uniform_filter(looked.array.astype(np.float32), 3)
    seen = sampled(inside, grid, np.concatenate([inner, outer], axis=1)) > 0.5
    return np.sqrt(np.maximum(values, 0)).astype(np.float32), seen.astype(np.float32)
