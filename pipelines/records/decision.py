"""The types of measurements, rules and decisions in result.json and course.json; and back from these to what they record."""

from __future__ import annotations

from typing import Literal

from adaptive.change.dose_metrics import ACCUMULATED
from adaptive.decision.decision import Decision, RuleResult
from adaptive.decision.decision import State as RuleState
from adaptive.decision.decision import Verdict as Recommended
from adaptive.decision.measurement import Figure, Measurement
from adaptive.decision.rules import Compare, Rule
from patient.trust import GIVEN, UNRECORDED, Estimated, Trust
from pipelines.records.case import Figures, Record


class MeasurementRecord(Figures):
    """As `adaptive.decision.measurement.Measurement`."""

    structure: str
    quantity: str
    unit: str
    value: float
    planned: float | None = None
    interval: tuple[float, float] | None = None
    """Between which today's value lies with 95 % confidence."""
    trusted: bool
    """False: it stands on a step, a registration or another fraction that was not trusted."""
    doubts: tuple[str, ...] | None = None
    """Why not trusted; null in a file from before this was recorded."""
    basis: str = ""

    @staticmethod
    def of(measurement: Measurement) -> MeasurementRecord:
        """The record of a measurement."""
        figure, trust = measurement.figure.judged
        return MeasurementRecord(
            structure=measurement.structure,
            quantity=measurement.quantity,
            unit=measurement.unit,
            value=figure.value,
            planned=figure.planned,
            interval=figure.interval,
            trusted=bool(trust),
            doubts=trust.doubts,
            basis=measurement.basis,
        )

    def measurement(self) -> Measurement:
        """The measurement of a record."""
        figure = Figure(self.value, self.planned, self.interval)
        return Measurement(self.structure, self.quantity, self.unit, Estimated(figure, self.trust()), self.basis)

    def trust(self) -> Trust:
        """In the figure. Of an accumulated dose it was once recorded without that of the earlier fractions in it."""
        if self.doubts is None and self.trusted:
            return UNRECORDED if self.quantity.endswith(ACCUMULATED) else GIVEN
        return trust_of(self.trusted, self.doubts)


def trust_of(trusted: bool, doubts: tuple[str, ...] | None) -> Trust:
    """Of a record, which may be from before doubts were written."""
    return GIVEN if trusted else Trust(doubts or ("why it was not trusted was not recorded",))


class RuleRecord(Figures):
    """One rule of the policy on one figure."""

    rule: str
    structure: str
    quantity: str
    unit: str
    compare: Literal["value", "change", "relative"]
    limit: float
    rises: bool
    """Whether beyond the limit means above it."""
    consequence: Literal["review", "replan"]
    consecutive: int
    accepted_in_plan: bool = False
    """Where the plan itself is beyond the limit, today's being so does not exceed it."""
    state: Literal["tripped", "near", "not tripped", "not evaluated"]
    asks: Literal["continue", "review", "replan"]
    reason: str
    value: float | None
    planned: float | None
    interval: tuple[float, float] | None
    fractions: int
    """So many in a row, today's the last, were beyond the limit."""
    trusted: bool
    doubts: tuple[str, ...] | None = None
    """Why not trusted; null in a file from before this was recorded."""
    source: str

    @staticmethod
    def of(result: RuleResult) -> RuleRecord:
        """The record of a rule's result."""
        rule = result.rule
        return RuleRecord(
            rule=rule.name,
            structure=result.structure,
            quantity=result.quantity,
            unit=rule.unit,
            compare=rule.compare.value,  # type: ignore[arg-type]
            limit=rule.limit,
            rises=rule.rises,
            consequence=rule.consequence,
            consecutive=rule.consecutive,
            accepted_in_plan=rule.accepted_in_plan,
            state=result.state.value,  # type: ignore[arg-type]
            asks=result.asks.value,  # type: ignore[arg-type]
            reason=result.reason,
            value=result.value,
            planned=result.planned,
            interval=result.interval,
            fractions=result.fractions,
            trusted=bool(result.trust),
            doubts=result.trust.doubts,
            source=rule.source,
        )

    def result(self) -> RuleResult:
        """The rule's result of a record; of the rule's pattern only the structure at hand is known."""
        rule = Rule(
            name=self.rule,
            structures=(self.structure,) if self.structure else (),
            quantity=self.quantity,
            unit=self.unit,
            compare=Compare(self.compare),
            limit=self.limit,
            rises=self.rises,
            consecutive=self.consecutive,
            consequence=self.consequence,
            required=False,
            accepted_in_plan=self.accepted_in_plan,
            source=self.source,
        )
        return RuleResult(
            rule=rule,
            structure=self.structure,
            quantity=self.quantity,
            state=RuleState(self.state),
            asks=Recommended(self.asks),
            reason=self.reason,
            trust=trust_of(self.trusted, self.doubts),
            value=self.value,
            planned=self.planned,
            interval=self.interval,
            fractions=self.fractions,
        )


class DecisionRecord(Record):
    """What is recommended; a person decides."""

    verdict: Literal["continue", "review", "replan"]
    reasons: tuple[str, ...]
    rules: tuple[RuleRecord, ...]
    policy: str
    policy_version: str
    policy_digest: str
    registration_trusted: bool
    registration_doubts: tuple[str, ...] | None = None
    """Why not trusted; null in a file from before this was recorded."""

    @staticmethod
    def of(decision: Decision) -> DecisionRecord:
        """The record of a decision."""
        return DecisionRecord(
            verdict=decision.verdict.value,  # type: ignore[arg-type]
            reasons=decision.reasons,
            rules=tuple(RuleRecord.of(result) for result in decision.results),
            policy=decision.policy,
            policy_version=decision.version,
            policy_digest=decision.digest,
            registration_trusted=bool(decision.registration),
            registration_doubts=decision.registration.doubts,
        )

    def decision(self, fraction: int) -> Decision:
        """The decision of a record, about a fraction."""
        return Decision(
            verdict=Recommended(self.verdict),
            reasons=self.reasons,
            results=tuple(rule.result() for rule in self.rules),
            fraction=fraction,
            policy=self.policy,
            version=self.policy_version,
            digest=self.policy_digest,
            registration=trust_of(self.registration_trusted, self.registration_doubts),
        )
