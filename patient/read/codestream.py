"""What a compressed picture says of its own size, so that no decoder takes memory for another one than its header says."""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import RLELossless

Size = tuple[int, int, int]
"""Rows, columns, components."""
_NO_LENGTH = frozenset((0x01, *range(0xD0, 0xD9)))
"""Second bytes of JPEG markers that stand alone: TEM, RST0 to RST7, SOI."""
_FRAME_HEADERS = frozenset((*range(0xC0, 0xD0), 0xF7)) - {0xC4, 0xC8, 0xCC}
"""Second bytes of SOF markers (ISO/IEC 10918-1 table B.1), and SOF55 of JPEG-LS (ISO/IEC 14495-1)."""
_JPEG_2000 = b"\xff\x4f\xff\x51"
"""SOC and SIZ, with which every JPEG 2000 codestream begins (ISO/IEC 15444-1 A.4.1, A.5.1)."""
_BOXES = b"\x00\x00\x00\x0cjP  "
"""With which a JP2 file begins (I.5.1): some systems write its boxes before the codestream."""


def coded_sizes(dataset: Dataset, frames: int) -> Iterator[Size | None]:
    """The size that each frame of compressed pixel data says it has; None where it says none (RLE).

    Args:
        dataset: with its pixel data as encapsulated bytes, and its transfer syntax.
        frames: that there are.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated or syntax == RLELossless:
        return
    for frame in generate_frames(dataset.PixelData, number_of_frames=frames):
        yield coded_size(frame)


def coded_size(frame: bytes) -> Size | None:
    """Of one JPEG, JPEG-LS or JPEG 2000 codestream; None where it begins like none of them."""
    at = frame.find(_JPEG_2000) if frame.startswith(_BOXES) else 0
    return _jpeg_2000(frame[at:]) if frame.startswith(_JPEG_2000, max(at, 0)) else _jpeg(frame)


def _jpeg_2000(stream: bytes) -> Size:
    """By its SIZ marker segment: Xsiz, Ysiz, less XOsiz, YOsiz; Csiz."""
    x, y, x0, y0 = (int.from_bytes(stream[n : n + 4], "big") for n in (8, 12, 16, 20))
    return y - y0, x - x0, int.from_bytes(stream[40:42], "big")


def _jpeg(stream: bytes) -> Size | None:
    """By its frame header: the first SOF marker segment."""
    at = 0
    while at + 10 <= len(stream) and stream[at] == 0xFF:
        kind = stream[at + 1]
        if kind in _FRAME_HEADERS:
            rows, columns = (int.from_bytes(stream[n : n + 2], "big") for n in (at + 5, at + 7))
            return rows, columns, stream[at + 9]
        alone = kind in _NO_LENGTH
        at += 1 if kind == 0xFF else 2 if alone else 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    return None
