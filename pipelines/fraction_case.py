"""`recontour adapt`: a plan's folder and a fraction's in; structure set, registrations, dose, result and report out.

What leaves is written into a work folder; publishing it is not done here. A case that was stopped goes on behind its
registration where its work folder is given again.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adaptive.alignment_file import AlignmentFile
from adaptive.day_dose import DayDose
from adaptive.fraction import Fraction, PlanSide, TodaySide, adapt
from adaptive.lattice import End
from adaptive.policy import load_policy
from adaptive.propagate import Propagated
from adaptive.rules import Policy
from contour.hounsfield import must_be_hounsfield
from contour.template import Template, load_template
from patient.conformance.gate import admit_names, passed
from patient.conformance.profile import Profile, load_profile
from patient.errors import InputError
from patient.geometry import Geometry
from patient.plan import Plan
from patient.read.index import scan
from patient.series import ImageSeries
from patient.structures import Structure, StructureSet
from patient.trust import Estimated
from patient.volume import Volume
from patient.write.rtdose import DOUBTED, Registration, accumulated_label, write_dose
from patient.write.rtstruct import write_structure_set
from pipelines.clock import Clock
from pipelines.day_file import read_day, write_day
from pipelines.engines import installed_engines
from pipelines.fraction_records import EarlierFraction, fraction_result
from pipelines.fraction_result import FractionResult, OutputRecord
from pipelines.numbering import rising
from pipelines.plan_folder import PlanFolder, read_fraction_folder, read_plan_folder, read_today_dose
from pipelines.registration_case import field_grid
from pipelines.result import VERSION
from pipelines.set_label import SetLabel, fraction_label
from registration.dicom import write_deformable, write_registration
from registration.method import RegistrationContext
from registration.transforms import Rigid

POLICIES = {"head_neck": "head_neck", "thorax": "thorax", "pelvis": "prostate"}
"""Template -> the policy of that site, where none is named."""
KEPT = "alignment.npz"
Progress = Callable[[float, str], None]
_STEPS = (
    "rigid",
    "deformable",
    "proof",
    "way back",
    "field of view",
    "contour afresh",
    "propagate",
    "change",
    "dose",
    "decide",
)


@dataclass(frozen=True)
class FractionRequest:
    """What a worker needs to know of a fraction: paths and names, never pixels.

    Args:
        case: its name.
        plan: folder with CT, RTSTRUCT, and RTPLAN and RTDOSE where there are.
        fraction: folder with today's image.
        folder: an empty folder to write into.
        template: site; chooses the policy where none is named, and how what is contoured afresh is cleaned.
        policy: name or path; empty for the template's.
        dose: an RTDOSE that was computed on today's image; empty for the plan's, placed.
        plan_choice: label or UID of the plan that is meant where the folder has several.
        number: of the fraction in its course, from 1; None where nobody says: one after the latest of `earlier`.
        number_from: who says so, in words.
        fractions: planned, where the RTPLAN does not say it.
        earlier: folders of published fractions of this plan.
        earlier_numbers: what they are counted as, as a night knows it; empty for the numbers that they were given.
        kept: folder in which steps are kept for a next try; empty for none.
        predecessor: SOP Instance UID of the structure set that this one replaces; empty for none.
        profile: planning system whose limits the gate applies, and whose rule for a DVH's ends.
        seed: the same gives the same.
        patient: what pages call the patient; None for a hash of the Patient ID.
    """

    case: str
    plan: str
    fraction: str
    folder: str
    template: str = "head_neck"
    policy: str = ""
    dose: str = ""
    plan_choice: str = ""
    number: int | None = None
    number_from: str = "the call"
    fractions: int | None = None
    earlier: tuple[str, ...] = ()
    earlier_numbers: tuple[int, ...] = ()
    kept: str = ""
    predecessor: str = ""
    profile: str = "standard"
    seed: int = 0
    patient: str | None = None


def _end(profile: Profile) -> End:
    return End(profile.dvh.beyond_slices, profile.dvh.at_most)


def adapt_case(
    request: FractionRequest,
    progress: Progress = lambda done, what: None,
    cancelled: threading.Event | None = None,
) -> FractionResult:
    """One fraction against its plan.

    Writes rtstruct.dcm, reg.dcm, dreg.dcm, dose.dcm, dose_error.dcm, day.npz, result.json, report.html, figures/ and log.txt
    into `request.folder`; the doses only where the plan has one.

    Raises:
        InputError: something given cannot be used, or does not belong together.
        OutputRefused: our own gate found an error in what was made.
        Cancelled: asked to stop.
    """
    from pipelines.report.fraction import write_fraction_report

    clock, folder = Clock(), Path(request.folder)
    template = load_template(request.template)
    policy = policy_for(request.policy, template)
    with clock.step("read"):
        progress(0.01, "reading")
        plan = _plan_folder(Path(request.plan), Path(request.fraction), request.plan_choice)
        admit_names(plan.structures.structures, request.profile)
        image, files = read_fraction_folder(Path(request.fraction), plan)
        planned, plan = _planning_ct(plan, request)
        today, image = image.loaded()
        today_dose = read_today_dose(Path(request.dose)) if request.dose else None
        earlier = _earlier(request, plan)
        number, number_from = _number(request, earlier)
        fractions, fractions_from = _fractions(request, plan.plan)
        plan_side = PlanSide(
            planned,
            plan.structures.structures,
            plan.isocentre,
            plan.dose,
            fractions,
            plan.prescriptions(),
            _end(load_profile(request.profile)),
        )
        digest = _digest((*plan.files, *files, *([Path(request.dose)] if request.dose else [])))
    today_side = TodaySide(
        today,
        number,
        image.patient_position,
        today_dose,
        [e.measured for e in earlier if e.number < number],
        [e.day for e in earlier if e.day is not None and e.number < number],
    )
    stepping = _Stepping(clock, progress)
    context = RegistrationContext(cancelled=cancelled or threading.Event())
    keeping = f"{plan.image.series_uid} {image.series_uid} {digest} {request.seed} {VERSION}"
    kept = AlignmentFile(Path(request.kept) / KEPT, keeping) if request.kept else None
    made = adapt(
        plan_side,
        today_side,
        policy,
        installed_engines(),
        seed=request.seed,
        context=context,
        template=template,
        alignments=kept,
        step=stepping.begin,
    )
    stepping.end()
    made = replace(made, decision=made.decision.of_images(_doubts(plan, image)))
    with clock.step("write"):
        progress(0.85, "writing")
        called = fraction_label(
            template.name,
            image,
            number,
            plan.plan.label if plan.plan is not None else "",
            load_profile(request.profile).label_length,
        )
        outputs = _written(folder, made, plan, image, earlier, request, number, called)
        if made.dose is not None:
            write_day(folder, made.dose.day, plan.dose.sop_instance_uid if plan.dose is not None else "")
    with clock.step("gate"):
        gate = passed(folder / "rtstruct.dcm", image, request.profile)
    result = fraction_result(
        request.case,
        made,
        plan,
        image,
        policy,
        template,
        number=(number, number_from),
        fractions=(fractions, fractions_from),
        today_dose_uid=today_dose.sop_instance_uid if today_dose is not None else "",
        earlier=earlier,
        outputs=outputs,
        gate=tuple(str(remark) for remark in gate.warnings),
        digest=digest,
        predecessor=request.predecessor,
        seed=request.seed,
        patient=request.patient,
    )
    with clock.step("report"):
        progress(0.92, "drawing")
        write_fraction_report(folder, result, made)
    result = result.model_copy(update={"timing": clock.timing()})
    (folder / "result.json").write_text(result.model_dump_json(indent=1), encoding="utf-8")
    (folder / "log.txt").write_text(_log(result), encoding="utf-8")
    progress(1.0, "done")
    return result


class _Stepping:
    """Each step's time, and how far the case is."""

    def __init__(self, clock: Clock, progress: Progress) -> None:
        self._clock, self._progress = clock, progress
        self._open: object = None

    def begin(self, name: str) -> None:
        self.end()
        self._open = self._clock.step(name)
        self._open.__enter__()
        self._progress(0.03 + 0.8 * (_STEPS.index(name) if name in _STEPS else 0) / len(_STEPS), name)

    def end(self) -> None:
        if self._open is not None:
            self._open.__exit__(None, None, None)  # type: ignore[attr-defined]
            self._open = None


