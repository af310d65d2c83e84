"""The DICOM identity of an image, and how to load its pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from patient.geometry import Geometry
from patient.volume import Volume


@dataclass(frozen=True)
class Instance:
    """One plane of an image: a file, or one frame (counted from 1) of a multi-frame file."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    frame: int | None = None


@dataclass(frozen=True, eq=False)
class ImageSeries:
    """A CT, MR or CBCT whose planes are known, complete, parallel and in order.

    Args:
        instances: one a plane, in the order of the geometry's k axis.
        geometry: places every voxel; k runs along the normal of the planes (rows x columns).
        header: the first plane's attributes without pixels; identity is copied from it byte for byte.
        pixels: loads the pixels as int16 HU `[z, y, x]` (float32 where the rescale is not whole). Raises PixelDataError.
        notes: what was odd about the series and tolerated, in words for the report.
    """

    instances: tuple[Instance, ...]
    geometry: Geometry
    header: Dataset = field(repr=False)
    pixels: Callable[[], np.ndarray] = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def modality(self) -> str:
        return str(self.header.get("Modality", ""))

    @property
    def series_uid(self) -> str:
        return str(self.header.get("SeriesInstanceUID", ""))

    @property
    def study_uid(self) -> str:
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
            PixelDataError: missing, cut short, or in an encoding that cannot be read.
        """
        return Volume(self.pixels(), self.geometry)
