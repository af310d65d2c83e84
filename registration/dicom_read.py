"""Registrations as DICOM, in: whatever other systems write, in whichever order and direction, or a refusal.

Nothing is told by an item's place in the file: an image is found by the instances that an item names, else by its frame of
reference. Directions are those of `registration.dicom`: a REG's matrix takes its item's points to the Registered frame, a
deformable registration takes points of the Registered frame to its source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import DeformableSpatialRegistrationStorage, SpatialRegistrationStorage

from patient.errors import FrameMismatch, InputError, NotDicom, ReferenceError, UnsupportedGeometry, among  # noqa: A004
from patient.geometry import Box, Geometry
from patient.read.attributes import Attributes
from patient.read.headers import MODALITIES, Header, read_header
from patient.series import ImageSeries
from registration.transforms import Affine, Displacement, Rigid, Space, Transform, composed

KINDS = ("RIGID", "RIGID_SCALE", "AFFINE")
"""Frame of Reference Transformation Matrix Type (C.20.2.1.2), the freest last."""
SAME_MATRIX = 1e-4
"""mm and unitless: items that differ by more do not say the same."""
_ANY = Space("")


@dataclass(frozen=True)
class Side:
    """An image that a registration may join, where its series is not at hand.

    Args:
        space: its Series Instance UID and frame of reference.
        images: its SOP Instance UIDs; may be empty where its frame of reference tells it from the other image.
    """

    space: Space
    images: frozenset[str] = frozenset()


Image = ImageSeries | Side | Space


@dataclass(frozen=True, eq=False)
class RegistrationItem:
    """One item of a Spatial Registration.

    Args:
        source_frame: UID of the frame of reference whose points the matrix takes; empty where the item names images only.
        images: SOP Instance UIDs that the item is about; empty where it is about the whole frame.
        series: Series Instance UIDs of those images, as far as the object tells.
        registered_frame: UID of the frame that it takes them to.
        matrix: `[4, 4]` float64, registered_from_source, mm; a rigid one is orthonormal.
        kind: RIGID, RIGID_SCALE or AFFINE.
    """

    source_frame: str
    images: frozenset[str]
    series: frozenset[str]
    registered_frame: str
    matrix: NDArray[np.float64]
    kind: str


def read_registration(path: Path) -> tuple[RegistrationItem, ...]:
    """All items of a Spatial Registration (PS3.3 A.39.1, C.20.2), in the file's order.

    Several matrices of an item are multiplied in their order, M1 M2 M3: the last acts first (equation C.20.2-2). What
    decimals took from a rotation is given back.

    Raises:
        NotDicom: not DICOM, or not a Spatial Registration.
        InputError: an item without matrix, or with one that is not 16 numbers.
        UnsupportedGeometry: a matrix that is called rigid scales, shears or mirrors; or one that cannot be inverted.
    """
    header = _header(path, SpatialRegistrationStorage, "a Spatial Registration")
    with header.reading():
        said = Attributes.of(header)
        series_of, registered = _series_of(said), said.text("FrameOfReferenceUID")
        return tuple(_registration_item(item, series_of, registered) for item in said.items("RegistrationSequence"))


def _registration_item(item: Attributes, series_of: dict[str, str], registered: str) -> RegistrationItem:
    images = _images(item)
    matrix, kind = _matrix(_only(item, "MatrixRegistrationSequence"))
    series = frozenset(series_of[uid] for uid in images if uid in series_of)
    return RegistrationItem(item.text("FrameOfReferenceUID"), images, series, registered, matrix, kind)


def rigid_between(path: Path, fixed: Image, moving: Image) -> Rigid:
    """`moving_from_fixed` of a Spatial Registration, whichever of the two images (or a third) is its registered frame.

    An image without item is where it is if the object's registered frame is its own: many systems leave the identity out.

    Args:
        path: of the file.
        fixed: of whose points it is asked.
        moving: where they are looked for. Where both images share a frame of reference, only the instances (or the series)
            that the items name tell them apart.

    Raises:
        FrameMismatch: the object does not join the two.
        ReferenceError: it says two things of one image, or cannot tell the two apart.
        UnsupportedGeometry: what it says is not rigid.
        NotDicom, InputError: as `read_registration`.
    """
    items = read_registration(path)
    a, b = _side(fixed), _side(moving)
    registered = items[0].registered_frame if items else ""
    registered_from_fixed = _registered_from(a, b, items, registered, path.name)
    registered_from_moving = _registered_from(b, a, items, registered, path.name)
    return Rigid(np.linalg.inv(registered_from_moving) @ registered_from_fixed, a.space, b.space)


def read_deformable(path: Path, fixed: Image, moving: Image) -> Transform:
    """`moving_from_fixed` of a Deformable Spatial Registration (PS3.3 A.39.2, C.20.3).

    `p_moving = M_post (M_pre p + D(p))` (C.20.3.1.1): the vectors are looked up at the point of the registered frame itself.
    Beyond the grid, of which the standard says nothing, the matrices alone remain. Nodes called undefined (NaN) are cut off.

    Args:
        path: of the file.
        fixed: whose frame of reference is the registered one.
        moving: whose frame of reference is the source.

    Raises:
        FrameMismatch: the object is not about these two, or points the other way.
        ReferenceError: more than one of its items may be meant, or it cannot tell the two images apart.
        NotDicom: not DICOM, or not a Deformable Spatial Registration.
        InputError: a grid or matrix that is not what its sizes say.
        UnsupportedGeometry: a grid that is no grid, undefined nodes among defined ones, or a matrix that cannot be inverted.
    """
    header = _header(path, DeformableSpatialRegistrationStorage, "a Deformable Spatial Registration")
    with header.reading():
        item, a, b = _meant(Attributes.of(header), path.name, _side(fixed), _side(moving))
        return _deformation(item, a.space, b.space, header)


def _meant(said: Attributes, where: str, a: Side, b: Side) -> tuple[Attributes, Side, Side]:
    """The item that takes points of the fixed image's frame of reference to the moving image's."""
    series_of, registered = _series_of(said), said.text("FrameOfReferenceUID")
    found: list[tuple[Attributes, frozenset[str], frozenset[str]]] = []
    for item in said.items("DeformableRegistrationSequence"):
        images = _images(item)
        series = frozenset(series_of[uid] for uid in images if uid in series_of)
        if item.text("SourceFrameOfReferenceUID") == b.space.frame_of_reference:
            found.append((item, images, series))
    if not registered or registered != a.space.frame_of_reference or not found:
        raise FrameMismatch(
            "The object does not take points of the fixed image's frame of reference to the moving image's",
            where=where,
            why=f"It is registered to {registered or '(none)'}; a deformation cannot be turned round unseen",
            remedy="Read it with the images exchanged, and invert it",
        )
    chosen = [item for item, images, series in found if _names(images, series, b)]
    if not chosen and registered != b.space.frame_of_reference:
        chosen = [item for item, _, _ in found]
    if len(chosen) != 1:
        raise ReferenceError(
            f"{len(chosen)} of {len(found)} items of the moving image's frame of reference may be meant", where=where
        )
    return chosen[0], a, b


def _registered_from(
    side: Side, other: Side, items: Sequence[RegistrationItem], registered: str, where: str
) -> NDArray[np.float64]:
    """One side's matrix: of the item that names its images, else of its frame of reference."""
    frame, shared = side.space.frame_of_reference, side.space.frame_of_reference == other.space.frame_of_reference
    meant = [item for item in items if _names(item.images, item.series, side)]
    if meant and any(_names(item.images, item.series, other) for item in meant):
        raise ReferenceError("An item of the registration names both images", where=where)
    if any(item.source_frame not in ("", frame) for item in meant):
        raise ReferenceError("An item names images of one frame of reference and calls it another", where=where)
    if not meant and not shared and frame:
        meant = [item for item in items if item.source_frame == frame]
        if frame == registered and any(np.abs(item.matrix - np.eye(4)).max() > SAME_MATRIX for item in meant):
            raise ReferenceError(
                f"Other images than {side.space.image} are moved within its own frame of reference", where=where
            )
    if not meant:
        elsewhere = any(_names(item.images, item.series, other) for item in items)
        if frame and frame == registered and (elsewhere or not shared):
            return np.eye(4)
        if shared and any(item.source_frame == frame for item in items):
            raise ReferenceError(
                "Both images share a frame of reference, and the registration does not say which it moves", where=where
            )
        raise FrameMismatch(
            f"The registration says nothing of image {side.space.image or '(unnamed)'}",
            where=where,
            remedy="Give the registration that joins these two images",
        )
    if any(np.abs(item.matrix - meant[0].matrix).max() > SAME_MATRIX for item in meant):
        raise ReferenceError(f"The registration places image {side.space.image} twice, at different places", where=where)
    return meant[0].matrix


