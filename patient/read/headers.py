"""One file's header: is it DICOM, and what is it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal, cast

import pydicom
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from patient.errors import NotDicom
from patient.read.attributes import Attributes
from patient.read.inflate import Inflating
from patient.read.reading import reading

NEVER_CLAIMED = "Not a DICOM file"
"""What is said of a file that does not begin like one."""
MODALITIES = frozenset(
    ("CT", "MR", "PT", "NM", "US", "XA", "CR", "DX", "MG", "RF", "SEG", "SR", "KO", "PR", "OT", "SC")
    + ("RTIMAGE", "RTSTRUCT", "RTPLAN", "RTDOSE", "RTRECORD", "REG")
)
"""That messages and pages may name."""
CHARACTER_SET = Tag(0x00080005)
_IDENTITY_GROUPS = (0x0008, 0x0010, 0x0020)
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x08")
_PIXEL_DATA = 0x7FE00010
_PIXELS = (0x7FE00008, 0x7FE00009, _PIXEL_DATA)
_META_BEGINS = 132


@dataclass(frozen=True, eq=False)
class Header:
    """A file's attributes up to its pixels.

    Args:
        path: where it lies.
        dataset: attributes before Pixel Data.
        transfer_syntax: from the file meta; Implicit VR Little Endian where the file has none.
        pixel_offset: byte at which the values of native (not compressed) Pixel Data begin, in the file or in what a deflated
            one inflates to; None if unknown.
        pixel_bytes: their length as the element says.
        identity: the patient's, study's and equipment's elements as raw bytes, for copying byte for byte.
        has_pixels: whether Pixel Data, of whatever encoding, follows.
    """

    path: Path
    dataset: Dataset = field(repr=False)
    transfer_syntax: UID
    pixel_offset: int | None
    pixel_bytes: int
    identity: Dataset = field(repr=False)
    has_pixels: bool = True
    _texts: dict[str, str] = field(default_factory=dict[str, str], init=False, repr=False)
    _whole_numbers: dict[str, int | None] = field(default_factory=dict[str, int | None], init=False, repr=False)

    def text(self, keyword: str) -> str:
        """An attribute as text, without padding; empty where absent, as it stands where it is malformed."""
        if keyword not in self._texts:
            self._texts[keyword] = self._read_text(keyword)
        return self._texts[keyword]

    def whole_number(self, keyword: str, default: int = 0) -> int:
        """A whole number; the default where it is absent or empty.

        Raises:
            InputError: it is malformed.
        """
        if keyword not in self._whole_numbers:
            self._whole_numbers[keyword] = Attributes(self.dataset, self.path.name, []).integer(keyword)
        said = self._whole_numbers[keyword]
        return default if said is None else said

    def _read_text(self, keyword: str) -> str:
        try:
            value = self.dataset.get(keyword)
        except Exception:  # pydicom converts when asked; malformed bytes fail in as many ways as there are types
            raw = cast("DataElement | None", self.dataset.get_item(keyword))
            value = raw.value.decode("ascii", "replace") if raw is not None and isinstance(raw.value, bytes) else ""
        return "" if value is None else str(value).strip(" \t\r\n\0")

    def reading(self) -> AbstractContextManager[None]:
        """Within it, whatever is raised becomes this file's InputError."""
        return reading(self.path)

    def pixel_values(self, count: int) -> bytes:
        """The first `count` bytes of native Pixel Data; fewer where the file ends before."""
        with self.path.open("rb") as file, self.reading():
            stream = _inflating(file, self.path)[1] if self.transfer_syntax.is_deflated else file
            stream.seek(self.pixel_offset or 0)
            return stream.read(count)


