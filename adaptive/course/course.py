"""A patient's fractions in order: which of them count, how figures went, when a rule is forecast to be exceeded.

A course has one part a plan; the last is the current one. Figures of different plans are never joined: what changed is
measured against the plan of its day. An untrusted fraction is shown and stands in no trend.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from adaptive.change.dose_metrics import ACCUMULATED
from adaptive.course.trend import Forecast, Trend, forecast, trend
from adaptive.decision.decision import Decision, RuleResult, State, Verdict
from adaptive.decision.measurement import Measured, Measurement
from adaptive.decision.rules import TRUST, Compare, Rule
from patient.trust import Trust


@dataclass(frozen=True)
class CoursePlan:
    """What fractions were given by.

    Args:
        uid: of the plan, or of its structure set where there is no plan object.
        label: as the planner wrote it.
        fractions: planned; None where nobody says.
    """

    uid: str
    label: str = ""
    fractions: int | None = None

    @property
    def name(self) -> str:
        """For people: label and the end of the UID, as two plans may be called the same."""
        return f"{self.label or 'without label'} (…{self.uid[-8:]})"


@dataclass(frozen=True)
class Fraction:
    """One fraction's image and all that came of it.

    Args:
        case: name of its case.
        image: Series Instance UID.
        acquired: YYYYMMDD, or YYYYMMDDHHMMSS; empty where the image does not say.
        plan: by which it was given.
        measured: its number under that plan, and its figures.
        decision: about it.
        counted: fractions in the accumulated dose; None where there is none.
        accounting: which image each counted fraction stands on, in words.
        made: the order in which cases were made; of two about one image the later counts.
    """

    case: str
    image: str
    acquired: str
    plan: CoursePlan
    measured: Measured
    decision: Decision
    counted: int | None = None
    accounting: tuple[str, ...] = ()
    made: int = 0

    @property
    def number(self) -> int:
        """Under its plan, from 1."""
        return self.measured.fraction

    @property
    def trust(self) -> Trust:
        """In its registration: whether its figures may stand in a trend."""
        return self.decision.registration


@dataclass(frozen=True)
class Standing:
    """A fraction's place in the course.

    Args:
        fraction: itself.
        ordinal: its number in the whole course, over all plans.
        counts: False where another case stands for it.
        remarks: why not, and what else a reader should know.
    """

    fraction: Fraction
    ordinal: int
    counts: bool = True
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Point:
    """A figure on one day, in a rule's terms; `interval` is 95 %, None where unknown."""

    fraction: int
    value: float
    interval: tuple[float, float] | None
    trust: Trust


@dataclass(frozen=True)
class Limit:
    """A rule about a track: what it came to today (state None: nothing), and when it is forecast to be exceeded."""

    rule: Rule
    state: State | None
    reason: str
    forecast: Forecast


@dataclass(frozen=True)
class Track:
    """One figure over the fractions of a part, as rules look at it.

    Args:
        structure, quantity: of the measurement.
        unit: of the points.
        compare: what of the measurement they are.
        planned: the plan's value, as `RuleResult.planned`; None where unknown.
        points: by fraction.
        trend: through the trusted ones; None of too few.
        limits: of every rule about it.
    """

    structure: str
    quantity: str
    unit: str
    compare: Compare
    planned: float | None
    points: tuple[Point, ...]
    trend: Trend | None
    limits: tuple[Limit, ...]


@dataclass(frozen=True)
class DoseTrack:
    """A figure of the accumulated dose over the fractions, each with its 95 % interval and the trust of every day in it."""

    structure: str
    quantity: str
    figures: tuple[tuple[int, Measurement], ...]


@dataclass(frozen=True)
class Part:
    """The fractions of one plan.

    Args:
        plan: of all of them.
        fractions: those that count, in order.
        missing: numbers of fractions without an image, up to the last image.
        tracks: what rules look at, the weightiest first.
        dose: accumulated, in the order of the newest figures.
    """

    plan: CoursePlan
    fractions: tuple[Fraction, ...]
    missing: tuple[int, ...]
    tracks: tuple[Track, ...]
    dose: tuple[DoseTrack, ...]

    @property
    def newest(self) -> Fraction:
        return self.fractions[-1]


