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

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from patient.read.index import IMAGES, Index, SeriesEntry
from pipelines.course.numbering import Counting, Treated, numbered
from pipelines.night.image_headers import acquired, day_of, is_volume, on_the_couch
from pipelines.night.plan_choice import plan_of
from pipelines.night.plan_sets import PatientPlans, PlanSet, Unusable, holds
from pipelines.outbox.job_key import case_name

LONGEST_PAUSE = 21
"""Days after a plan's date, or its last image, in which a CT that says nothing of itself is taken for a fraction unasked."""
Answer = Literal["fraction", "planning"]


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


@dataclass(frozen=True)
class _How:
    counting: Counting
    before: Before
    answers: Mapping[str, Answer]


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
        return _Patient(PatientPlans(entries, lost), how).paired()
    except Exception as error:  # Headers hold anything: what one patient's cannot be asked for must not cost the others.
        said = f"its objects and its plan's could not be matched: unexpected {type(error).__name__}"
        held = tuple(PairedFraction(entry, waits=said) for entry in entries if is_volume(entry))
        return Pairing(courses=(held,) if held else ())


@dataclass(eq=False)
class _Patient:
    """The images of one patient: which are fractions, and of which plan."""

    known: PatientPlans
    how: _How
    given: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Acquisitions of images that were paired without a doubt, by plan."""

    def paired(self) -> Pairing:
        anchors = {*(p.image.uid for p in self.known.plans), *(plan.image for plan in self.known.waiting if plan.image)}
        planned = [e for e in self.known.images if e.uid in anchors]
        days = [e for e in self.known.images if e.uid not in anchors and self._is_fraction(e)]
        fractions = [self._paired(e) for e in sorted(days, key=lambda e: (acquired(e) or "9", e.uid))]
        taken = {*anchors, *(e.uid for e in days)}
        return Pairing(
            to_contour=tuple(e for e in self.known.images if e.uid not in taken),
            planned=tuple(planned),
            courses=(tuple(_numbered(fractions, self.how, self.known.records)),) if fractions else (),
            plans=tuple(self.known.plans),
            unusable=tuple(self.known.unusable),
        )

    def _is_fraction(self, entry: SeriesEntry) -> bool:
        if answer := self.how.answers.get(case_name(entry)):
            return answer == "fraction"
        if on_the_couch(entry):
            return True
        day = acquired(entry)[:8]
        known = any(acquired(p.image)[:8] < day and holds(p.date, day) for p in self.known.plans)
        return known or any(plan.unread or (plan.date and plan.may_hold(day)) for plan in self.known.waiting)

    def _paired(self, entry: SeriesEntry) -> PairedFraction:
        """With its plan, or with the reason why it waits."""
        day = acquired(entry)[:8]
        if not on_the_couch(entry) and (unread := next((plan for plan in self.known.waiting if plan.unread), None)):
            return PairedFraction(entry, waits=f"it may be that of a plan or a fraction of it: {unread.why}")
        if not day:
            return PairedFraction(entry, waits="it does not say when it was acquired, so that nobody knows under which plan")
        chosen, notes = plan_of(entry, day, self.known, self.how.before.plan(entry))
        if isinstance(chosen, str):
            return PairedFraction(entry, waits=chosen)
        registrations = tuple(h.path for h in self.known.between(entry, chosen.image))
        if not registrations and (doubt := self._doubt(entry, chosen, day)):
            return PairedFraction(entry, waits=doubt)
        if registrations:
            notes.append(
                f"a registration between the two images is there ({len(registrations)} REG); ours is computed again"
            )
        self.given[chosen.plan.sop_instance_uid].append(acquired(entry))
        frame = entry.frame_of_reference
        today = self.known.doses_of(chosen.plan, frame) if frame and frame != chosen.image.frame_of_reference else ()
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
        began, now = day_of(last), day_of(day)
        if began is None or now is None or (now - began).days <= LONGEST_PAUSE:
            return ""
        since = "its plan was made" if last == plan.date[:8] else "the last image under its plan"
        return (
            f"it was acquired {(now - began).days} days after {since}, and nothing in it says that it comes from the "
            "treatment room: a fraction of that plan, or a new planning CT? Answer in the site's configuration, [images]: "
            f'"{case_name(entry)}" = "fraction" or "planning"'
        )


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
