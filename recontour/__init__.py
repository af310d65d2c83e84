"""recontour for programmers: read a CT, contour, register, propagate structures, compute a DVH, write an RTSTRUCT.

Each is one call. Units are mm, HU, Gy and cc; arrays are `[z, y, x]`; points are LPS mm. What is wrong with an input raises
a `RecontourError` that says what, where, why and what to do. Values that stand on a registration carry their trust.

>>> import recontour, tempfile
>>> from pathlib import Path
>>> folder = Path(tempfile.mkdtemp())
>>> recontour.write_sample(folder, fractions=1, slices=60, size=64)
>>> ct = recontour.read_ct(folder / "plan/CT")
>>> ct.geometry.shape
(60, 64, 64)

Contour it, look at what a person has to review, and write a structure set that a planning system imports:

>>> made = recontour.contour(ct, template="head_neck")
>>> made.structures["External"].name
'External'
>>> len(made.reasons) > 0
True
>>> uid = recontour.write_rtstruct(folder / "rtstruct.dcm", made.structures, ct)
>>> recontour.check(folder / "rtstruct.dcm", ct).errors
()

Register a fraction's image to it and propagate the clinic's structures:

>>> clinic = recontour.read_structures(folder / "plan/rtstruct.dcm")
>>> today = recontour.read_ct(folder / "fraction_01")
>>> registered = recontour.register(fixed=today, moving=ct, kind="rigid")
>>> mandible, trust = recontour.propagate(clinic["Bone_Mandible"], registered, planning=ct, onto=today).judged
>>> mandible.name
'Bone_Mandible'

Dose in a structure:

>>> dose = recontour.read_dose(folder / "plan/rtdose.dcm")
>>> histogram = recontour.dvh(clinic["Bone_Mandible"], dose, ct)
>>> 0 < histogram.mean < 70
True
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from adaptive.dose.dvh import Dvh
from adaptive.dose.dvh import dvh as _dvh
from adaptive.propagation.planned_surface import surface_of as _surface_of
from contour.engine import Context
from contour.hounsfield import must_be_hounsfield as _must_be_hounsfield
from contour.template import load_template as _load_template
from data_samples.course import write_course as _write_course
from patient.conformance.check import Report
from patient.conformance.check import check_file as _check_file
from patient.dose import Dose
from patient.errors import InputError, OutputRefused, RecontourError
from patient.read.images import open_folder as _open_folder
from patient.read.rtdose import read_dose as _read_dose
from patient.read.rtstruct import read_structure_set as _read_structure_set
from patient.series import ImageSeries
from patient.structures import Structure, StructureSet
from patient.trust import Estimated, Trust
from patient.write.rtstruct import write_structure_set as _write_structure_set
from pipelines.fraction.registration_case import Kind as _Kind
from pipelines.fraction.registration_case import register as _register
from pipelines.planning.contouring import Contouring as _Contouring
from pipelines.planning.engines import installed_engines as _installed_engines
from pipelines.planning.reasons import reasons_of as _reasons_of
from pipelines.records.case import VERSION, StructureRecord
from registration.method import RegistrationContext as _RegistrationContext
from registration.quality import Registered

__version__ = VERSION
__all__ = [
    "Contoured",
    "Dose",
    "Dvh",
    "Estimated",
    "ImageSeries",
    "InputError",
    "OutputRefused",
    "RecontourError",
    "Registered",
    "Report",
    "Structure",
    "StructureSet",
    "Trust",
    "check",
    "contour",
    "dvh",
    "propagate",
    "read_ct",
    "read_dose",
    "read_structures",
    "register",
    "write_rtstruct",
    "write_sample",
]


@dataclass(frozen=True, eq=False)
class Contoured:
    """What came of a template on one image.

    Args:
        structures: those that were contoured, derived or kept; UNAPPROVED.
        status: of every requested structure: its state, volume (cc), flags, or why it is not there.
        reasons: why a person must review it, worst first; none where there is nothing to review.
    """

    structures: StructureSet
    status: tuple[StructureRecord, ...]
    reasons: tuple[str, ...]


def read_ct(folder: Path | str, *, series_uid: str | None = None) -> ImageSeries:
    """The one image in a DICOM folder, its slices checked and in order; pixels are read when asked (`load`).

    Raises:
        InputError: no image, several, or one that cannot be placed without guessing.
    """
    return _open_folder(Path(folder), series_uid)


def read_structures(path: Path | str) -> StructureSet:
    """An RTSTRUCT file; its contours keep their digits.

    Raises:
        InputError: not a structure set, or a value that is needed cannot be read.
    """
    return _read_structure_set(Path(path))


def read_dose(path: Path | str) -> Dose:
    """An RTDOSE file in Gy on its own grid.

    Raises:
        InputError: not a dose, or not in Gy.
    """
    return _read_dose(Path(path))


def contour(image: ImageSeries, template: str = "head_neck", *, existing: StructureSet | None = None) -> Contoured:
    """The template's structures on a planning CT.

    Args:
        image: a CT in HU.
        template: a shipped one by name, or a site's own by path.
        existing: structures on this image that are kept as they are.

    Raises:
        InputError: no CT, not in HU, a template that cannot be read, an existing set of another image, or nothing found.
        ModelError: the weights of a network are missing or changed.
    """
    wanted = _load_template(template)
    if image.modality != "CT":
        raise InputError(f"The series is {image.modality}, and contours are made on CT")
    volume, image = image.loaded()
    _must_be_hounsfield(volume)
    kept = existing.on(image.geometry) if existing is not None else None
    made = _Contouring(image, volume, wanted, kept)
    made.run(_installed_engines(), Context(patient_position=image.patient_position))
    reasons = (*image.doubts, *_reasons_of(made.records, kept.notes if kept else ()))
    return Contoured(made.structure_set(), tuple(made.records), reasons)


def register(
    fixed: ImageSeries,
    moving: ImageSeries,
    *,
    kind: Literal["rigid", "features", "deformable"] = "deformable",
    seed: int = 0,
) -> Registered:
    """Where the points of the fixed image lie in the moving one, with quality and verdict (TG-132).

    Args:
        fixed: today's image, where structures of a plan are to be propagated.
        moving: the plan's image.
        kind: rigid by intensity, rigid by matched features, or deformable.
        seed: the same seed gives the same result.

    Raises:
        InputError: an image cannot be registered.
        NotTrusted: the two have nothing in common.
    """
    return _register(fixed.load(), moving.load(), _Kind(kind), _RegistrationContext(seed=seed))


def propagate(
    structure: Structure, registered: Registered, *, planning: ImageSeries, onto: ImageSeries
) -> Estimated[Structure]:
    """A planning structure on another image, with the registration's trust.

    Args:
        structure: drawn on the planning image.
        registered: with `onto` as its fixed and `planning` as its moving image.

    Raises:
        FrameMismatch: the registration is of other images.
        InputError: the structure encloses nothing.
    """
    surface = _surface_of(structure, planning.geometry)
    if surface is None:
        raise InputError(f"{structure.name} encloses nothing", why="There is no surface to propagate")
    field = surface.distance.resampled(registered.moving_from_fixed, onto.geometry)
    moved = Structure(
        name=structure.name,
        interpreted_type=structure.interpreted_type,
        color=structure.color,
        algorithm="AUTOMATIC",
        code=structure.code,
        field=field,
    )
    return Estimated(moved, Trust(registered.verdict.reasons))


def dvh(structure: Structure, dose: Dose, image: ImageSeries) -> Dvh:
    """The dose-volume histogram of a structure (ICRU 83), with dose interpolated in small cells on its own slices.

    Args:
        structure: drawn on `image`.
        dose: in the image's frame of reference.

    Raises:
        FrameMismatch: another frame of reference.
        InputError: the uncertainty of a dose instead of a dose.
    """
    geometry = image.geometry
    return _dvh(structure, dose, frame_of_reference=geometry.frame_of_reference, plane_spacing=geometry.spacing[0])


def write_rtstruct(path: Path | str, structures: StructureSet, image: ImageSeries, *, profile: str = "standard") -> str:
    """A new RTSTRUCT, UNAPPROVED, that passes the release check; its SOP Instance UID.

    Args:
        path: must not exist.
        structures: drawn on `image`.
        profile: planning system whose limits are applied.

    Raises:
        OutputRefused: the release check found errors; no file is left.
        FrameMismatch: a structure lies on none of the image's slices.
    """
    path = Path(path)
    before = [structures.sop_instance_uid] if structures.sop_instance_uid else []
    uid = _write_structure_set(path, structures, image, version=VERSION, predecessors=before)
    if errors := check(path, image, profile=profile).errors:
        path.unlink()
        raise OutputRefused("; ".join(str(remark) for remark in errors[:5]), why="It would not import safely")
    return uid


def check(path: Path | str, image: ImageSeries | None = None, *, profile: str = "standard") -> Report:
    """The conformance check of an RTSTRUCT: errors that forbid its import, and warnings.

    Raises:
        NotDicom: not an RTSTRUCT.
        PolicyError: no such profile.
    """
    return _check_file(Path(path), image=image, profile=profile)


def write_sample(folder: Path | str, *, fractions: int = 3, slices: int = 266, size: int = 256, seed: int = 0) -> None:
    """The sample course: a synthetic patient's plan and fractions as DICOM, with the truth beside them."""
    _write_course(Path(folder), fractions=fractions, slices=slices, size=size, seed=seed)
