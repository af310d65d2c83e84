"""evaluation.json: how far predicted contours agree with references (its JSON Schema in docs/ is made from these types)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from contour.summary import Summary
from pipelines.records.case import VERSION, Record, Timing

Color = tuple[int, int, int]
MEASURES = (
    "dice",
    "surface_dice",
    "hd95",
    "mean_surface_distance",
    "added_path",
    "volume_bias_cc",
    "volume_bias_percent",
    "centroid_distance",
    "missing_slices",
    "extra_slices",
    "worst_slice",
)
"""What is summarised over patients; each a field of ComparisonRecord and of StructureSummary."""


class ComparisonRecord(Record):
    """A structure in one case; mm unless the name says otherwise, null where there was nothing to measure."""

    structure: str
    """TG-263, or the name as both sides write it."""
    state: Literal["compared", "missed", "spurious", "empty"]
    """missed: in the reference and not predicted; spurious: predicted, and unknown or absent in the reference."""
    reason: str = ""
    predicted_name: str = ""
    reference_name: str = ""
    confidence: float | None = None
    """0 to 1, where the maker said it."""
    dice: float | None = None
    surface_dice: float | None = None
    hd95: float | None = None
    mean_surface_distance: float | None = None
    """Mean of both directions, each weighted by area."""
    to_reference: float | None = None
    to_predicted: float | None = None
    added_path: float | None = None
    """Length of reference contour that was not predicted."""
    reference_path: float | None = None
    predicted_cc: float | None = None
    reference_cc: float | None = None
    volume_bias_cc: float | None = None
    """Predicted minus reference."""
    volume_bias_percent: float | None = None
    centroid_distance: float | None = None
    missing_slices: int | None = None
    """Slices on which the reference has something and nothing is predicted; counted over the whole image, also where the
    structure is scored between the reference's ends."""
    missing_superior: int | None = None
    """Of the missing slices, those beyond the predicted structure's superior end."""
    missing_inferior: int | None = None
    extra_slices: int | None = None
    """Slices on which something is predicted and the reference has nothing."""
    extra_superior: int | None = None
    extra_inferior: int | None = None
    worst_slice: float | None = None
    """The largest in-plane HD95 of all slices on which both are."""
    worst_slice_at: float | None = None
    """Where that slice lies: LPS mm along the patient's long axis."""
    remarks: tuple[str, ...] = ()
    """How either side was drawn, where its contours were united or interpolated before they were measured."""


class CaseComparison(Record):
    """One image with its predicted and reference structures."""

    case: str
    problem: str = ""
    """Why nothing of it was compared; empty where it was."""
    structures: tuple[ComparisonRecord, ...] = ()
    predicted_only: tuple[str, ...] = ()
    """Names, as they are written, that are unmatched."""
    reference_only: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """What was odd about a structure set or its image and tolerated, or left out."""


class SummaryRecord(Record):
    """A measure over the cases in which it could be measured. Intervals are 95 % bootstraps, null for fewer than five."""

    n: int
    mean: float
    median: float
    sd: float | None
    lowest: float
    highest: float
    quartiles: tuple[float, float]
    mean_interval: tuple[float, float] | None
    median_interval: tuple[float, float] | None

    @staticmethod
    def of(summary: Summary) -> SummaryRecord:
        return SummaryRecord.model_validate(vars(summary))


class StructureSummary(Record):
    """A structure over all cases."""

    structure: str
    color: Color
    tolerance: float
    """mm, of the surface Dice."""
    between_ends: bool
    """Scored between the first and last slice of the reference only."""
    compared: int
    missed: int
    spurious: int
    dice: SummaryRecord | None = None
    surface_dice: SummaryRecord | None = None
    hd95: SummaryRecord | None = None
    mean_surface_distance: SummaryRecord | None = None
    added_path: SummaryRecord | None = None
    volume_bias_cc: SummaryRecord | None = None
    volume_bias_percent: SummaryRecord | None = None
    centroid_distance: SummaryRecord | None = None
    missing_slices: SummaryRecord | None = None
    extra_slices: SummaryRecord | None = None
    worst_slice: SummaryRecord | None = None
    worst: tuple[str, ...] = ()
    """Cases with the lowest Dice, the lowest first."""


class JudgementRecord(Record):
    """A limit and what came of it."""

    structure: str
    measure: str
    limit: float
    rises: bool
    """True for a limit that must not be exceeded."""
    value: float | None
    passed: bool | None
    """null where nothing was measured: that is no pass."""
    sure: bool
    """The 95 % interval lies wholly on its side of the limit."""
    source: str


class LimitsRecord(Record):
    """The file of limits that was applied."""

    name: str
    description: str
    source: str
    statistic: str
    digest: str


class MakerRecord(Record):
    """What made the predicted structures, where it was run here."""

    name: str
    version: str
    seconds_per_case: float | None = None


class EvaluationResult(Record):
    """evaluation.json."""

    schema_version: Literal["1.0"] = Field(default="1.0", alias="schema")
    version: str = VERSION
    kind: Literal["evaluate", "commission"]
    verdict: Literal["passed", "failed", "not judged"]
    """failed also where a limit could not be measured."""
    reasons: tuple[str, ...]
    """What wants clinical review, worst first."""
    maker: MakerRecord | None = None
    limits: LimitsRecord | None = None
    judgements: tuple[JudgementRecord, ...] = ()
    structures: tuple[StructureSummary, ...]
    cases: tuple[CaseComparison, ...]
    left_out: tuple[str, ...] = ()
    """Files and cases that could not be used or paired, and why."""
    seed: int
    timing: Timing
