"""The planes of an image: where each lies and how its numbers become HU, from single-frame files or multi-frame ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import cast

import numpy as np
from numpy.typing import NDArray

from patient.errors import PixelDataError, UnsupportedGeometry
from patient.read.attributes import Attributes
from patient.read.headers import Header

RIGHT_ANGLE = 1e-3
"""Row and column directions are perpendicular within this cosine; more is a header that cannot be trusted."""


@dataclass(frozen=True, eq=False)
class Plane:
    """One plane. `axes` are the unit vectors of increasing row index and of increasing column index (LPS).

    `slope`, `intercept` and `unit` (Rescale Type) say what its stored values mean; None and empty where the header does not.
    """

    header: Header = field(repr=False)
    frame: int | None
    position: NDArray[np.float64]
    axes: NDArray[np.float64]
    spacing: tuple[float, float]
    rows: int
    columns: int
    slope: float | None
    intercept: float | None
    unit: str = ""

    @property
    def normal(self) -> NDArray[np.float64]:
        """Rows x columns: the direction in which planes are counted."""
        return cast("NDArray[np.float64]", np.cross(self.axes[1], self.axes[0]))

    @property
    def name(self) -> str:
        """The file's name, with the frame where it has several; for messages."""
        return self.header.path.name + (f" frame {self.frame}" if self.frame else "")


def planes_of(header: Header) -> Iterator[Plane]:
    """The planes that a file holds (PS3.3 C.7.6.2; multi-frame: C.7.6.16 functional groups, shared or per frame).

    Raises:
        UnsupportedGeometry: position, orientation or spacing is missing or makes no sense.
        PixelDataError: the file has no pixels.
    """
    with header.reading():
        attributes = Attributes.of(header)
        if header.whole_number("Rows") <= 0 or header.whole_number("Columns") <= 0:
            raise PixelDataError("Has no pixels", where=header.path.name)
        frames = attributes.items("PerFrameFunctionalGroupsSequence")
        if not frames:
            if header.whole_number("NumberOfFrames", 1) > 1:
                raise UnsupportedGeometry("Several frames without a place for each", where=header.path.name)
            yield plane_of(header, None, (attributes,))
            return
        shared = attributes.items("SharedFunctionalGroupsSequence")[:1]
        for number, frame in enumerate(frames, start=1):
            yield plane_of(header, number, (frame, *shared))


_GROUPS = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
    "RescaleType": "PixelValueTransformationSequence",
}


def _holder(keyword: str, places: Sequence[Attributes]) -> Attributes:
    """The first of the places, or of their functional groups, that has the attribute; the last place where none has."""
    for place in places:
        if place.has(keyword):
            return place
        if holder := next((item for item in place.items(_GROUPS[keyword]) if item.has(keyword)), None):
            return holder
    return places[-1]


def _numbers(keyword: str, count: int, places: Sequence[Attributes]) -> list[float]:
    holder = _holder(keyword, places)
    if not (numbers := holder.numbers(keyword, count)):
        raise UnsupportedGeometry(
            f"{keyword} is missing",
            where=holder.where,
            why="Its voxels cannot be placed in the patient",
            remedy="Export the series again",
        )
    return numbers


@lru_cache(maxsize=64)
def _axes(cosines: tuple[float, ...]) -> NDArray[np.float64] | None:
    """`Plane.axes` of an Image Orientation; None where its directions are no perpendicular unit vectors.

    The planes of an image share one as a rule, and with it the array.
    """
    row, column = np.array(cosines).reshape(2, 3)
    lengths = np.linalg.norm((row, column), axis=1)
    if np.abs(lengths - 1).max() > 0.01 or abs(row @ column) > RIGHT_ANGLE:
        return None
    along_row = row / lengths[0]
    along_column = column - (column @ along_row) * along_row
    axes = np.array([along_column / np.linalg.norm(along_column), along_row])
    axes.flags.writeable = False
    return axes


def plane_of(header: Header, frame: int | None, places: Sequence[Attributes]) -> Plane:
    """The plane that a header describes.

    Args:
        frame: its number in a multi-frame file, from 1; None where there are no frames.
        places: where to look for its attributes, first found first taken.

    Raises:
        UnsupportedGeometry: position, orientation or spacing is missing or makes no sense.
        InputError: an attribute is malformed.
    """
    position = np.array(_numbers("ImagePositionPatient", 3, places))
    axes = _axes(tuple(_numbers("ImageOrientationPatient", 6, places)))
    down, across = _numbers("PixelSpacing", 2, places)
    if axes is None or min(down, across) <= 0:
        raise UnsupportedGeometry(
            f"Row and column directions are not perpendicular unit vectors, or spacing is not positive ({down} x {across})",
            where=header.path.name,
            why="Its voxels cannot be placed in the patient",
        )
    return Plane(
        header,
        frame,
        position,
        axes,
        (down, across),
        header.whole_number("Rows"),
        header.whole_number("Columns"),
        _holder("RescaleSlope", places).number("RescaleSlope"),
        _holder("RescaleIntercept", places).number("RescaleIntercept"),
        _holder("RescaleType", places).text("RescaleType").upper(),
    )
