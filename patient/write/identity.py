"""What a new object takes over from its image: byte for byte, so that it lands in the same patient and study."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

import pydicom
from pydicom.charset import convert_encodings, default_encoding
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import UID, ImplicitVRLittleEndian, generate_uid

from patient.made_here import SOFTWARE
from patient.series import ImageSeries

COPIED = (
    "SpecificCharacterSet",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
    "StudyDescription",
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "OtherPatientIDs",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "StudyInstanceUID",
    "StudyID",
    "PositionReferenceIndicator",
)
"""Of the Patient, General Study, Patient Study and Frame of Reference modules (PS3.3 C.7.1.1, C.7.2.1, C.7.2.2, C.7.4.1)."""
EMPTY_WHERE_UNKNOWN = (
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyID",
    "PositionReferenceIndicator",
)
"""Type 2: present, empty if unknown."""
IMPLEMENTATION_UID = UID("1.2.826.0.1.3680043.8.498.7264501983")


def new_object(
    image: ImageSeries, sop_class_uid: str, modality: str, *, series_description: str, number: int, version: str
) -> Dataset:
    """A dataset of a new series in the image's study, with fresh instance and series UIDs and the image's identity.

    Args:
        image: patient, study and frame of reference are copied from it as raw bytes.
        sop_class_uid: what it becomes.
        modality: RTSTRUCT, REG, RTDOSE.
        series_description: at most 64 characters.
        number: Series Number (`patient.write.series_number`).
        version: of the software, as it will stand in Software Versions.
    """
    now = datetime.now()
    dataset = Dataset()
    for keyword in COPIED:
        if Tag(keyword) in image.identity:
            dataset[keyword] = image.identity.get_item(keyword)
    for keyword in EMPTY_WHERE_UNKNOWN:
        if keyword not in dataset:
            setattr(dataset, keyword, "")
    if not dataset.get("StudyInstanceUID"):
        dataset.StudyInstanceUID = generate_uid(entropy_srcs=[image.series_uid, "study"])
    dataset.SOPClassUID = sop_class_uid
    dataset.SOPInstanceUID = generate_uid()
    dataset.InstanceCreationDate = now.strftime("%Y%m%d")
    dataset.InstanceCreationTime = now.strftime("%H%M%S")
    dataset.Modality = modality
    dataset.SeriesInstanceUID = generate_uid()
    dataset.SeriesNumber = number
    dataset.SeriesDescription = series_description
    dataset.SeriesDate, dataset.SeriesTime = dataset.InstanceCreationDate, dataset.InstanceCreationTime
    dataset.OperatorsName = ""
    dataset.Manufacturer = dataset.ManufacturerModelName = SOFTWARE
    dataset.DeviceSerialNumber = "1"
    dataset.SoftwareVersions = version
    dataset.FrameOfReferenceUID = frame_of_reference(image)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = UID(sop_class_uid)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.ImplementationClassUID = IMPLEMENTATION_UID
    dataset.file_meta.ImplementationVersionName = f"RECONTOUR_{version}"[:16]
    return dataset


def frame_of_reference(image: ImageSeries) -> str:
    """The image's frame; where it names none, one that depends on its series alone."""
    return image.geometry.frame_of_reference or generate_uid(entropy_srcs=[image.series_uid, "frame of reference"])


def keep_raw(dataset: Dataset) -> None:
    """Let elements that are still raw bytes be written as those bytes, in this dataset and its sequences.

    True for all that was read in little endian: in Implicit VR a text or number has the same bytes as in Explicit VR.
    Without this they would be decoded and encoded again, digits and characters with them.
    """
    _, little_endian = dataset.original_encoding
    if little_endian is False:
        return
    characters = dataset.get("SpecificCharacterSet")
    made_here = default_encoding if not dataset.original_character_set else None
    dataset.set_original_encoding(True, True, convert_encodings(characters) if characters else made_here)
    for element in dataset.elements():
        if isinstance(element.value, Sequence):
            for item in element.value:
                keep_raw(item)


def write_new(path: Path, dataset: Dataset) -> str:
    """Write a new object whole and synced to disk, what was read in the bytes it was read in; its SOP Instance UID.

    Raises:
        FileExistsError: something is there already.
    """
    keep_raw(dataset)
    with path.open("xb") as file:
        pydicom.dcmwrite(file, dataset, enforce_file_format=True)  # pyright: ignore[reportUnknownMemberType]
        file.flush()
        os.fsync(file.fileno())
    return str(dataset.SOPInstanceUID)