def _plan_folder(plan: Path, fraction: Path, choice: str) -> PlanFolder:
    try:
        return read_plan_folder(plan, choice)
    except InputError as error:
        if scan(plan).of("RTSTRUCT", "RTPLAN") or not scan(fraction).of("RTSTRUCT", "RTPLAN"):
            raise
        raise InputError(
            "The plan's folder holds no structure set, and the fraction's does: were the two exchanged?",
            where=plan.name,
            remedy="Give the plan's folder first, then the fraction's",
        ) from error


def _planning_ct(plan: PlanFolder, request: FractionRequest) -> tuple[Volume[Any], PlanFolder]:
    """The planning CT, and the plan with what its pixels showed."""
    volume, image = plan.image.loaded()
    must_be_hounsfield(volume, Path(request.plan).name)
    seen = [f"Plan's image: {note}" for note in image.notes if note not in plan.image.notes]
    return volume, replace(plan, image=image, notes=(*plan.notes, *seen))


def _doubts(plan: PlanFolder, image: ImageSeries) -> list[str]:
    """Why one of the two images may not be all that was scanned, or not as it was."""
    return [f"{which} image: {doubt}" for which, one in (("Plan's", plan.image), ("Today's", image)) for doubt in one.doubts]


def policy_for(name: str, template: Template) -> Policy:
    """The policy of that name, or the one that goes with a template where the name is empty.

    Raises:
        InputError: none goes with the template; not there, or not what the schema asks for.
    """
    name = name or POLICIES.get(template.name, "")
    if not name:
        raise InputError(f"No policy goes with template {template.name!r}", remedy="Name one (--policy)")
    return load_policy(name)


