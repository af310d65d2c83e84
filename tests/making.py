"""Real DICOM for tests: small CT series with any orientation and any fault."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

DATA = Path(os.environ.get("RECONTOUR_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))

POSES = {
    "HFS": ((1, 0, 0), (0, 1, 0)),
    "HFP": ((-1, 0, 0), (0, -1, 0)),
    "FFS": ((-1, 0, 0), (0, 1, 0)),
    "FFP": ((1, 0, 0), (0, -1, 0)),
    "HFDR": ((0, 1, 0), (-1, 0, 0)),
    "HFDL": ((0, -1, 0), (1, 0, 0)),
    "FFDR": ((0, 1, 0), (1, 0, 0)),
    "FFDL": ((0, -1, 0), (-1, 0, 0)),
}


def ct_dataset(
    hu: np.ndarray, k: int, *, pose: str = "HFS", spacing=(2.5, 1.5, 1.5), origin=(-90.0, -110.0, 40.0), tag="t"
) -> Dataset:
    """One plane of a CT series."""
    row, column = (np.array(v, float) for v in POSES[pose])
    d, meta = Dataset(), FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = d.SOPClassUID = CTImageStorage
    d.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[tag, str(k)])
    d.file_meta = meta
    d.SpecificCharacterSet, d.Modality, d.ImageType = "ISO_IR 192", "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    d.StudyInstanceUID, d.SeriesInstanceUID, d.FrameOfReferenceUID = (generate_uid(entropy_srcs=[tag, w]) for w in "abc")
    d.StudyDate = d.SeriesDate = d.AcquisitionDate = "20260101"
    d.StudyTime, d.AccessionNumber, d.ReferringPhysicianName, d.PatientBirthDate, d.PatientSex = "080000", "", "", "", "O"
    d.PatientName, d.PatientID, d.StudyID, d.SeriesNumber, d.InstanceNumber = "Test^Person", "T1", "1", 1, k + 1
    d.PositionReferenceIndicator, d.KVP, d.AcquisitionNumber, d.PatientPosition = "", "120", 1, pose
    d.ImageOrientationPatient = [*row, *column]
    d.ImagePositionPatient = [f"{v:.6f}" for v in np.array(origin) + np.cross(row, column) * spacing[0] * k]
    d.PixelSpacing, d.SliceThickness = [spacing[1], spacing[2]], spacing[0]
    d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
    d.Rows, d.Columns = hu.shape
    d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 16, 15, 0
    d.RescaleIntercept, d.RescaleSlope, d.RescaleType = -1024, 1, "HU"
    d.PixelData = (hu.astype(np.int32) + 1024).astype("<u2").tobytes()
    return d


def write_ct(folder: Path, hu: np.ndarray, change: Callable[[int, Dataset], None] = lambda k, d: None, **how) -> Path:
    """A CT series in files of no useful order; `change` may spoil each plane."""
    folder.mkdir(parents=True, exist_ok=True)
    for k, plane in enumerate(hu):
        dataset = ct_dataset(plane, k, **how)
        change(k, dataset)
        dataset.save_as(folder / f"{(k * 37) % 1000:03d}-{k}.dcm", enforce_file_format=True)
    return folder


def phantom(shape=(12, 40, 48)) -> np.ndarray:
    """Air, a body and something in it, off centre so that a flip shows."""
    z, y, x = np.meshgrid(*[(np.arange(n) + 0.5) / n for n in shape], indexing="ij")
    hu = np.full(shape, -1000, np.int16)
    hu[((x - 0.45) / 0.4) ** 2 + ((y - 0.5) / 0.35) ** 2 < 1] = 40
    hu[((x - 0.3) / 0.1) ** 2 + ((y - 0.4) / 0.1) ** 2 + ((z - 0.6) / 0.3) ** 2 < 1] = 900
    return hu


def spoiled(data: bytes, rng: random.Random) -> bytes:
    """Bytes flipped, a piece cut out, the end cut off, a VR exchanged, a length made up."""
    out = bytearray(data)
    kind = rng.randrange(5)
    at = rng.randrange(132, len(out) - 8)
    if kind == 0:
        for _ in range(rng.randrange(1, 12)):
            out[rng.randrange(132, len(out))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del out[at : at + rng.randrange(1, 200)]
    elif kind == 2:
        del out[at:]
    elif kind == 3:
        vrs = [b"DS", b"IS", b"US", b"UI", b"LO", b"PN", b"SH", b"CS", b"DA"]
        places = [i for i in range(132, len(out)) if bytes(out[i : i + 2]) in vrs]
        spot = rng.choice(places or [at])
        out[spot : spot + 2] = rng.choice([b"FD", b"US", b"SQ", b"AT", b"XX", b"UN", b"OB", b"DS", b"\x00\xff"])
    else:
        out[at : at + 4] = struct.pack("<I", rng.choice([0xFFFFFFFF, 0x7FFFFFFF, 1, 0]))
    return bytes(out)