@dataclass(frozen=True)
class Course:
    """All of it.

    Args:
        parts: one a plan, the one that the newest fraction was given by last: it is the current one.
        standings: every fraction that was given, in order of acquisition.
        notes: what was odd about the course as a whole, in sentences.
    """

    parts: tuple[Part, ...]
    standings: tuple[Standing, ...]
    notes: tuple[str, ...]

    @property
    def today(self) -> Fraction:
        """The newest fraction that counts."""
        return self.parts[-1].newest

    @property
    def outlook(self) -> tuple[str, ...]:
        """Which rules are forecast to be exceeded within the course, the soonest first."""
        soon = [
            (limit.forecast.fraction, f"{limit.rule.name}: {track.structure} {track.quantity} is forecast to be exceeded ")
            + (limit.forecast.said,)
            for track in self.parts[-1].tracks
            for limit in track.limits
            if limit.forecast.fraction is not None
        ]
        return tuple(" ".join((what + said).split()) for _, what, said in sorted(soon, key=lambda s: s[0]))


def course_of(fractions: Sequence[Fraction]) -> Course:
    """The course that fractions make, whatever order they come in.

    Args:
        fractions: of one patient; at least one.

    Raises:
        ValueError: there is none.
    """
    if not fractions:
        raise ValueError("a course has at least one fraction")
    ordered = sorted(fractions, key=lambda f: (f.acquired or "9", f.number, f.made))
    remarks = dict(_doubles(ordered))
    counting = [f for f in ordered if f.case not in remarks]
    plans = list(dict.fromkeys(f.plan.uid for f in reversed(counting)))[::-1]
    parts = tuple(_part([f for f in counting if f.plan.uid == uid]) for uid in plans)
    before, offsets = 0, dict[str, int]()
    for part in parts:
        offsets[part.plan.uid] = before
        before += part.fractions[-1].number
    standings = tuple(
        Standing(
            fraction=f,
            ordinal=offsets.get(f.plan.uid, 0) + f.number,
            counts=f.case not in remarks,
            remarks=(remarks[f.case],) if f.case in remarks else tuple(_remarks(f)),
        )
        for f in ordered
    )
    return Course(parts, standings, tuple(_notes(parts, ordered, counting)))


def _doubles(ordered: Sequence[Fraction]) -> Iterator[tuple[str, str]]:
    """Cases for which another stands: made again from the same image, or a second image of the same fraction."""
    newest = {f.image: f for f in sorted(ordered, key=lambda f: f.made)}
    last = {(f.plan.uid, f.number): f for f in ordered if newest[f.image] is f}
    for f in ordered:
        if (again := newest[f.image]) is not f:
            yield f.case, f"made again as {again.case}, which counts"
        elif (other := last[f.plan.uid, f.number]) is not f:
            yield f.case, f"fraction {f.number} has a later image, {other.case}, which counts"


def _remarks(fraction: Fraction) -> Iterator[str]:
    if not fraction.trust:
        yield "the registration is not trusted: in no trend"
    if not fraction.acquired:
        yield "the image does not say when it was acquired"


def _notes(parts: Sequence[Part], ordered: Sequence[Fraction], counting: Sequence[Fraction]) -> Iterator[str]:
    for old, new in pairwise(parts):
        yield (
            f"The plan was replaced: from {_day(new.fractions[0].acquired)} on {new.plan.name} holds instead of "
            f"{old.plan.name}. Earlier fractions are kept apart: trends and accumulated dose start again"
        )
    change = [f.plan.uid for f in counting]
    if sum(a != b for a, b in pairwise(change)) > len(parts) - 1:
        yield "The plans take turns: fractions of one lie between those of another"
    made = [f.made for f in ordered]
    if made != sorted(made):
        yield "Images came out of order; they are sorted by acquisition"
    for part in parts:
        numbers = [f.number for f in part.fractions]
        if numbers != sorted(numbers):
            yield f"Fractions of {part.plan.name} are not numbered in the order of acquisition: {numbers}"
        if part.missing:
            yield f"Without an image under {part.plan.name}: {_ranges(part.missing)}"
        if untrusted := [f.number for f in part.fractions if not f.trust]:
            yield f"Not trusted and in no trend under {part.plan.name}: {_ranges(untrusted)}"
        if len({f.decision.digest for f in part.fractions}) > 1:
            yield f"The policy changed among the fractions of {part.plan.name}: the newest one's limits are shown"


