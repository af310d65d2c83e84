"""The plans of a patient in an inbox, each with its structure set, planning CT, doses and treatment records.

A plan that is not whole is no plan yet, and nothing is given under another while it may be the one: fractions wait for it.
What we made ourselves is no evidence of anything: it counts only as the structure set of a plan that a clinic made on it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from patient.errors import InputError
from patient.made_here import made_here
from patient.plan import Plan
from patient.read.headers import Header
from patient.read.index import SeriesEntry
from patient.read.rtplan import read_plan
from patient.read.rtstruct import referenced_image
from pipelines.course.numbering import Treated, treatment_records
from pipelines.night.image_headers import acquired, day_of, is_volume

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


@dataclass(frozen=True)
class Unusable:
    """An object that cannot be used, and why; the sentence holds nothing of its header or path."""

    path: Path
    why: str


@dataclass(frozen=True)
class WaitingPlan:
    """A plan that fractions must wait for; one that cannot be read may be of any day, and of any CT of its patient.

    `image` is the UID of its planning CT; empty where nobody knows it.
    """

    date: str
    approved: bool
    why: str
    image: str = ""
    unread: bool = False

    def may_hold(self, day: str) -> bool:
        return not self.date or holds(self.date, day)


_UNREAD_PLAN = WaitingPlan("", True, "a plan of this patient cannot be read, and could be the one", unread=True)


@dataclass(eq=False)
class PatientPlans:
    """Every plan of one patient with what belongs to it, and what could belong to one.

    Args:
        entries: all series of the patient.
        lost: modalities of the objects of which not even the header can be read; empty for an unknown one.
    """

    entries: Sequence[SeriesEntry]
    lost: set[str]
    plans: list[PlanSet] = field(default_factory=list)
    waiting: list[WaitingPlan] = field(default_factory=list)
    unusable: list[Unusable] = field(default_factory=list)

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
            if isinstance(made, WaitingPlan):
                self.waiting.append(made)
            elif unread:
                why = "a dose of this patient cannot be read, and could be its own"
                self.waiting.append(WaitingPlan(made.date, plan.approved, why, made.image.uid))
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

    def _plan_set(self, plan: Plan, path: Path, structures: Header | None) -> PlanSet | WaitingPlan:
        waiting = partial(WaitingPlan, plan.date, plan.approved)
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
        return PlanSet(plan, path, structures.path, image, self.doses_of(plan, image.frame_of_reference))

    def doses_of(self, plan: Plan, frame: str) -> tuple[Path, ...]:
        """RTDOSE of a plan, in a frame of reference."""
        named = [header for header, plans in self.doses.values() if plan.sop_instance_uid in plans]
        return tuple(sorted(h.path for h in named if h.text("FrameOfReferenceUID") == frame))

    def between(self, one: SeriesEntry, other: SeriesEntry) -> list[Header]:
        """Registrations that join two images."""
        joining = [e for e in self.entries if e.modality == "REG" and _points_at(e, one) and _points_at(e, other)]
        return [header for entry in joining for header in entry.headers if not made_here(header.dataset)]


def _points_at(registration: SeriesEntry, image: SeriesEntry) -> bool:
    ours = {image.uid, image.frame_of_reference, *image.sop_instance_uids} - {""}
    said = {h.text("FrameOfReferenceUID") for h in registration.headers}
    return bool(ours & (registration.references | said))


def _plans_of(dose: Header) -> set[str]:
    return {str(item.get("ReferencedSOPInstanceUID", "")) for item in dose.dataset.get("ReferencedRTPlanSequence") or []}


def holds(plan: str, day: str) -> bool:
    """Whether a plan of a date may be given on a day."""
    begun, now = day_of(plan[:8]), day_of(day)
    return begun is not None and now is not None and 0 <= (now - begun).days <= LONGEST_COURSE
