"""What a fraction came to: the types behind a fraction's result.json (its JSON Schema in docs/ is generated from them)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from adaptive.decision.measurement import Measured
from pipelines.records.case import Figures, FlagRecord, ImageRecord, Record, Timing, Verdict
from pipelines.records.decision import DecisionRecord, MeasurementRecord
from pipelines.records.registration import CouchRecord, QualityRecord


class PlanRecord(Record):
    """The plan that the fraction belongs to. UIDs are empty where the plan's folder has no such object."""

    image: ImageRecord
    structure_set_uid: str
    plan_uid: str = ""
    dose_uid: str = ""
    label: str = ""
    """RT Plan Label."""
    fractions: int | None = None
    """Planned; null where nobody says."""
    fractions_from: str = ""
    """Who says so: "RTPLAN", "call", or empty."""
    isocentre: tuple[float, float, float] | None = None
    """LPS mm in the plan's image."""
    isocentre_from: str = ""
    """Where it comes from, in words."""
    notes: tuple[str, ...] = ()
    """What was odd in reading and tolerated."""


class RigidRecord(Figures):
    """One rigid answer: `plan_from_today`, row by row, LPS mm. Null, and why, where there was none."""

    method: str
    matrix: tuple[tuple[float, ...], ...] | None
    trusted: bool
    reasons: tuple[str, ...] = ()


class FractionRegistrationRecord(Figures):
    """How today's image was registered to the plan's: today's is the fixed one."""

    intensity: RigidRecord
    features: RigidRecord
    """The independent check: shares nothing with the first but the images."""
    apart_mm: float | None
    """Between the two at the isocentre; null where there is only one."""
    apart_degrees: float | None
    agree: bool
    """Within 3 mm and 2 degrees."""
    deformable: bool
    """False: structures were rigidly propagated, as there is no deformable answer."""
    trusted: bool
    reasons: tuple[str, ...]
    quality: QualityRecord
    error_mm: float | None
    """Within which a point's place lies with 95 % confidence, where today's image shows it."""
    error_from: str
    """What that stands on, in words."""
    inverse_left_mm: float | None
    """Inverse-consistency error of the inverse (plan to today), 95th percentile; null where nothing was inverted."""


class DisagreementRecord(Record):
    """Between the propagated and the freshly contoured surface, mm."""

    mean: float
    hd95: float


class FractionStructureRecord(Record):
    """A structure of the plan, today."""

    name: str
    number: int
    """ROI Number in the plan's structure set."""
    interpreted_type: str = ""
    color: tuple[int, int, int] | None = None
    asked: Literal["deform", "rigid", "fresh", "reconcile", "recipe"]
    """What the policy asks for."""
    made: Literal["deformed", "rigid", "fresh", "reconciled", "rebuilt", "none"]
    """How it was made; differs from what was asked where that could not be done (see flags)."""
    basis: str = ""
    """In words: recipe, engine."""
    planned_cc: float | None = None
    """Compared: where both images show the patient."""
    today_cc: float | None = None
    """Compared: where both images show the patient."""
    drawn_cc: float | None = None
    """Of all that is drawn in rtstruct.dcm: what a planning system shows."""
    confidence: float | None = None
    """0 to 1."""
    seen: float | None = None
    """Part of it, by volume, that lies where today's image shows the patient."""
    disagreement: DisagreementRecord | None = None
    trusted: bool
    doubts: tuple[str, ...] = ()
    """Why not trusted."""
    flags: tuple[FlagRecord, ...] = ()
    reason: str = ""
    """Why it is not there, where it is not."""


class DvhRecord(Figures):
    """How a structure's DVHs were made; its figures stand among the measurements."""

    structure: str
    planned_covered: float
    """Part of the planned structure where the plan's dose is known."""
    today_covered: float
    resolution_mm: float
    end: str
    """What was taken to lie beyond the end contours, by the profile of the planning system."""
    holes: str
    notes: tuple[str, ...] = ()


class DoseRecord(Figures):
    """Where dose comes from and what is counted."""

    source: Literal["placed", "recomputed"]
    """The plan's dose placed by the couch correction, or a dose that a planning system computed on today's image."""
    basis: str
    counted: int
    """Fractions in the accumulated dose, those without an image too."""
    planned: int | None
    accounting: tuple[str, ...]
    """Which image each counted fraction stands on, in words."""
    error_mm: float
    """Taken for the uncertainty interval, 95 %."""
    error_median: float
    """Gy, of the accumulated dose's half-width where the dose is above a tenth of its highest."""
    inverse_left_mm: float | None
    unmapped: float
    """Part of the plan's dose grid that leads to where today's dose is not known, and keeps the plan's own dose."""
    trusted: bool
    """Whether every image that the accumulated dose stands on is."""
    doubts: tuple[str, ...] | None = None
    """Why not, each with its fraction; null in a file from before this was recorded."""


class OutputRecord(Record):
    """A DICOM object that was written."""

    file: str
    sop_instance_uid: str


class FractionProvenance(Record):
    """From what, with what: enough to make it again."""

    version: str
    policy: str
    policy_digest: str
    template: str
    template_digest: str
    engines: dict[str, str]
    input_digest: str
    """SHA-256 over the digests of every file that was used."""
    sources: tuple[str, ...]
    """SOP Instance UIDs of every object used besides the two images."""
    earlier: tuple[str, ...] = ()
    """Cases of earlier fractions that were counted."""
    predecessor_uid: str = ""
    seed: int = 0


class FractionResult(Figures):
    """result.json of a fraction."""

    schema_version: Literal["1.0", "1.1"] = Field(default="1.1", alias="schema")
    kind: Literal["fraction"] = "fraction"
    case: str
    verdict: Verdict
    reasons: tuple[str, ...] = ()
    """Why review, weightiest first."""
    number: int
    """Of the fraction in its course, from 1."""
    number_from: str = ""
    """Who says so, in words."""
    plan: PlanRecord
    image: ImageRecord
    """Today's."""
    registration: FractionRegistrationRecord
    couch: CouchRecord | None
    """The correction that brings the patient back to the plan, by the rigid registration by intensity."""
    structures: tuple[FractionStructureRecord, ...]
    measurements: tuple[MeasurementRecord, ...]
    decision: DecisionRecord
    dvh: tuple[DvhRecord, ...] = ()
    dose: DoseRecord | None = None
    outputs: tuple[OutputRecord, ...] = ()
    gate: tuple[str, ...] = ()
    """Warnings of the conformance check; errors refuse the output."""
    notes: tuple[str, ...] = ()
    """What could not be measured and why, and what was odd and tolerated."""
    provenance: FractionProvenance
    timing: Timing | None = None

    def measured(self) -> Measured:
        """All figures of this fraction, as decisions and trends take them."""
        return Measured(self.number, tuple(record.measurement() for record in self.measurements))
