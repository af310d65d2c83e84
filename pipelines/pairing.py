"""Which image of an inbox is a planning CT and which a fraction of which plan: by patient, references and dates of headers.

The rules, in the order in which they are asked (docs/user-guide.md states them for people):

1. A CT that the structure set of a plan was drawn on is that plan's planning CT.
2. A cone beam or megavoltage CT, by what its header says of itself, is a fraction.
3. Any other CT is a fraction where it was acquired after the day of a planning CT of its patient and not before that plan.
4. What is left is a planning CT that nobody has drawn on yet.

A fraction's plan is the newest approved one of its patient that is not later than it, unless nobody could tell which is.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

import numpy as np

from patient.errors import InputError
from patient.made_here import made_here
from patient.plan import Plan
from patient.read.headers import Header
from patient.read.index import Index, SeriesEntry
from patient.read.rtplan import read_plan
from patient.read.rtstruct import referenced_image

_ON_THE_COUCH = re.compile(
    r"\b(k?v?cbct|cone.?beam|xvi|obi|on.?board|mvct|megavoltage|tomo(therapy|image))\b", re.IGNORECASE
)
_SAYS = ("SeriesDescription", "StudyDescription", "ProtocolName", "ManufacturerModelName", "ImageType", "ImageComments")
SETUP_VOLTAGE = 1000.0
"""kV; an image made with more is made by a treatment beam."""
LONGEST_COURSE = 120
"""Days after a plan's date in which an image is taken for a fraction of it; later it belongs to something new."""


@dataclass(frozen=True, eq=False)
class PlanSet:
    """A plan whose structure set and planning CT are there.

    Args:
        plan: what the RTPLAN says.
        path: of the RTPLAN.
        structure_set: path of the RTSTRUCT.
        image: the planning CT.
        doses: RTDOSE of the plan, in the planning CT's frame of reference.
    """

    plan: Plan
    path: Path
    structure_set: Path
    image: SeriesEntry
    doses: tuple[Path, ...] = ()

    @property
    def date(self) -> str:
        """From which it holds: the plan's own date, else its image's."""
        return self.plan.date or acquired(self.image)

    @property
    def paths(self) -> tuple[Path, ...]:
        """All its objects besides the image."""
        return self.path, self.structure_set, *self.doses


@dataclass(frozen=True, eq=False)
class PairedFraction:
    """A fraction image and the plan that it is taken to be given by.

    Args:
        image: of the day.
        plan: None where it waits for one.
        waits: why, in a sentence; empty where it has its plan.
        number: under its plan, from 1; 0 without a plan.
        number_from: who says so, in words.
        recomputed: RTDOSE on today's image.
        registrations: REG objects between the two images.
        notes: what a reader should know about the pairing.
    """

    image: SeriesEntry
    plan: PlanSet | None = None
    waits: str = ""
    number: int = 0
    number_from: str = ""
    recomputed: tuple[Path, ...] = ()
    registrations: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Pairing:
    """All CT series of an inbox.

    Args:
        to_contour: planning CTs that no plan was made on.
        planned: planning CTs with a plan: there is nothing to do about them.
        courses: the fractions of each patient, in order of acquisition.
        problems: objects of plans that cannot be used, in sentences.
    """

    to_contour: tuple[SeriesEntry, ...]
    planned: tuple[SeriesEntry, ...]
    courses: tuple[tuple[PairedFraction, ...], ...]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Before:
    """What earlier nights did.

    Args:
        days: acquisitions of a plan's fractions, by its UID, whose images have left the inbox.
        plan: UID of the plan that an image was treated under; empty where it was not. It keeps that plan: what was given was
            given by a plan that was there.
    """

    days: Callable[[str], Iterable[str]] = lambda plan: ()
    plan: Callable[[SeriesEntry], str] = lambda image: ""


NOTHING = Before()


def pair(index: Index, *, by_weekdays: bool = False, before: Before = NOTHING) -> Pairing:
    """Sort the CT series of an inbox into planning CTs and fractions, and find each fraction's plan.

    Args:
        index: of the inbox.
        by_weekdays: number fractions by weekdays since the first image under a plan, instead of by days with an image.
        before: what earlier nights did.
    """
    patients: dict[str, list[SeriesEntry]] = defaultdict(list)
    alone: list[SeriesEntry] = []
    for entry in index.series:
        # Without an id nobody can say whose image it is: it is contoured as it comes and belongs to nobody's plan.
        (patients[who] if (who := entry.headers[0].text("PatientID")) else alone).append(entry)
    found = [_Patient(entries, before).paired(by_weekdays) for _, entries in sorted(patients.items())]
    return Pairing(
        to_contour=(*(e for e in alone if e.modality == "CT"), *(e for p in found for e in p.to_contour)),
        planned=tuple(e for p in found for e in p.planned),
        courses=tuple(course for p in found for course in p.courses),
        problems=tuple(problem for p in found for problem in p.problems),
    )