def _earlier(request: FractionRequest, plan: PlanFolder) -> tuple[EarlierFraction, ...]:
    """Published fractions of this very plan.

    Raises:
        InputError: a folder that holds none, or one of another plan; one image twice.
    """
    found: list[EarlierFraction] = []
    for name in request.earlier:
        folder = Path(name)
        try:
            result = FractionResult.model_validate_json((folder / "result.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError("No result of a fraction", where=folder.name) from error
        if result.plan.structure_set_uid != plan.structures.sop_instance_uid:
            raise InputError(
                f"Fraction {result.number} stands on another plan's structures",
                where=folder.name,
                why="Changes and dose are counted from one plan",
                remedy="Give fractions of this plan",
            )
        day: DayDose | None = None
        if result.dose is not None and plan.dose is not None:
            day = read_day(folder, plan.dose.sop_instance_uid)
        found.append(EarlierFraction(result, day))
    images = [one.result.image.series_uid for one in found]
    if len(set(images)) < len(images):
        raise InputError("The image of one fraction is given twice", why="It would count twice", remedy="Give each once")
    if request.earlier_numbers:
        numbers = list(request.earlier_numbers)
    else:
        numbers = rising([(one.result.image.acquired, one.number) for one in found])
    last = {n: one.counted_as(n) for n, one in sorted(zip(numbers, found, strict=True), key=lambda both: both[0])}
    return tuple(last.values())


def _number(request: FractionRequest, earlier: tuple[EarlierFraction, ...]) -> tuple[int, str]:
    if request.number is not None:
        if any(one.number == request.number for one in earlier):
            raise InputError(f"Fraction {request.number} is among the earlier ones", remedy="Give another --number")
        return request.number, request.number_from
    if earlier:
        return earlier[-1].number + 1, "one after the latest that was given; nobody said it"
    return 1, "taken as the first: nobody said it"


def _fractions(request: FractionRequest, plan: Plan | None) -> tuple[int | None, str]:
    if plan is not None and plan.fractions:
        return plan.fractions, "RTPLAN"
    return (request.fractions, "call") if request.fractions else (None, "")


def _digest(files: tuple[Path, ...]) -> str:
    """SHA-256 over the digests of all files."""
    whole = hashlib.sha256()
    for one in sorted(hashlib.sha256(path.read_bytes()).digest() for path in files):
        whole.update(one)
    return whole.hexdigest()


def _written(
    folder: Path,
    made: Fraction,
    plan: PlanFolder,
    image: ImageSeries,
    earlier: tuple[EarlierFraction, ...],
    request: FractionRequest,
    number: int,
    called: SetLabel,
) -> tuple[OutputRecord, ...]:
    """All DICOM objects, in the order in which they refer to each other."""
    outputs: list[OutputRecord] = []
    today = tuple(_today(one) for one in made.structures if one.field is not None)
    if not today:
        reasons = "; ".join(one.reason for one in made.structures[:4])
        raise InputError(
            "Nothing of the plan lies in today's image", why=reasons, remedy="Look whether they belong together"
        )
    before = [uid for uid in (plan.structures.sop_instance_uid, request.predecessor) if uid]
    drawn = StructureSet(today, label=called.label, name=called.name, description=called.description)
    uid = write_structure_set(folder / "rtstruct.dcm", drawn, image, version=VERSION, predecessors=before, fraction=number)
    outputs.append(OutputRecord(file="rtstruct.dcm", sop_instance_uid=uid))
    note = "" if made.alignment.trust else f"{DOUBTED}: see result.json"
    way_back = made.alignment.rigid.inverse()
    assert isinstance(way_back, Rigid)
    said = {"version": VERSION, "note": note, "fraction": number}
    rigid = write_registration(folder / "reg.dcm", way_back, plan.image, image, **said)  # type: ignore[arg-type]
    outputs.append(OutputRecord(file="reg.dcm", sop_instance_uid=rigid))
    registrations = [Registration(rigid)]
    if made.alignment.deformable:
        grid: Geometry = field_grid(image.geometry)
        to_plan = made.alignment.plan_from_today
        bent = write_deformable(folder / "dreg.dcm", to_plan, grid, image, plan.image, **said)  # type: ignore[arg-type]
        outputs.append(OutputRecord(file="dreg.dcm", sop_instance_uid=bent))
        registrations.append(Registration(bent, deformable=True))
    outputs += _doses(folder, made, plan, registrations, earlier, number)
    return tuple(outputs)


def _doses(
    folder: Path,
    made: Fraction,
    plan: PlanFolder,
    registrations: list[Registration],
    earlier: tuple[EarlierFraction, ...],
    number: int,
) -> list[OutputRecord]:
    """The accumulated dose and its error, on the plan's grid."""
    if made.dose is None or plan.dose is None or not plan.dose.plan_uid:
        return []
    summed, (total, trust) = made.dose.summed, made.dose.summed.dose.judged
    label = accumulated_label(summed.counted, made.plan_fractions, trust)
    derivation = (
        f"{'; '.join(summed.accounting)}. Today's: {made.dose.today.basis}. Mapped to the plan's grid by trilinear "
        "interpolation through the inverse of the referenced registration. Research; not delivered dose"
    )
    every = [*registrations, *(one for e in earlier for one in e.registrations())]
    transformed = "NON_RIGID" if any(one.deformable for one in every) else "RIGID"
    how = {"version": VERSION, "derivation": derivation, "registrations": every, "fraction": number} | (
        {"plan_class": plan.plan.sop_class_uid, "plan_label": plan.plan.label} if plan.plan is not None else {}
    )
    dose = replace(total.dose, transformed=transformed, structure_set_uid=plan.structures.sop_instance_uid)
    uid = write_dose(folder / "dose.dcm", Estimated(dose, trust), plan.image, label=label, **how)  # type: ignore[arg-type]
    error = Estimated(replace(dose, volume=total.half_width, kind="ERROR"), trust)
    said = f"{'' if trust else f'{DOUBTED}: '}Error (95 %) of dose of {summed.counted} fractions, research"
    error_uid = write_dose(folder / "dose_error.dcm", error, plan.image, label=said, **how)  # type: ignore[arg-type]
    return [
        OutputRecord(file="dose.dcm", sop_instance_uid=uid),
        OutputRecord(file="dose_error.dcm", sop_instance_uid=error_uid),
    ]


def _today(one: Propagated) -> Structure:
    """As it goes into the structure set: the plan's number, name and looks."""
    planned = one.structure
    flags = ",".join([*([] if one.trust else [DOUBTED]), *(flag.code for flag in one.flags)])
    return Structure(
        name=planned.name,
        number=planned.number,
        interpreted_type=planned.interpreted_type,
        color=planned.color,
        algorithm="AUTOMATIC",
        description=f"recontour {VERSION} {one.made.value}{' ' if flags else ''}{flags}"[:64],
        observation_label=planned.observation_label,
        code=planned.code,
        drawn=one.drawn,
        field=one.field,
    )


def _log(result: FractionResult) -> str:
    """What was done when and why, without a word of who the patient is."""
    timing = result.timing
    steps = [f"{step:18s} {seconds:8.2f} s" for step, seconds in timing.steps_s.items()] if timing is not None else []
    made = [f"{s.name}: {s.made}{f', {s.reason}' if s.reason else ''}" for s in result.structures]
    head = [f"recontour {VERSION}", f"case {result.case}: {result.verdict}, {result.decision.verdict}"]
    return "\n".join([*head, *steps, *made, *result.reasons, *result.notes, ""])
