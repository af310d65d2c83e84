"""From a policy and measurements to a verdict: pure functions, every rule with its value, its limit and its reason.

A verdict is never "continue" or "replan" where something it stands on was not trusted, and a value whose 95 % interval holds
the limit is a person's to judge.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from fnmatch import fnmatchcase

from adaptive.decision.measurement import Figure, Measured, Measurement
from adaptive.decision.rules import OF_PRESCRIPTION, TRUST, Compare, Policy, Rule, matches
from patient.trust import GIVEN, Estimated, Trust


class Verdict(Enum):
    """What is recommended; a person decides."""

    CONTINUE = "continue"
    REVIEW = "review"
    REPLAN = "replan"


class State(Enum):
    """What became of a rule."""

    EXCEEDED = "tripped"
    NEAR = "near"
    """The interval holds the limit, or too few fractions in a row were beyond it."""
    NOT_EXCEEDED = "not tripped"
    NOT_EVALUATED = "not evaluated"


@dataclass(frozen=True)
class PlannedStructure:
    """A structure of the plan, and what is prescribed to it (Gy of the whole plan; None where the plan does not say)."""

    name: str
    prescription: float | None = None


@dataclass(frozen=True)
class Compared:
    """A measurement as a rule looks at it, in the rule's unit: value, between what it lies, and the plan's own value."""

    value: float
    low: float
    high: float
    planned: float | None


@dataclass(frozen=True)
class RuleResult:
    """A rule and one figure.

    Args:
        rule: with its limit, unit and source.
        structure: the plan's; the rule's pattern where the plan has none; empty for the patient as a whole.
        quantity: of the measurement; the rule's where there is none.
        state: what became of it.
        asks: the verdict that it alone would ask for.
        reason: a sentence.
        value: what was compared, in the rule's unit; None where there is none or it is withheld.
        planned: the plan's value, in the unit of the measurement (of a rule on values: in the rule's); None where unknown.
        interval: of the value, 95 %; None where unknown or withheld.
        trust: in what it stands on.
        fractions: so many fractions in a row, today's the last, were beyond the limit.
    """

    rule: Rule
    structure: str
    quantity: str
    state: State
    asks: Verdict
    reason: str
    trust: Trust
    value: float | None = None
    planned: float | None = None
    interval: tuple[float, float] | None = None
    fractions: int = 0


@dataclass(frozen=True)
class Decision:
    """A recommendation with all it stands on.

    Args:
        verdict: continue, review or replan.
        reasons: sentences, for anything but "continue"; the weightiest first.
        results: every rule with every figure, in the policy's order.
        fraction: number of today's.
        policy, version, digest: by what was judged.
        registration: trust in today's.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    results: tuple[RuleResult, ...]
    fraction: int
    policy: str
    version: str
    digest: str
    registration: Trust

    def of_images(self, doubts: Sequence[str]) -> Decision:
        """The same for images of which something may be missing or wrong: nothing is recommended but clinical review.

        Args:
            doubts: what may be missing or wrong, in sentences; none where nothing is.
        """
        return replace(self, verdict=Verdict.REVIEW, reasons=(*doubts, *self.reasons)) if doubts else self


