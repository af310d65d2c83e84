"""Structures from structures, as recipes say: margins, union, intersection, without.

All of it happens on fields, so that surfaces stay finer than voxels: a margin is measured from where the surface is, union
and intersection are the greater and the lesser of two probabilities, each 0.5 where its surface runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from contour.margin import FAR, Floats, grown
from contour.recipe import Combined, Margin, Named, Recipe, ingredients
from patient.geometry import Box, Geometry
from patient.volume import Field, Level, Volume


def derive(recipe: Recipe, found: Mapping[str, Field], whole: Geometry) -> Field | str:
    """The field of a recipe, or why it cannot be made.

    Args:
        recipe: from `contour.recipe`.
        found: fields by name, each on voxels of `whole`.
        whole: the image's grid; nothing is grown beyond it.

    Returns:
        Cropped to its box with a voxel of room: a signed distance for a margin, a probability for what was combined; or a
        sentence: an ingredient is missing, or nothing is left.
    """
    missing = [name for name in ingredients(recipe) if name not in found]
    if missing:
        return f"derived from {missing[0]}, which is not there"
    field = _made(recipe, found, whole)
    box = Box.of(field.mask().array)
    if box.empty:
        return "nothing is left of it"
    return Field(field.volume.cropped(box.padded(1, field.geometry.shape)), field.level)


def _made(recipe: Recipe, found: Mapping[str, Field], whole: Geometry) -> Field:
    match recipe:
        case Named(name):
            return found[name]
        case Margin(of, mm):
            return grown(_made(of, found, whole), whole, mm)
        case Combined(operator, left, right):
            first, second = _Operand.of(left, found, whole), _Operand.of(right, found, whole)
            return _combined(operator, first, second, whole)


@dataclass(frozen=True)
class _Operand:
    """A field, and whether it was made here, so that its array may be written over: a body's is large."""

    field: Field
    ours: bool

    @staticmethod
    def of(recipe: Recipe, found: Mapping[str, Field], whole: Geometry) -> _Operand:
        return _Operand(_made(recipe, found, whole), not isinstance(recipe, Named))

    def probability(self, part: Geometry) -> tuple[Floats, bool]:
        """On a part of the same grid: 0.5 on the surface, linear near it, 0 where nothing is known; and whether ours."""
        field, ours = self.field, self.ours
        if not part.same_grid(field.geometry):
            outside = 0.0 if field.level is Level.PROBABILITY else FAR * max(part.spacing)
            field, ours = Field(field.volume.placed_in(part, outside), field.level), True
        values = field.volume.array
        if field.level is Level.PROBABILITY:
            return values, ours
        values = np.multiply(values, np.float32(-0.5 / (FAR * max(part.spacing))), out=values if ours else None)
        values += np.float32(0.5)
        return np.clip(values, 0.0, 1.0, out=values), True


def _combined(operator: str, left: _Operand, right: _Operand, whole: Geometry) -> Field:
    """Of two fields on the same voxels, one that is 0.5 on the surface of their union, intersection or difference."""
    box = whole.box_of(left.field.geometry)
    if operator == "|":
        box = box.union(whole.box_of(right.field.geometry))
    part = whole.cropped(box)
    (a, _), (b, ours) = left.probability(part), right.probability(part)
    out = b if ours else np.empty_like(b)
    if operator == "-":
        b = np.subtract(np.float32(1.0), b, out=out)
    (np.maximum if operator == "|" else np.minimum)(a, b, out=out)
    return Field(Volume(out, part), Level.PROBABILITY)
