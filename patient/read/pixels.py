"""Pixels of known planes, in HU: native ones straight from the file's bytes, compressed ones by pydicom's decoders."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray

from patient.errors import PixelDataError
from patient.read.codestream import coded_sizes
from patient.read.headers import Header
from patient.read.inflate import refuse_expansion
from patient.read.planes import Plane
from patient.series import Pixels

AIR = -1024
"""What lies outside the scanned circle, whatever number the scanner wrote there."""
HOUNSFIELD = ("", "HU", "HU_MOD", "US")
"""Rescale Types (PS3.3 C.11.1.1.2) of a CT that may be in HU: not said, HU, HU after a modification, unspecified."""
_OTHER_UNITS = {
    "OD": "optical density",
    "MGML": "concentration in mg/ml",
    "Z_EFF": "effective atomic number",
    "ED": "electron density",
    "EDW": "electron density relative to water",
    "PCT": "percentage",
}
_OVERLAY_GROUPS = range(0x6000, 0x6020, 2)
_NATIVE_BITS = (8, 16, 32)
THREADS = 4


@dataclass(frozen=True, eq=False)
class Stored:
    """Stored values before any rescale, `[frames, rows, columns]`, and how many did not fit into Bits Stored."""

    values: NDArray[Any]
    beyond: int = 0


def read_pixels(planes: Sequence[Plane], *, is_ct: bool) -> Pixels:
    """All planes as one array `[z, y, x]`: int16 where every rescale is whole and fits, else float32.

    For CT, padding and everything below -1024 HU becomes -1024; values above 3071 (metal) are kept. Padding is what has the
    number of padding and reaches the picture's edge: inside the body that number is a tissue's.

    Raises:
        PixelDataError: cut short, of an unexpected kind, in an encoding that no decoder here reads; a CT that is not in HU.
    """
    if is_ct:
        _refuse_other_units(planes)
    whole = all(
        _slope(p).is_integer() and _intercept(p).is_integer() and p.header.whole_number("BitsAllocated", 16) <= 16
        for p in planes
    )
    for header in dict.fromkeys(plane.header for plane in planes):
        with header.reading():
            _refuse_short(header, _shape(header))
    array = np.empty((len(planes), planes[0].rows, planes[0].columns), dtype=np.int16 if whole else np.float32)
    files: dict[Header, list[int]] = defaultdict(list)
    for k, plane in enumerate(planes):
        files[plane.header].append(k)

    def load(header: Header) -> tuple[int, int]:
        held, inside = stored(header), 0
        for k in files[header]:
            plane = planes[k]
            values = held.values[(plane.frame or 1) - 1]
            _rescale(values, plane, array[k])
            if is_ct:
                inside += _clear_padding(array[k], values, header)
        return held.beyond, inside

    with ThreadPoolExecutor(THREADS) as threads:
        beyond, inside = np.sum(list(threads.map(load, files)), axis=0)
    notes = [f"{inside} voxels inside the picture have the number of padding and were kept"] if inside else []
    doubts = [f"{beyond} voxels hold numbers beyond Bits Stored: what is brightest may be read too dark"] if beyond else []
    return Pixels(array, tuple(notes), tuple(doubts))


def _slope(plane: Plane) -> float:
    return 1.0 if plane.slope is None else plane.slope


def _intercept(plane: Plane) -> float:
    return 0.0 if plane.intercept is None else plane.intercept


def _refuse_other_units(planes: Sequence[Plane]) -> None:
    """Refuse a CT whose headers say that its numbers are no Hounsfield units, or do not say it of every slice."""
    for plane in planes:
        if plane.unit not in HOUNSFIELD:
            meaning = f"{plane.unit} ({_OTHER_UNITS[plane.unit]})" if plane.unit in _OTHER_UNITS else "a unit of its own"
            raise _no_hounsfield(plane, f"Rescale Type is {meaning}, not HU")
        if _slope(plane) <= 0:
            raise _no_hounsfield(plane, f"Rescale Slope is {plane.slope:g}: no Hounsfield units come of it")
        unsigned = not plane.header.whole_number("PixelRepresentation")
        if unsigned and _intercept(plane) >= 0:
            said = "missing" if plane.intercept is None else f"{plane.intercept:g}"
            raise _no_hounsfield(plane, f"Rescale Intercept is {said} and pixels are unsigned: nothing would be below 0 HU")
    for keyword, of in (("Rescale Slope", "slope"), ("Rescale Intercept", "intercept")):
        without = [plane for plane in planes if getattr(plane, of) is None]
        if 0 < len(without) < len(planes):
            raise _no_hounsfield(without[0], f"{keyword} is missing in {len(without)} of {len(planes)} slices")


def _no_hounsfield(plane: Plane, what: str) -> PixelDataError:
    return PixelDataError(
        what,
        where=plane.name,
        why="Contours are made by Hounsfield units, and would be wrong without a sign of it",
        remedy="Export the CT in HU",
    )


def _rescale(stored: NDArray[Any], plane: Plane, out: NDArray[Any]) -> None:
    slope, intercept = _slope(plane), _intercept(plane)
    if out.dtype == np.int16 and slope == 1 and _fits(stored, intercept):
        np.add(stored, np.int16(intercept), out=out, dtype=np.int16, casting="unsafe")
        return
    exact = np.int32 if out.dtype == np.int16 else np.float32
    values = stored.astype(exact) * exact(slope) + exact(intercept)
    out[...] = np.clip(values, -32768, 32767, out=values) if out.dtype == np.int16 else values


def _fits(stored: NDArray[Any], intercept: float) -> bool:
    """Whether stored values and their sum with the intercept are within 16 bits, so that nothing wider is needed."""
    low, high = int(stored.min()), int(stored.max())
    return low >= -32768 and high <= 32767 and low + intercept >= -32768 and high + intercept <= 32767


def _clear_padding(hu: NDArray[Any], stored: NDArray[Any], header: Header) -> int:
    """Make padding and what is below air air, in place; how many voxels have padding's number and are none."""
    inside = 0
    if (padding := _padding(header)) is not None:
        same = (stored >= padding[0]) & (stored <= padding[1])
        outside = _reaching_the_edge(same)
        hu[outside] = AIR
        inside = int(np.count_nonzero(hu[same & ~outside] > AIR))
    np.maximum(hu, AIR, out=hu)
    return inside


