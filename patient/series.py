"""The DICOM identity of an image, and how to load its pixels."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from patient.geometry import Geometry, Triple
from patient.volume import Volume

PATIENT_POSITIONS = frozenset(
    f"{first}{side}" for first in ("HF", "FF", "LF", "RF", "AF", "PF") for side in ("S", "P", "DR", "DL")
)
"""Defined terms of Patient Position (PS3.3 C.7.3.1.1.2)."""


@dataclass(frozen=True)
class Instance:
    """One plane of an image: a file, or one frame (counted from 1) of a multi-frame file.

    `position` is the plane's own Image Position (LPS mm): by rounding or jitter it may lie a little off the regular grid,
    and loops are written on it, not on the grid.
    """

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    position: Triple
    frame: int | None = None


@dataclass(frozen=True, eq=False)
class Pixels:
    """An image's pixels `[z, y, x]` in HU (CT) or in the stored unit, and what was odd about them, in words.

    `notes` were tolerated; for `doubts` a person has to look.
    """

    array: np.ndarray
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class ImageSeries:
    """A CT, MR or CBCT whose planes are known, complete, parallel and in order.

    Args:
        instances: one a plane, in the order of the geometry's k axis.
        geometry: places every voxel; k runs along the normal of the planes (rows x columns).
        header: the first plane's attributes without pixels.
        identity: the patient's and study's elements as raw bytes, to be copied byte for byte.
        series_uid: Series Instance UID; made from what the files share where they have none.
        pixels: loads the pixels as int16 HU `[z, y, x]` (float32 where the rescale is not whole). Raises PixelDataError.
        notes: what was odd about the series and tolerated, in words for the report.
        doubts: why the image may not be all that was scanned, or not as it was: what is made of it has to be reviewed.
    """

    instances: tuple[Instance, ...]
    geometry: Geometry
    header: Dataset = field(repr=False)
    identity: Dataset = field(repr=False)
    series_uid: str
    pixels: Callable[[], Pixels] = field(repr=False)
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()

    @property
    def modality(self) -> str:
        """CT, MR, ... (0008,0060); empty where the header does not say."""
        return str(self.header.get("Modality", ""))

    @property
    def acquired(self) -> str:
        """Day of the acquisition (`YYYYMMDD`), or else of its series or study; empty where the header has no such date."""
        said = (str(self.header.get(k) or "").strip() for k in ("AcquisitionDate", "SeriesDate", "StudyDate"))
        return next((day for day in said if re.fullmatch(r"[0-9]{8}", day)), "")

    @property
    def study_uid(self) -> str:
        """Study Instance UID; empty where the header does not say."""
        return str(self.header.get("StudyInstanceUID", ""))

    @property
    def patient_id(self) -> str:
        """For inside a case's own folder only: never in logs, nor in a path."""
        return str(self.header.get("PatientID", ""))

    @property
    def patient_position(self) -> str:
        """HFS, FFP, ...; empty where the header does not say. Voxels are placed without it."""
        return str(self.header.get("PatientPosition", ""))

    def load(self) -> Volume[np.generic]:
        """The pixels in HU on the series' geometry. Read on every call, kept by nobody.

        Raises:
            PixelDataError: missing, cut short, not in HU, or in an encoding that cannot be read.
        """
        return self.loaded()[0]

    def loaded(self) -> tuple[Volume[np.generic], ImageSeries]:
        """The pixels as `load`, and this series with what they showed among its notes and doubts."""
        pixels = self.pixels()
        known = replace(self, notes=(*self.notes, *pixels.notes), doubts=(*self.doubts, *pixels.doubts))
        return Volume(pixels.array, self.geometry), known
