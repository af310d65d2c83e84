"""Which image of an inbox is a planning CT and which a fraction of which plan: by patient, references and dates of headers.

The rules, in the order in which they are asked (docs/user-guide.md states them for people):

1. A CT that the structure set of a plan was drawn on is that plan's planning CT.
2. A cone beam or megavoltage CT, by what its header says of itself, is a fraction.
3. Any other CT is a fraction where it was acquired after the day of a planning CT of its patient and not before that plan.
4. What is left is a planning CT that nobody has drawn on yet.

A fraction's plan is the newest approved one of its patient that is not later than it, unless nobody could tell which is.
Where rule 3 is a guess, because the course should have begun long before, the image is held and the site is asked. What we
made ourselves is no evidence of anything: it counts only as the structure set of a plan that a clinic made on it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Literal

from patient.errors import InputError
from patient.made_here import made_here
from patient.plan import Plan
from patient.read.headers import Header
from patient.read.index import IMAGES, Index, SeriesEntry
from patient.read.rtplan import read_plan
from patient.read.rtstruct import referenced_image
from pipelines.course.numbering import Counting, Treated, numbered, treatment_records
from pipelines.outbox.job_key import case_name

_ON_THE_COUCH = re.compile(
    r"\b(k?v?cbct|cone.?beam|xvi|obi|on.?board|mvct|megavoltage|tomo(therapy|image))\b", re.IGNORECASE
)
_SAYS = ("SeriesDescription", "StudyDescription", "ProtocolName", "ManufacturerModelName", "ImageType", "ImageComments")
SETUP_VOLTAGE = 1000.0
"""kV; an image made with more is made by a treatment beam."""
LONGEST_COURSE = 120
"""Days after a plan's date in which an image is taken for a fraction of it; later it belongs to something new."""
LONGEST_PAUSE = 21
"""Days after a plan's date, or its last image, in which a CT that says nothing of itself is taken for a fraction unasked."""
Answer = Literal["fraction", "planning"]


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
        numbers: of every image under its plan by time of acquisition, also of those that have left the inbox.
        recomputed: RTDOSE on today's image.
        registrations: REG objects between the two images.
        notes: what a reader should know about the pairing.
    """

    image: SeriesEntry
    plan: PlanSet | None = None
    waits: str = ""
    number: int = 0
    number_from: str = ""
    numbers: Mapping[str, int] = field(default_factory=dict)
    recomputed: tuple[Path, ...] = ()
    registrations: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unusable:
    """An object that cannot be used, and why; the sentence holds nothing of its header or path."""

    path: Path
    why: str


@dataclass(frozen=True, eq=False)
class Pairing:
    """All CT series of an inbox.

    Args:
        to_contour: planning CTs that no plan was made on.
        planned: planning CTs with a plan: there is nothing to do about them.
        courses: the fractions of each patient, in order of acquisition.
        plans: that are whole.
        unusable: objects of plans that cannot be used.
    """

    to_contour: tuple[SeriesEntry, ...] = ()
    planned: tuple[SeriesEntry, ...] = ()
    courses: tuple[tuple[PairedFraction, ...], ...] = ()
    plans: tuple[PlanSet, ...] = ()
    unusable: tuple[Unusable, ...] = ()


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


def pair(
    index: Index,
    *,
    counting: Counting | None = None,
    before: Before = NOTHING,
    answers: Mapping[str, Answer] | None = None,
) -> Pairing:
    """Sort the CT series of an inbox into planning CTs and fractions, and find each fraction's plan.

    Whatever a header holds, no exception leaves: what cannot be read is `unusable`, and images that it could matter to wait.
    So do those of the patient, or of the study, that the bytes of a file without a readable header tell.

    Args:
        index: of the inbox.
        counting: how a site's fractions are numbered.
        before: what earlier nights did.
        answers: what a site says of images that it was asked about, by name of the case.
    """
    patients: dict[str, list[SeriesEntry]] = defaultdict(list)
    alone: list[SeriesEntry] = []
    for entry in index.series:
        # Without an id nobody can say whose image it is: it is contoured as it comes and belongs to nobody's plan.
        (patients[who] if (who := entry.headers[0].text("PatientID")) else alone).append(entry)
    how = _How(counting or Counting(), before, answers or {})
    lost = _lost(index, patients)
    found = [_of_patient(entries, lost[who], how) for who, entries in sorted(patients.items())]
    return Pairing(
        to_contour=(*(e for e in alone if is_volume(e)), *(e for p in found for e in p.to_contour)),
        planned=tuple(e for p in found for e in p.planned),
        courses=tuple(course for p in found for course in p.courses),
        plans=tuple(plan for p in found for plan in p.plans),
        unusable=tuple(one for p in found for one in p.unusable),
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


def is_volume(entry: SeriesEntry) -> bool:
    """Whether a series is a CT of slices: a localizer (scout) is CT by name, and nothing can be drawn on it."""
    return entry.modality == "CT" and not all("LOCALIZER" in header.text("ImageType") for header in entry.headers)


@dataclass(frozen=True)
class _How:
    counting: Counting
    before: Before
    answers: Mapping[str, Answer]


@dataclass(frozen=True)
class _Waiting:
    """A plan that fractions must wait for; one that cannot be read may be of any day, and of any CT of its patient.

    `image` is the UID of its planning CT; empty where nobody knows it.
    """

    date: str
    approved: bool
    why: str
    image: str = ""
    unread: bool = False

    def may_hold(self, day: str) -> bool:
        return not self.date or _holds(self.date, day)


_UNREAD_PLAN = _Waiting("", True, "a plan of this patient cannot be read, and could be the one", unread=True)


def _lost(index: Index, patients: Mapping[str, Sequence[SeriesEntry]]) -> Mapping[str, set[str]]:
    """By patient the modalities (empty where unknown) of objects without a readable header, as far as their bytes tell."""
    studies = {entry.study_uid: who for who, entries in patients.items() for entry in entries if entry.study_uid}
    images = {entry.uid for entry in index.of(*IMAGES)}
    found: dict[str, set[str]] = defaultdict(set)
    for left in (problem.remains for problem in index.problems):
        if left.modality not in IMAGES and left.series_uid not in images:
            found[left.patient_id or studies.get(left.study_uid, "")].add(left.modality)
    return found


def _of_patient(entries: Sequence[SeriesEntry], lost: set[str], how: _How) -> Pairing:
    try:
        return _Patient(entries, lost, how).paired()
    except Exception as error:  # Headers hold anything: what one patient's cannot be asked for must not cost the others.
        said = f"its objects and its plan's could not be matched: unexpected {type(error).__name__}"
        held = tuple(PairedFraction(entry, waits=said) for entry in entries if is_volume(entry))
        return Pairing(courses=(held,) if held else ())


@dataclass(eq=False)
class _Patient:
    """Everything of one patient; `lost` are the modalities of the objects of which not even the header can be read."""

    entries: Sequence[SeriesEntry]
    lost: set[str]
    how: _How
    plans: list[PlanSet] = field(default_factory=list)
    waiting: list[_Waiting] = field(default_factory=list)
    unusable: list[Unusable] = field(default_factory=list)
    given: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Acquisitions of images that were paired without a doubt, by plan."""

    def __post_init__(self) -> None:
        self.images = [e for e in self.entries if is_volume(e)]
        self.doses = dict(self._doses_and_plans())
        unread = bool(self.unusable) or "RTDOSE" in self.lost
        self.records = self._records()
        sets = {h.text("SOPInstanceUID"): h for h in self._headers("RTSTRUCT")}
        for header in self._headers("RTPLAN"):
            try:
                plan = read_plan(header.path)
                made = self._plan_set(plan, header.path, sets.get(plan.structure_set_uid))
            except Exception as error:
                self._unread(header, "plan", error)
                self.waiting.append(_UNREAD_PLAN)
                continue
            if isinstance(made, _Waiting):
                self.waiting.append(made)
            elif unread:
                why = "a dose of this patient cannot be read, and could be its own"
                self.waiting.append(_Waiting(made.date, plan.approved, why, made.image.uid))
            else:
                self.plans.append(made)

        if self.lost & {"RTPLAN", ""}:
            self.waiting.append(_UNREAD_PLAN)

    def _headers(self, modality: str) -> list[Header]:
        """One header an object: the same object twice counts once."""
        return list(
            {h.text("SOPInstanceUID"): h for e in self.entries if e.modality == modality for h in e.headers}.values()
        )

    def _unread(self, header: Header, what: str, error: Exception) -> None:
        known = isinstance(error, InputError)
        why = error.what if known else f"unexpected {type(error).__name__}"
        self.unusable.append(Unusable(header.path, f"A {what} that cannot be read: {why}"))

    def _doses_and_plans(self) -> Iterator[tuple[Path, tuple[Header, set[str]]]]:
        """The clinic's doses, each with the plans that it names."""
        for header in self._headers("RTDOSE"):
            try:
                if not made_here(header.dataset):
                    yield header.path, (header, _plans_of(header))
            except Exception as error:
                self._unread(header, "dose", error)

    def _records(self) -> dict[str, list[Treated]]:
        """Treatment records by plan."""
        found: dict[str, list[Treated]] = defaultdict(list)
        for header in self._headers("RTRECORD"):
            try:
                for plan, treated in treatment_records(header.dataset):
                    found[plan].append(treated)
            except Exception as error:
                self._unread(header, "treatment record", error)
        return found

    def _plan_set(self, plan: Plan, path: Path, structures: Header | None) -> PlanSet | _Waiting:
        waiting = partial(_Waiting, plan.date, plan.approved)
        if structures is None:
            lost = "RTSTRUCT" in self.lost
            return waiting(f"its structure set {'cannot be read' if lost else 'is not there'}", unread=lost)
        try:
            frame, _, series, planes = referenced_image(structures)
        except Exception as error:
            self._unread(structures, "structure set", error)
            return waiting("its structure set cannot be read", unread=True)
        image = next(
            (e for e in self.images if e.uid == series or (not series and planes and planes <= set(e.sop_instance_uids))),
            None,
        )
        if image is None:
            return waiting("the CT that its structure set was drawn on is not there")
        if frame and image.frame_of_reference and frame != image.frame_of_reference:
            return waiting("its structure set says another frame of reference than the CT that it names")
        if plan.frame_of_reference and image.frame_of_reference and plan.frame_of_reference != image.frame_of_reference:
            return waiting("it is in another frame of reference than the CT that its structure set was drawn on")
        return PlanSet(plan, path, structures.path, image, self._doses(plan, image.frame_of_reference))

    def _doses(self, plan: Plan, frame: str) -> tuple[Path, ...]:
        """Of a plan in a frame of reference."""
        named = [header for header, plans in self.doses.values() if plan.sop_instance_uid in plans]
        return tuple(sorted(h.path for h in named if h.text("FrameOfReferenceUID") == frame))

    def paired(self) -> Pairing:
        anchors = {*(p.image.uid for p in self.plans), *(plan.image for plan in self.waiting if plan.image)}
        planned = [e for e in self.images if e.uid in anchors]
        days = [e for e in self.images if e.uid not in anchors and self._is_fraction(e)]
        fractions = [self._paired(e) for e in sorted(days, key=lambda e: (acquired(e) or "9", e.uid))]
        taken = {*anchors, *(e.uid for e in days)}
        return Pairing(
            to_contour=tuple(e for e in self.images if e.uid not in taken),
            planned=tuple(planned),
            courses=(tuple(_numbered(fractions, self.how, self.records)),) if fractions else (),
            plans=tuple(self.plans),
            unusable=tuple(self.unusable),
        )

    def _is_fraction(self, entry: SeriesEntry) -> bool:
        if answer := self.how.answers.get(case_name(entry)):
            return answer == "fraction"
        if on_the_couch(entry):
            return True
        day = acquired(entry)[:8]
        known = any(acquired(p.image)[:8] < day and _holds(p.date, day) for p in self.plans)
        return known or any(plan.unread or (plan.date and plan.may_hold(day)) for plan in self.waiting)

    def _paired(self, entry: SeriesEntry) -> PairedFraction:
        """With its plan, or with the reason why it waits."""
        day = acquired(entry)[:8]
        if not on_the_couch(entry) and (unread := next((plan for plan in self.waiting if plan.unread), None)):
            return PairedFraction(entry, waits=f"it may be that of a plan or a fraction of it: {unread.why}")
        if not day:
            return PairedFraction(entry, waits="it does not say when it was acquired, so that nobody knows under which plan")
        chosen, notes = self._plan_of(entry, day)
        if isinstance(chosen, str):
            return PairedFraction(entry, waits=chosen)
        registrations = tuple(h.path for h in self._between(entry, chosen.image))
        if not registrations and (doubt := self._doubt(entry, chosen, day)):
            return PairedFraction(entry, waits=doubt)
        if registrations:
            notes.append(
                f"a registration between the two images is there ({len(registrations)} REG); ours is computed again"
            )
        self.given[chosen.plan.sop_instance_uid].append(acquired(entry))
        frame = entry.frame_of_reference
        today = self._doses(chosen.plan, frame) if frame and frame != chosen.image.frame_of_reference else ()
        return PairedFraction(entry, chosen, recomputed=today, registrations=registrations, notes=tuple(notes))

    def _doubt(self, entry: SeriesEntry, plan: PlanSet, day: str) -> str:
        """Why an image may be no fraction of its plan at all, as a question; empty where nothing speaks against it."""
        if on_the_couch(entry) or self.how.before.plan(entry) or case_name(entry) in self.how.answers:
            return ""
        if entry.frame_of_reference and entry.frame_of_reference == plan.image.frame_of_reference:
            return ""
        uid = plan.plan.sop_instance_uid
        course = [*self.how.before.days(uid), *self.given[uid]]
        last = max([plan.date[:8], *(when[:8] for when in course if plan.date[:8] <= when[:8] < day)])
        began, now = _date(last), _date(day)
        if began is None or now is None or (now - began).days <= LONGEST_PAUSE:
            return ""
        since = "its plan was made" if last == plan.date[:8] else "the last image under its plan"
        return (
            f"it was acquired {(now - began).days} days after {since}, and nothing in it says that it comes from the "
            "treatment room: a fraction of that plan, or a new planning CT? Answer in the site's configuration, [images]: "
            f'"{case_name(entry)}" = "fraction" or "planning"'
        )

    def _plan_of(self, entry: SeriesEntry, day: str) -> tuple[PlanSet | str, list[str]]:
        if given := self.how.before.plan(entry):
            own = next((p for p in self.plans if p.plan.sop_instance_uid == given), None)
            return own or "the plan that it was treated under has left the inbox", []
        if not self.plans and not self.waiting:
            return "it waits for its plan: there is none of this patient", []
        before = [p for p in self.plans if _holds(p.date, day) and acquired(p.image)[:8] <= day]
        coming = [plan for plan in self.waiting if plan.may_hold(day)]
        if not before and not coming:
            every = [p.date for p in self.plans] + [plan.date for plan in self.waiting]
            when = "before every plan" if all(d[:8] > day for d in every) else "in no plan's time"
            return f"it was acquired on {day}, {when} of this patient: it waits for the plan of its day", []
        approved = [p for p in before if p.plan.approved]
        pool = approved or before
        named = {uid for p in pool for uid in _predecessors(p.plan)}
        pool = [p for p in pool if p.plan.sop_instance_uid not in named]
        newest = max((p.date for p in pool), default="")
        for plan in coming:
            if (plan.date or "9") >= newest and (plan.approved or not approved):
                return f"it waits for its plan: {plan.why}", []
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
        joining = [e for e in self.entries if e.modality == "REG" and _points_at(e, one) and _points_at(e, other)]
        return [header for entry in joining for header in entry.headers if not made_here(header.dataset)]


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
    fractions: Sequence[PairedFraction], how: _How, records: Mapping[str, Sequence[Treated]]
) -> Iterator[PairedFraction]:
    """Numbers under each plan, with the images that have left."""
    moments: dict[str, list[str]] = defaultdict(list)
    for f in fractions:
        if f.plan is not None:
            moments[f.plan.plan.sop_instance_uid].append(acquired(f.image))
    plans = {
        uid: numbered([*how.before.days(uid), *given], how.counting, records.get(uid, ())) for uid, given in moments.items()
    }
    for f in fractions:
        if f.plan is None:
            yield f
            continue
        found, when = plans[f.plan.plan.sop_instance_uid], acquired(f.image)
        yield replace(f, number=found.numbers[when], number_from=found.said[when], numbers=found.numbers)


def _date(day: str) -> date | None:
    try:
        return date(int(day[:4]), int(day[4:6]), int(day[6:])) if re.fullmatch(r"\d{8}", day) else None
    except ValueError:
        return None


def _holds(plan: str, day: str) -> bool:
    """Whether a plan of a date may be given on a day."""
    begun, now = _date(plan[:8]), _date(day)
    return begun is not None and now is not None and 0 <= (now - begun).days <= LONGEST_COURSE
