"""Decisions: every shipped rule trips just beyond its limit and not just before it, and nothing untrusted decides."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptive.decision.decision import Decision, PlannedStructure, RuleResult, State, Verdict, decide
from adaptive.decision.measurement import Measured, Measurement
from adaptive.decision.policy import available_policies, load_policy
from adaptive.decision.rules import OF_PRESCRIPTION, TRUST, Compare, Policy, Rule
from patient.trust import GIVEN, Trust
from tests.figures import DOUBTED, measurement

HEAD_NECK = load_policy("head_neck")
SHIPPED = [(load_policy(name), rule) for name in available_policies() for rule in load_policy(name).rules]
ON_FIGURES = [(policy, rule) for policy, rule in SHIPPED if rule.quantity != TRUST]
PRESCRIPTION = 60.0
SMALL = 1e-3


def called(policy_rule: tuple[Policy, Rule]) -> str:
    return f"{policy_rule[0].name}-{policy_rule[1].name}"


def only(policy: Policy, *names: str) -> Policy:
    return replace(policy, rules=tuple(r for r in policy.rules if r.name in names))


def figure(rule: Rule, compared: float, structure: str, interval: float | None = None) -> Measurement:
    """A measurement that a rule sees as `compared`, its interval so much to both sides, beside a plan within the limit."""
    quantity = rule.quantity.replace("*", "lateral@+0mm" if rule.quantity.startswith("separation") else "PTV_7000")
    unit = "Gy" if rule.unit == OF_PRESCRIPTION else rule.unit
    if rule.compare is Compare.RELATIVE:
        unit, planned = "cc", 40.0
        scale, start = 0.4, planned
    elif rule.compare is Compare.CHANGE:
        planned = 30.0
        scale, start = 1.0, planned
    else:
        scale, start = PRESCRIPTION / 100 if rule.unit == OF_PRESCRIPTION else 1.0, 0.0
        planned = (rule.limit + (-1 if rule.rises else 1)) * scale
    value = start + scale * compared
    around = None if interval is None else (value - scale * interval, value + scale * interval)
    return measurement(structure, quantity, unit, value, planned, around)


def concrete(rule: Rule) -> str:
    return rule.structures[0].replace("*", "") if rule.structures else ""


def judged(policy: Policy, rule: Rule, *compared: float, interval: float | None = None, **more) -> Decision:
    """A decision by one rule on a course of figures, today's the last."""
    name = concrete(rule)
    days = [Measured(n, (figure(rule, c, name, interval),)) for n, c in enumerate(compared, start=1)]
    plan = [PlannedStructure(name, PRESCRIPTION)] if name else []
    trusted = more.pop("registration_trusted", True)
    return decide(only(policy, rule.name), plan, days[-1], days[:-1], registration=GIVEN if trusted else DOUBTED)


def result(decision: Decision, structure: str | None = None) -> RuleResult:
    """The result on a structure; without one, that on what was measured."""
    wanted = [r for r in decision.results if (r.structure == structure if structure is not None else r.planned is not None)]
    assert len(wanted) == 1
    return wanted[0]


def past(rule: Rule, by: float = SMALL) -> float:
    return rule.limit + (by if rule.rises else -by)


@pytest.mark.parametrize("case", ON_FIGURES, ids=called)
def test_every_shipped_rule_trips_just_beyond_its_limit(case: tuple[Policy, Rule]) -> None:
    policy, rule = case
    decision = judged(policy, rule, *[past(rule)] * rule.consecutive)
    got = result(decision)
    assert got.state is State.EXCEEDED, got.reason
    assert decision.verdict is Verdict(rule.consequence)
    assert got.value == pytest.approx(past(rule))
    assert got.fractions == rule.consecutive
    assert decision.reasons == (got.reason,)


@pytest.mark.parametrize("case", ON_FIGURES, ids=called)
@pytest.mark.parametrize("by", [-SMALL, 0.0])
def test_every_shipped_rule_does_not_trip_at_or_just_before_its_limit(case: tuple[Policy, Rule], by: float) -> None:
    policy, rule = case
    if by == 0.0 and rule.compare is Compare.RELATIVE:
        by = -1e-9  # a percentage of a volume is not exact in binary
    if by == 0.0 and rule.unit == OF_PRESCRIPTION:
        by = -1e-9
    decision = judged(policy, rule, *[past(rule, by)] * rule.consecutive)
    assert result(decision).state is State.NOT_EXCEEDED
    assert decision.verdict is Verdict.CONTINUE
    assert decision.reasons == ()


