"""Distinct points of an image, and what each looks like from where it stands.

Everything happens on an upright working grid in LPS, so that two images taken with different axes are seen the same way. Points
are corners of the structure tensor (Förstner and Gülch 1987). A point is described by the directions of the gradient around it,
pooled in Gaussians on two shells as DAISY does in the plane (Tola 2010, IEEE PAMI 32:815), here on the corners of an
icosahedron. Gradients are compressed before pooling, so a shift or a scaling of the numbers, a slow shading, or a vessel that
fills with contrast changes little; a turn of some 10 degrees stays within the pools.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 - as everybody writes it
from numpy.typing import NDArray
from scipy import ndimage

from patient.errors import InputError
from patient.geometry import Box, Geometry
from patient.volume import Mask, Volume
from registration.transforms import Points, Rigid, Space, Transform, placed, pulled, sampled

SPACING = 2.5
"""mm, of the working grid."""
POINTS = 1500
"""At most, an image."""
APART = 5.0
"""mm: of two points nearer than this only the more distinct one is kept."""
AIR = -500
"""HU: less is outside of a body, or a hollow in it."""
_GOLDEN = (1 + 5**0.5) / 2
ICOSAHEDRON: Points = np.array(
    [np.roll((0, a, b * _GOLDEN), n) for n in range(3) for a in (-1, 1) for b in (-1, 1)]
) / np.hypot(1, _GOLDEN)
"""Twelve directions (x, y, z), evenly spread."""
SHELLS = ((0.0, 4.0), (11.0, 4.0), (24.0, 8.0))
"""Radius and Gaussian width, both mm, of where gradients are pooled."""


@dataclass(frozen=True, eq=False)
class Scene:
    """An image ready to be searched.

    Args:
        image: float32 `[z, y, x]`, finite, on an upright grid of `SPACING`.
        looked: bool, the same grid: where gradients are believed.
    """

    image: Volume[np.float32]
    looked: Mask


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
        mask: what to look at, on the volume's grid or a crop; None for the body (what is not air around it, couch taken away),
            or for everything where the image holds no air or no HU.
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
    here = Space.of(volume.geometry)
    grid = upright(volume.geometry)
    itself = Rigid.identity(here, here)
    image = pulled(itself, shrunk(volume), grid, np.nan)
    valid = np.isfinite(image.array)
    image.array[~valid] = array.min()
    return _framed(image, valid, None if mask is None else _pulled_mask(itself, mask, grid), name)


def seen_through(start: Transform, volume: Volume[Any], mask: Mask | None, onto: Geometry, name: str) -> Scene:
    """The other image's scene, pulled onto a grid of this one by a first guess. Raises as `scene`.

    Args:
        start: from the grid's image to the volume's.
        volume: of the other image.
        mask: of the other image, or None.
        onto: a working grid.
        name: of the volume, for messages.
    """
    image = pulled(start, shrunk(volume), onto, np.nan)
    valid = np.isfinite(image.array)
    image.array[~valid] = volume.array.min()
    return _framed(image, valid, None if mask is None else _pulled_mask(start, mask, onto), name)


def _pulled_mask(start: Transform, mask: Mask, onto: Geometry) -> NDArray[np.bool_]:
    return pulled(start, Volume(mask.array.astype(np.float32), mask.geometry), onto, 0.0).array > 0.5


def _framed(image: Volume[np.float32], valid: NDArray[np.bool_], given: NDArray[np.bool_] | None, name: str) -> Scene:
    """What is looked at is cut out; a given mask loses its rim, whose edge is not the patient's."""
    looked = _body(image.array) if given is None else ndimage.binary_erosion(given)
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
    k, j, i = (s * f for s, f in zip(volume.geometry.spacing, factors, strict=True))
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
    return Geometry((k, j, i), (SPACING,) * 3, (x, y, z), frame_of_reference=geometry.frame_of_reference, image=geometry.image)


