"""One file's header: is it DICOM, and what is it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from patient.errors import NotDicom, RecontourError

CHARACTER_SET = Tag(0x00080005)
_IDENTITY_GROUPS = (0x0008, 0x0010, 0x0020)
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x08")


@dataclass(frozen=True, eq=False)
class Header:
    """A file's attributes up to its pixels.

    Args:
        path: where it lies.
        dataset: attributes before Pixel Data.
        transfer_syntax: from the file meta; Implicit VR Little Endian where the file has none.
        pixel_offset: byte of the file at which the values of native (not compressed) Pixel Data begin; None if unknown.
        pixel_bytes: their length as the element says.
        identity: the patient's, study's and equipment's elements as raw bytes, for copying byte for byte.
    """

    path: Path
    dataset: Dataset = field(repr=False)
    transfer_syntax: UID
    pixel_offset: int | None
    pixel_bytes: int
    identity: Dataset = field(repr=False)

    def text(self, keyword: str) -> str:
        """An attribute as text, stripped; empty where absent."""
        value = self.dataset.get(keyword)
        return "" if value is None else str(value).strip()


def read_header(path: Path) -> Header:
    """Read one file's header; its pixels stay where they are.

    Files without preamble or file meta are read where what follows looks like DICOM.

    Raises:
        NotDicom: not a DICOM file, empty, unreadable or malformed beyond its first attributes.
    """
    try:
        with path.open("rb") as file:
            dataset = _parse(file, path)
            syntax = _transfer_syntax(dataset)
            offset, length = (None, 0) if syntax.is_deflated else _pixel_element(file, syntax)
        identity = _raw_copy(dataset)
        _ = dataset.get("SOPClassUID"), dataset.get("Modality")
    except RecontourError:
        raise
    except OSError as error:
        raise NotDicom(f"Cannot be read: {error.strerror}", where=path.name) from error
    except Exception as error:  # a parser that is fed arbitrary bytes raises whatever its parts do
        raise NotDicom("Not a DICOM file, or malformed", where=path.name) from error
    if "SOPClassUID" not in dataset and "Modality" not in dataset:
        raise NotDicom("Holds no SOP Class UID and no Modality", where=path.name)
    return Header(path, dataset, syntax, offset, length, identity)


def _parse(file: BinaryIO, path: Path) -> Dataset:
    start = file.read(132)
    file.seek(0)
    if not start:
        raise NotDicom("Empty file", where=path.name)
    if start[128:] == b"DICM":
        return pydicom.dcmread(file, stop_before_pixels=True)
    # Without a preamble nothing says "DICOM": the first tag must be of a group that begins such files.
    if start[:2] not in _FIRST_GROUPS or len(start) < 16:
        raise NotDicom("Not a DICOM file", where=path.name)
    return pydicom.dcmread(file, stop_before_pixels=True, force=True)


def _transfer_syntax(dataset: Dataset) -> UID:
    meta = getattr(dataset, "file_meta", None)
    said = meta.get("TransferSyntaxUID") if meta is not None else None
    if said:
        return UID(said)
    implicit, little = getattr(dataset, "original_encoding", (True, True))
    if implicit is None or implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def _pixel_element(file: BinaryIO, syntax: UID) -> tuple[int | None, int]:
    """Offset and length of native Pixel Data's values, with the file standing at the element."""
    if syntax.is_compressed:
        return None, 0
    order: Literal["little", "big"] = "little" if syntax.is_little_endian else "big"
    at = file.tell()
    lead = file.read(12)
    tag = (int.from_bytes(lead[0:2], order), int.from_bytes(lead[2:4], order))
    if len(lead) < 8 or tag != (0x7FE0, 0x0010):
        return None, 0
    if syntax.is_implicit_VR:
        return at + 8, int.from_bytes(lead[4:8], order)
    return at + 12, int.from_bytes(lead[8:12], order)


def _raw_copy(dataset: Dataset) -> Dataset:
    """The elements of the identifying groups as they stood in the file, and how their characters are to be read."""
    copy = Dataset()
    for tag in map(BaseTag, dataset.keys()):
        element = dataset.get_item(tag)
        if tag == CHARACTER_SET or (tag.group in _IDENTITY_GROUPS and isinstance(element, RawDataElement)):
            copy[tag] = element
    return copy
