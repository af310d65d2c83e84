"""Pixels of known planes, in HU: native ones straight from the file's bytes, compressed ones by pydicom's decoders."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray

from patient.errors import PixelDataError
from patient.read.headers import Header
from patient.read.planes import Plane

AIR = -1024
"""What lies outside the scanned circle, whatever number the scanner wrote there."""
THREADS = 4


def read_pixels(planes: Sequence[Plane], *, is_ct: bool) -> NDArray[Any]:
    """All planes as one array `[z, y, x]`: int16 where every rescale is whole and fits, else float32.

    For CT, padding and everything below -1024 HU becomes -1024; values above 3071 (metal) are kept.

    Raises:
        PixelDataError: cut short, of an unexpected kind, or in an encoding that no decoder here reads.
    """
    whole = all(
        p.slope.is_integer() and p.intercept.is_integer() and p.header.dataset.get("BitsAllocated", 16) <= 16 for p in planes
    )
    array = np.empty((len(planes), planes[0].rows, planes[0].columns), dtype=np.int16 if whole else np.float32)
    files: dict[Header, list[int]] = defaultdict(list)
    for k, plane in enumerate(planes):
        files[plane.header].append(k)

    def load(header: Header) -> None:
        frames = stored_values(header)
        for k in files[header]:
            plane = planes[k]
            stored = frames[(plane.frame or 1) - 1]
            array[k] = _rescaled(stored, plane, header, array.dtype, is_ct=is_ct)

    with ThreadPoolExecutor(THREADS) as threads:
        for _ in threads.map(load, files):
            pass
    return array


def _rescaled(stored: NDArray[Any], plane: Plane, header: Header, dtype: Any, *, is_ct: bool) -> NDArray[Any]:
    if dtype == np.int16 and plane.slope == 1 and _fits(stored, plane.intercept):
        values = stored.astype(np.int16, copy=False) + np.int16(plane.intercept)
    else:
        exact = np.int32 if dtype == np.int16 else np.float32
        values = stored.astype(exact) * exact(plane.slope) + exact(plane.intercept)
        if dtype == np.int16:
            np.clip(values, -32768, 32767, out=values)
    if is_ct:
        if (padding := _padding(header)) is not None:
            values[(stored >= padding[0]) & (stored <= padding[1])] = AIR
        np.maximum(values, AIR, out=values)
    return values


def _fits(stored: NDArray[Any], intercept: float) -> bool:
    """Whether stored values and their sum with the intercept are within 16 bits, so that nothing wider is needed."""
    low, high = int(stored.min()), int(stored.max())
    return low >= -32768 and high <= 32767 and low + intercept >= -32768 and high + intercept <= 32767


def _padding(header: Header) -> tuple[int, int] | None:
    """Pixel Padding Value to Range Limit in stored units (PS3.3 C.7.5.1.1.2), the lower first."""
    value = header.dataset.get("PixelPaddingValue")
    if not isinstance(value, int):
        return None
    limit = header.dataset.get("PixelPaddingRangeLimit")
    low, high = sorted((value, limit if isinstance(limit, int) else value))
    return low, high


def stored_values(header: Header) -> NDArray[Any]:
    """The file's stored values before any rescale, `[frames, rows, columns]`.

    Raises:
        PixelDataError: cut short, damaged, in colour, or in an encoding that no decoder here reads.
    """
    dataset = header.dataset
    shape = (int(dataset.get("NumberOfFrames") or 1), int(dataset.Rows), int(dataset.Columns))
    if int(dataset.get("SamplesPerPixel") or 1) != 1:
        raise PixelDataError("Is a colour picture, not an image of one value a pixel", where=header.path.name)
    bits = int(dataset.get("BitsAllocated") or 0)
    if header.pixel_offset is not None and bits in (8, 16):
        return _native(header, shape, bits)
    return _decoded(header, shape)


def _native(header: Header, shape: tuple[int, int, int], bits: int) -> NDArray[Any]:
    dataset = header.dataset
    signed = int(dataset.get("PixelRepresentation") or 0)
    kind = np.dtype(f"{'<' if header.transfer_syntax.is_little_endian else '>'}{'i' if signed else 'u'}{bits // 8}")
    count = int(np.prod(shape))
    stored = np.fromfile(header.path, dtype=kind, count=count, offset=header.pixel_offset or 0)
    if stored.size < count or header.pixel_bytes < count * kind.itemsize:
        held = min(stored.size * kind.itemsize, header.pixel_bytes)
        raise PixelDataError(
            f"Pixel data cut short: {held} bytes of {count * kind.itemsize}",
            where=header.path.name,
            remedy="Send the series again",
        )
    # Bits above BitsStored may hold overlays in old files (PS3.5 8.1.1): shift them out, keeping the sign.
    unused = bits - int(dataset.get("BitsStored") or bits)
    if unused > 0 and int(dataset.get("HighBit") or 0) == bits - unused - 1:
        stored = np.right_shift(np.left_shift(stored, unused), unused)
    return stored.reshape(shape)


def _decoded(header: Header, shape: tuple[int, int, int]) -> NDArray[Any]:
    try:
        dataset = pydicom.dcmread(header.path, force=True)
        dataset.file_meta.TransferSyntaxUID = header.transfer_syntax
        stored = dataset.pixel_array
    except Exception as error:  # decoders raise whatever their C libraries do
        name = header.transfer_syntax.name
        raise PixelDataError(
            f"Pixel data cannot be decoded ({name}): cut short, damaged, or an encoding without a decoder",
            where=header.path.name,
            remedy="Send the series again, uncompressed if need be",
        ) from error
    if stored.size != np.prod(shape):
        raise PixelDataError(f"Pixel data is {stored.shape}, the header says {shape}", where=header.path.name)
    return stored.reshape(shape)
