"""Which number a fraction has under its plan: as treatment records say it, else counted. No two can have the same.

Images of one session are images of one fraction. Sessions in order of time get rising numbers whatever they are counted by,
so that an image that comes late, a Saturday before a Monday or a second session of a day moves the numbers after it and
never takes one away.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import pairwise

import numpy as np
from pydicom.dataset import Dataset

DAYS_WITH_AN_IMAGE = "sessions with an image under this plan; fractions without one are not known"
WEEKDAYS = "weekdays, and other days with an image, since the first image under this plan"
RECORDED = "the treatment record of its session"


@dataclass(frozen=True)
class Counting:
    """How a site treats.

    Args:
        weekdays: every weekday is treated, imaged or not; else only sessions with an image are known.
        holidays: weekdays on which nobody is treated.
        session_hours: images closer together than this belong to one session; those of two sessions of a day lie further
            apart (two fractions a day are given at least 6 hours apart).
    """

    weekdays: bool = False
    holidays: frozenset[date] = frozenset()
    session_hours: float = 4.0


@dataclass(frozen=True)
class Treated:
    """What a treatment record says: when (YYYYMMDD or YYYYMMDDHHMMSS), and the number of the fraction."""

    when: str
    number: int


@dataclass(frozen=True)
class Numbered:
    """Numbers of one plan's fractions by the time of an image, and for each who says so."""

    numbers: Mapping[str, int]
    said: Mapping[str, str]


def numbered(moments: Iterable[str], counting: Counting, records: Sequence[Treated] = ()) -> Numbered:
    """Number all images under one plan.

    Args:
        moments: acquisition times (YYYYMMDD or YYYYMMDDHHMMSS), of every image whether it is still there or not.
        counting: of the site.
        records: of the plan; one that would not rise with time is left out.
    """
    numbers, said = dict[str, int](), dict[str, str]()
    before, last = 0, ""
    for session in _sessions(moments, counting):
        number, source = before + 1 + _between(last, session[0], counting), _counted_by(counting)
        recorded = [r.number for r in records if any(_together(r.when, moment, counting) for moment in session)]
        if recorded and max(recorded) > before:
            number, source = max(recorded), RECORDED
        numbers |= dict.fromkeys(session, number)
        said |= dict.fromkeys(session, source)
        before, last = number, session[0]
    return Numbered(numbers, said)


def rising(fractions: Sequence[tuple[str, int]]) -> list[int]:
    """Numbers that were given at different times, made to rise with the day; what agrees already stays as it is.

    Args:
        fractions: day (YYYYMMDD) and number of each, of one plan; the same number on the same day is the same fraction.
    """
    order = sorted(range(len(fractions)), key=lambda n: fractions[n])
    found = [number for _, number in fractions]
    for one, following in pairwise(order):
        if fractions[following] == fractions[one]:
            found[following] = found[one]
        else:
            found[following] = max(found[following], found[one] + 1)
    return found


def treatment_records(dataset: Dataset) -> Iterator[tuple[str, Treated]]:
    """Plan and fraction of an RT (Ion) Beams Treatment Record (PS3.3 C.8.8.21, C.8.8.26); nothing where it says none."""
    when = f"{dataset.get('TreatmentDate') or ''}{str(dataset.get('TreatmentTime') or '').partition('.')[0]}"
    beams = dataset.get("TreatmentSessionBeamSequence") or dataset.get("TreatmentSessionIonBeamSequence") or []
    numbers = {int(n) for beam in beams if (n := beam.get("CurrentFractionNumber")) is not None}
    plans = [str(item.get("ReferencedSOPInstanceUID", "")) for item in dataset.get("ReferencedRTPlanSequence") or []]
    if len(numbers) == len(plans) == 1 and _moment(when) is not None:
        yield plans[0], Treated(when, numbers.pop())


def _counted_by(counting: Counting) -> str:
    return WEEKDAYS if counting.weekdays else DAYS_WITH_AN_IMAGE


def _sessions(moments: Iterable[str], counting: Counting) -> Iterator[list[str]]:
    session: list[str] = []
    for moment in sorted(set(moments)):
        if session and not _together(session[-1], moment, counting):
            yield session
            session = []
        session.append(moment)
    if session:
        yield session


def _together(one: str, other: str, counting: Counting) -> bool:
    """Of one day and, where both say a time, not far apart."""
    if one[:8] != other[:8]:
        return False
    a, b = _moment(one), _moment(other)
    timed = len(one) == len(other) == 14 and a is not None and b is not None
    return not timed or abs(b - a) < timedelta(hours=counting.session_hours)  # type: ignore[operator]


def _between(last: str, day: str, counting: Counting) -> int:
    """Fractions that nobody imaged between two sessions."""
    a, b = _moment(last), _moment(day)
    if not counting.weekdays or a is None or b is None or a.date() >= b.date():
        return 0
    return int(np.busday_count(a.date() + timedelta(days=1), b.date(), holidays=sorted(counting.holidays)))


def _moment(text: str) -> datetime | None:
    try:
        return datetime.strptime(text.ljust(14, "0"), "%Y%m%d%H%M%S") if re.fullmatch(r"\d{8}(\d{6})?", text) else None
    except ValueError:
        return None
