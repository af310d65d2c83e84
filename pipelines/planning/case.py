"""One planning image from files to a checked case folder: read, contour, derive, check, write, gate, report.

One structure at a time goes through memory. What leaves is written into a work folder; publishing it is not done here.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from contour.engine import Context
from contour.hounsfield import must_be_hounsfield
from contour.template import Template, load_template
from patient.conformance.gate import admit_names, passed
from patient.conformance.profile import load_profile
from patient.errors import InputError, NotDicom, among
from patient.read.headers import MODALITIES
from patient.read.images import open_image
from patient.read.index import Problem, SeriesEntry
from patient.read.remains import Remains
from patient.read.rtstruct import read_structure_set
from patient.read.scan import scan_all
from patient.series import PATIENT_POSITIONS, ImageSeries
from patient.structures import Structure, StructureSet
from patient.write.rtstruct import write_structure_set
from pipelines.outbox.job_key import Whose, whose
from pipelines.planning.contouring import Contouring
from pipelines.planning.engines import installed_engines
from pipelines.planning.reasons import reasons_of
from pipelines.records.case import (
    VERSION,
    CaseResult,
    ImageRecord,
    Provenance,
    Verdict,
)
from pipelines.records.clock import Clock
from pipelines.report.page import write_report

SAME_SLICE_MM = 0.1
Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class CaseRequest:
    """What a worker needs to know of a case: paths and names, never pixels.

    Args:
        case: its name, made of a date and a hash.
        files: the image's files, and those that may be of it and could not be read.
        series_uid: which series of them.
        patient: whose it is; None where there is no outbox to say it.
        phase: which of several images of that series (a 4D CT); empty where it holds one, or `existing` tells it.
        existing: an RTSTRUCT on the same image whose structures are kept; empty for none.
        predecessor: SOP Instance UID of the structure set that this one replaces; empty for none.
        template: name or path.
        profile: planning system whose limits the gate applies.
        folder: an empty folder to write into.
        seed: for engines that draw numbers.
    """

    case: str
    files: tuple[str, ...]
    series_uid: str
    folder: str
    template: str = "head_neck"
    existing: str = ""
    predecessor: str = ""
    profile: str = "standard"
    seed: int = 0
    phase: str = ""
    patient: Whose | None = None


def contour_case(
    request: CaseRequest, progress: Progress = lambda done, what: None, cancelled: threading.Event | None = None
) -> CaseResult:
    """Contour one planning image and write its case folder.

    Writes rtstruct.dcm, result.json, report.html and figures/ into `request.folder`.

    Raises:
        InputError: the image, template or existing structure set cannot be used.
        OutputRefused: our own gate found an error in what was made.
        Cancelled: asked to stop.
    """
    clock, folder = Clock(), Path(request.folder)
    template = load_template(request.template)
    admit_names((Structure(wanted.name) for wanted in template.structures), request.profile)
    with clock.step("read"):
        progress(0.02, "reading")
        existing = read_structure_set(Path(request.existing)) if request.existing else None
        drawn_on = existing.image_uids if existing is not None else frozenset[str]()
        image = open_image(_entry(request), phase=request.phase, drawn_on=drawn_on)
        if image.modality != "CT":
            raise InputError(f"The series is {among(image.modality, MODALITIES)}, and contours are made on CT")
        existing = existing.on(image.geometry, Path(request.existing).name) if existing is not None else None
        volume, image = image.loaded()
        must_be_hounsfield(volume)
    context = Context(
        patient_position=image.patient_position,
        seed=request.seed,
        cancelled=cancelled or threading.Event(),
        progress=lambda d, w: progress(0.1 + 0.6 * d, w),
    )
    made = Contouring(image, volume, template, existing)
    made.run(installed_engines(), context, clock.step)
    result_set = made.structure_set(load_profile(request.profile).label_length)
    path = folder / "rtstruct.dcm"
    with clock.step("write"):
        progress(0.85, "writing")
        before = [uid for uid in (existing.sop_instance_uid if existing else "", request.predecessor) if uid]
        uid = write_structure_set(path, result_set, image, version=VERSION, predecessors=before)
    with clock.step("gate"):
        source = Path(request.existing) if existing else None
        report = passed(path, image, request.profile, kept=existing, source=source)
    reasons = (*image.doubts, *reasons_of(made.records, existing.notes if existing else ()))
    result = CaseResult(
        case=request.case,
        verdict=Verdict.REVIEW if reasons else Verdict.PUBLISH,
        reasons=reasons,
        image=image_record(image, request.patient),
        structures=tuple(made.records),
        rtstruct_uid=uid,
        gate=tuple(str(remark) for remark in report.warnings),
        provenance=_provenance(request, template, made.engines, existing),
        timing=clock.timing(),
    )
    with clock.step("report"):
        progress(0.92, "drawing")
        write_report(folder, result, volume, made.shown)
    result = result.model_copy(update={"timing": clock.timing()})
    (folder / "result.json").write_text(result.model_dump_json(indent=1), encoding="utf-8")
    (folder / "log.txt").write_text(_log(result, clock), encoding="utf-8")
    progress(1.0, "done")
    return result


def _log(result: CaseResult, clock: Clock) -> str:
    """What was done when and why, without a word of who the patient is."""
    steps = [f"{step:8s} {seconds:8.2f} s" for step, seconds in clock.steps.items()]
    states = [f"{r.name}: {r.state}{f', {r.reason}' if r.reason else ''}" for r in result.structures]
    return "\n".join([f"recontour {VERSION}", f"case {result.case}: {result.verdict}", *steps, *states, *result.reasons, ""])


def _entry(request: CaseRequest) -> SeriesEntry:
    """The series among the request's files, and those of them that cannot be read."""
    paths = [Path(path) for path in request.files]
    headers = [header for entry in scan_all(paths).series for header in entry.headers]
    there = {header.path for header in headers}
    unreadable = tuple(
        Problem(path, NotDicom("Not readable as DICOM", where=path.name), Remains(series_uid=request.series_uid))
        for path in paths
        if path not in there
    )
    wanted = [h for h in headers if h.text("SeriesInstanceUID") in (request.series_uid, "")]
    if not wanted:
        raise InputError("The series' files are no longer there")
    return SeriesEntry(request.series_uid, wanted[0].text("Modality"), tuple(wanted), unreadable=unreadable)