@pytest.mark.parametrize("case", [c for c in ON_FIGURES if c[1].consecutive > 1], ids=called)
def test_a_rule_on_fractions_in_a_row_waits_for_them(case: tuple[Policy, Rule]) -> None:
    policy, rule = case
    for course in ([past(rule)], [past(rule), past(rule, -1), past(rule)]):
        decision = judged(policy, rule, *course)
        assert result(decision).state is State.NEAR
        assert decision.verdict is Verdict.CONTINUE
        assert f"1 of {rule.consecutive}" in result(decision).reason


@pytest.mark.parametrize("case", ON_FIGURES, ids=called)
@pytest.mark.parametrize("by", [-0.4, 0.4])
def test_a_value_whose_interval_holds_the_limit_goes_to_review(case: tuple[Policy, Rule], by: float) -> None:
    policy, rule = case
    decision = judged(policy, rule, *[past(rule, by)] * rule.consecutive, interval=0.5)
    got = result(decision)
    assert got.state is State.NEAR
    assert decision.verdict is Verdict.REVIEW
    assert got.interval is not None
    assert got.interval[0] < rule.limit < got.interval[1]


@pytest.mark.parametrize("case", ON_FIGURES, ids=called)
def test_a_value_whose_interval_is_all_beyond_trips(case: tuple[Policy, Rule]) -> None:
    policy, rule = case
    assert result(judged(policy, rule, *[past(rule, 0.6)] * rule.consecutive, interval=0.5)).state is State.EXCEEDED


@pytest.mark.parametrize("case", ON_FIGURES, ids=called)
@pytest.mark.parametrize("by", [-1.0, 1.0])
def test_no_shipped_rule_continues_or_replans_on_an_untrusted_registration(case: tuple[Policy, Rule], by: float) -> None:
    policy, rule = case
    decision = judged(policy, rule, *[past(rule, by)] * rule.consecutive, registration_trusted=False)
    assert decision.verdict is Verdict.REVIEW
    assert not any(r.trust for r in decision.results)
    assert "not trusted" in decision.reasons[0]


@pytest.mark.parametrize("case", [c for c in SHIPPED if c[1].quantity == TRUST], ids=called)
def test_the_rule_on_trust_trips_on_an_untrusted_registration_alone(case: tuple[Policy, Rule]) -> None:
    policy, rule = case
    today = Measured(1, ())
    for trusted, state in ((False, State.EXCEEDED), (True, State.NOT_EXCEEDED)):
        got = decide(only(policy, rule.name), [], today, [], registration=GIVEN if trusted else DOUBTED)
        assert result(got).state is state
        assert got.verdict is Verdict.REVIEW, "and nothing else was evaluated"


@pytest.mark.parametrize("case", [c for c in SHIPPED if c[1].structures], ids=called)
def test_a_rule_on_a_structure_that_the_plan_does_not_have_says_so(case: tuple[Policy, Rule]) -> None:
    policy, rule = case
    setup = measurement("", "setup", "mm", 1.0, 0.0)
    rules = replace(policy, rules=(rule, next(r for r in policy.rules if r.name == "setup_shift")))
    decision = decide(rules, [PlannedStructure("External_2")], Measured(1, (setup,)), [], registration=GIVEN)
    got = [r for r in decision.results if r.rule is rule]
    assert [r.structure for r in got] == list(rule.structures)
    assert {r.state for r in got} == {State.NOT_EVALUATED}
    assert all("no such structure" in r.reason for r in got)
    assert decision.verdict is (Verdict.REVIEW if rule.required else Verdict.CONTINUE)


# by hand


def day(n: int, *measurements: Measurement) -> Measured:
    return Measured(n, (*measurements, measurement("", "setup", "mm", 1.0, 0.0)))


def parotid(value: float, planned: float | None = 22.0, **more) -> Measurement:
    return measurement("Parotid_L", "Dmean", "Gy", value, planned, **more)


PLAN = [PlannedStructure(n) for n in ("PTV_7000", "Parotid_L", "Parotid_R", "GTVp", "SpinalCord", "Brainstem")]


def by(policy: Policy, *days: Measured, plan=PLAN, trusted: bool = True) -> Decision:
    return decide(policy, plan, days[-1], days[:-1], registration=GIVEN if trusted else DOUBTED)


RISES = only(HEAD_NECK, "parotid_mean_dose_rises", "setup_shift")


def test_a_parotid_that_rises_by_3_1_gy_twice_asks_for_a_replan_and_by_2_9_does_not() -> None:
    assert by(RISES, day(3, parotid(25.2)), day(4, parotid(25.1))).verdict is Verdict.REPLAN
    assert by(RISES, day(3, parotid(24.8)), day(4, parotid(24.9))).verdict is Verdict.CONTINUE


