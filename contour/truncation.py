"""Does an organ end where it should: what is cut short inside the image, seen without anybody else's contour.

An organ tapers to its ends, reaches about as far as its twin, and what runs through the body goes on to the image's border.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contour.engine import Flag
from patient.geometry import Geometry
from patient.volume import Field

HEAD = (0.0, 0.0, 1.0)
TAPERED = 0.6
"""Of the largest cross-section: more than this in an organ's last slice, and it is cut short. A ball of 40 mm in slices of
3 mm has 0.3."""
TAPERED_ORGAN = {"Lung": 0.25}
"""Of organs that taper more than that: lungs drawn by clinics measure 0.001 to 0.10."""
LEAST_SLICES = 8
"""An organ of fewer slices has no ends to speak of."""
PASSING = {"SpinalCord": 400.0, "Esophagus": 200.0}
"""mm: what is shorter than an organ that runs through the body goes on towards the feet to the image's border."""
BORDER = 20.0
"""mm from the image's last slice within which an organ still reaches it."""
PAIR_ENDS = {"Lung": (20.0, 40.0)}
"""mm by which the superior and inferior ends of a pair may differ: clinics' apices differ by up to 9 mm, bases by 12."""
PAIR_VOLUMES = 2.0
"""How many times larger one of a pair may be."""


@dataclass(frozen=True, eq=False)
class Extent:
    """Where an organ lies along the patient.

    Args:
        areas: voxels in each of its slices, from foot to head.
        foot, head: mm along the patient of its first and last slice, as the image's axis counts.
        below, above: mm of image beyond them.
        volume_cc: of it.
    """

    areas: NDArray[np.int64]
    foot: float
    head: float
    below: float
    above: float
    volume_cc: float

    @classmethod
    def of(cls, field: Field, whole: Geometry) -> Extent | None:
        """Of a structure on the image's grid; None where it is empty."""
        mask = field.mask()
        axis, sign = whole.nearest_axis(HEAD)
        areas = np.array([np.count_nonzero(plane) for plane in np.moveaxis(mask.array, axis, 0)])
        slices = np.flatnonzero(areas)
        if not len(slices):
            return None
        start, spacing, last = whole.box_of(mask.geometry).start[axis], whole.spacing[axis], whole.shape[axis] - 1
        low, high = sorted((n if sign > 0 else last - n) for n in (start + int(slices[0]), start + int(slices[-1])))
        between = areas[slices[0] : slices[-1] + 1]
        return cls(
            between if sign > 0 else between[::-1],
            low * spacing,
            high * spacing,
            low * spacing,
            (last - high) * spacing,
            float(areas.sum()) * whole.voxel_cc,
        )


def abrupt_ends(name: str, extent: Extent) -> Iterator[Flag]:
    """Ends inside the image at which an organ does not taper, or that it has though it runs through the body.

    Args:
        name: of the structure, as TG-263 has it.
        extent: of it in its image.
    """
    stem = name.removesuffix("_L").removesuffix("_R")
    if stem in PASSING:
        length = extent.head - extent.foot
        if extent.below > BORDER and length < PASSING[stem]:
            yield Flag(
                "abrupt_end",
                f"ends {extent.below:.0f} mm above the image's last slice at the inferior end, {length:.0f} mm long",
            )
        return
    if len(extent.areas) < LEAST_SLICES or stem in _ENDLESS:
        return
    limit, largest = TAPERED_ORGAN.get(stem, TAPERED), float(extent.areas.max())
    for side, area, beyond in (("inferior", extent.areas[0], extent.below), ("superior", extent.areas[-1], extent.above)):
        if beyond > 0 and area > limit * largest:
            share = 100.0 * float(area) / largest
            said = f"does not taper at the {side} end: the last slice has {share:.0f} % of the largest area"
            yield Flag("abrupt_end", said)


_ENDLESS = ("External", "Bones", "Skin", "SpinalCanal", "Trachea", "zAir", "Bowel", "Bone_Mandible")
"""What ends where the body, the image or a convention does."""


def uneven_pairs(extents: Mapping[str, Extent]) -> Iterator[tuple[str, Flag]]:
    """Of pairs: the one that ends short of its twin, or is much smaller.

    Args:
        extents: of all that was found, by name.

    Yields:
        Name of the shorter or smaller one, and what is to be said of it.
    """
    for stem in sorted(name[:-2] for name in extents if name.endswith("_L") and f"{name[:-2]}_R" in extents):
        left, right = extents[f"{stem}_L"], extents[f"{stem}_R"]
        if stem in PAIR_ENDS:
            yield from _uneven_ends(stem, left, right)
        if not _is_cut(left) and not _is_cut(right):
            small, large = sorted((("_L", left.volume_cc), ("_R", right.volume_cc)), key=lambda side: side[1])
            if large[1] > PAIR_VOLUMES * small[1]:
                said = f"{small[1]:.1f} cc, where {stem}{large[0]} has {large[1]:.1f} cc"
                yield f"{stem}{small[0]}", Flag("uneven_pair", said)


def _uneven_ends(stem: str, left: Extent, right: Extent) -> Iterator[tuple[str, Flag]]:
    """Of a pair whose ends should lie about level."""
    head, foot = PAIR_ENDS[stem]
    ends = (("superior", right.head - left.head, head), ("inferior", left.foot - right.foot, foot))
    for (side, short, limit), cut in zip(ends, (_is_cut_above(left, right), _is_cut_below(left, right)), strict=True):
        if abs(short) > limit and not cut:
            name, twin = (f"{stem}_L", f"{stem}_R") if short > 0 else (f"{stem}_R", f"{stem}_L")
            yield name, Flag("uneven_pair", f"ends {abs(short):.0f} mm short of {twin} at the {side} end")


def _is_cut(extent: Extent) -> bool:
    return not extent.below or not extent.above


def _is_cut_above(*extents: Extent) -> bool:
    return any(not extent.above for extent in extents)


def _is_cut_below(*extents: Extent) -> bool:
    return any(not extent.below for extent in extents)