def image_record(image: ImageSeries, patient: Whose | None = None) -> ImageRecord:
    """What a result says of an image.

    Args:
        image: whose pixels were used.
        patient: whose it is; None where there is no outbox to say it.
    """
    own = patient or whose(image.patient_id)
    dz, dy, dx = (round(v, 4) for v in image.geometry.spacing)
    return ImageRecord(
        patient=own.called,
        patient_hash=own.hash,
        study_uid=image.study_uid,
        series_uid=image.series_uid,
        frame_of_reference_uid=image.geometry.frame_of_reference,
        modality=among(image.modality, MODALITIES),
        acquired=image.acquired,
        patient_position=among(image.patient_position, PATIENT_POSITIONS, ""),
        shape=image.geometry.shape,
        spacing_mm=(dz, dy, dx),
        notes=image.notes,
    )


def _provenance(
    request: CaseRequest, template: Template, engines: dict[str, str], existing: StructureSet | None
) -> Provenance:
    digest = hashlib.sha256()
    for path in sorted(request.files):
        digest.update(hashlib.sha256(Path(path).read_bytes()).digest())
    return Provenance(
        version=VERSION,
        template=template.name,
        template_digest=template.digest,
        engines=engines,
        input_digest=digest.hexdigest(),
        sources=(existing.sop_instance_uid,) if existing else (),
        predecessor_uid=request.predecessor,
        seed=request.seed,
    )
