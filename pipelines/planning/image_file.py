"""Image files without identity (NIfTI, NRRD, MetaImage): read in mm and LPS, or refused where they leave their place open.

ITK takes what a header says of units, spaces and places for millimetres, LPS and one place, also where it says otherwise.
"""

from __future__ import annotations

import gzip
import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 - as everybody writes it
from numpy.typing import NDArray

from patient.errors import InputError, UnsupportedGeometry
from patient.geometry import Geometry
from patient.read.inflate import DEFLATE, refuse_expansion
from patient.volume import Volume

SAME_CORNER = 0.1
"""mm: places of an image's corners that differ by more are two places. A quaternion of 32 bits is true to 0.001."""
_DETACHED = (".mhd", ".nhdr", ".hdr", ".img")
"""Files whose voxels lie in another file."""
_HEADER_BYTES = 64 * 1024
_NIFTI_UNITS = {1: "metres", 3: "micrometres"}
_NRRD_SPACES = frozenset(
    ("left-posterior-superior", "lps", "right-anterior-superior", "ras", "left-anterior-superior", "las")
)
"""Those that ITK brings to LPS; any other it takes for LPS."""
_MILLIMETRES = frozenset(("mm", "millimeter", "millimetre", "millimeters", "millimetres"))


def read_image(path: Path) -> Volume[Any]:
    """A NIfTI, NRRD or MetaImage file, in the numbers that it holds, LPS, mm.

    Raises:
        UnsupportedGeometry: its header says other units than mm, a space that is not LPS, RAS or LAS, no space at all, or
            two places.
        InputError: not readable, not three-dimensional, or it would fill the memory.
    """
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        _refuse_size(reader, path)
        _refuse_place(reader, path)
        image = reader.Execute()
    except RuntimeError as error:
        raise InputError("The image cannot be read", where=path.name) from error
    return Volume(sitk.GetArrayFromImage(image), _grid(reader))


def _refuse_size(reader: sitk.ImageFileReader, path: Path) -> None:
    """Refuse other than volumes of one value a voxel, and sizes that the file cannot hold."""
    if reader.GetDimension() != 3 or reader.GetNumberOfComponents() != 1:
        raise InputError("The image is not a volume of one value a voxel", where=path.name)
    voxel = sitk.Image([1, 1, 1], reader.GetPixelIDValue()).GetSizeOfPixelComponent()
    needed = math.prod(reader.GetSize()) * voxel
    # A label map is mostly one number, and is deflated as far as anything can be.
    refuse_expansion(needed, needed if path.suffix in _DETACHED else path.stat().st_size, path.name, DEFLATE)


def _grid(reader: sitk.ImageFileReader) -> Geometry:
    nx, ny, nz = reader.GetSize()
    dx, dy, dz = reader.GetSpacing()
    x, y, z = reader.GetOrigin()
    columns = np.asarray(reader.GetDirection()).reshape(3, 3)
    i, j, k = ((float(c[0]), float(c[1]), float(c[2])) for c in columns.T)
    return Geometry((nz, ny, nx), (dz, dy, dx), (x, y, z), (k, j, i))


def _refuse_place(reader: sitk.ImageFileReader, path: Path) -> None:
    keys, kind = reader.GetMetaDataKeys(), "ITK_InputFilterName"
    if "qform_code" in keys:
        _refuse_nifti(reader, path)
    elif kind in keys and reader.GetMetaData(kind) == "NrrdImageIO":
        _refuse_nrrd(_fields(path, ":"), path)
    elif kind in keys and reader.GetMetaData(kind) == "MetaImageIO":
        _refuse_units(_fields(path, "=").get("distanceunits", "mm").split(), "Distance Units", path)
    else:
        raise InputError("The image is no NIfTI, NRRD or MetaImage file", where=path.name)


def _refuse_units(units: list[str], what: str, path: Path) -> None:
    if other := [unit for unit in units if unit.casefold() not in (*_MILLIMETRES, "?", "???", "")]:
        raise _not_placed(f"{what} are {other[0]!r}, not mm", path)


def _refuse_nrrd(fields: dict[str, str], path: Path) -> None:
    """By the header's fields (teem.sourceforge.net/nrrd/format.html, sections 4 and 6)."""
    space = fields.get("space", "").casefold()
    if space not in _NRRD_SPACES:
        said = f"Its space is {space!r}, which is not LPS, RAS or LAS" if space else "It does not say its space"
        raise _not_placed(f"{said}: nobody can tell left from right", path)
    for name in ("space units", "units"):
        _refuse_units(re.findall(r'"([^"]*)"', fields.get(name, "")), name.capitalize(), path)


