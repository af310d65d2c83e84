"""Structures from structures: margins, union, intersection, without. All on signed distances, so that surfaces stay finer
than pixels: a margin shifts the zero level, `|` is the lesser of two distances, `&` the greater."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import edt
import numpy as np
from numpy.typing import NDArray

from contour.recipe import Combined, Margin, Named, Recipe, needs, reduced
from patient.geometry import Box, Geometry
from patient.parallel import threads
from patient.volume import Field, Level, Volume

Distance = NDArray[np.float32]
REACH = 3.0
"""Voxels of true distance around a surface; beyond it only the sign counts."""


def derive(recipe: Recipe, found: Mapping[str, Field], whole: Geometry) -> Field | str:
    """The field of a recipe, or why it cannot be made.

    Args:
        recipe: from `contour.recipe`.
        found: fields by name, each on voxels of `whole`.
        whole: the image's grid; nothing is grown beyond it.

    Returns:
        A signed distance, cropped to its box; or a sentence: an ingredient is missing, or nothing is left.
    """
    missing = [name for name in needs(recipe) if name not in found]
    if missing:
        return f"derived from {missing[0]}, which is not there"
    if (what := reduced(recipe, found)) is None:
        return "nothing is left of it"
    field = _made(what, found, whole)
    inside = field.volume.array < 0
    if not inside.any():
        return "nothing is left of it"
    return Field(field.volume.cropped(Box.of(inside).padded(1, field.geometry.shape)), Level.DISTANCE)


def _made(recipe: Recipe, found: Mapping[str, Field], whole: Geometry) -> Field:
    match recipe:
        case Named(name, _):
            return found[name]
        case Margin(of, mm):
            return grown(_made(of, found, whole), whole, mm)
        case Combined(operator, left, right):
            return _combined(operator, _made(left, found, whole), _made(right, found, whole), whole)


def grown(field: Field, whole: Geometry, mm: tuple[float, ...]) -> Field:
    """A structure with a margin, exact to half a voxel (Euclidean).

    Args:
        field: what is grown or shrunk.
        whole: the image's grid.
        mm: toward L, R, A, P, S, I of the patient, all positive or all negative; an ellipsoid's octants where they differ.
    """
    largest = max(abs(v) for v in mm)
    box = whole.box_of(field.geometry)
    if max(mm) > 0:
        box = box.padded([int(np.ceil(largest / s)) + 2 for s in whole.spacing], whole.shape)
    part = whole.cropped(box)
    values = _placed(field, part)
    if len({abs(v) for v in mm}) == 1:
        return _shifted(values, part, mm[0])
    return _ellipsoid(values, part, mm)


def _shifted(values: Distance, part: Geometry, mm: float) -> Field:
    """The Euclidean distance to the surface, shifted by the margin.

    Distances are taken in each plane and combined over as many planes as the margin reaches, where they are within it: exact
    there, and never more than a few planes of distances at once, where a body's would be larger than the image.
    """
    outward, dz = mm > 0, part.spacing[0]
    reach, span = np.float32(abs(mm) + REACH * max(part.spacing)), int(np.ceil(abs(mm) / dz)) + 1
    out = np.empty_like(values)
    with ThreadPoolExecutor(threads()) as pool:
        planes = pool.map(lambda plane: _in_plane(plane, part.spacing, outward=outward), values)
        window: deque[Distance] = deque(maxlen=2 * span + 1)
        ahead = iter(planes)
        window.extend(plane for _, plane in zip(range(span), ahead, strict=False))
        for k in range(len(values)):
            if (plane := next(ahead, None)) is not None:
                window.append(plane)
            elif k > span:
                window.popleft()
            side = values[k] >= 0 if outward else values[k] < 0
            far = np.full(side.size, reach)
            for n, plane in enumerate(window, start=max(0, k - span)):
                near = np.flatnonzero(side & (plane < reach))
                far[near] = np.minimum(far[near], _apart(plane.ravel()[near], abs(n - k) * dz, dz))
            far = far.reshape(side.shape)
            out[k] = np.where(side, far if outward else -far, values[k]) - np.float32(mm)
    return Field(Volume(out, part), Level.DISTANCE)


def _apart(in_plane: Distance, z: float, dz: float) -> Distance:
    """Distance to a contour `z` mm away. Right above it half a slice less, since a contour stands for its slice; beside it
    the whole way, since there the surface slants from contour to contour."""
    if z == 0.0:
        return in_plane
    return np.hypot(in_plane, z - 0.5 * dz * np.clip(1.0 - in_plane / dz, 0.0, 1.0)).astype(np.float32)


def _in_plane(values: Distance, spacing: tuple[float, float, float], *, outward: bool) -> Distance:
    """mm in plane from each voxel centre on one side of the surface to the surface; 0 on the other.

    Next to the surface the field's own distance; further on half a pixel less than between voxel centres.
    """
    side = values >= 0 if outward else values < 0
    if side.all():
        return np.full(values.shape, 1e4, dtype=np.float32)
    if not side.any():
        return np.zeros(values.shape, dtype=np.float32)
    far = edt.edt(side, anisotropy=spacing[1:], black_border=False)
    beside = (far <= 1.01 * max(spacing[1:])) & (np.abs(values) < REACH * min(spacing))
    return np.where(side, np.where(beside, np.abs(values), far - np.float32(0.5 * min(spacing[1:]))), np.float32(0.0))


def _ellipsoid(values: Distance, part: Geometry, mm: tuple[float, ...]) -> Field:
    """Different margins on different sides: each octant in its own units, the union of all (Minkowski sum with octants)."""
    left, right, front, back, head, foot = (abs(v) for v in mm)
    sign = 1.0 if max(mm) > 0 else -1.0
    inside = values < 0 if sign > 0 else values >= 0
    reach = [part.nearest_axis(d) for d in ((0, 0, 1), (0, 1, 0), (1, 0, 0))]
    margins = {(0, 1): head, (0, -1): foot, (1, 1): back, (1, -1): front, (2, 1): left, (2, -1): right}
    per_axis: list[tuple[float, float]] = [(0.0, 0.0)] * 3
    for n, (axis, along) in enumerate(reach):
        plus, minus = margins[(n, 1)], margins[(n, -1)]
        per_axis[axis] = (plus, minus) if along > 0 else (minus, plus)
    if sign < 0:
        per_axis = [(minus, plus) for plus, minus in per_axis]
    offsets = [
        np.arange(-int(np.ceil(m / s)), int(np.ceil(p / s)) + 1) for (p, m), s in zip(per_axis, part.spacing, strict=True)
    ]
    k, j, i = np.meshgrid(*offsets, indexing="ij")
    distance = np.zeros(k.shape)
    for place, (p, m), s in zip((k, j, i), per_axis, part.spacing, strict=True):
        limit = np.where(place > 0, p, m)
        with np.errstate(divide="ignore", invalid="ignore"):
            distance += np.where(place == 0, 0.0, (place * s / limit) ** 2)
    kernel = distance <= 1.0
    grown_to = _dilated(inside, kernel, [-int(o[0]) for o in offsets])
    out = np.where(grown_to if sign > 0 else ~grown_to, -1.0, 1.0).astype(np.float32) * (0.5 * min(part.spacing))
    return Field(Volume(out, part), Level.DISTANCE)


def _dilated(mask: NDArray[np.bool_], kernel: NDArray[np.bool_], centre: list[int]) -> NDArray[np.bool_]:
    """Dilation by any kernel, through its Fourier transform: the kernel may be large and off its centre."""
    from scipy.signal import fftconvolve  # slow to import, and few templates have margins that differ by side

    full = fftconvolve(mask.astype(np.float32), kernel.astype(np.float32), mode="full")
    window = tuple(slice(c, c + n) for c, n in zip(centre, mask.shape, strict=True))
    return full[window] > 0.5


def _combined(operator: str, left: Field, right: Field, whole: Geometry) -> Field:
    boxes = whole.box_of(left.geometry), whole.box_of(right.geometry)
    box = boxes[0].union(boxes[1]) if operator == "|" else boxes[0]
    part = whole.cropped(box.padded(0, whole.shape))
    a, b = _placed(left, part), _placed(right, part)
    if operator == "|":
        np.minimum(a, b, out=a)
    elif operator == "&":
        np.maximum(a, b, out=a)
    else:
        np.maximum(a, -b, out=a)
    return Field(Volume(a, part), Level.DISTANCE)


def _placed(field: Field, part: Geometry) -> Distance:
    """A field's distances on another part of the same grid; well outside where it says nothing.

    Near its surface a probability becomes a distance by its own slope, so that the zero level stays where it was.
    """
    values = field.volume.array
    if field.level is Level.PROBABILITY:
        values = _distance_of_probability(values, field.geometry.spacing)
    outside = np.float32(REACH * max(part.spacing))
    box = part.box_of(field.geometry)
    out = np.full(part.shape, outside, dtype=np.float32)
    inside = box.padded(0, part.shape)
    own = tuple(slice(a - b, c - b) for a, b, c in zip(inside.start, box.start, inside.stop, strict=True))
    out[inside.slices] = values[own]
    return out


def _distance_of_probability(values: NDArray[np.float32], spacing: tuple[float, float, float]) -> Distance:
    """mm to the level 0.5, plane by plane, from the steepest in-plane slope; its sign is exact, its size right near it."""
    limit = np.float32(REACH * max(spacing))
    out = np.where(values > 0.5, -limit, limit)
    for plane, result in zip(values, out, strict=True):
        j, i = np.nonzero((plane > 0.01) & (plane < 0.99))
        if not len(j):
            continue
        framed = np.pad(plane, 1, mode="edge")
        here = plane[j, i]
        down = np.maximum(np.abs(framed[j + 2, i + 1] - here), np.abs(framed[j, i + 1] - here)) / np.float32(spacing[1])
        across = np.maximum(np.abs(framed[j + 1, i + 2] - here), np.abs(framed[j + 1, i] - here)) / np.float32(spacing[2])
        slope = np.maximum(np.maximum(down, across), np.float32(1e-3))
        result[j, i] = np.clip((np.float32(0.5) - here) / slope, -limit, limit)
    return out