def test_a_days_swelling_by_hydration_does_not_trip_a_rule_on_two_fractions() -> None:
    assert by(RISES, day(3, parotid(22.5)), day(4, parotid(26.0))).verdict is Verdict.CONTINUE
    after = by(RISES, day(4, parotid(26.0)), day(5, parotid(22.5)))
    assert result(after, "Parotid_L").state is State.NOT_EXCEEDED


def test_a_fraction_without_the_figure_does_not_break_the_row() -> None:
    assert by(RISES, day(3, parotid(26.0)), day(4), day(5, parotid(26.0))).verdict is Verdict.REPLAN


def test_an_untrusted_figure_of_an_earlier_fraction_does_not_count() -> None:
    decision = by(RISES, day(3, parotid(26.0, trust=DOUBTED)), day(4, parotid(26.0)))
    assert result(decision, "Parotid_L").state is State.NEAR


def test_earlier_fractions_are_put_in_order_and_later_ones_left_out() -> None:
    days = [day(5, parotid(26.0)), day(2, parotid(26.0)), day(3, parotid(22.0))]
    today = day(4, parotid(26.0))
    assert result(decide(RISES, PLAN, today, days, registration=GIVEN), "Parotid_L").fractions == 1


def test_an_untrusted_figure_is_withheld_and_makes_a_review() -> None:
    decision = by(RISES, day(3, parotid(26.0)), day(4, parotid(26.0, trust=DOUBTED)))
    got = result(decision, "Parotid_L")
    assert (got.state, got.value, got.interval, bool(got.trust)) == (State.NOT_EVALUATED, None, None, False)
    assert decision.verdict is Verdict.REVIEW


def test_an_untrusted_figure_turns_another_rules_replan_into_a_review() -> None:
    right = measurement("Parotid_R", "Dmean", "Gy", 30.0, 22.0)
    days = day(3, right), day(4, right, parotid(22.0, trust=DOUBTED))
    decision = by(RISES, *days)
    assert result(decision, "Parotid_R").state is State.EXCEEDED
    assert decision.verdict is Verdict.REVIEW
    assert any("Parotid_R" in reason for reason in decision.reasons)


def test_a_fraction_given_twice_counts_once() -> None:
    days = [day(3, parotid(26.0)), day(3, parotid(26.0)), day(4, parotid(26.0))]
    three = replace(RISES, rules=tuple(replace(r, consecutive=3) for r in RISES.rules))
    assert result(by(three, *days), "Parotid_L").fractions == 2


COVERAGE = only(HEAD_NECK, "target_coverage")


@pytest.mark.parametrize(("gy", "verdict"), [(66.4, Verdict.REPLAN), (66.6, Verdict.CONTINUE)])
def test_a_target_is_held_to_95_percent_of_its_own_prescription(gy: float, verdict: Verdict) -> None:
    target = measurement("PTV_7000", "D95%", "Gy", gy, 68.0)
    decision = by(COVERAGE, day(1, target), day(2, target))
    assert decision.verdict is verdict
    got = result(decision, "PTV_7000")
    assert got.value == pytest.approx(gy / 0.7)
    assert got.planned == pytest.approx(68 / 0.7)


def test_the_plans_own_prescription_goes_before_the_policys() -> None:
    target = measurement("PTV_7000", "D95%", "Gy", 63.0, 68.0)
    plan = [PlannedStructure("PTV_7000", 66.0)]
    assert by(COVERAGE, day(1, target), day(2, target), plan=plan).verdict is Verdict.CONTINUE


def test_a_target_of_unknown_prescription_is_not_judged_but_reviewed_where_required() -> None:
    target = measurement("PTV_High", "D95%", "Gy", 10.0, 68.0)
    decision = by(COVERAGE, day(1, target), plan=[PlannedStructure("PTV_High")])
    assert "no prescription" in result(decision, "PTV_High").reason
    assert decision.verdict is Verdict.REVIEW


def test_a_required_rule_needs_only_one_of_its_names_in_the_plan() -> None:
    target = measurement("PTV_7000", "D95%", "Gy", 68.0, 68.0)
    decision = by(COVERAGE, day(1, target), plan=[PlannedStructure("PTV_7000")])
    assert {r.structure: r.state for r in decision.results} == {
        "PTV_High": State.NOT_EVALUATED,
        "PTV_7000": State.NOT_EXCEEDED,
    }
    assert decision.verdict is Verdict.CONTINUE


def test_a_required_figure_that_was_not_measured_makes_a_review() -> None:
    decision = by(only(HEAD_NECK, "cord_maximum", "setup_shift"), day(1))
    assert "not measured today" in result(decision, "SpinalCord").reason
    assert decision.verdict is Verdict.REVIEW


