"""From what a fraction came to, to its record: every figure as it is written to result.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from adaptive.alignment.alignment import Alignment, RigidAnswer
from adaptive.decision.decision import Verdict as Recommendation
from adaptive.decision.measurement import Measured, Measurement
from adaptive.decision.rules import Policy
from adaptive.dose.fraction_dose import FractionDose
from adaptive.fraction import Fraction
from adaptive.propagation.propagated import Made, Propagated
from contour.template import Template
from patient.geometry import Geometry
from patient.loop import Loop
from patient.outline import coarsely_simplified, loops_of_field
from patient.rasterisation import mask_of_loops
from patient.series import ImageSeries
from patient.write.rtdose import Registration
from pipelines.fraction.plan_folder import PlanFolder
from pipelines.outbox.job_key import Whose
from pipelines.planning.case import image_record
from pipelines.records.case import VERSION, FlagRecord, Verdict
from pipelines.records.decision import DecisionRecord, MeasurementRecord
from pipelines.records.fraction import (
    DisagreementRecord,
    DoseRecord,
    DvhRecord,
    FractionProvenance,
    FractionRegistrationRecord,
    FractionResult,
    FractionStructureRecord,
    OutputRecord,
    PlanRecord,
    RigidRecord,
)
from pipelines.records.registration import CouchRecord, QualityRecord
from registration.couch import CouchCorrection

LOW_DOSE = 0.1
"""Of the highest dose: below it the interval says little."""
EXPECTED = ("completed", "cut_by_field_of_view", "compared_only")
"""Flags that every image of a small field of view has: in the table, and no reason to look unless the body is meant."""


@dataclass(frozen=True, eq=False)
class EarlierFraction:
    """A published fraction of the same plan: its record, and its dose on the plan's grid where it has one."""

    result: FractionResult
    day: FractionDose | None

    @property
    def number(self) -> int:
        return self.result.number

    @property
    def measured(self) -> Measured:
        """Its figures."""
        return self.result.measured()

    def counted_as(self, number: int) -> EarlierFraction:
        """The same under another number: images that came later have moved it."""
        day = replace(self.day, number=number) if self.day is not None else None
        return EarlierFraction(self.result.model_copy(update={"number": number}), day)

    def registrations(self) -> list[Registration]:
        """The objects that its dose stands on."""
        kinds = {"reg.dcm": False, "dreg.dcm": True}
        if self.day is None:
            return []
        return [Registration(o.sop_instance_uid, kinds[o.file]) for o in self.result.outputs if o.file in kinds]


def fraction_result(
    case: str,
    made: Fraction,
    plan: PlanFolder,
    image: ImageSeries,
    policy: Policy,
    template: Template,
    *,
    number: tuple[int, str],
    fractions: tuple[int | None, str],
    today_dose_uid: str,
    earlier: Sequence[EarlierFraction],
    outputs: tuple[OutputRecord, ...],
    gate: tuple[str, ...],
    digest: str,
    predecessor: str,
    seed: int,
    patient: Whose | None,
) -> FractionResult:
    """The whole record but its timing.

    Args:
        case: its name.
        made: what came of the fraction.
        plan, image: what it was made from.
        policy, template: by what.
        number, fractions: each with who says so.
        today_dose_uid: of a dose that was computed on today's image; empty for none.
        earlier: that were counted.
        outputs: DICOM objects that were written.
        gate: warnings of the conformance check.
        digest: of the inputs.
        predecessor: structure set that this one replaces.
        seed: as given.
        patient: whose it is; None where there is no outbox to say it.
    """
    structures = tuple(_structure(one, made) for one in made.structures)
    reasons = _reasons(made, structures)
    used = [plan.structures.sop_instance_uid, plan.plan.sop_instance_uid if plan.plan is not None else ""]
    used += [plan.dose.sop_instance_uid if plan.dose is not None else "", today_dose_uid]
    unsaid = [] if fractions[0] else ["Nobody says how many fractions are planned: give --fractions"]
    return FractionResult(
        case=case,
        verdict=Verdict.REVIEW if reasons else Verdict.PUBLISH,
        reasons=reasons,
        number=number[0],
        number_from=number[1],
        plan=_plan(plan, fractions, patient),
        image=image_record(image, patient),
        registration=_registration(made.alignment),
        couch=_couch(made.couch),
        structures=structures,
        measurements=tuple(MeasurementRecord.of(m) for m in made.measurements),
        decision=DecisionRecord.of(made.decision),
        dvh=_dvhs(made),
        dose=_dose(made, fractions[0]),
        outputs=outputs,
        gate=gate,
        notes=(*plan.notes, *(f"Today's image: {note}" for note in image.notes), *unsaid, *made.notes),
        provenance=FractionProvenance(
            version=VERSION,
            policy=policy.name,
            policy_digest=policy.digest,
            template=template.name,
            template_digest=template.digest,
            engines=dict(made.engines),
            input_digest=digest,
            sources=tuple(uid for uid in used if uid),
            earlier=tuple(one.result.case for one in earlier),
            predecessor_uid=predecessor,
            seed=seed,
        ),
    )


def _reasons(made: Fraction, structures: Sequence[FractionStructureRecord]) -> tuple[str, ...]:
    """Why a person should look: the decision's reasons, then structures that are not there or not as asked."""
    decided = made.decision.reasons if made.decision.verdict is not Recommendation.CONTINUE else ()
    absent = [f"{s.name} is not there today: {s.reason}" for s in structures if s.made == "none" and _is_missed(s)]
    flagged = [f"{s.name}: {flag.detail}" for s in structures for flag in s.flags if flag.code not in EXPECTED]
    return tuple(dict.fromkeys((*decided, *absent, *flagged)))