def _names(images: frozenset[str], series: frozenset[str], side: Side) -> bool:
    return bool(images & side.images) or (bool(side.space.image) and side.space.image in series)


def _side(image: Image) -> Side:
    if isinstance(image, ImageSeries):
        return Side(Space.of(image.geometry), frozenset(i.sop_instance_uid for i in image.instances))
    return Side(image) if isinstance(image, Space) else image


def _header(path: Path, sop_class: str, what: str) -> Header:
    header = read_header(path)
    if header.text("SOPClassUID") != sop_class:
        raise NotDicom(f"Is {among(header.text('Modality'), MODALITIES)}, not {what}", where=path.name)
    return header


def _only(said: Attributes, keyword: str) -> Attributes:
    items = said.items(keyword)
    if len(items) != 1:
        raise InputError(f"{keyword} has {len(items)} items where one is asked for", where=said.where)
    return items[0]


def _images(item: Attributes) -> frozenset[str]:
    return frozenset(image.text("ReferencedSOPInstanceUID") for image in item.items("ReferencedImageSequence")) - {""}


def _series_of(said: Attributes) -> dict[str, str]:
    """Series of each instance, by the Common Instance Reference Module (C.12.2)."""
    out: dict[str, str] = {}
    for study in (said, *said.items("StudiesContainingOtherReferencedInstancesSequence")):
        for series in study.items("ReferencedSeriesSequence"):
            for instance in series.items("ReferencedInstanceSequence"):
                out[instance.text("ReferencedSOPInstanceUID")] = series.text("SeriesInstanceUID")
    return out


