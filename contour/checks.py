"""Self-check: what a person should look at, from what was found alone."""

from __future__ import annotations

from collections.abc import Mapping

import cc3d
import numpy as np
from numpy.typing import NDArray

from contour.engine import Finding, Flag
from contour.template import Wanted
from patient.geometry import Geometry
from patient.volume import Field

FRAGMENT = 0.02
"""A second piece of more than this part of the whole is worth a look, where an organ has one piece."""
ACROSS = 5.0
"""mm by which a paired organ must lie beyond the patient's middle to be on the wrong side of it."""
Place = tuple[float, float, float]
_MIDDLE = ("SpinalCord", "SpinalCanal", "Brainstem", "Bone_Mandible", "Larynx", "Esophagus", "Trachea")
_PIECES = {"Bones": 10_000, "Skin": 50, "External": 3, "Lungs": 2}
"""How many pieces are no surprise; one where nothing is said."""


def check(wanted: Wanted, field: Field, whole: Geometry, found: Mapping[str, Place]) -> tuple[Flag, ...]:
    """Flags for one structure.

    Args:
        wanted: what the template says of it.
        field: what was found.
        whole: the image's grid.
        found: centroids (LPS mm) of what was found before, for left and right.
    """
    mask = field.mask()
    volume = float(np.count_nonzero(mask.array)) * whole.voxel_cc
    cut = cut_sides(field, whole)
    flags = [Flag("cut_by_field_of_view", f"truncated by the image at {', '.join(cut)}")] if cut else []
    if wanted.volume_cc is not None:
        low, high = wanted.volume_cc
        if volume > high or (volume < low and not cut):
            flags.append(Flag("implausible_volume", f"{volume:.1f} cc; plausible are {low:g} to {high:g} cc"))
    usual = _PIECES.get(wanted.name, 1)
    if usual < 1 / FRAGMENT and (pieces := _pieces(mask.array)) > usual:
        flags.append(Flag("fragments", f"{pieces} pieces"))
    if side := wrong_side(wanted.name, found):
        flags.append(Flag("wrong_side", side))
    return (*flags, suggestion(wanted)) if wanted.is_target else tuple(flags)


def _pieces(mask: NDArray[np.bool_]) -> int:
    """How many pieces are more than `FRAGMENT` of the whole: fewer than 1 / FRAGMENT."""
    sizes = np.bincount(cc3d.connected_components(mask, connectivity=26).ravel())[1:]
    return int((sizes > FRAGMENT * sizes.sum()).sum())


def sure_enough(wanted: Wanted, answer: Finding) -> tuple[Flag, ...] | str:
    """An engine's flags by the template's own limits of confidence; why the structure is withheld where it is below them.

    A template's limit stands in the place of the engine's. An engine that does not say how sure it is cannot keep one.
    """
    limits = wanted.confidence
    if limits is None:
        return answer.flags
    if answer.confidence is None:
        return (
            *answer.flags,
            Flag("low_confidence", "the engine does not say how sure it is, and the template asks for it"),
        )
    if answer.confidence < limits.withhold_below:
        return f"predicted Dice {answer.confidence:.2f}; the template withholds what is below {limits.withhold_below:.2f}"
    others = tuple(flag for flag in answer.flags if flag.code != "low_confidence")
    if answer.confidence >= limits.review_below:
        return others
    said = f"predicted Dice {answer.confidence:.2f}; below {limits.review_below:.2f} the template requires clinical review"
    return (*others, Flag("low_confidence", said))


def suggestion(wanted: Wanted) -> Flag:
    """What is said of every target that software made: where it ends is a clinical decision."""
    said = "made by margins from a contour" if wanted.recipe is not None else "found by software"
    unsourced = wanted.recipe is not None and not wanted.source
    detail = f"a draft, {said}: a person has to edit and approve it before use"
    return Flag("suggestion", f"{detail}; the template gives no source for its margins" if unsourced else detail)


def cut_sides(field: Field, whole: Geometry) -> list[str]:
    """The patient's directions in which a structure reaches the image's border."""
    mask = field.mask()
    box = whole.box_of(mask.geometry)
    sides: list[str] = []
    for name, direction in _DIRECTIONS.items():
        axis, along = whole.nearest_axis(direction)
        ends = _ends(whole, axis, along)[box.slices[0]]
        places = np.arange(box.start[axis], box.stop[axis])
        if axis == 0:
            reached = mask.array[places == ends]
        else:
            beyond = places >= ends[:, None] if along > 0 else places <= ends[:, None]
            some = beyond.any(axis=0)
            reached = beyond[:, some] & mask.array.compress(some, axis=axis).any(axis=3 - axis)
        if reached.any():
            sides.append(name)
    return sides


def _ends(whole: Geometry, axis: int, along: int) -> NDArray[np.float64]:
    """By plane the last voxel that the image shows along an axis; a tilted gantry's slices end elsewhere in each plane."""
    if axis == 0 or whole.slices is None:
        return np.full(whole.shape[0], whole.shape[axis] - 1.0 if along > 0 else 0.0)
    at = whole.slices.on(whole)
    first = np.interp(np.arange(whole.shape[0]), at[:, 0], at[:, axis])
    return np.floor(first + whole.slices.shape[axis - 1] - 1) if along > 0 else np.ceil(first)


_DIRECTIONS = {
    "inferior end": (0, 0, -1),
    "superior end": (0, 0, 1),
    "front": (0, -1, 0),
    "back": (0, 1, 0),
    "right side": (-1, 0, 0),
    "left side": (1, 0, 0),
}


def wrong_side(name: str, found: Mapping[str, Place]) -> str:
    """A sentence where a left structure lies right of its right twin, or of what lies in the patient's middle.

    Args:
        name: of the structure; it is one of `found`.
        found: centroids (LPS mm) of what there is.
    """
    stem, side = name[:-2], name[-2:]
    twin = {"_L": f"{stem}_R", "_R": f"{stem}_L"}.get(side)
    if twin is None or name not in found:
        return ""
    if twin in found:
        left, right = (found[name], found[twin]) if side == "_L" else (found[twin], found[name])
        if left[0] <= right[0]:
            return f"{stem}_L lies to the right of {stem}_R"
    middle = [found[n][0] for n in _MIDDLE if n in found]
    away = (found[name][0] - float(np.median(middle))) * (1 if side == "_L" else -1) if middle else 0.0
    return f"{name} lies {-away:.0f} mm on the other side of the patient's middle" if away < -ACROSS else ""


def centroid(field: Field) -> tuple[float, float, float]:
    """Centre of mass of the voxels inside, LPS mm."""
    mask = field.mask()
    shadow = np.add.reduce(mask.array, axis=0, dtype=np.int32)
    counts = [[np.count_nonzero(plane) for plane in mask.array], shadow.sum(axis=1), shadow.sum(axis=0)]
    k, j, i = (float(np.average(np.arange(len(n)), weights=n)) for n in counts)
    x, y, z = (float(v) for v in field.geometry.points((k, j, i)))
    return x, y, z
