"""Numbers of fractions: rising, never twice, whatever comes when."""

from datetime import date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from pipelines.course.numbering import RECORDED, Counting, Treated, numbered, rising, treatment_records

WEEKDAYS = Counting(weekdays=True)
moments = st.datetimes(datetime(2026, 1, 1), datetime(2026, 4, 1)).map(lambda d: d.strftime("%Y%m%d%H%M%S"))
countings = st.builds(Counting, weekdays=st.booleans(), holidays=st.frozensets(st.dates(date(2026, 1, 1), date(2026, 4, 1))))


@given(
    st.lists(moments | moments.map(lambda m: m[:8])), countings, st.lists(st.builds(Treated, moments, st.integers(1, 60)))
)
def test_numbers_rise_with_time_and_no_two_sessions_have_the_same(given_at, counting, records):
    numbers = numbered(given_at, counting, records).numbers
    ordered = sorted(numbers)
    assert set(ordered) == set(given_at)
    assert [numbers[m] for m in ordered] == sorted(numbers.values())
    assert all(numbers[m] >= 1 for m in ordered)
    assert len({(m[:8], n) for m, n in numbers.items()}) == len(set(numbers.values()))


@given(st.lists(moments, min_size=1), moments)
def test_an_image_that_comes_late_takes_no_number_away_from_those_before_it(given_at, late):
    before, after = (numbered(m, WEEKDAYS).numbers for m in (given_at, [*given_at, late]))
    assert all(after[m] == before[m] for m in given_at if m[:8] < late[:8] and m >= min(given_at))


def test_a_saturday_and_the_monday_after_it_are_two_fractions_under_weekdays():
    friday, saturday, monday, tuesday = ("20260109", "20260110", "20260112", "20260113")
    found = numbered([friday, saturday, monday, tuesday], WEEKDAYS).numbers
    assert [found[d] for d in (friday, saturday, monday, tuesday)] == [1, 2, 3, 4]


def test_weekdays_without_an_image_count_and_holidays_do_not():
    days = ["20260102", "20260109"]
    assert numbered(days, WEEKDAYS).numbers["20260109"] == 6
    assert numbered(days, Counting(weekdays=True, holidays=frozenset({date(2026, 1, 6)}))).numbers["20260109"] == 5
    assert numbered(days, Counting()).numbers["20260109"] == 2


def test_images_of_one_session_are_one_fraction_and_two_sessions_of_a_day_are_two():
    found = numbered(["20260108080000", "20260108083000", "20260108150000", "20260109080000"], Counting()).numbers
    assert list(found.values()) == [1, 1, 2, 3]


def test_an_image_without_a_time_belongs_to_its_days_session():
    assert set(numbered(["20260108", "20260108150000"], Counting()).numbers.values()) == {1}


def test_a_treatment_record_says_the_number_and_one_that_contradicts_time_does_not():
    records = [Treated("20260108081000", 4), Treated("20260109", 2)]
    found = numbered(["20260108080000", "20260109080000"], Counting(), records)
    assert list(found.numbers.values()) == [4, 5]
    assert found.said["20260108080000"] == RECORDED
    assert found.said["20260109080000"] != RECORDED


def test_a_treatment_record_is_read_and_one_that_says_nothing_gives_nothing():
    d, beam, plan = Dataset(), Dataset(), Dataset()
    assert list(treatment_records(d)) == []
    d.TreatmentDate, d.TreatmentTime = "20260108", "081500.12"
    beam.CurrentFractionNumber, plan.ReferencedSOPInstanceUID = 7, "1.2.3"
    d.TreatmentSessionBeamSequence, d.ReferencedRTPlanSequence = [beam, beam], [plan]
    assert list(treatment_records(d)) == [("1.2.3", Treated("20260108081500", 7))]


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ([("20260107", 1), ("20260109", 2), ("20260108", 2)], [1, 3, 2]),  # an image of the 8th came late
        ([("20260107", 1), ("20260107", 1)], [1, 1]),
        ([("20260107", 3), ("20260107", 4), ("20260112", 9)], [3, 4, 9]),
    ],
)
def test_numbers_given_at_different_times_rise_with_the_day(said, found):
    assert rising(said) == found


@given(
    st.lists(st.tuples(st.dates(date(2026, 1, 1), date(2026, 1, 20)).map(lambda d: d.strftime("%Y%m%d")), st.integers(1, 9)))
)
def test_whatever_numbers_were_given_two_days_never_share_one(said):
    found = rising(said)
    assert len({n for (day, _), n in zip(said, found, strict=True)}) == len(set(said))


def test_two_weeks_of_weekdays_end_at_ten():
    days = [date(2026, 1, 5) + timedelta(days=n) for n in range(12)]
    found = numbered([d.strftime("%Y%m%d") for d in days if d.weekday() < 5], WEEKDAYS).numbers
    assert list(found.values()) == list(range(1, 11))