def decide(
    policy: Policy,
    plan: Sequence[PlannedStructure],
    today: Measured,
    earlier: Sequence[Measured],
    registration: Trust,
) -> Decision:
    """What a policy says about a fraction.

    Args:
        policy: the site's.
        plan: all structures of the plan.
        today: today's figures.
        earlier: those of earlier fractions under the same plan, in any order; of one given twice the later counts.
        registration: trust in today's.
    """
    verdict_on_it = Estimated(Figure(float(bool(registration)), 1.0), GIVEN)
    said = Measurement("", TRUST, "", verdict_on_it, "verdict of the registration's own policy")
    today = replace(today, measurements=(*today.measurements, said))
    once = {e.fraction: e for e in earlier if e.fraction < today.fraction}
    before = [once[n] for n in sorted(once, reverse=True)]
    results = tuple(r for rule in policy.rules for r in _results(policy, rule, plan, today, before))
    results = tuple(r if r.quantity == TRUST else replace(r, trust=r.trust & registration) for r in results)
    evaluated = [r for r in results if r.state is not State.NOT_EVALUATED and r.quantity != TRUST]
    order = list(Verdict)
    reasons = [r.reason for v in reversed(order[1:]) for r in results if r.asks is v]
    verdict = max((r.asks for r in results), key=order.index, default=Verdict.REVIEW)
    if not evaluated:
        reasons.append("No rule on a value of today could be evaluated")
        verdict = Verdict.REVIEW
    if not registration:
        withheld = "The registration is not trusted, so that only clinical review is recommended"
        reasons[:0] = [withheld, *registration.doubts]
        verdict = Verdict.REVIEW
    elif verdict is Verdict.REPLAN and any(not r.trust for r in results):
        reasons.insert(0, "Some values are not trusted, so that a replan is not recommended without clinical review")
        verdict = Verdict.REVIEW
    return Decision(
        verdict=verdict,
        reasons=tuple(dict.fromkeys(reasons)),
        results=results,
        fraction=today.fraction,
        policy=policy.name,
        version=policy.version,
        digest=policy.digest,
        registration=registration,
    )


def compared(rule: Rule, figure: Figure, unit: str, prescription: float | None) -> Compared | str:
    """A figure in a rule's terms; or why it cannot be put into them.

    Args:
        rule: what is looked at, and in which unit.
        figure: trusted, since something is decided on it.
        unit: of the figure.
        prescription: Gy, to its structure; None where unknown.
    """
    value, planned = figure.value, figure.planned
    low, high = figure.interval or (value, value)
    if not all(map(math.isfinite, (value, low, high, planned or 0.0))):
        return "its value is not a number"
    low, high = min(low, value), max(high, value)
    if rule.compare is Compare.RELATIVE:
        if planned is None or planned <= 0:
            return "the plan has no value to compare it with"
        low, value, high = (100 * (v - planned) / planned for v in (low, value, high))
        return Compared(value, low, high, planned)
    factor = 1.0
    if rule.unit == OF_PRESCRIPTION and unit == "Gy":
        if not prescription:
            return "no prescription to it is known"
        factor = 100.0 / prescription
    elif rule.unit != unit:
        return f"it is measured in {unit!r} and the rule is in {rule.unit!r}"
    if rule.compare is Compare.CHANGE:
        if planned is None:
            return "the plan has no value to compare it with"
        low, value, high = ((v - planned) * factor for v in (low, value, high))
        return Compared(value, low, high, planned)
    return Compared(value * factor, low * factor, high * factor, None if planned is None else planned * factor)


def _results(
    policy: Policy, rule: Rule, plan: Sequence[PlannedStructure], today: Measured, before: Sequence[Measured]
) -> Iterator[RuleResult]:
    """A rule on everything it is about, in the plan's order."""
    if not rule.structures:
        yield from _about(rule, "", None, today, before)
        return
    for pattern in rule.structures:
        if not any(matches(pattern, s.name) for s in plan):
            alone = not any(matches(p, s.name) for p in rule.structures for s in plan)
            yield _unknown(rule, pattern, "the plan has no such structure", required=rule.required and alone)
    for structure in plan:
        if any(matches(pattern, structure.name) for pattern in rule.structures):
            prescription = structure.prescription or policy.for_structure(structure.name).prescription
            yield from _about(rule, structure.name, prescription, today, before)


def _about(
    rule: Rule, structure: str, prescription: float | None, today: Measured, before: Sequence[Measured]
) -> Iterator[RuleResult]:
    """A rule on one structure; where its quantity is a pattern, on each figure that fits."""
    name = structure.casefold()
    own = [m for m in today.measurements if fnmatchcase(m.quantity, rule.quantity)]
    # a width belongs to the patient, whichever structure's centre it goes through
    found = [m for m in own if m.structure.casefold() == name or (not name and m.quantity.startswith("separation"))]
    if not found:
        yield _unknown(rule, structure, "it was not measured today", required=rule.required)
    for measurement in found:
        yield _judged(rule, measurement, prescription, before)