def _is_missed(structure: FractionStructureRecord) -> bool:
    """Whether a person would look for it: what was never drawn, or belongs to the couch, is not missed."""
    return structure.planned_cc is not None or "today's image" in structure.reason


def _plan(plan: PlanFolder, fractions: tuple[int | None, str], patient: Whose | None) -> PlanRecord:
    return PlanRecord(
        image=image_record(plan.image, patient),
        structure_set_uid=plan.structures.sop_instance_uid,
        plan_uid=plan.plan.sop_instance_uid if plan.plan is not None else "",
        dose_uid=plan.dose.sop_instance_uid if plan.dose is not None else "",
        label=plan.plan.label if plan.plan is not None else "",
        fractions=fractions[0],
        fractions_from=fractions[1],
        isocentre=plan.isocentre,
        isocentre_from=plan.isocentre_from,
        notes=plan.notes,
    )


def _registration(alignment: Alignment) -> FractionRegistrationRecord:
    return FractionRegistrationRecord(
        intensity=_rigid(alignment.intensity),
        features=_rigid(alignment.features),
        apart_mm=alignment.apart,
        apart_degrees=alignment.apart_degrees,
        agree=alignment.agree,
        deformable=alignment.deformable,
        trusted=bool(alignment.trust),
        reasons=alignment.reasons,
        quality=QualityRecord(**asdict(alignment.quality)),
        error_mm=alignment.error,
        error_from=alignment.error_from,
        inverse_left_mm=alignment.inverse_left,
    )


def _rigid(answer: RigidAnswer) -> RigidRecord:
    found = answer.plan_from_today
    matrix = None if found is None else tuple(tuple(float(v) for v in row) for row in found.matrix)
    return RigidRecord(method=answer.method, matrix=matrix, trusted=found is not None, reasons=answer.reasons)


def _couch(couch: CouchCorrection | None) -> CouchRecord | None:
    if couch is None:
        return None
    x, y, z = (float(v) for v in couch.centre)
    moves = {n: float(getattr(couch, n)) for n in ("lateral", "longitudinal", "vertical", "pitch", "roll", "yaw")}
    return CouchRecord(**moves, centre=(x, y, z))


def _structure(one: Propagated, made: Fraction) -> FractionStructureRecord:
    volume = _measured(made, one.name, "volume")
    compared = volume.figure.judged[0] if volume is not None else None
    apart, coarse = one.disagreement, coarsely_simplified(_loops(one), made.today.geometry)
    simplified = (FlagRecord(code="simplified", detail=coarse),) if coarse else ()
    return FractionStructureRecord(
        name=one.name,
        number=one.structure.number,
        interpreted_type=one.structure.interpreted_type,
        color=one.structure.color,
        asked="recipe" if one.asked.recipe else one.asked.propagate.value,
        made=one.made.value,
        basis=one.basis,
        planned_cc=compared.planned if compared is not None else None,
        today_cc=compared.value if compared is not None else None,
        drawn_cc=_drawn_cc(one, made.today.geometry),
        confidence=None if one.confidence is None else round(one.confidence, 3),
        seen=one.seen,
        disagreement=None if apart is None else DisagreementRecord(mean=apart.mean, hd95=apart.hd95),
        trusted=bool(one.trust),
        doubts=one.trust.doubts,
        flags=(*(FlagRecord(code=flag.code, detail=flag.detail) for flag in one.flags), *simplified),
        reason=one.reason if one.made is Made.NONE else "",
    )


def _drawn_cc(one: Propagated, today: Geometry) -> float | None:
    """Of the contours, as readers count their inside in voxels."""
    if one.field is None:
        return None
    return float(mask_of_loops(_loops(one), today).array.sum()) * today.voxel_cc


def _loops(one: Propagated) -> tuple[Loop, ...]:
    """As it is written."""
    if one.drawn is not None:
        return one.drawn
    return loops_of_field(one.field) if one.field is not None else ()


def _measured(made: Fraction, structure: str, quantity: str) -> Measurement | None:
    return next((m for m in made.measurements if m.structure == structure and m.quantity == quantity), None)


def _dvhs(made: Fraction) -> tuple[DvhRecord, ...]:
    found = []
    for one in made.dose.figures if made.dose is not None else ():
        if one.planned is None or one.today is None:
            continue
        now = one.today.judged[0].nominal
        found.append(
            DvhRecord(
                structure=one.name,
                planned_covered=one.planned.covered,
                today_covered=now.covered,
                resolution_mm=now.resolution,
                end=str(now.end),
                holes=now.holes,
                notes=tuple(dict.fromkeys((*one.planned.notes, *now.notes))),
            )
        )
    return tuple(found)


def _dose(made: Fraction, fractions: int | None) -> DoseRecord | None:
    if made.dose is None:
        return None
    (summed, trust), sum_ = made.dose.summed.dose.judged, made.dose.summed
    gray = summed.dose.volume.array
    look = gray > LOW_DOSE * float(gray.max())
    return DoseRecord(
        source="placed" if made.dose.today.placed else "recomputed",
        basis=made.dose.today.basis,
        counted=sum_.counted,
        planned=fractions,
        accounting=sum_.accounting,
        error_mm=made.alignment.error,
        error_median=float(np.median(summed.half_width.array[look])) if look.any() else 0.0,
        inverse_left_mm=made.alignment.inverse_left,
        unmapped=made.dose.day.unmapped,
        trusted=bool(trust),
        doubts=trust.doubts,
    )
