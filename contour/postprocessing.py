"""Postprocessing of what was found, as a template asks for it: smoothing, fragments, holes.

Without smoothing, what stays keeps its surface: only the voxels that are dropped or filled change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import cc3d
import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict
from pydantic import Field as Limits
from pydantic.dataclasses import dataclass as checked
from scipy.ndimage import gaussian_filter

from contour.engine import Flag
from patient.geometry import Geometry
from patient.volume import Field, Level, Volume

NOTABLE = 0.05
"""Postprocessing that changes more than this part of a structure is something that a person should know."""
Percent = Annotated[float, Limits(gt=0, le=100)]
Positive = Annotated[float, Limits(gt=0)]


@checked(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Postprocessing:
    """What is done to one structure, in this order.

    Args:
        smooth_mm: standard deviation of a Gaussian over the field.
        drop_below_cc: pieces (connected by faces, edges or corners) smaller than this go.
        drop_below_percent: pieces smaller than this part of all of them go.
        keep_largest: of what is left so many pieces stay.
        fill_holes: cavities that are closed on all sides, in three dimensions, belong to the structure.
    """

    smooth_mm: Positive | None = None
    drop_below_cc: Positive | None = None
    drop_below_percent: Percent | None = None
    keep_largest: Annotated[int, Limits(ge=1)] | None = None
    fill_holes: bool = False


@dataclass(frozen=True, eq=False)
class Postprocessed:
    """What is left, and what a person should know of it."""

    field: Field
    flags: tuple[Flag, ...] = ()


def postprocess(field: Field, how: Postprocessing) -> Postprocessed | str:
    """Postprocess a structure, on its own grid.

    Returns:
        What is left; or a sentence where nothing is.
    """
    before = field.mask().array
    values = field.volume.array if how.smooth_mm is None else _smooth(field, how.smooth_mm)
    inside = Field(Volume(values, field.geometry), field.level).mask().array
    kept = _pieces(inside, how, field.geometry)
    whole = kept | _cavities(kept) if how.fill_holes else kept
    if not whole.any():
        return "nothing is left of it after the postprocessing that the template asks for"
    far = max(field.geometry.spacing)
    outside, within = (0.0, 1.0) if field.level is Level.PROBABILITY else (far, -far)
    values = values.copy()
    values[inside & ~whole] = outside
    values[whole & ~inside] = within
    left = Field(Volume(values, field.geometry), field.level)
    return Postprocessed(left, _flags(before, whole, field.geometry.voxel_cc))


def _smooth(field: Field, mm: float) -> NDArray[np.float32]:
    """Distances are smoothed only near the surface: far from it they may be anything."""
    values, sigma = field.volume.array, [mm / s for s in field.geometry.spacing]
    if field.level is Level.DISTANCE:
        reach = 3.0 * max(mm, *field.geometry.spacing)
        values = np.clip(values, -reach, reach)
    return gaussian_filter(values, sigma, mode="nearest", output=np.float32)


def _pieces(inside: NDArray[np.bool_], how: Postprocessing, geometry: Geometry) -> NDArray[np.bool_]:
    """The pieces that are large enough."""
    if how.drop_below_cc is None and how.drop_below_percent is None and how.keep_largest is None:
        return inside
    labels = cc3d.connected_components(inside, connectivity=26)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    least = max((how.drop_below_cc or 0.0) / geometry.voxel_cc, (how.drop_below_percent or 0.0) / 100.0 * sizes.sum())
    keep = (sizes > 0) & (sizes >= least)
    if how.keep_largest is not None:
        largest = np.argsort(-sizes, kind="stable")[: how.keep_largest]
        keep &= np.isin(np.arange(len(sizes)), largest)
    return keep[labels]


def _cavities(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """What is outside and does not reach the box's border through faces."""
    labels = cc3d.connected_components(~inside, connectivity=6)
    closed = np.ones(int(labels.max()) + 1, dtype=bool)
    for axis in range(3):
        for end in (0, -1):
            closed[np.unique(np.take(labels, end, axis=axis))] = False
    closed[0] = False
    return closed[labels]


def _flags(before: NDArray[np.bool_], after: NDArray[np.bool_], voxel_cc: float) -> tuple[Flag, ...]:
    voxels = max(1, int(before.sum()))
    gone, new = int((before & ~after).sum()), int((after & ~before).sum())
    said = [
        f"{word} {n * voxel_cc:.1f} cc ({100 * n / voxels:.0f} % of it)"
        for word, n in (("removed", gone), ("added", new))
        if n > NOTABLE * voxels
    ]
    return (Flag("cleaned", f"postprocessing {' and '.join(said)}"),) if said else ()
