"""The planes of an image: where each lies and how its numbers become HU, from single-frame files or multi-frame ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from patient.errors import PixelDataError, UnsupportedGeometry
from patient.read.headers import Header

RIGHT_ANGLE = 1e-3
"""Row and column directions are perpendicular within this cosine; more is a header that cannot be trusted."""


@dataclass(frozen=True, eq=False)
class Plane:
    """One plane. `axes` are the unit vectors of increasing row index and of increasing column index (LPS)."""

    header: Header = field(repr=False)
    frame: int | None
    position: NDArray[np.float64]
    axes: NDArray[np.float64]
    spacing: tuple[float, float]
    rows: int
    columns: int
    slope: float
    intercept: float

    @property
    def normal(self) -> NDArray[np.float64]:
        """Rows x columns: the direction in which planes are counted."""
        return np.cross(self.axes[1], self.axes[0])

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
    dataset = header.dataset
    if not dataset.get("Rows") or not dataset.get("Columns"):
        raise PixelDataError("Has no pixels", where=header.path.name)
    if "PerFrameFunctionalGroupsSequence" not in dataset:
        if int(dataset.get("NumberOfFrames") or 1) > 1:
            raise UnsupportedGeometry("Several frames without a place for each", where=header.path.name)
        yield plane_of(header, None, (dataset,))
        return
    shared = list(dataset.get("SharedFunctionalGroupsSequence") or [])[:1]
    for number, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence, start=1):
        yield plane_of(header, number, (frame, *shared))


_GROUPS = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
}


def _value(keyword: str, places: tuple[Dataset, ...]) -> Any:
    for place in places:
        for holder in (place, *(place.get(_GROUPS[keyword]) or [])):
            if (value := holder.get(keyword)) not in (None, ""):
                return value
    return None


def _numbers(keyword: str, count: int, header: Header, places: tuple[Dataset, ...]) -> NDArray[np.float64]:
    value = _value(keyword, places)
    try:
        numbers = np.array([float(v) for v in value], dtype=np.float64)
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise UnsupportedGeometry(
            f"{keyword} is missing or malformed",
            where=header.path.name,
            why="Its voxels cannot be placed in the patient",
            remedy="Export the series again",
        )
    return numbers


def plane_of(header: Header, frame: int | None, places: tuple[Dataset, ...]) -> Plane:
    """The plane that a header describes.

    Args:
        frame: its number in a multi-frame file, from 1; None where there are no frames.
        places: where to look for its attributes, first found first taken.

    Raises:
        UnsupportedGeometry: position, orientation or spacing is missing or makes no sense.
    """
    position = _numbers("ImagePositionPatient", 3, header, places)
    cosines = _numbers("ImageOrientationPatient", 6, header, places).reshape(2, 3)
    down, across = (float(v) for v in _numbers("PixelSpacing", 2, header, places))
    lengths = np.linalg.norm(cosines, axis=1)
    if np.abs(lengths - 1).max() > 0.01 or abs(cosines[0] @ cosines[1]) > RIGHT_ANGLE or min(down, across) <= 0:
        raise UnsupportedGeometry(
            f"Row and column directions are not perpendicular unit vectors, or spacing is not positive ({down} x {across})",
            where=header.path.name,
            why="Its voxels cannot be placed in the patient",
        )
    along_row = cosines[0] / lengths[0]
    along_column = cosines[1] - (cosines[1] @ along_row) * along_row
    axes = np.array([along_column / np.linalg.norm(along_column), along_row])
    slope, intercept = _value("RescaleSlope", places), _value("RescaleIntercept", places)
    return Plane(
        header,
        frame,
        position,
        axes,
        (down, across),
        int(header.dataset.Rows),
        int(header.dataset.Columns),
        1.0 if slope is None else float(slope),
        0.0 if intercept is None else float(intercept),
    )
