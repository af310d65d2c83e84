"""What a course came to: the types behind course.json (its JSON Schema in docs/ is generated from them)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipelines.records.case import VERSION, Figures, Record

COURSE_SCHEMA = "1.1"
Colours = dict[str, tuple[int, int, int]]


class CoursePlanRecord(Record):
    """A plan that fractions were given by."""

    uid: str
    """Of the RTPLAN; of the structure set where there is none."""
    label: str
    fractions: int | None
    """Planned; null where nobody says."""


class StandingRecord(Record):
    """A fraction's place in the course."""

    case: str
    """Name of its case folder."""
    number: int
    """Under its plan, from 1."""
    ordinal: int
    """In the whole course, over all plans."""
    acquired: str
    """YYYYMMDD, or empty."""
    plan_uid: str
    verdict: Literal["continue", "review", "replan"]
    trusted: bool
    """False: its registration is not trusted, and it stands in no trend."""
    counts: bool
    """False: another case stands for it; the remarks say which."""
    beyond: tuple[str, ...]
    """Rules that are exceeded, each with its structure."""
    reasons: tuple[str, ...]
    """Of the verdict."""
    remarks: tuple[str, ...]


class PointRecord(Figures):
    """A figure on one day."""

    fraction: int
    value: float
    interval: tuple[float, float] | None
    """95 %."""
    trusted: bool
    doubts: tuple[str, ...]
    """Why not."""


class TrendRecord(Figures):
    """A line through the trusted points (Theil and Sen)."""

    slope: float
    """Change a fraction."""
    slope_interval: tuple[float, float]
    """95 %."""
    intercept: float
    """The line at fraction 0."""
    noise: float
    """Standard deviation of single days about it."""
    fractions: tuple[int, ...]
    """It stands on these."""


class ForecastRecord(Figures):
    """When a rule is forecast to be exceeded, as long as the patient goes on as before."""

    said: str
    fraction: int | None
    """The median; null where it lies beyond the course or nothing can be said."""
    earliest: int | None
    latest: int | None
    probability: float | None
    """That it is exceeded within the course."""


class LimitRecord(Figures):
    """A rule about a figure."""

    rule: str
    limit: float
    rises: bool
    """Whether beyond the limit means above it."""
    consecutive: int
    consequence: Literal["review", "replan"]
    state: Literal["tripped", "near", "not tripped", "not evaluated"] | None
    """Today's; null where it was not looked at."""
    reason: str
    source: str
    forecast: ForecastRecord


class TrackRecord(Figures):
    """One figure over the fractions of a plan, in the terms of its rules."""

    structure: str
    quantity: str
    unit: str
    """Of the points and limits."""
    compare: Literal["value", "change", "relative"]
    """Today's value, its change since the plan, or that in percent of the plan's value."""
    planned: float | None
    """The plan's value, in the unit of the measurement."""
    color: tuple[int, int, int] | None
    points: tuple[PointRecord, ...]
    trend: TrendRecord | None
    """Null of fewer than five trusted points."""
    limits: tuple[LimitRecord, ...]


class DoseFigureRecord(Figures):
    """A figure of the dose accumulated up to a fraction."""

    fraction: int
    value: float
    interval: tuple[float, float] | None
    """95 %, from the registrations' errors and what no image showed."""
    trusted: bool
    doubts: tuple[str, ...]
    """Why not, each with the fraction it is about."""


class DoseTrackRecord(Figures):
    """A figure of the accumulated dose over the fractions: research, not delivered dose."""

    structure: str
    quantity: str
    unit: str
    color: tuple[int, int, int] | None
    figures: tuple[DoseFigureRecord, ...]


class PartRecord(Figures):
    """The fractions of one plan. Nothing is joined over plans."""

    plan: CoursePlanRecord
    fractions: tuple[int, ...]
    """Numbers of those with an image that counts."""
    missing: tuple[int, ...]
    """Numbers without an image, up to the last image."""
    tracks: tuple[TrackRecord, ...]
    """The weightiest first."""
    dose: tuple[DoseTrackRecord, ...]
    counted: int | None
    """Fractions in the accumulated dose; null where there is none."""
    accounting: tuple[str, ...]
    """Which image each counted fraction stands on, in words."""


class CourseResult(Record):
    """course.json."""

    schema_version: Literal["1.1"] = Field(default=COURSE_SCHEMA, alias="schema")
    course: str
    patient: str
    """What the newest fraction's case calls the patient; empty for nothing."""
    verdict: Literal["continue", "review", "replan"]
    """About the newest fraction that counts; a person decides."""
    today: str
    """Its case."""
    reasons: tuple[str, ...]
    """Of the verdict, weightiest first; without rules that could not be evaluated."""
    not_evaluated: tuple[str, ...]
    """Reasons that are rules which could not be evaluated, each with why."""
    outlook: tuple[str, ...]
    """Rules that are forecast to be exceeded within the course, soonest first."""
    notes: tuple[str, ...]
    """What was odd about the course: a plan replaced, fractions without image or not trusted, images out of order."""
    parts: tuple[PartRecord, ...]
    """One a plan; the last is the current one."""
    fractions: tuple[StandingRecord, ...]
    """In order of acquisition."""
    cases: tuple[str, ...]
    """All that were read, sorted."""
    version: str = VERSION