def acquired(entry: SeriesEntry) -> str:
    """When an image was acquired: YYYYMMDDHHMMSS, YYYYMMDD where no time is given, empty where no day is."""
    header = entry.headers[0]
    for kind in ("Acquisition", "Series", "Content", "Study"):
        day, time = header.text(f"{kind}Date"), header.text(f"{kind}Time").partition(".")[0]
        if _date(day) is not None:
            return day + (time if re.fullmatch(r"\d{6}", time) else "")
    return ""


def on_the_couch(entry: SeriesEntry) -> bool:
    """Whether a header says that the image was made in the treatment room: cone beam or megavoltage CT."""
    header = entry.headers[0]
    voltage = header.text("KVP")
    high = voltage.replace(".", "", 1).isdigit() and float(voltage) >= SETUP_VOLTAGE
    return high or any(_ON_THE_COUCH.search(header.text(keyword).replace("_", " ")) for keyword in _SAYS)


@dataclass(eq=False)
class _Patient:
    """Everything of one patient."""

    entries: Sequence[SeriesEntry]
    before: Before
    plans: list[PlanSet] = field(default_factory=list)
    waiting: list[tuple[Plan, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.images = [e for e in self.entries if e.modality == "CT"]
        sets = {h.text("SOPInstanceUID"): h for h in self._headers("RTSTRUCT")}
        for header in self._headers("RTPLAN"):
            try:
                plan = read_plan(header.path)
            except InputError as error:
                self.problems.append(str(error))
                continue
            made = self._plan_set(plan, header.path, sets.get(plan.structure_set_uid))
            if isinstance(made, PlanSet):
                self.plans.append(made)
            else:
                self.waiting.append((plan, made))

    def _headers(self, modality: str) -> list[Header]:
        """One header an object: the same object twice counts once."""
        return list(
            {h.text("SOPInstanceUID"): h for e in self.entries if e.modality == modality for h in e.headers}.values()
        )

    def _plan_set(self, plan: Plan, path: Path, structures: Header | None) -> PlanSet | str:
        if structures is None:
            return "its structure set is not there"
        frame, _, series, planes = referenced_image(structures)
        image = next(
            (e for e in self.images if e.uid == series or (not series and planes and planes <= set(e.sop_instance_uids))),
            None,
        )
        if image is None:
            return "the CT that its structure set was drawn on is not there"
        if frame and image.frame_of_reference and frame != image.frame_of_reference:
            return "its structure set says another frame of reference than the CT that it names"
        if plan.frame_of_reference and image.frame_of_reference and plan.frame_of_reference != image.frame_of_reference:
            return "it is in another frame of reference than the CT that its structure set was drawn on"
        return PlanSet(plan, path, structures.path, image, self._doses(plan, image.frame_of_reference))

    def _doses(self, plan: Plan, frame: str) -> tuple[Path, ...]:
        """Of a plan in a frame of reference."""
        ones = [h for h in self._headers("RTDOSE") if not made_here(h.dataset)]
        named = [h for h in ones if plan.sop_instance_uid in _plans_of(h)]
        return tuple(sorted(h.path for h in named if h.text("FrameOfReferenceUID") == frame))

    def paired(self, by_weekdays: bool) -> Pairing:
        anchors = {p.image.uid for p in self.plans}
        planned = [e for e in self.images if e.uid in anchors]
        days = [e for e in self.images if e.uid not in anchors and self._is_fraction(e)]
        fractions = [self._paired(e) for e in sorted(days, key=lambda e: (acquired(e) or "9", e.uid))]
        taken = {*anchors, *(e.uid for e in days)}
        return Pairing(
            to_contour=tuple(e for e in self.images if e.uid not in taken),
            planned=tuple(planned),
            courses=(tuple(_numbered(fractions, by_weekdays, self.before.days)),) if fractions else (),
            problems=tuple(self.problems),
        )

    def _is_fraction(self, entry: SeriesEntry) -> bool:
        if on_the_couch(entry):
            return True
        day = acquired(entry)[:8]
        known = any(acquired(p.image)[:8] < day and _holds(p.date, day) for p in self.plans)
        return known or any(_holds(plan.date, day) for plan, _ in self.waiting)

    def _paired(self, entry: SeriesEntry) -> PairedFraction:
        """With its plan, or with the reason why it waits."""
        day = acquired(entry)[:8]
        if not day:
            return PairedFraction(entry, waits="it does not say when it was acquired, so that nobody knows under which plan")
        chosen, notes = self._plan_of(entry, day)
        if isinstance(chosen, str):
            return PairedFraction(entry, waits=chosen)
        registrations = tuple(h.path for h in self._between(entry, chosen.image))
        if registrations:
            notes.append(f"a registration between the two images is there ({len(registrations)} REG); ours is made anew")
        frame = entry.frame_of_reference
        today = self._doses(chosen.plan, frame) if frame and frame != chosen.image.frame_of_reference else ()
        return PairedFraction(entry, chosen, recomputed=today, registrations=registrations, notes=tuple(notes))

    def _plan_of(self, entry: SeriesEntry, day: str) -> tuple[PlanSet | str, list[str]]:
        if given := self.before.plan(entry):
            own = next((p for p in self.plans if p.plan.sop_instance_uid == given), None)
            return own or "the plan that it was treated under has left the inbox", []
        if not self.plans and not self.waiting:
            return "it waits for its plan: there is none of this patient", []
        before = [p for p in self.plans if _holds(p.date, day) and acquired(p.image)[:8] <= day]
        coming = [(plan, why) for plan, why in self.waiting if not plan.date or _holds(plan.date, day)]
        if not before and not coming:
            every = [p.date for p in self.plans] + [plan.date for plan, _ in self.waiting]
            when = "before every plan" if all(d[:8] > day for d in every) else "in no plan's time"
            return f"it was acquired on {day}, {when} of this patient: it waits for the plan of its day", []
        approved = [p for p in before if p.plan.approved]
        pool = approved or before
        named = {uid for p in pool for uid in _predecessors(p.plan)}
        pool = [p for p in pool if p.plan.sop_instance_uid not in named]
        newest = max((p.date for p in pool), default="")
        for plan, why in coming:
            if plan.date >= newest and (plan.approved or not approved):
                return f"it waits for its plan: {why}", []
        if len(pool) > 1 and not approved:
            joined = [p for p in pool if self._between(entry, p.image)]
            if len(joined) != 1:
                return f"there are {len(pool)} plans and none is approved: nobody can tell which is meant", []
            return joined[0], ["of several plans that nobody approved, the one that a REG joins it to"]
        last = [p for p in pool if p.date == newest]
        same = [p for p in pool if p.image.uid == last[0].image.uid]
        if len(last) > 1 or len(same) > 1:
            which = "of the same time" if len(last) > 1 else "on one planning CT"
            return (
                f"there are {max(len(last), len(same))} plans {which}, neither replacing the other: nobody can tell which",
                [],
            )
        notes = []
        if any(p.date > newest for p in before):
            notes.append("a newer plan is not approved and was passed over")
        return last[0], notes

    def _between(self, one: SeriesEntry, other: SeriesEntry) -> list[Header]:
        """Registrations that join two images."""
        return [
            h for e in self.entries if e.modality == "REG" and _points_at(e, one) and _points_at(e, other) for h in e.headers
        ]


def _points_at(registration: SeriesEntry, image: SeriesEntry) -> bool:
    ours = {image.uid, image.frame_of_reference, *image.sop_instance_uids} - {""}
    said = {h.text("FrameOfReferenceUID") for h in registration.headers}
    return bool(ours & (registration.references | said))


def _plans_of(dose: Header) -> set[str]:
    return {str(item.get("ReferencedSOPInstanceUID", "")) for item in dose.dataset.get("ReferencedRTPlanSequence") or []}


def _predecessors(plan: Plan) -> Iterator[str]:
    """Plans that a plan says it replaces (RT Plan Relationship, PS3.3 C.8.8.9)."""
    for item in (plan.header.get("ReferencedRTPlanSequence") if plan.header is not None else None) or []:
        if item.get("RTPlanRelationship") == "PREDECESSOR":
            yield str(item.get("ReferencedSOPInstanceUID", ""))


def _numbered(
    fractions: Sequence[PairedFraction], by_weekdays: bool, known: Callable[[str], Iterable[str]]
) -> Iterator[PairedFraction]:
    """Numbers under each plan; images of one day are images of one fraction."""
    plans = {f.plan.plan.sop_instance_uid: f.plan for f in fractions if f.plan is not None}
    days = {uid: {when[:8] for when in known(uid)} for uid in plans}
    for f in fractions:
        if f.plan is not None:
            days[f.plan.plan.sop_instance_uid].add(acquired(f.image)[:8])
    for f in fractions:
        if f.plan is None:
            yield f
            continue
        given, day = sorted(days[f.plan.plan.sop_instance_uid]), acquired(f.image)[:8]
        number, said = 1 + given.index(day), "days with an image under this plan; fractions without one are not known"
        if by_weekdays:
            number, said = 1 + _weekdays(given[0], day), "weekdays since the first image under this plan"
        yield replace(f, number=number, number_from=said)


def _date(day: str) -> date | None:
    try:
        return date(int(day[:4]), int(day[4:6]), int(day[6:])) if re.fullmatch(r"\d{8}", day) else None
    except ValueError:
        return None


def _holds(plan: str, day: str) -> bool:
    """Whether a plan of a date may be given on a day."""
    begun, now = _date(plan[:8]), _date(day)
    return begun is not None and now is not None and 0 <= (now - begun).days <= LONGEST_COURSE


def _weekdays(first: str, last: str) -> int:
    a, b = _date(first), _date(last)
    return int(np.busday_count(a, b)) if a and b else 0
