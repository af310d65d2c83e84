"""Loops as the bytes of a Contour Sequence (PS3.3 C.8.8.6) in Implicit VR Little Endian, made in bulk.

Implicit VR because its lengths have 32 bits: an explicit one cannot say a Contour Data above 65534 bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from patient.errors import OutputRefused

_LIMIT = 9999.9995
"""mm; further from the origin no scanner's table reaches, and seven digits would no longer do."""
_WHOLE = np.array([list(f"{n:4d}".encode()) for n in range(10000)], dtype=np.uint8)
_PARTS = np.array([list(f".{n:03d}\\".encode()) for n in range(1000)], dtype=np.uint8)
_BLANK = ord(" ")


def digits(points: NDArray[np.float64], lengths: Sequence[int]) -> list[bytes]:
    """Contour Data of loops: fixed point, 0.001 mm, no exponent, no minus zero, at most 10 characters a value.

    Args:
        points: all loops' points behind each other, `[n, 3]`, LPS mm.
        lengths: points of each loop.

    Raises:
        OutputRefused: a coordinate is no number or beyond 10 m.
    """
    values = points.reshape(-1)
    if not np.isfinite(values).all() or (values.size and np.abs(values).max() >= _LIMIT):
        raise OutputRefused("A contour has a coordinate that is no number or lies beyond 10 m")
    thousandths = np.rint(values * 1000).astype(np.int64)
    size = np.abs(thousandths)
    text = np.empty((len(values), 10), dtype=np.uint8)
    text[:, 0] = np.where(thousandths < 0, ord("-"), _BLANK)
    text[:, 1:5] = _WHOLE[size // 1000]
    text[:, 5:10] = _PARTS[size % 1000]
    written = text != _BLANK
    ends = np.cumsum(written.sum(axis=1))[np.cumsum(np.asarray(lengths) * 3) - 1]
    joined = text[written].tobytes()
    starts = [0, *ends[:-1].tolist()]
    return [joined[a : b - 1] for a, b in zip(starts, ends.tolist(), strict=True)]


def contour_sequence(loops: Sequence[tuple[str, bytes, bytes]]) -> bytes:
    """The items of a Contour Sequence.

    Args:
        loops: for each its geometric type, its Contour Image Sequence item (from `image_item`, or empty) and its digits.
    """
    parts: list[bytes] = []
    for number, (kind, image, data) in enumerate(loops, start=1):
        body = b"".join(
            (
                _element(0x0016, image) if image else b"",
                _element(0x0042, kind.encode("ascii")),
                _element(0x0046, b"%d" % ((data.count(b"\\") + 1) // 3)),
                _element(0x0048, b"%d" % number),
                _element(0x0050, data),
            )
        )
        parts += (_item_head(len(body)), body)
    return b"".join(parts)


def image_items(instances: Mapping[str, tuple[str, int | None]]) -> dict[str, bytes]:
    """For each SOP Instance UID with its class and frame: the item of a Contour Image Sequence that names it."""
    items: dict[str, bytes] = {}
    for key, (sop_class, frame) in instances.items():
        uid = key.partition("#")[0]
        body = _uid(0x1150, sop_class) + _uid(0x1155, uid)
        if frame is not None:
            body += _packed(0x0008, 0x1160, b"%d" % frame, b" ")
        items[key] = _item_head(len(body)) + body
    return items


def _item_head(length: int) -> bytes:
    return struct.pack("<HHI", 0xFFFE, 0xE000, length)


def _element(element: int, value: bytes) -> bytes:
    return _packed(0x3006, element, value, b" ")


def _uid(element: int, value: str) -> bytes:
    return _packed(0x0008, element, value.encode("ascii"), b"\0")


def _packed(group: int, element: int, value: bytes, padding: bytes) -> bytes:
    if len(value) % 2:
        value += padding
    return struct.pack("<HHI", group, element, len(value)) + value
