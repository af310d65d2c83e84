"""Registrations as DICOM, out: Spatial Registration (REG) and Deformable Spatial Registration (PS3.3 A.39).

The two point opposite ways. Both live in the fixed image's frame of reference, which is their Registered frame. A REG's
matrix takes points of the moving image to the fixed one (`fixed_from_moving`, PS3.3 C.20.2.1.1): the inverse of what
resampling asks for, and of what these functions are given. A deformable one's vectors take points of the fixed image to the
moving one (`moving_from_fixed`, C.20.3.1.1), as given. Reading is in `registration.dicom_read`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import DeformableSpatialRegistrationStorage, SpatialRegistrationStorage, generate_uid

from patient.errors import InputError, OutputRefused, UnsupportedGeometry
from patient.geometry import SAME_PLACE_MM, Geometry
from patient.series import ImageSeries
from patient.write.decimals import decimals
from patient.write.identity import new_object, write_new
from patient.write.series_number import Kind, series_number
from registration.transforms import Rigid, Space, Transform, displacements

_KINDS = {
    Kind.RIGID: (SpatialRegistrationStorage, "Rigid registration by software, not approved"),
    Kind.DEFORMABLE: (DeformableSpatialRegistrationStorage, "Deformable registration by software, not approved"),
}
_SAME_FRAME = ("125021", "Frame of Reference Identity")
_BY_CONTENT = ("125024", "Image Content-based Alignment")
_OF_BYTES = 2**32 - 2
_CORNERS = np.array([[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1], [1, 0, 0], [1, 0, 1], [1, 1, 0], [1, 1, 1]])


def write_registration(
    path: Path,
    moving_from_fixed: Rigid,
    fixed: ImageSeries,
    moving: ImageSeries,
    *,
    version: str,
    label: str = "RECONTOUR",
    note: str = "",
    fraction: int | None = None,
) -> str:
    """Write a rigid registration as a Spatial Registration (PS3.3 A.39.1, C.20.2), whole and synced to disk.

    The matrix in the file is `fixed_from_moving`: it takes a point of the moving image to where it lies in the fixed one.
    Its decimals keep a point's place to better than 1e-6 mm. Items: the fixed image with the identity, then the moving
    image; both name their frame of reference and all their images, so that two images of one frame are told apart.

    Args:
        path: of the file; must not exist.
        moving_from_fixed: takes points of the fixed image to the moving one, as registration methods give it.
        fixed: the new object belongs to its patient, study and frame of reference.
        moving: may be of another study.
        version: of the software.
        label: becomes the Content Label: upper case, at most 16 characters.
        note: becomes the Content Description, at most 64 characters.
        fraction: whose image is registered, for Series Number and Series Description; None for no fraction's.

    Returns:
        The new SOP Instance UID.

    Raises:
        FrameMismatch: the transform is not of these two images.
        InputError: an image has no frame of reference, or both are one.
        OutputRefused: a translation beyond what 16 characters hold.
    """
    _admit(moving_from_fixed, fixed, moving)
    dataset = _new(fixed, moving, Kind.RIGID, fraction, version, label, note)
    dataset.RegistrationSequence = Items(
        [
            _matrix_item(fixed, np.eye(4), _SAME_FRAME, "The registered frame itself"),
            _matrix_item(moving, moving_from_fixed.inverse().matrix, _BY_CONTENT, "Takes moving image to fixed image"),
        ]
    )
    return write_new(path, dataset)


def write_deformable(
    path: Path,
    moving_from_fixed: Transform,
    grid: Geometry,
    fixed: ImageSeries,
    moving: ImageSeries,
    *,
    version: str,
    label: str = "RECONTOUR",
    note: str = "",
    fraction: int | None = None,
) -> str:
    """Write any transform as a Deformable Spatial Registration (PS3.3 A.39.2, C.20.3), whole and synced to disk.

    The vectors are the whole map `moving_from_fixed(p) - p`, its rigid part included, in LPS mm at nodes in the fixed image;
    the matrices before and after are identity and left out, as readers disagree on them. Between nodes readers interpolate;
    beyond them the object says nothing.

    Args:
        path: of the file; must not exist.
        moving_from_fixed: takes points of the fixed image to the moving one.
        grid: nodes, in the fixed image; 2 to 4 mm apart make a file that every system opens. A left-handed one is
            written from its other end: DICOM's depth axis is row x column.
        fixed: the new object belongs to its patient, study and frame of reference.
        moving: may be of another study.
        version: of the software.
        label: becomes the Content Label: upper case, at most 16 characters.
        note: becomes the Content Description, at most 64 characters.
        fraction: whose image is registered, for Series Number and Series Description; None for no fraction's.

    Returns:
        The new SOP Instance UID.

    Raises:
        FrameMismatch: the transform is not of these two images, or the grid not of the fixed one.
        InputError: an image has no frame of reference, or both are one.
        UnsupportedGeometry: the grid's depth axis is not perpendicular to its planes.
        OutputRefused: 4 GB of vectors or more, or a vector that is no number.
    """
    _admit(moving_from_fixed, fixed, moving)
    Space.of(fixed.geometry).admit(Space.of(grid), "The grid")
    if (size := 12 * int(np.prod(grid.shape))) > _OF_BYTES:
        raise OutputRefused(f"Vectors of {size / 2**30:.1f} GB do not fit into DICOM", remedy="Take a coarser grid")
    dataset = _new(fixed, moving, Kind.DEFORMABLE, fraction, version, label, note)
    item = _transform_item(_BY_CONTENT, "Takes fixed (registered) points to moving (source) ones")
    item.SourceFrameOfReferenceUID = moving.geometry.frame_of_reference
    item.ReferencedImageSequence = Items(_references(moving))
    item.DeformableRegistrationGridSequence = Items([_grid_item(moving_from_fixed, grid)])
    dataset.DeformableRegistrationSequence = Items([item])
    return write_new(path, dataset)


def _admit(moving_from_fixed: Transform, fixed: ImageSeries, moving: ImageSeries) -> None:
    for image, role in ((fixed, "fixed"), (moving, "moving")):
        if not image.geometry.frame_of_reference:
            raise InputError(
                f"The {role} image has no Frame of Reference UID",
                where=image.series_uid,
                why="A registration object joins frames of reference: nothing could be referred to",
                remedy="Export the image with its frame of reference",
            )
    if fixed.series_uid == moving.series_uid:
        raise InputError("The fixed and the moving image are one series", where=fixed.series_uid)
    Space.of(fixed.geometry).admit(moving_from_fixed.source, "The transform's source")
    Space.of(moving.geometry).admit(moving_from_fixed.target, "The transform's target")


def _new(
    fixed: ImageSeries, moving: ImageSeries, kind: Kind, fraction: int | None, version: str, label: str, note: str
) -> Dataset:
    """A registration of two images, whole but for its transform."""
    sop_class, said = _KINDS[kind]
    said = f"Fraction {fraction}: {said[0].lower()}{said[1:]}" if fraction is not None else said
    number = series_number(fixed, kind, fraction)
    dataset = new_object(fixed, sop_class, "REG", series_description=said, number=number, version=version)
    _content(dataset, label, note)
    _refer(dataset, fixed, moving)
    return dataset


def _content(dataset: Dataset, label: str, note: str) -> None:
    """Of C.20.2 and C.20.3 with the Content Identification Macro (Table 10-12)."""
    dataset.ContentDate, dataset.ContentTime = dataset.InstanceCreationDate, dataset.InstanceCreationTime
    dataset.InstanceNumber = 1
    dataset.ContentLabel = re.sub(r"[^A-Z0-9_ ]", "_", label.upper())[:16].strip() or "RECONTOUR"
    dataset.ContentDescription = re.sub(r"[^ -\[\]-~]", "?", note)[:64].strip()
    dataset.ContentCreatorName = ""


def _transform_item(how: tuple[str, str], note: str) -> Dataset:
    """What a transform says of itself, matrix or field: how it was found and which way it goes."""
    item = Dataset()
    item.FrameOfReferenceTransformationComment = note
    item.RegistrationTypeCodeSequence = Items([_code(*how)])
    return item


def _matrix_item(image: ImageSeries, registered_from_image: NDArray[np.float64], how: tuple[str, str], note: str) -> Dataset:
    matrix = Dataset()
    matrix.FrameOfReferenceTransformationMatrixType = "RIGID"
    matrix.FrameOfReferenceTransformationMatrix = decimals(registered_from_image)
    registration = _transform_item(how, note)
    registration.MatrixSequence = Items([matrix])
    item = Dataset()
    item.FrameOfReferenceUID = image.geometry.frame_of_reference
    item.ReferencedImageSequence = Items(_references(image))
    item.MatrixRegistrationSequence = Items([registration])
    return item


def _grid_item(moving_from_fixed: Transform, grid: Geometry) -> Dataset:
    """Nodes left to right, top to bottom, plane by plane along row x column."""
    vectors = displacements(moving_from_fixed, grid)
    if not np.isfinite(vectors).all():
        raise OutputRefused("A displacement is no number")
    column, row = (np.asarray(axis) for axis in grid.axes[1:])
    depth = np.cross(row, column)
    first = 0
    if float(depth @ np.asarray(grid.axes[0])) < 0:
        first, vectors = grid.shape[0] - 1, vectors[::-1]
    origin = grid.points((first, 0, 0))
    corners = _CORNERS * (np.asarray(grid.shape) - 1)
    steps = np.stack([depth, column, row]) * np.asarray(grid.spacing)[:, None]
    off = origin + corners @ steps - grid.points(np.abs(corners - (first, 0, 0)))
    if np.abs(off).max() > SAME_PLACE_MM:
        raise UnsupportedGeometry(f"The grid's depth axis is {np.abs(off).max():.3f} mm off the normal of its planes")
    item = Dataset()
    item.ImagePositionPatient = decimals(origin)
    item.ImageOrientationPatient = decimals([row, column])
    item.GridDimensions = list(grid.shape[::-1])
    item.GridResolution = list(grid.spacing[::-1])
    item.VectorGridData = vectors.astype("<f4").tobytes()
    return item


def _code(value: str, meaning: str) -> Dataset:
    """Of CID 7100, RCS Registration Method Type."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item


def _references(image: ImageSeries) -> list[Dataset]:
    """Every instance of the image, once."""
    items: list[Dataset] = []
    for uid, sop_class in {i.sop_instance_uid: i.sop_class_uid for i in image.instances}.items():
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
        items.append(item)
    return items


def _refer(dataset: Dataset, fixed: ImageSeries, moving: ImageSeries) -> None:
    """The Common Instance Reference Module (C.12.2): by series, those of other studies apart."""
    study = str(dataset.StudyInstanceUID)
    others = moving.study_uid or generate_uid(entropy_srcs=[moving.series_uid, "study"])
    here = (fixed, moving) if others == study else (fixed,)
    dataset.ReferencedSeriesSequence = Items(_series_items(here))
    if others != study:
        other = Dataset()
        other.StudyInstanceUID = others
        other.ReferencedSeriesSequence = Items(_series_items((moving,)))
        dataset.StudiesContainingOtherReferencedInstancesSequence = Items([other])


def _series_items(images: Iterable[ImageSeries]) -> list[Dataset]:
    items: list[Dataset] = []
    for image in images:
        item = Dataset()
        item.SeriesInstanceUID = image.series_uid
        item.ReferencedInstanceSequence = Items(_references(image))
        items.append(item)
    return items
