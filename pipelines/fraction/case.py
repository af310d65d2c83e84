"""`recontour adapt`: a plan's folder and a fraction's in; structure set, registrations, dose, result and report out.

What leaves is written into a work folder; publishing it is not done here. A case that was stopped goes on behind its
registration where its work folder is given again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from adaptive.alignment.alignment_file import AlignmentFile
from adaptive.decision.policy import load_policy
from adaptive.decision.rules import Policy
from adaptive.fraction import Fraction, adapt
from contour.template import Template, load_template
from patient.conformance.gate import passed
from patient.conformance.profile import load_profile
from patient.errors import InputError
from pipelines.configuration import Configuration
from pipelines.fraction.fraction_dose_file import write_fraction_dose
from pipelines.fraction.inputs import FractionInputs, FractionRequest, read_inputs
from pipelines.fraction.outputs import write_objects
from pipelines.fraction.record import fraction_result
from pipelines.planning.engines import installed_engines
from pipelines.planning.set_label import fraction_label
from pipelines.records.case import VERSION
from pipelines.records.clock import Clock
from pipelines.records.fraction import FractionResult, OutputRecord
from registration.method import RegistrationContext

KEPT = "alignment.npz"
Progress = Callable[[float, str], None]
_STEPS = (
    "rigid",
    "deformable",
    "quality",
    "inverse",
    "field of view",
    "re-segment",
    "propagate",
    "change",
    "dose",
    "decide",
)


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
        read = read_inputs(request)
    made = _adapted(read, request, policy, template, _Stepping(clock, progress), cancelled)
    with clock.step("write"):
        progress(0.85, "writing")
        outputs = _written(folder, made, read, request, template)
    with clock.step("gate"):
        gate = passed(folder / "rtstruct.dcm", read.image, request.profile)
    remarks = tuple(str(remark) for remark in gate.warnings)
    result = _result(made, read, request, policy, template, outputs, remarks)
    with clock.step("report"):
        progress(0.92, "drawing")
        write_fraction_report(folder, result, made)
    result = result.model_copy(update={"timing": clock.timing()})
    (folder / "result.json").write_text(result.model_dump_json(indent=1), encoding="utf-8")
    (folder / "log.txt").write_text(_log(result), encoding="utf-8")
    progress(1.0, "done")
    return result


def _adapted(
    read: FractionInputs,
    request: FractionRequest,
    policy: Policy,
    template: Template,
    stepping: _Stepping,
    cancelled: threading.Event | None,
) -> Fraction:
    """What comes of the fraction; its registration is kept for a next try where the request says so."""
    keeping = f"{read.plan.image.series_uid} {read.image.series_uid} {read.digest} {request.seed} {VERSION}"
    made = adapt(
        read.plan_side(load_profile(request.profile)),
        read.today_side(),
        policy,
        installed_engines(),
        seed=request.seed,
        context=RegistrationContext(cancelled=cancelled or threading.Event()),
        template=template,
        alignments=AlignmentFile(Path(request.kept) / KEPT, keeping) if request.kept else None,
        step=stepping.begin,
    )
    stepping.end()
    return made


def _written(
    folder: Path, made: Fraction, read: FractionInputs, request: FractionRequest, template: Template
) -> tuple[OutputRecord, ...]:
    """The DICOM objects, and beside them the fraction's own dose."""
    plan, dose = read.plan.plan, read.plan.dose
    length = load_profile(request.profile).label_length
    called = fraction_label(template.name, read.image, read.number[0], plan.label if plan is not None else "", length)
    outputs = write_objects(folder, made, read, called, request.predecessor)
    if made.dose is not None:
        write_fraction_dose(folder, made.dose.day, dose.sop_instance_uid if dose is not None else "")
    return outputs


def _result(
    made: Fraction,
    read: FractionInputs,
    request: FractionRequest,
    policy: Policy,
    template: Template,
    outputs: tuple[OutputRecord, ...],
    gate: tuple[str, ...],
) -> FractionResult:
    """The whole record but its timing."""
    return fraction_result(
        request.case,
        made,
        read.plan,
        read.image,
        policy,
        template,
        number=read.number,
        fractions=read.fractions,
        today_dose_uid=read.today_dose.sop_instance_uid if read.today_dose is not None else "",
        earlier=read.earlier,
        outputs=outputs,
        gate=gate,
        digest=read.digest,
        predecessor=request.predecessor,
        seed=request.seed,
        patient=request.patient,
    )


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


def policy_for(name: str, template: Template) -> Policy:
    """The policy of that name, or the one that goes with a template where the name is empty.

    Raises:
        InputError: none goes with the template; not there, or not what the schema asks for.
    """
    name = name or Configuration().policies.get(template.name, "")
    if not name:
        raise InputError(f"No policy goes with template {template.name!r}", remedy="Name one (--policy)")
    return load_policy(name)


def _log(result: FractionResult) -> str:
    """What was done when and why, without a word of who the patient is."""
    timing = result.timing
    steps = [f"{step:18s} {seconds:8.2f} s" for step, seconds in timing.steps_s.items()] if timing is not None else []
    made = [f"{s.name}: {s.made}{f', {s.reason}' if s.reason else ''}" for s in result.structures]
    head = [f"recontour {VERSION}", f"case {result.case}: {result.verdict}, {result.decision.verdict}"]
    return "\n".join([*head, *steps, *made, *result.reasons, *result.notes, ""])
