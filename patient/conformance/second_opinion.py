"""A second opinion on an RTSTRUCT: the masks that rt-utils, which shares no code with us, reads from the same file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import binary_dilation, binary_erosion

from patient.conformance.check import Remark
from patient.errors import FrameMismatch, InputError
from patient.geometry import Geometry
from patient.rasterisation import mask_of_region
from patient.read.rtstruct import read_structure_set
from patient.series import ImageSeries
from patient.structures import Structure

_NEIGHBOURS = np.ones((1, 3, 3), dtype=bool)


@dataclass(frozen=True)
class Opinion:
    """One structure as two readers have it.

    Args:
        name: of the structure.
        dice: of the two masks; None where one of them has no mask of it. rt-utils rounds points to pixels and fills the
            outline too: what it reads is larger by up to a pixel all round, so that the Dice of small and thin
            structures is low where nothing is wrong.
        remark: what a person should know, if anything.
    """

    name: str
    dice: float | None = None
    remark: Remark | None = None


def second_opinions(path: Path, image_folder: Path, image: ImageSeries) -> list[Opinion]:
    """Every structure's mask as we read it beside rt-utils' reading.

    Raises:
        InputError: rt-utils is not installed, cannot read the pair, or is known to read such images wrongly.
    """
    try:
        from rt_utils import RTStructBuilder  # pyright: ignore[reportMissingTypeStubs]
    except ImportError as error:
        raise InputError("rt-utils is not installed", remedy="Install it, or leave --deep out") from error
    (_, rows, columns), (_, dy, dx) = image.geometry.shape, image.geometry.spacing
    if rows != columns or abs(dy - dx) > 1e-6:
        raise InputError(
            f"rt-utils is no second opinion here: {rows} x {columns} pixels of {dy:g} x {dx:g} mm",
            where=image_folder.name,
            why="It takes rows for columns where the two differ",
            remedy="Leave --deep out",
        )
    if image.geometry.slices is not None:
        raise InputError(
            "rt-utils is no second opinion here: slices are unevenly spaced, or the gantry was tilted",
            where=image_folder.name,
            why="It counts pixels on the image's own slices, and masks are compared on an even grid",
            remedy="Leave --deep out",
        )
    try:
        other = RTStructBuilder.create_from(dicom_series_path=str(image_folder), rt_struct_path=str(path))
    except Exception as error:
        raise InputError(f"rt-utils cannot read it: {type(error).__name__}", where=path.name) from error
    return [_opinion(s, other, image.geometry) for s in read_structure_set(path).structures if s.drawn]


def _opinion(structure: Structure, other: Any, grid: Geometry) -> Opinion:
    name = structure.name
    try:
        ours = mask_of_region(structure.region, grid).placed_in(grid).array
    except FrameMismatch as error:
        return Opinion(name, remark=Remark("second_opinion", f"has no mask to compare: {error.what}", name))
    try:
        theirs = other.get_roi_mask_by_name(name).transpose(2, 0, 1)
    except Exception as error:
        return Opinion(name, remark=Remark("second_opinion", f"rt-utils cannot read it: {type(error).__name__}", name))
    dice = 2.0 * float((ours & theirs).sum()) / max(1.0, float(ours.sum() + theirs.sum()))
    more = theirs & ~binary_dilation(ours, _NEIGHBOURS)
    less = binary_erosion(ours, _NEIGHBOURS, border_value=1) & ~theirs
    if not (beyond := int(more.sum() + less.sum())):
        return Opinion(name, dice)
    said = f"rt-utils reads {beyond} voxels otherwise, more than a pixel from the contour (Dice {dice:.3f})"
    return Opinion(name, dice, Remark("second_opinion", said, name))