def _fields(path: Path, between: str) -> dict[str, str]:
    """The `name: value` or `name = value` lines at the beginning of a text header, names in lower case."""
    with path.open("rb") as file:
        text = file.read(_HEADER_BYTES).decode("latin-1").replace("\r", "")
    head = text.partition("\n\n")[0] if between == ":" else text.partition("ElementDataFile")[0]
    pairs = (line.partition(between) for line in head.splitlines() if not line.startswith("#"))
    return {name.strip().casefold(): value.strip() for name, found, value in pairs if found and not value.startswith("=")}


@dataclass(frozen=True)
class _Layout:
    """Where a NIfTI header keeps what, and in which types."""

    pixdim: int
    units: int
    codes: int
    quaternion: int
    srow: int
    real: str
    code: str


_LAYOUTS = {348: _Layout(76, 123, 252, 256, 280, "f", "hh"), 540: _Layout(104, 500, 344, 352, 400, "d", "ii")}
"""NIfTI-1 and NIfTI-2, by the size of the header, which is its first number."""


def _refuse_nifti(reader: sitk.ImageFileReader, path: Path) -> None:
    head = _nifti_header(path)
    order = "<" if int.from_bytes(head[:4], "little") in _LAYOUTS else ">"
    layout = _LAYOUTS.get(struct.unpack_from(f"{order}i", head)[0])
    if layout is None:
        raise InputError("The header is no NIfTI header", where=path.name)
    unit = head[layout.units] if layout.real == "f" else struct.unpack_from(f"{order}i", head, layout.units)[0]
    if (unit & 7) in _NIFTI_UNITS:
        raise _not_placed(f"Its units (xyzt_units) are {_NIFTI_UNITS[unit & 7]}, not mm", path)
    forms = dict(_forms(head, order, layout))
    if not forms:
        raise _not_placed("It has neither a qform nor an sform: nobody can tell left from right", path)
    if not all(np.isfinite(affine).all() for affine in forms.values()):
        raise _not_placed("Its qform or sform holds what is no number", path)
    grid = _grid(reader)
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(grid.shape) - 1)
    read = grid.points(corners)
    for name, affine in forms.items():
        there = (corners[:, ::-1] @ affine[:, :3].T + affine[:, 3]) * (-1, -1, 1)
        apart = float(np.linalg.norm(there - read, axis=1).max())
        if not apart <= SAME_CORNER:
            said = f"Its {name} places corners {apart:.1f} mm from where they are read"
            raise _not_placed(f"{said}: qform and sform disagree, or shear", path)


def _nifti_header(path: Path) -> bytes:
    path = path.with_suffix(".hdr") if path.suffix == ".img" else path
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            head = file.read(540)
    except (OSError, EOFError) as error:
        raise InputError("The image cannot be read", where=path.name) from error
    return head.ljust(540, b"\0")


def _forms(head: bytes, order: str, layout: _Layout) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """qform and sform as far as they are set, `[3, 4]` mm, voxel (i, j, k) to RAS (nifti1.h, methods 2 and 3)."""
    q_code, s_code = struct.unpack_from(f"{order}{layout.code}", head, layout.codes)
    if q_code > 0:
        b, c, d, *offset = struct.unpack_from(f"{order}6{layout.real}", head, layout.quaternion)
        qfac, *steps = struct.unpack_from(f"{order}4{layout.real}", head, layout.pixdim)
        a = math.sqrt(max(0.0, 1.0 - b * b - c * c - d * d))
        turn = np.array(
            [
                [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
                [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
                [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
            ]
        )
        scale = np.array(steps) * (1, 1, -1 if qfac < 0 else 1)
        yield "qform", np.column_stack([turn * scale, offset])
    if s_code > 0:
        yield "sform", np.array(struct.unpack_from(f"{order}12{layout.real}", head, layout.srow)).reshape(3, 4)


def _not_placed(what: str, path: Path) -> UnsupportedGeometry:
    return UnsupportedGeometry(
        what,
        where=path.name,
        why="Contours would land elsewhere in the patient, or in another size",
        remedy="Write it again in mm with one place: LPS or RAS",
    )