def _part(fractions: Sequence[Fraction]) -> Part:
    fractions = sorted(fractions, key=lambda f: f.number)
    there = {f.number for f in fractions}
    newest = fractions[-1]
    missing = tuple(n for n in range(1, newest.number) if n not in there)
    tracks = sorted(_tracks(fractions), key=_weight)
    return Part(newest.plan, tuple(fractions), missing, tuple(tracks), tuple(_dose(fractions)))


_Key = tuple[str, str, Compare, str]


def _key(result: RuleResult) -> _Key:
    return result.structure, result.quantity, result.rule.compare, result.rule.unit


def _tracks(fractions: Sequence[Fraction]) -> Iterator[Track]:
    """Every figure that a rule of the newest fraction's policy was about and that was measured once at least."""
    rules = {r.rule.name for r in fractions[-1].decision.results}
    found: dict[_Key, dict[int, RuleResult]] = {}
    about: dict[_Key, dict[str, RuleResult]] = {}
    for fraction in reversed(fractions):
        for result in fraction.decision.results:
            if result.quantity == TRUST or result.rule.name not in rules or result.value is None:
                continue
            found.setdefault(_key(result), {}).setdefault(fraction.number, result)
            about.setdefault(_key(result), {}).setdefault(result.rule.name, result)
    trust = {f.number: f.trust for f in fractions}
    for (structure, quantity, compare, unit), days in found.items():
        points = tuple(
            Point(n, r.value, r.interval, r.trust & trust[n]) for n, r in sorted(days.items()) if r.value is not None
        )
        sure = [(p.fraction, p.value) for p in points if p.trust]
        limits = tuple(_limit(r, fractions[-1], sure) for r in about[structure, quantity, compare, unit].values())
        planned = days[max(days)].planned
        yield Track(structure, quantity, unit, compare, planned, points, trend(sure), limits)


def _limit(known: RuleResult, newest: Fraction, points: Sequence[tuple[int, float]]) -> Limit:
    """A rule about a track, as it stands at the newest fraction."""
    now = next(
        (r for r in newest.decision.results if r.rule.name == known.rule.name and _key(r) == _key(known)),
        None,
    )
    rule, last = (now or known).rule, newest.plan.fractions
    if rule.accepted_in_plan and known.planned is not None and rule.beyond(known.planned):
        ahead = Forecast("the plan itself exceeds it and was accepted so")
    elif last is None:
        ahead = Forecast("nobody says how many fractions there are")
    else:
        ahead = forecast(rule, points, last)
    if now is not None and now.state is State.NEAR and ahead.probability == 1.0 and ahead.fraction is None:
        ahead = replace(ahead, said="the value exceeds it, within its uncertainty")
    return Limit(rule, now.state if now else None, now.reason if now else "Was not measured today", ahead)


def _weight(track: Track) -> tuple[int, float, float]:
    """What needs a person first: exceeded, near, then by how soon and how probably a rule is exceeded."""
    states = [limit.state for limit in track.limits]
    order = 0 if State.EXCEEDED in states else 1 if State.NEAR in states else 2
    soonest = min((float(li.forecast.fraction or 1000) for li in track.limits), default=1000.0)
    return order, soonest, -max((li.forecast.probability or 0.0 for li in track.limits), default=0.0)


def _dose(fractions: Sequence[Fraction]) -> Iterator[DoseTrack]:
    for figure in fractions[-1].measured.measurements:
        if figure.quantity.endswith(ACCUMULATED):
            days = [(f, f.measured.of(figure.structure, figure.quantity)) for f in fractions]
            figures = tuple((f.number, m.given(f.trust)) for f, m in days if m is not None)
            yield DoseTrack(figure.structure, figure.quantity.removesuffix(ACCUMULATED), figures)


def verdict_of(course: Course) -> Verdict:
    """What is recommended today: never "continue" where today's image is not trusted."""
    today = course.today
    return today.decision.verdict if today.trust else Verdict.REVIEW


def _ranges(numbers: Sequence[int]) -> str:
    """`fractions 2, 4 to 7`."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][-1] + 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    said = ", ".join(f"{r[0]}" if len(r) == 1 else f"{r[0]} to {r[-1]}" for r in runs)
    return f"fraction{'s' if len(numbers) > 1 else ''} {said}"


def _day(acquired: str) -> str:
    return f"{acquired[:4]}-{acquired[4:6]}-{acquired[6:8]}" if len(acquired) >= 8 else "an unknown day"
