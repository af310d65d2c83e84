"""The course: which fractions count, how figures went, what is to be expected."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptive.change.dose_metrics import ACCUMULATED
from adaptive.course.course import course_of, verdict_of
from adaptive.course.fraction import CoursePlan, Fraction
from adaptive.decision.decision import PlannedStructure, State, Verdict, decide
from adaptive.decision.measurement import Measured
from adaptive.decision.policy import load_policy
from adaptive.decision.rules import Policy
from patient.trust import GIVEN
from tests.figures import DOUBTED, figure, measurement

HEAD_NECK = load_policy("head_neck")
SHRINKS = replace(HEAD_NECK, rules=tuple(r for r in HEAD_NECK.rules if r.name in ("parotid_shrinks", "parotid_mean_dose")))
PLAN = CoursePlan("1.2.3.4.5.6.7.8", "A", 35)
OTHER = CoursePlan("1.2.3.4.5.6.7.9", "B", 20)


def day(
    number: int,
    volume: float = 30.0,
    *,
    plan: CoursePlan = PLAN,
    trusted: bool = True,
    on: int | None = None,
    case: str = "",
    image: str = "",
    made: int | None = None,
    mean: tuple[float, float] = (22.0, 21.0),
    policy: Policy = SHRINKS,
) -> Fraction:
    """A fraction on which the left parotid (30 cc in the plan) has a volume."""
    on = number if on is None else on
    figures = (
        measurement("Parotid_L", "volume", "cc", volume, 30.0, (volume - 1, volume + 1)),
        measurement("Parotid_L", "Dmean", "Gy", mean[0], mean[1]),
        measurement("Parotid_L", f"Dmean{ACCUMULATED}", "Gy", 0.6 * number, None, (0.5 * number, 0.7 * number)),
    )
    measured = Measured(number, figures)
    decision = decide(policy, [PlannedStructure("Parotid_L")], measured, [], registration=GIVEN if trusted else DOUBTED)
    name = case or f"{plan.label}{on}"
    return Fraction(
        name, image or name, f"202601{on:02d}", plan, measured, decision, number, (), on if made is None else made
    )


def steady(count: int, a_day: float = -0.3, **how) -> list[Fraction]:
    wobble = (0.05, -0.04, 0.02, -0.05, 0.03)
    return [day(n, 30.0 + a_day * n + wobble[n % 5], **how) for n in range(1, count + 1)]


def of(course, structure: str, quantity: str):
    return next(t for t in course.parts[-1].tracks if (t.structure, t.quantity) == (structure, quantity))


def test_a_steady_figure_has_its_trend_its_noise_and_a_forecast_with_an_interval():
    track = of(course_of(steady(10)), "Parotid_L", "volume")
    assert track.unit == "%"
    assert track.trend is not None
    assert track.trend.slope == pytest.approx(-1.0, abs=0.05)
    assert 0.05 < track.trend.noise < 0.5
    (limit,) = track.limits
    assert limit.forecast.earliest is not None
    assert limit.forecast.latest is not None
    assert limit.forecast.fraction is not None
    # -30 % is passed after fraction 30, and two in a row are wanted
    assert limit.forecast.earliest <= 32 <= limit.forecast.latest
    assert abs(limit.forecast.fraction - 32) <= 1


def test_what_is_to_be_expected_is_said_soonest_first():
    (said,) = course_of(steady(10)).outlook
    assert said.startswith("parotid_shrinks: Parotid_L volume is forecast to be exceeded at fraction 3")


@given(st.permutations(range(8)))
def test_the_order_in_which_fractions_are_given_changes_nothing(order):
    days = steady(8)
    assert course_of([days[n] for n in order]) == course_of(days)


def test_images_that_came_out_of_order_are_sorted_and_said():
    days = steady(5)
    course = course_of([*days[:4], replace(days[4], acquired="20260100", measured=replace(days[4].measured, fraction=1))])
    assert [s.fraction.case for s in course.standings][:2] == ["A5", "A1"]
    assert any("out of order" in note for note in course.notes)


def test_a_fraction_made_anew_counts_once_and_the_later_making_counts():
    days = [*steady(6), day(3, 10.0, case="A3-2", image="A3", made=99)]
    course = course_of(days)
    assert [f.case for f in course.parts[-1].fractions] == ["A1", "A2", "A3-2", "A4", "A5", "A6"]
    (left,) = [s for s in course.standings if not s.counts]
    assert (left.fraction.case, left.remarks) == ("A3", ("made again as A3-2, which counts",))


def test_a_second_image_of_a_fraction_counts_instead_of_the_first():
    days = steady(3)
    again = replace(day(2, case="again"), acquired="20260102120000")
    course = course_of([*days, again])
    assert [f.case for f in course.parts[-1].fractions] == ["A1", "again", "A3"]
    assert [s.remarks for s in course.standings if not s.counts] == [("fraction 2 has a later image, again, which counts",)]


def test_an_untrusted_fraction_is_shown_and_stands_in_no_trend():
    days = steady(8)
    wild = [*days[:5], day(6, 3.0, trusted=False), *days[6:]]
    track = of(course_of(wild), "Parotid_L", "volume")
    assert [p.fraction for p in track.points] == list(range(1, 9))
    assert [bool(p.trust) for p in track.points] == [n != 6 for n in range(1, 9)]
    assert track.trend is not None
    assert 6 not in track.trend.fractions
    course = course_of(wild)
    assert any("Not trusted and in no trend" in note and "fraction 6" in note for note in course.notes)
    assert any("not trusted" in r for s in course.standings for r in s.remarks)


def test_a_course_whose_newest_fraction_is_not_trusted_goes_to_review():
    assert verdict_of(course_of(steady(3))) is Verdict.CONTINUE
    assert verdict_of(course_of([*steady(3), day(4, trusted=False)])) is Verdict.REVIEW


def test_fractions_without_an_image_are_named():
    course = course_of([day(n) for n in (1, 2, 5, 9)])
    assert course.parts[-1].missing == (3, 4, 6, 7, 8)
    assert any("fractions 3 to 4, 6 to 8" in note for note in course.notes)


def test_a_plan_replaced_in_mid_course_begins_a_part_of_its_own_and_joins_no_trend():
    days = [*steady(6), *(day(n, 29.5, plan=OTHER, on=10 + n) for n in (1, 2, 3))]
    course = course_of(days)
    assert [p.plan for p in course.parts] == [PLAN, OTHER]
    assert [p.fraction for p in of(course, "Parotid_L", "volume").points] == [1, 2, 3]
    assert of(course, "Parotid_L", "volume").trend is None
    assert course.parts[0].tracks[0].trend is not None
    assert [s.ordinal for s in course.standings] == list(range(1, 10))
    assert "The plan was replaced: from 2026-01-11 on B" in course.notes[0]
    assert course.today.plan is OTHER


def test_plans_that_take_turns_are_told_and_the_newest_fractions_plan_is_the_current_one():
    days = [day(1), day(1, plan=OTHER, on=2), day(2, on=3)]
    course = course_of(days)
    assert course.today.plan == PLAN
    assert any("take turns" in note for note in course.notes)


def test_accumulated_dose_is_followed_with_its_band():
    (track,) = course_of([day(1), day(2, trusted=False), day(3)]).parts[-1].dose
    assert (track.structure, track.quantity) == ("Parotid_L", "Dmean")
    assert [(n, figure(m).value, figure(m).interval, bool(m.trust)) for n, m in track.figures] == [
        (1, pytest.approx(0.6), (0.5, 0.7), True),
        (2, pytest.approx(1.2), (1.0, 1.4), False),
        (3, pytest.approx(1.8), (1.5, pytest.approx(2.1)), True),
    ]


def test_what_the_plan_itself_is_beyond_and_was_accepted_so_is_never_forecast():
    course = course_of([day(n, mean=(27.0 + n / 10, 26.5)) for n in range(1, 8)])
    (limit,) = of(course, "Parotid_L", "Dmean").limits
    assert limit.state is State.NOT_EXCEEDED
    assert "accepted" in limit.forecast.said
    assert limit.forecast.fraction is None


def test_without_the_number_of_fractions_nothing_is_forecast():
    unknown = replace(PLAN, fractions=None)
    course = course_of(steady(8, plan=unknown))
    assert "nobody says how many" in of(course, "Parotid_L", "volume").limits[0].forecast.said


def test_a_tripped_rule_stands_before_the_others():
    days = [day(n, 15.0, mean=(20.0, 21.0)) for n in range(1, 7)]
    earlier = [d.measured for d in days[:-1]]
    last = replace(
        days[-1],
        decision=decide(SHRINKS, [PlannedStructure("Parotid_L")], days[-1].measured, earlier, registration=GIVEN),
    )
    tracks = course_of([*days[:-1], last]).parts[-1].tracks
    assert tracks[0].quantity == "volume"
    assert tracks[0].limits[0].state is State.EXCEEDED
    assert tracks[0].limits[0].forecast.said == "is exceeded"


def test_a_figure_beyond_a_limit_that_its_interval_holds_has_not_tripped():
    days = [day(n, 20.6) for n in range(1, 7)]
    last = replace(
        days[-1],
        decision=decide(
            SHRINKS,
            [PlannedStructure("Parotid_L")],
            days[-1].measured,
            [d.measured for d in days[:-1]],
            registration=GIVEN,
        ),
    )
    (limit,) = of(course_of([*days[:-1], last]), "Parotid_L", "volume").limits
    assert limit.state is State.NEAR
    assert limit.forecast.said == "the value exceeds it, within its uncertainty"


def test_another_policy_among_the_fractions_is_said():
    other = replace(SHRINKS, digest="another")
    assert any("policy changed" in n for n in course_of([day(1), day(2, policy=other)]).notes)


def test_there_is_no_course_without_a_fraction():
    with pytest.raises(ValueError):
        course_of([])
