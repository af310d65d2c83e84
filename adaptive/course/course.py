"""A patient's fractions in order: which of them count, how figures went, when a rule is forecast to be exceeded.

A course has one part a plan; the last is the current one. Figures of different plans are never joined: what changed is
measured against the plan of its day. An untrusted fraction is shown and stands in no trend.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from adaptive.course.fraction import CoursePlan, Fraction
from adaptive.course.tracks import DoseTrack, Track, dose_tracks_of, tracks_of
from adaptive.decision.decision import Verdict


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
    return Part(newest.plan, tuple(fractions), missing, tracks_of(fractions), tuple(dose_tracks_of(fractions)))


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