def _body(array: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The largest piece that is not air, its hollows filled slice by slice, and its skin."""
    if np.percentile(array[::2, ::4, ::4], 1) > AIR:
        return np.ones(array.shape, dtype=bool)
    solid = ndimage.binary_erosion(array > AIR, iterations=2, border_value=1)
    labels, count = ndimage.label(solid)
    if not count:
        return np.ones(array.shape, dtype=bool)
    body = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    for k in range(len(body)):
        body[k] = ndimage.binary_fill_holes(body[k])
    return ndimage.binary_dilation(body, iterations=4)


def keypoints(scene: Scene) -> Keypoints:
    """The most distinct points of a scene, at most `POINTS`, `APART` from one another, described."""
    gradient = _gradient(scene)
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


def _gradient(scene: Scene) -> NDArray[np.float32]:
    """`[3 (x, y, z), z, y, x]` float32: directions kept, lengths brought to 0-1, of which the middle one of the image is 0.5."""
    smooth = ndimage.gaussian_filter(scene.image.array, 1.0, truncate=3)
    gradient = np.stack([ndimage.correlate1d(smooth, (-0.5, 0, 0.5), axis=axis) for axis in (2, 1, 0)])
    looked = scene.looked.array
    gradient *= looked
    length = np.sqrt((gradient**2).sum(axis=0))
    middle = float(np.percentile(length[looked], 60))
    gradient /= np.sqrt(length**2 + max(middle, 1e-6) ** 2)
    return gradient


def _distinctness(gradient: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 / trace of the inverse structure tensor (Förstner and Gülch 1987): high where no direction is without an edge."""
    xx, yy, zz, xy, xz, yz = (
        ndimage.gaussian_filter(gradient[a] * gradient[b], 1.2, truncate=3)
        for a, b in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
    )
    minors = (yy * zz - yz * yz) + (xx * zz - xz * xz) + (xx * yy - xy * xy)
    determinant = xx * (yy * zz - yz * yz) - xy * (xy * zz - yz * xz) + xz * (xy * yz - yy * xz)
    return np.where(minors > 1e-9, determinant / np.maximum(minors, 1e-9), 0).astype(np.float32)


def _between(strength: NDArray[np.float32], at: NDArray[np.intp]) -> NDArray[np.float64]:
    """Where between the voxels the peak lies: a parabola along each axis, `[n, 3]` voxels (k, j, i)."""
    out = np.zeros(at.shape)
    for axis in range(3):
        step = np.eye(3, dtype=np.intp)[axis]
        before, here, after = (strength[tuple((at + n * step).T)].astype(np.float64) for n in (-1, 0, 1))
        bend = before - 2 * here + after
        out[:, axis] = np.where(bend < 0, 0.5 * (before - after) / np.minimum(bend, -1e-12), 0)
    return np.clip(out, -0.5, 0.5)


def _described(
    gradient: NDArray[np.float32], looked: Mask, points: Points
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Gradient directions pooled around points: `[n, pools, 12]`; and which pools are seen, `[n, pools]`."""
    grid = looked.geometry
    pools = [points[:, None] + (radius * ICOSAHEDRON if radius else np.zeros((1, 3))) for radius, _ in SHELLS]
    described: list[list[NDArray[np.float64]]] = [[] for _ in SHELLS]
    for direction in ICOSAHEDRON.astype(np.float32):
        along = np.maximum(np.tensordot(direction, gradient, axes=1), 0) ** 2
        width = 0.0
        for n, (_, wanted) in enumerate(SHELLS):
            if wanted > width:
                along = ndimage.gaussian_filter(along, np.sqrt(wanted**2 - width**2) / SPACING, truncate=2.5)
                width = wanted
            described[n].append(sampled(along, grid, pools[n]))
    inside = ndimage.uniform_filter(looked.array.astype(np.float32), 3)
    seen = np.concatenate([sampled(inside, grid, pool) for pool in pools], axis=1) > 0.5
    values = np.concatenate([np.stack(shell, axis=-1) for shell in described], axis=1)
    return np.sqrt(np.maximum(values, 0)).astype(np.float32), seen.astype(np.float32)
