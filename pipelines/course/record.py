"""From what a course came to, to its record: every figure as it is written to course.json."""

from __future__ import annotations

from adaptive.course.course import Course, Part, Standing, verdict_of
from adaptive.course.tracks import DoseTrack, Limit, Point, Track
from adaptive.decision.decision import State
from adaptive.decision.measurement import Measurement
from pipelines.records.course import (
    Colours,
    CoursePlanRecord,
    CourseResult,
    DoseFigureRecord,
    DoseTrackRecord,
    ForecastRecord,
    LimitRecord,
    PartRecord,
    PointRecord,
    StandingRecord,
    TrackRecord,
    TrendRecord,
)


def course_result(course: Course, name: str, patient: str, colours: Colours) -> CourseResult:
    """The document of a course.

    Args:
        course: what is said.
        name: of its folder.
        patient: what pages call whom it is of.
        colours: of structures, by name.
    """
    today = course.today
    unknown = {r.reason for r in today.decision.results if r.state is State.NOT_EVALUATED}
    return CourseResult(
        course=name,
        patient=patient,
        verdict=verdict_of(course).value,  # type: ignore[arg-type]
        today=today.case,
        reasons=tuple(reason for reason in today.decision.reasons if reason not in unknown),
        not_evaluated=tuple(reason for reason in today.decision.reasons if reason in unknown),
        outlook=course.outlook,
        notes=course.notes,
        parts=tuple(_part(part, colours) for part in course.parts),
        fractions=tuple(_standing(standing) for standing in course.standings),
        cases=tuple(sorted(s.fraction.case for s in course.standings)),
    )


def _standing(standing: Standing) -> StandingRecord:
    fraction, decision = standing.fraction, standing.fraction.decision
    exceeded = [r for r in decision.results if r.state.value == "tripped"]
    return StandingRecord(
        case=fraction.case,
        number=fraction.number,
        ordinal=standing.ordinal,
        acquired=fraction.acquired[:8],
        plan_uid=fraction.plan.uid,
        verdict=decision.verdict.value,  # type: ignore[arg-type]
        trusted=bool(fraction.trust),
        counts=standing.counts,
        beyond=tuple(dict.fromkeys(f"{r.rule.name} {r.structure}".strip() for r in exceeded)),
        reasons=decision.reasons,
        remarks=standing.remarks,
    )


def _part(part: Part, colours: Colours) -> PartRecord:
    plan = part.plan
    return PartRecord(
        plan=CoursePlanRecord(uid=plan.uid, label=plan.label, fractions=plan.fractions),
        fractions=tuple(f.number for f in part.fractions),
        missing=part.missing,
        tracks=tuple(_track(track, colours) for track in part.tracks),
        dose=tuple(_dose(track, colours) for track in part.dose),
        counted=part.newest.counted,
        accounting=part.newest.accounting,
    )


def _track(track: Track, colours: Colours) -> TrackRecord:
    line = track.trend
    return TrackRecord(
        structure=track.structure,
        quantity=track.quantity,
        unit=track.unit,
        compare=track.compare.value,  # type: ignore[arg-type]
        planned=track.planned,
        color=colours.get(track.structure),
        points=tuple(_point(point) for point in track.points),
        trend=None
        if line is None
        else TrendRecord(
            slope=line.slope,
            slope_interval=line.slope_interval,
            intercept=line.intercept,
            noise=line.noise,
            fractions=line.fractions,
        ),
        limits=tuple(_limit(limit) for limit in track.limits),
    )


def _point(point: Point) -> PointRecord:
    return PointRecord(
        fraction=point.fraction,
        value=point.value,
        interval=point.interval,
        trusted=bool(point.trust),
        doubts=point.trust.doubts,
    )


def _limit(limit: Limit) -> LimitRecord:
    rule = limit.rule
    return LimitRecord(
        rule=rule.name,
        limit=rule.limit,
        rises=rule.rises,
        consecutive=rule.consecutive,
        consequence=rule.consequence,
        state=limit.state.value if limit.state else None,  # type: ignore[arg-type]
        reason=limit.reason,
        source=rule.source,
        forecast=ForecastRecord(**vars(limit.forecast)),
    )


def _dose(track: DoseTrack, colours: Colours) -> DoseTrackRecord:
    return DoseTrackRecord(
        structure=track.structure,
        quantity=track.quantity,
        unit=track.figures[0][1].unit,
        color=colours.get(track.structure),
        figures=tuple(_dose_figure(n, m) for n, m in track.figures),
    )


def _dose_figure(fraction: int, measurement: Measurement) -> DoseFigureRecord:
    figure, trust = measurement.figure.judged
    return DoseFigureRecord(
        fraction=fraction, value=figure.value, interval=figure.interval, trusted=bool(trust), doubts=trust.doubts
    )
