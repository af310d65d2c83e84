"""Structures from structures: margins, union, intersection, without. All on signed distances, so that surfaces stay finer
than pixels: a margin shifts the zero level, `|` is the lesser of two distances, `&` the greater."""

from __future__ import annotations

from collections.abc import Mapping

import edt
import numpy as np
from numpy.typing import NDArray

from contour.margin import shifted
from contour.margin_by_side import by_side
from contour.recipe import Combined, Margin, Named, Recipe, ingredients, needs, reduced
from patient.geometry import Box, Geometry
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
    distances = {name: _as_distance(found[name]) for name in set(ingredients(what))}
    field = _made(what, distances, whole)
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
    """A structure with a margin: its Minkowski sum with a ball, or with octants of ellipsoids where sides differ.

    Args:
        field: what is grown or shrunk.
        whole: the image's grid.
        mm: toward L, R, A, P, S, I; all negative to shrink.

    Returns:
        A signed distance; of smooth shapes its surface is right to a tenth of a voxel.
    """
    box = whole.box_of(field.geometry)
    if max(mm) > 0:
        box = box.padded([int(np.ceil(max(mm) / s)) + 2 for s in whole.spacing], whole.shape)
    part = whole.cropped(box)
    values = _placed(field, part)
    if len(set(mm)) == 1:
        return Field(Volume(shifted(values, part.spacing, mm[0]), part), Level.DISTANCE)
    return Field(Volume(by_side(values, part.spacing, _toward(mm, part)), part), Level.DISTANCE)


def _toward(mm: tuple[float, ...], part: Geometry) -> tuple[tuple[float, float], ...]:
    """The margins of each array axis toward its end and toward its beginning."""
    left, right, front, back, head, foot = mm
    toward: list[tuple[float, float]] = [(0.0, 0.0)] * 3
    for direction, pair in (((1, 0, 0), (left, right)), ((0, 1, 0), (back, front)), ((0, 0, 1), (head, foot))):
        axis, along = part.nearest_axis(direction)
        toward[axis] = pair if along > 0 else (pair[1], pair[0])
    return tuple(toward)


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
    """A field's distances on another part of the same grid; well outside where it says nothing."""
    values = _as_distance(field).volume.array
    outside = np.float32(REACH * max(part.spacing))
    box = part.box_of(field.geometry)
    out = np.full(part.shape, outside, dtype=np.float32)
    inside = box.padded(0, part.shape)
    own = tuple(slice(a - b, c - b) for a, b, c in zip(inside.start, box.start, inside.stop, strict=True))
    out[inside.slices] = values[own]
    return out


def _as_distance(field: Field) -> Field:
    """Near its surface a probability becomes a distance by its own slope, so that the zero level stays where it was."""
    if field.level is Level.DISTANCE:
        return field
    values = _distance_of_probability(field.volume.array, field.geometry.spacing)
    return Field(Volume(values, field.geometry), Level.DISTANCE)


def _distance_of_probability(values: NDArray[np.float32], spacing: tuple[float, float, float]) -> Distance:
    """mm to the level 0.5: by the steepest slope next to it, its sign exact; further on the distance in plane to pixels on
    the other side, right to half a pixel."""
    limit, pixel = np.float32(REACH * max(spacing)), spacing[1:]
    out, reach = np.empty_like(values), (0, *(int(limit / s) + 2 for s in pixel))
    for k, plane in enumerate(values):
        inside, far = plane > 0.5, np.full(plane.shape, limit)
        near = Box.of(inside[None]).padded(reach, (1, *plane.shape)).slices[1:]
        sides = edt.edt(inside[near].astype(np.uint8) + np.uint8(1), anisotropy=pixel, black_border=False)
        far[near] = np.minimum(sides - np.float32(0.5 * min(pixel)), limit)
        j, i = np.nonzero((plane > 0.01) & (plane < 0.99))
        if len(j):
            far[j, i] = np.minimum(np.abs(np.float32(0.5) - plane[j, i]) / _steepest(values, k, j, i, spacing), limit)
        out[k] = np.where(inside, -far, far)
    return out


def _steepest(
    values: NDArray[np.float32], k: int, j: NDArray[np.intp], i: NDArray[np.intp], spacing: tuple[float, float, float]
) -> Distance:
    """The largest difference from a neighbour, a mm; at least 0.001."""
    here, slope = values[k, j, i], np.full(len(j), 1e-3, dtype=np.float32)
    at, last = np.stack((np.full_like(j, k), j, i)), np.array(values.shape)[:, None] - 1
    for axis, step in enumerate(spacing):
        for side in (-1, 1):
            beside = np.clip(at + side * (np.arange(3) == axis)[:, None], 0, last)
            slope = np.maximum(slope, np.abs(values[tuple(beside)] - here) / np.float32(step))
    return slope