def _judged(rule: Rule, measurement: Measurement, prescription: float | None, before: Sequence[Measured]) -> RuleResult:
    structure, quantity = measurement.structure, measurement.quantity
    figure = measurement.figure.if_trusted
    if figure is None:
        said = "its value is withheld, since it depends on a step that was not trusted"
        unknown = _unknown(rule, structure, said, required=True, quantity=quantity)
        return replace(unknown, planned=measurement.figure.judged[0].planned, trust=measurement.trust)
    now = compared(rule, figure, measurement.unit, prescription)
    if isinstance(now, str):
        return replace(_unknown(rule, structure, now, rule.required, quantity), planned=figure.planned)
    row = [now, *_then(rule, structure, quantity, prescription, before)]
    certain, possible = _in_a_row(rule, row, certain=True), _in_a_row(rule, row, certain=False)
    asks, needed = Verdict(rule.consequence), rule.consecutive
    what = f"{_subject(structure, quantity)} {_said(rule, now)}"
    in_a_row = f" in {needed} fractions in a row" if needed > 1 else ""
    if rule.accepted_in_plan and now.planned is not None and rule.beyond(now.planned):
        state, asks, what = State.NOT_EXCEEDED, Verdict.CONTINUE, f"{what}; the plan itself exceeds it and was accepted so"
    elif certain >= needed:
        state, what = State.EXCEEDED, f"{what}, exceeded{in_a_row}"
    elif possible >= needed:
        state, asks, what = State.NEAR, Verdict.REVIEW, f"{what}, within the uncertainty of the limit{in_a_row}"
    elif possible:
        state, asks, what = State.NEAR, Verdict.CONTINUE, f"{what}, exceeded in {possible} of {needed} fractions in a row"
    else:
        state, asks = State.NOT_EXCEEDED, Verdict.CONTINUE
    return RuleResult(
        rule=rule,
        structure=structure,
        quantity=quantity,
        state=state,
        asks=asks,
        reason=f"{rule.name}: {what}",
        trust=measurement.trust,
        value=now.value,
        planned=now.planned,
        interval=None if figure.interval is None else (now.low, now.high),
        fractions=certain,
    )


def _then(
    rule: Rule, structure: str, quantity: str, prescription: float | None, before: Sequence[Measured]
) -> Iterator[Compared]:
    """The same of earlier fractions, in their order; one without a trusted figure is passed over."""
    for fraction in before:
        found = fraction.of(structure, quantity)
        figure = found.figure.if_trusted if found is not None else None
        if found is None or figure is None:
            continue
        then = compared(rule, figure, found.unit, prescription)
        if isinstance(then, Compared):
            yield then


def _in_a_row(rule: Rule, newest_first: Sequence[Compared], *, certain: bool) -> int:
    """How many fractions in a row, today's first, are beyond the limit; a fraction without a figure is passed over."""
    sides = [c.low if rule.rises == certain else c.high for c in newest_first]
    return next((n for n, side in enumerate(sides) if not rule.beyond(side)), len(sides))


def _unknown(rule: Rule, structure: str, why: str, required: bool, quantity: str = "") -> RuleResult:
    quantity = quantity or rule.quantity
    asks = Verdict.REVIEW if required else Verdict.CONTINUE
    reason = f"{rule.name}: {_subject(structure, quantity)} not evaluated: {why}"
    return RuleResult(rule, structure, quantity, State.NOT_EVALUATED, asks, reason, GIVEN)


def _subject(structure: str, quantity: str) -> str:
    return f"{structure} {quantity}".strip()


def _said(rule: Rule, now: Compared) -> str:
    """`rises by 3.4 Gy (3.1 to 3.8), limit 3 Gy`."""
    unit = f" {rule.unit}" if rule.unit else ""
    verb = {Compare.VALUE: "is", Compare.CHANGE: "changed by", Compare.RELATIVE: "changed by"}[rule.compare]
    sign = "" if rule.compare is Compare.VALUE else "+"
    between = f" ({now.low:{sign}.3g} to {now.high:{sign}.3g})" if now.low < now.high else ""
    return f"{verb} {now.value:{sign}.3g}{unit}{between}, limit {rule.limit:{sign}.3g}{unit}"
