"""The sample patient as a planning CT in DICOM: made by code, the same for the same seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import astuple
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid
from scipy import ndimage

from data_samples.anatomy import FIELD_OF_VIEW, LENGTH, Plane, Truth, grow_vessels, paint
from patient.geometry import Geometry

NOISE = 14.0
"""HU, standard deviation after the reconstruction's smoothing."""


def sample_geometry(slices: int = 220, size: int = 256) -> Geometry:
    """The grid of the sample CT: 500 mm of field of view, 550 mm of patient, whatever the numbers."""
    pixel, step = FIELD_OF_VIEW / size, LENGTH / slices
    origin = (-FIELD_OF_VIEW / 2 + pixel / 2, -FIELD_OF_VIEW / 2 + pixel / 2, -300.0)
    return Geometry((slices, size, size), (round(step, 6), pixel, pixel), origin)


def planes(slices: int = 220, size: int = 256, seed: int = 0) -> Iterator[tuple[NDArray[np.int16], Truth]]:
    """HU `[y, x]` and truth of each plane, from the feet up."""
    geometry = sample_geometry(slices, size)
    at = (np.arange(size, dtype=np.float32) + 0.5) * np.float32(geometry.spacing[1]) - np.float32(FIELD_OF_VIEW / 2)
    y, x = np.meshgrid(at, at, indexing="ij")
    rng, vessels = np.random.default_rng(seed), grow_vessels(seed)
    for k in range(slices):
        plane = Plane(
            np.full((size, size), -1000.0, dtype=np.float32), x, y, (k + 0.5) * LENGTH / slices, geometry.spacing[1]
        )
        truth = paint(plane, vessels)
        noise = ndimage.gaussian_filter(rng.standard_normal((size, size), dtype=np.float32), 0.7)
        hu = plane.hu + noise * np.float32(NOISE / max(float(noise.std()), 1e-6))
        yield np.clip(np.rint(hu), -1024, 3071).astype(np.int16), truth


def truth_masks(slices: int = 220, size: int = 256) -> dict[str, NDArray[np.bool_]]:
    """Masks `[z, y, x]` of what is known: External, Lung_L, Lung_R, SpinalCanal, Trachea."""
    names = ("External", "Lung_L", "Lung_R", "SpinalCanal", "Trachea")
    masks = {name: np.zeros((slices, size, size), dtype=bool) for name in names}
    for k, (_, truth) in enumerate(planes(slices, size)):
        for name, inside in zip(names, astuple(truth), strict=True):
            masks[name][k] = inside > 0
    return masks


def write_sample(
    folder: Path, *, slices: int = 220, size: int = 256, seed: int = 0, progress: Callable[[float], None] = lambda done: None
) -> None:
    """Write the sample CT, one file a plane.

    Args:
        folder: made where it is not there.
        slices: planes over the 550 mm of the patient.
        size: rows and columns of a plane, over 500 mm.
        seed: of noise and vessels.
        progress: called with the part that is done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    geometry = sample_geometry(slices, size)
    for k, (hu, _) in enumerate(planes(slices, size, seed)):
        dataset = _dataset(geometry, k, (slices, size, seed))
        dataset.PixelData = (hu.astype(np.int32) + 1024).astype("<u2").tobytes()
        dataset.save_as(folder / f"CT{k:04d}.dcm", enforce_file_format=True)
        progress((k + 1) / slices)


def _dataset(geometry: Geometry, k: int, kind: tuple[int, int, int]) -> Dataset:
    """A plane's attributes (CT Image IOD, PS3.3 A.3)."""
    d, meta = Dataset(), FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    d.file_meta = meta
    d.SpecificCharacterSet = "ISO_IR 192"
    d.SOPClassUID = meta.MediaStorageSOPClassUID = CTImageStorage
    d.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = _uid(kind, "plane", k)
    d.StudyInstanceUID, d.SeriesInstanceUID, d.FrameOfReferenceUID = (
        _uid(kind, what) for what in ("study", "series", "frame")
    )
    d.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    d.StudyDate = d.SeriesDate = d.AcquisitionDate = d.ContentDate = "20260102"
    d.StudyTime = d.SeriesTime = d.AcquisitionTime = d.ContentTime = "083000"
    d.AccessionNumber = d.ReferringPhysicianName = d.PatientBirthDate = d.PositionReferenceIndicator = ""
    d.Modality, d.Manufacturer, d.PatientName, d.PatientID, d.PatientSex = (
        "CT",
        "recontour sample",
        "Sample^Patient",
        "SAMPLE",
        "O",
    )
    d.SeriesDescription, d.BodyPartExamined, d.PatientPosition = "Synthetic planning CT", "HEADNECK", "HFS"
    d.StudyID, d.SeriesNumber, d.AcquisitionNumber, d.InstanceNumber, d.KVP = "1", 1, 1, k + 1, 120
    x, y, z = geometry.points((k, 0, 0))
    d.ImagePositionPatient = [f"{x:.4f}", f"{y:.4f}", f"{z:.4f}"]
    d.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    d.PixelSpacing = [f"{v:.6f}" for v in geometry.spacing[1:]]
    d.SliceThickness = f"{geometry.spacing[0]:.4f}"
    d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
    d.Rows, d.Columns = geometry.shape[1:]
    d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 16, 15, 0
    d.RescaleIntercept, d.RescaleSlope, d.RescaleType = -1024, 1, "HU"
    return d


def _uid(kind: tuple[int, int, int], *what: object) -> UID:
    return generate_uid(entropy_srcs=["recontour sample", *map(str, kind), *map(str, what)])