def _reaching_the_edge(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The connected parts of a picture's mask that touch its edge."""
    if not mask.any():
        return mask
    from scipy import ndimage  # most CTs have no padding

    labels, _ = ndimage.label(mask)
    on_edge = np.zeros(labels.max() + 1, dtype=bool)
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        on_edge[edge] = True
    on_edge[0] = False
    return on_edge[labels]


def _padding(header: Header) -> tuple[int, int] | None:
    """Pixel Padding Value to Range Limit in stored units (PS3.3 C.7.5.1.1.2), the lower first."""
    value = header.dataset.get("PixelPaddingValue")
    if not isinstance(value, int):
        return None
    limit = header.dataset.get("PixelPaddingRangeLimit")
    low, high = sorted((value, limit if isinstance(limit, int) else value))
    return low, high


def stored_values(header: Header) -> NDArray[Any]:
    """The file's stored values before any rescale, `[frames, rows, columns]`. Raises as `stored`."""
    return stored(header).values


def stored(header: Header) -> Stored:
    """The file's stored values, with bits beyond Bits Stored left out (PS3.5 8.1.1) and counted unless they are an overlay.

    Raises:
        PixelDataError: cut short, damaged, in colour, or in an encoding that no decoder here reads.
        InputError: an attribute that says how they are stored is malformed.
    """
    with header.reading():
        shape = _shape(header)
        if header.whole_number("SamplesPerPixel", 1) != 1:
            raise PixelDataError("Is a colour picture, not an image of one value a pixel", where=header.path.name)
        _refuse_short(header, shape)
        values = _native(header, shape) if _is_native(header) else _decoded(header, shape)
        return _within_bits_stored(values, header)


def _shape(header: Header) -> tuple[int, int, int]:
    return max(header.whole_number("NumberOfFrames", 1), 1), header.whole_number("Rows"), header.whole_number("Columns")


def _is_native(header: Header) -> bool:
    return header.pixel_offset is not None and header.whole_number("BitsAllocated") in _NATIVE_BITS


def _refuse_short(header: Header, shape: tuple[int, int, int]) -> None:
    """Refuse sizes that the file cannot hold, before memory is taken for them."""
    needed = math.prod(shape) * max(header.whole_number("BitsAllocated"), 8) // 8
    if not _is_native(header):
        refuse_expansion(needed, header.path.stat().st_size, header.path.name)
    elif header.pixel_bytes < needed:
        raise _short(header, header.pixel_bytes, needed)


def _short(header: Header, there: int, needed: int) -> PixelDataError:
    return PixelDataError(
        f"Pixel data cut short: {there} bytes of {needed}", where=header.path.name, remedy="Send the series again"
    )


def _native(header: Header, shape: tuple[int, int, int]) -> NDArray[Any]:
    order = "<" if header.transfer_syntax.is_little_endian else ">"
    sign = "i" if header.whole_number("PixelRepresentation") else "u"
    kind = np.dtype(f"{order}{sign}{header.whole_number('BitsAllocated') // 8}")
    needed = math.prod(shape) * kind.itemsize
    if len(values := header.pixel_values(needed)) < needed:
        raise _short(header, len(values), needed)
    return np.frombuffer(values, dtype=kind).reshape(shape)


def _within_bits_stored(values: NDArray[Any], header: Header) -> Stored:
    """Shift out the bits above Bits Stored, keeping the sign."""
    held = values.dtype.itemsize * 8
    used = header.whole_number("BitsStored", held)
    unused = held - used
    if values.dtype.kind not in "iu" or not 0 < unused < held or header.whole_number("HighBit", used - 1) != used - 1:
        return Stored(values)
    within = np.right_shift(np.left_shift(values, unused), unused)
    # Of a signed value the unused bits may repeat its sign or be zero: both are one value of so many bits.
    as_zero = values if values.dtype.kind == "u" else values.view(f"u{values.dtype.itemsize}") >> used
    differs = (within != values) if values.dtype.kind == "u" else (within != values) & (as_zero != 0)
    return Stored(within, 0 if _overlay_in_pixels(header.dataset) else int(np.count_nonzero(differs)))


def _overlay_in_pixels(dataset: pydicom.Dataset) -> bool:
    """Whether an overlay lies in the unused bits, as old files have it: one with a bit position and no data of its own."""
    return any((group, 0x0102) in dataset and (group, 0x3000) not in dataset for group in _OVERLAY_GROUPS)


def _decoded(header: Header, shape: tuple[int, int, int]) -> NDArray[Any]:
    """By pydicom's decoders, which take memory for the size that the compressed picture says."""
    try:
        if header.transfer_syntax.is_deflated:
            raise NotImplementedError("deflated, and not of 8, 16 or 32 bits")
        dataset = pydicom.dcmread(header.path, force=True)  # pyright: ignore[reportUnknownMemberType]
        dataset.file_meta.TransferSyntaxUID = header.transfer_syntax
        for size in coded_sizes(dataset, shape[0]):
            if size is not None and size != (*shape[1:], 1):
                raise PixelDataError(f"Pixel data is {size}, the header says {(*shape[1:], 1)}", where=header.path.name)
        dataset.pixel_array_options(correct_unused_bits=False)
        values = dataset.pixel_array
    except PixelDataError:
        raise
    except Exception as error:  # decoders raise whatever their C libraries do
        name = header.transfer_syntax.name
        raise PixelDataError(
            f"Pixel data cannot be decoded ({name}): cut short, damaged, or an encoding without a decoder",
            where=header.path.name,
            remedy="Send the series again, uncompressed if need be",
        ) from error
    if values.size != math.prod(shape):
        raise PixelDataError(f"Pixel data is {values.shape}, the header says {shape}", where=header.path.name)
    return values.reshape(shape)