def _matrix(registration: Attributes) -> tuple[NDArray[np.float64], str]:
    """The product of a Matrix Sequence in its order, and the freest of its kinds."""
    items = registration.items("MatrixSequence")
    if not items:
        raise InputError("A registration has no matrix", where=registration.where)
    parts = [_one_matrix(item) for item in items]
    with np.errstate(over="ignore", invalid="ignore"):
        total = reduce(np.matmul, [matrix for matrix, _ in parts])
    kind = max((kind for _, kind in parts), key=KINDS.index)
    return _checked(total, "AFFINE", registration.where), kind


def _one_matrix(item: Attributes) -> tuple[NDArray[np.float64], str]:
    numbers = _numbers(item, "FrameOfReferenceTransformationMatrix", 16)
    kind = item.text("FrameOfReferenceTransformationMatrixType") or "RIGID"
    if kind not in KINDS:
        raise InputError(
            f"Frame of Reference Transformation Matrix Type is none of {', '.join(KINDS)}",
            where=item.where,
            why="Nobody can tell what the matrix may do",
        )
    return _checked(numbers.reshape(4, 4), kind, item.where), kind


def _checked(matrix: NDArray[np.float64], kind: str, where: str) -> NDArray[np.float64]:
    """As its kind allows; what decimals took from a rotation is given back."""
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            return (Rigid if kind == "RIGID" else Affine)(matrix, _ANY, _ANY).matrix
    except UnsupportedGeometry as error:
        raise UnsupportedGeometry(error.what, where=where, why=error.why, remedy=error.remedy) from error


def _numbers(item: Attributes, keyword: str, count: int) -> NDArray[np.float64]:
    numbers = item.numbers(keyword, count)
    if not numbers:
        raise InputError(f"{keyword} is missing or empty: {count} numbers are asked for", where=item.where)
    return np.array(numbers)


def _deformation(item: Attributes, fixed: Space, moving: Space, header: Header) -> Transform:
    """M_post (M_pre p + D(p)) as vectors in the fixed image, then matrices: M_pre (p + R_pre^-1 D(p)) is the same."""
    before = _optional_matrix(item, "PreDeformationMatrixRegistrationSequence", fixed, fixed)
    after = _optional_matrix(item, "PostDeformationMatrixRegistrationSequence", fixed, moving)
    if not item.items("DeformableRegistrationGridSequence"):
        return composed(after, before)
    vectors, grid = _grid(_only(item, "DeformableRegistrationGridSequence"), fixed, header)
    still = np.array_equal(before.matrix, np.eye(4)) and np.array_equal(after.matrix, np.eye(4))
    if still:
        return Displacement(vectors, grid, fixed, moving)
    turned = (vectors @ np.linalg.inv(before.rotation).T).astype(np.float32)
    return composed(composed(after, before), Displacement(turned, grid, fixed, fixed))


def _optional_matrix(item: Attributes, keyword: str, source: Space, target: Space) -> Affine:
    """Identity where it is left out."""
    if not item.items(keyword):
        return Rigid.identity(source, target)
    matrix, kind = _one_matrix(_only(item, keyword))
    return (Rigid if kind == "RIGID" else Affine)(matrix, source, target)


def _grid(item: Attributes, fixed: Space, header: Header) -> tuple[NDArray[np.float32], Geometry]:
    where = item.where
    row, column = _numbers(item, "ImageOrientationPatient", 6).reshape(2, 3)
    origin = _numbers(item, "ImagePositionPatient", 3)
    i, j, k = (int(n) for n in _numbers(item, "GridDimensions", 3))
    di, dj, dk = (float(n) for n in _numbers(item, "GridResolution", 3))
    data = item.raw("VectorGridData")
    if min(i, j, k) < 1 or len(data) != 12 * i * j * k:
        raise InputError(f"Vector Grid Data does not hold the vectors of {i} x {j} x {k} nodes", where=where)
    depth = np.cross(row, column)
    geometry = Geometry(
        shape=(k, j, i),
        spacing=(dk, dj, di),
        origin=_triple(origin),
        axes=(_triple(depth), _triple(column), _triple(row)),
        frame_of_reference=fixed.frame_of_reference,
        image=fixed.image,
    )
    order = "<f4" if header.transfer_syntax.is_little_endian else ">f4"
    vectors = np.frombuffer(data, order).reshape(k, j, i, 3).astype(np.float32)
    defined = np.asarray(~np.isnan(vectors).any(axis=-1))
    if not defined.all():
        box = Box.of(defined)
        if box.empty or not defined[box.slices].all():
            raise UnsupportedGeometry("The deformation is undefined (NaN) at nodes among defined ones", where=where)
        vectors, geometry = vectors[box.slices], geometry.cropped(box)
    return vectors, geometry


def _triple(vector: NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in vector)
    return x, y, z