def read_header(path: Path) -> Header:
    """Read one file's header; its pixels stay where they are, and what is deflated is inflated no further.

    Files without preamble or file meta are read where what follows looks like DICOM.

    Raises:
        NotDicom: not a DICOM file, empty, unreadable, cut short or malformed beyond its first attributes.
        InputError: expands beyond all measure.
    """
    with reading(path), path.open("rb") as file:
        dataset, stream = _parse(file, path)
        syntax = _transfer_syntax(dataset)
        offset, length, found = _pixel_element(stream, syntax)
        _refuse_cut(dataset, path)
        if "SOPClassUID" not in dataset and "Modality" not in dataset:
            raise NotDicom("Holds no SOP Class UID and no Modality", where=path.name)
        return Header(path, dataset, syntax, offset, length, _raw_copy(dataset), found)


def _parse(file: BinaryIO, path: Path) -> tuple[Dataset, BinaryIO]:
    """The dataset before its pixels, and the stream that stands there."""
    start = file.read(1024)
    file.seek(0)
    if not start:
        raise NotDicom("Empty file", where=path.name)
    claims = start[128:_META_BEGINS] == b"DICM"
    # Without a preamble nothing says "DICOM": the first tag must be of a group that begins such files.
    if not claims and (start[:2] not in _FIRST_GROUPS or len(start) < 16):
        raise NotDicom(NEVER_CLAIMED, where=path.name)
    if claims and DeflatedExplicitVRLittleEndian.encode() in start:
        meta, stream = _inflating(file, path)
        if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            dataset = read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag in _PIXELS)
            return FileDataset(str(path), dataset, None, meta, is_implicit_VR=False, is_little_endian=True), stream
        file.seek(0)
    return pydicom.dcmread(file, stop_before_pixels=True, force=not claims), file  # pyright: ignore[reportUnknownMemberType]


def _inflating(file: BinaryIO, path: Path) -> tuple[FileMetaDataset, BinaryIO]:
    """The file meta of a deflated file, and the rest of it as it was before it was deflated."""
    file.seek(_META_BEGINS)
    meta = FileMetaDataset(read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2))
    return meta, cast(BinaryIO, Inflating(file, path.name))


def _transfer_syntax(dataset: Dataset) -> UID:
    meta = getattr(dataset, "file_meta", None)
    said = meta.get("TransferSyntaxUID") if meta is not None else None
    if said:
        return UID(said)
    implicit, little = getattr(dataset, "original_encoding", (True, True))
    if implicit is None or implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def _pixel_element(file: BinaryIO, syntax: UID) -> tuple[int | None, int, bool]:
    """Offset and length of native Pixel Data's values, and whether there are any, with the file standing at the element."""
    order: Literal["little", "big"] = "little" if syntax.is_little_endian else "big"
    at = file.tell()
    lead = file.read(12)
    tag = (int.from_bytes(lead[0:2], order) << 16) + int.from_bytes(lead[2:4], order)
    if len(lead) < 8 or tag not in _PIXELS:
        return None, 0, False
    if tag != _PIXEL_DATA or (syntax.is_compressed and not syntax.is_deflated):
        return None, 0, True
    if syntax.is_implicit_VR:
        return at + 8, int.from_bytes(lead[4:8], order), True
    return at + 12, int.from_bytes(lead[8:12], order), True


def _refuse_cut(dataset: Dataset, path: Path) -> None:
    """A file that ends within its last attribute was cut: what it says of itself is not all there."""
    last = dataset.get_item([*dataset.keys()][-1]) if len(dataset) else None
    if isinstance(last, RawDataElement) and isinstance(last.value, bytes) and len(last.value) < last.length < 0xFFFFFFFF:
        raise NotDicom("Cut short within its header", where=path.name, remedy="Send it again")


def _raw_copy(dataset: Dataset) -> Dataset:
    """The elements of the identifying groups as they stood in the file, and how their characters are to be read."""
    elements = ((tag, dataset.get_item(tag)) for tag in dataset.keys() if tag >> 16 in _IDENTITY_GROUPS)  # noqa: SIM118
    return Dataset({tag: held for tag, held in elements if tag == CHARACTER_SET or isinstance(held, RawDataElement)})