def test_a_limit_that_the_accepted_plan_is_beyond_does_not_trip_and_says_so() -> None:
    rule = only(HEAD_NECK, "parotid_mean_dose")
    within = by(rule, *[day(n, parotid(26.0, 24.0)) for n in (1, 2)])
    beyond = by(rule, *[day(n, parotid(41.0, 40.0)) for n in (1, 2)])
    assert within.verdict is Verdict.REVIEW
    assert beyond.verdict is Verdict.CONTINUE
    assert "accepted" in result(beyond, "Parotid_L").reason


def test_each_level_of_separation_is_a_result_of_its_own() -> None:
    widths = [measurement("", f"separation_lateral@{at}mm", "mm", w, 300.0) for at, w in (("-20", 287.0), ("+0", 289.0))]
    decision = by(only(HEAD_NECK, "weight_loss"), day(1, *widths), day(2, *widths))
    assert [r.state for r in decision.results] == [State.EXCEEDED, State.NOT_EXCEEDED]
    assert decision.verdict is Verdict.REVIEW


def test_a_figure_in_another_unit_or_no_number_is_not_judged() -> None:
    for odd in (
        measurement("Parotid_L", "Dmean", "cGy", 2600.0, 2200.0),
        parotid(float("nan")),
        parotid(26.0, None),
        parotid(26.0, interval=(float("nan"), 30.0)),
    ):
        assert result(by(RISES, day(1, odd), day(2, odd)), "Parotid_L").state is State.NOT_EVALUATED


def test_a_structure_that_was_empty_in_the_plan_has_no_relative_change() -> None:
    tumour = measurement("GTVp", "volume", "cc", 3.0, 0.0)
    decision = by(only(HEAD_NECK, "tumour_grows", "setup_shift"), day(1, tumour))
    assert result(decision, "GTVp").state is State.NOT_EVALUATED


def test_nothing_evaluated_is_no_reason_to_continue() -> None:
    decision = decide(RISES, PLAN, Measured(1, ()), [], registration=GIVEN)
    assert decision.verdict is Verdict.REVIEW


def test_doubts_are_told_first() -> None:
    decision = decide(RISES, PLAN, day(1), [], registration=Trust(("The field folds",)))
    assert decision.reasons[1] == "The field folds"


def test_a_whole_shipped_policy_on_a_quiet_day_continues() -> None:
    quiet = [measurement("PTV_7000", "D95%", "Gy", 68.5, 68.6), parotid(22.1)]
    quiet += [measurement(n, q, "Gy", 30.0, 30.0) for n in ("SpinalCord", "Brainstem") for q in ("D2%", "D0.03cc")]
    decision = by(HEAD_NECK, day(1, *quiet), plan=[s for s in PLAN if s.name != "Parotid_R"])
    assert decision.verdict is Verdict.CONTINUE
    assert decision.reasons == ()
    assert {r.rule.name for r in decision.results} == {r.name for r in HEAD_NECK.rules}, "every rule is reported"
    assert all(r.reason for r in decision.results)
    assert (decision.policy, decision.digest) == ("head_neck", HEAD_NECK.digest)


figures = st.builds(
    lambda name, quantity, value, planned, half, trusted: measurement(
        name,
        quantity,
        {"volume": "cc", "shift": "mm"}.get(quantity, "Gy"),
        value,
        planned,
        None if half is None else (value - half, value + half),
        GIVEN if trusted else DOUBTED,
    ),
    st.sampled_from(["PTV_7000", "Parotid_L", "SpinalCord", "Brainstem", "GTVp", "Other"]),
    st.sampled_from(["Dmean", "D95%", "D2%", "D0.03cc", "volume", "shift"]),
    st.floats(0, 80),
    st.none() | st.floats(0, 80),
    st.none() | st.floats(0, 10),
    st.booleans(),
)


@given(st.lists(st.lists(figures, max_size=8), min_size=1, max_size=4), st.booleans())
def test_whatever_is_measured_nothing_untrusted_decides_and_every_rule_answers(course, trusted: bool) -> None:
    days = [Measured(n, tuple(found)) for n, found in enumerate(course, start=1)]
    decision = decide(HEAD_NECK, PLAN, days[-1], days[:-1], registration=GIVEN if trusted else DOUBTED)
    assert {r.rule.name for r in decision.results} == {r.name for r in HEAD_NECK.rules}
    if not trusted or any(not r.trust for r in decision.results):
        assert decision.verdict is Verdict.REVIEW
    if decision.verdict is Verdict.REPLAN:
        assert any(r.state is State.EXCEEDED and r.rule.consequence == "replan" for r in decision.results)
    for r in decision.results:
        if r.state is State.NOT_EVALUATED:
            assert r.value is None
        if r.state is State.EXCEEDED:
            assert r.value is not None
            assert r.rule.beyond(r.value)
