"""`recontour register`: two images in; transform, field, warped image, DICOM objects, quality and report out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 - as everybody writes it
from numpy.typing import NDArray

from patient.errors import InputError, MixedSeries, NotTrusted
from patient.geometry import Geometry
from patient.read.images import open_image
from patient.read.index import IMAGES
from patient.read.scan import scan
from patient.series import ImageSeries
from patient.volume import Mask, Volume
from pipelines.planning.image_file import read_image
from pipelines.records.case import VERSION
from pipelines.records.registration import RegistrationResult, result_of
from registration.couch import CouchCorrection, couch_correction
from registration.deformable import Deformable, inverse_registration
from registration.dicom import write_deformable, write_registration
from registration.features import RigidByFeatures
from registration.measures import RegistrationQuality
from registration.method import RegistrationContext
from registration.quality import Registered, Verdict, judged
from registration.resampling import resampled, resampled_mask
from registration.rigid import RigidByIntensity
from registration.transforms import Rigid, Space, Transform, displacements, placed, rigid_part

NODES = 4.0
"""mm between the nodes of the field that is written."""
Progress = Callable[[float, str], None]


class Kind(StrEnum):
    """What is asked for."""

    RIGID = "rigid"
    FEATURES = "features"
    DEFORMABLE = "deformable"


@dataclass(frozen=True, eq=False)
class Image:
    """One of the two: its voxels, and its DICOM identity where it has one."""

    volume: Volume[Any]
    series: ImageSeries | None


def open_either(path: Path) -> Image:
    """A DICOM folder with one image, or an MHA, NIfTI or NRRD file.

    Raises:
        InputError: nothing there, or more than one image.
    """
    if not path.exists():
        raise InputError("No such file or folder", where=path.name)
    if path.is_file():
        volume = read_image(path)
        return Image(Volume(volume.array, replace(volume.geometry, image=path.name)), None)
    index = scan(path)
    kinds = [modality for modality in IMAGES if index.of(modality)]
    if len(kinds) > 1:
        raise MixedSeries(
            f"Images of {len(kinds)} kinds where one image is asked for: {', '.join(kinds)}",
            where=path.name,
            remedy="Give a folder that holds one alone",
        )
    volume, series = open_image(index.one(*(kinds or IMAGES), where=path.name)).loaded()
    return Image(volume, series)


def read_mask(path: Path, of: Image, name: str) -> Mask:
    """A mask file (anything above 0) on the image's grid; on another grid it is resampled there by its position.

    Raises:
        InputError: it is empty, or does not meet the image.
    """
    read = read_image(path)
    grid = of.volume.geometry
    own = replace(read.geometry, frame_of_reference=grid.frame_of_reference, image=grid.image)
    mask = Volume(np.asarray(read.array > 0), own)
    if not mask.array.any():
        raise InputError(f"The mask of the {name} image is empty", where=path.name)
    if not grid.same_grid(own):
        space = Space.of(grid)
        mask = resampled_mask(Rigid.identity(space, space), mask, grid)
        if not mask.array.any():
            raise InputError(f"The mask of the {name} image lies outside it", where=path.name)
    return mask


def read_points(path: Path) -> NDArray[np.float64]:
    """`[n, 3]` LPS mm: first line `point`, second the count, then x y z.

    Raises:
        InputError: another form, or another number of points than it says.
    """
    lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    try:
        if lines[0].casefold() != "point":
            raise ValueError("the first line is not 'point'")
        count = int(lines[1])
        points = np.array([[float(v) for v in line.split()] for line in lines[2:]], dtype=np.float64).reshape(-1, 3)
        if len(points) != count or len(lines) - 2 != count or not np.isfinite(points).all():
            raise ValueError(f"{count} points are said and {len(points)} are there")
    except (IndexError, ValueError) as error:
        raise InputError(
            f"No list of points: {error}", where=path.name, remedy="First line 'point', second the count, then x y z in mm"
        ) from error
    return points


def write_points(path: Path, points: NDArray[np.float64]) -> None:
    """The same form as `read_points`."""
    rows = [" ".join(f"{v:.4f}" for v in point) for point in points]
    path.write_text("\n".join(["point", str(len(points)), *rows, ""]), encoding="utf-8")


def register_case(
    fixed: Image,
    moving: Image,
    folder: Path,
    kind: Kind,
    *,
    fixed_mask: Mask | None = None,
    moving_mask: Mask | None = None,
    points: NDArray[np.float64] | None = None,
    seed: int = 0,
    progress: Progress = lambda done, what: None,
    cancelled: threading.Event | None = None,
) -> RegistrationResult:
    """Register two images and write everything that belongs to it into `folder`.

    Raises:
        InputError: an image cannot be registered at all.
        Cancelled: asked to stop.
    """
    from pipelines.report.registration import write_registration_report

    begun = time.perf_counter()
    context = RegistrationContext(
        fixed_mask=fixed_mask,
        moving_mask=moving_mask,
        seed=seed,
        cancelled=cancelled or threading.Event(),
        progress=lambda done, what: progress(0.7 * done, what),
    )
    try:
        registered = register(fixed.volume, moving.volume, kind, context)
    except NotTrusted as error:
        verdict = Verdict(False, (f"{error.what}{f': {error.why}' if error.why else ''}",)).doubted(_doubts(fixed, moving))
        result = result_of(kind, None, RegistrationQuality(), verdict, None, time.perf_counter() - begun)
        (folder / "quality.json").write_text(result.model_dump_json(indent=1), encoding="utf-8")
        return result
    verdict, transform = registered.verdict.doubted(_doubts(fixed, moving)), registered.moving_from_fixed
    progress(0.8, "writing")
    couch = _couch(registered, fixed)
    nodes = field_grid(fixed.volume.geometry)
    _write_field(folder / "displacement.mha", transform, nodes)
    warped = resampled(transform, moving.volume, fixed.volume.geometry, float(np.nanmin(moving.volume.array)))
    _write_image(folder / "warped.mha", warped)
    if points is not None:
        write_points(folder / "points.txt", transform.points(points, transform.source))
    note = "" if verdict.trusted else "NOT TRUSTED: see quality.json"
    if fixed.series is not None and moving.series is not None:
        matrix = rigid_part(transform)
        if isinstance(matrix, Rigid):
            write_registration(folder / "reg.dcm", matrix, fixed.series, moving.series, version=VERSION, note=note)
        if kind is Kind.DEFORMABLE:
            write_deformable(folder / "dreg.dcm", transform, nodes, fixed.series, moving.series, version=VERSION, note=note)
    result = result_of(kind, transform, registered.quality, verdict, couch, time.perf_counter() - begun)
    progress(0.92, "drawing")
    write_registration_report(folder, result, fixed.volume, moving.volume, transform, warped)
    (folder / "quality.json").write_text(result.model_dump_json(indent=1), encoding="utf-8")
    progress(1.0, "done")
    return result


def register(fixed: Volume[Any], moving: Volume[Any], kind: Kind, context: RegistrationContext) -> Registered:
    """A fit of the kind asked for, with its quality metrics."""
    back: Transform | None = None
    if kind is Kind.FEATURES:
        fit = RigidByFeatures().fit(fixed, moving, context)
    elif kind is Kind.RIGID:
        fit = RigidByIntensity().fit(fixed, moving, context)
    else:
        fit = Deformable().fit(fixed, moving, context)
        back = inverse_registration(fixed, moving, context, fit.moving_from_fixed)
    context.progress(1.0, "proving")
    return judged(fit, fixed, moving, context, inverse_registration=back)


def _doubts(fixed: Image, moving: Image) -> list[str]:
    """Why one of the two may not be all that was scanned, or not as it was."""
    named = (("Fixed", fixed.series), ("Moving", moving.series))
    return [f"{which} image: {doubt}" for which, one in named if one is not None for doubt in one.doubts]


def _couch(registered: Registered, fixed: Image) -> CouchCorrection | None:
    """The rigid part in couch terms, about the middle of the fixed image; None where nobody knows how the patient lay."""
    matrix = rigid_part(registered.moving_from_fixed)
    position = fixed.series.patient_position if fixed.series is not None else ""
    if not position or not isinstance(matrix, Rigid):
        return None
    middle = fixed.volume.geometry.points((np.array(fixed.volume.geometry.shape) - 1) / 2.0)
    return couch_correction(matrix, position, middle)


def field_grid(whole: Geometry) -> Geometry:
    """Nodes about `NODES` mm apart from the first voxel of an image to its last."""
    counts = [max(2, int(np.ceil((n - 1) * s / NODES)) + 1) for n, s in zip(whole.shape, whole.spacing, strict=True)]
    k, j, i = (max((n - 1) * s, s) / (c - 1) for n, s, c in zip(whole.shape, whole.spacing, counts, strict=True))
    return replace(whole, shape=(counts[0], counts[1], counts[2]), spacing=(k, j, i))


def _write_field(path: Path, transform: Transform, grid: Geometry) -> None:
    """Vectors (x, y, z) in mm, LPS: moving point = fixed point + vector, the whole transform."""
    image = sitk.GetImageFromArray(displacements(transform, grid), isVector=True)
    sitk.WriteImage(placed(image, grid), str(path), useCompression=True)


def _write_image(path: Path, volume: Volume[np.float32]) -> None:
    image = sitk.GetImageFromArray(np.rint(volume.array).clip(-32768, 32767).astype(np.int16))
    sitk.WriteImage(placed(image, volume.geometry), str(path), useCompression=True)
