"""Figures followed over the fractions of one plan: as rules look at them, with their trend and when a rule is exceeded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from adaptive.change.dose_metrics import ACCUMULATED
from adaptive.course.fraction import Fraction
from adaptive.course.trend import Forecast, Trend, forecast, trend
from adaptive.decision.decision import RuleResult, State
from adaptive.decision.measurement import Measurement
from adaptive.decision.rules import TRUST, Compare, Rule
from patient.trust import Trust


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


_Key = tuple[str, str, Compare, str]


def tracks_of(fractions: Sequence[Fraction]) -> tuple[Track, ...]:
    """What rules look at of the fractions of one plan (in order), the weightiest first."""
    return tuple(sorted(_tracks(fractions), key=_weight))


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


def _key(result: RuleResult) -> _Key:
    return result.structure, result.quantity, result.rule.compare, result.rule.unit


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


def dose_tracks_of(fractions: Sequence[Fraction]) -> Iterator[DoseTrack]:
    """Figures of the accumulated dose over the fractions of one plan, in the order of the newest."""
    for figure in fractions[-1].measured.measurements:
        if figure.quantity.endswith(ACCUMULATED):
            days = [(f, f.measured.of(figure.structure, figure.quantity)) for f in fractions]
            figures = tuple((f.number, m.given(f.trust)) for f, m in days if m is not None)
            yield DoseTrack(figure.structure, figure.quantity.removesuffix(ACCUMULATED), figures)
