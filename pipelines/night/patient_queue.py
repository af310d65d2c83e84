"""A patient's fractions in a night: in order, each on those before it; then the course is written again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from adaptive.decision.policy import load_policy
from contour.template import load_template
from patient.errors import RecontourError
from patient.read.completeness import lacking
from patient.read.index import SeriesEntry
from pipelines.configuration import Configuration
from pipelines.course.case import course_folder, fraction_cases, is_written, write_course_of
from pipelines.fraction.files import FractionFiles, PlanFiles
from pipelines.night.image_headers import acquired
from pipelines.night.pairing import PairedFraction
from pipelines.night.plan_sets import PlanSet
from pipelines.night.worklist import Worklist
from pipelines.outbox.job import Placed, State
from pipelines.outbox.job_key import Whose, case_name, image_key, job_key, patient_key, series_digest, slices
from pipelines.outbox.ledger import Ledger
from pipelines.outbox.outbox import Outbox
from pipelines.outbox.publish import CASES, KEPT

_WITHOUT_RESULT = (State.REFUSED, State.FAILED)
"""What an earlier day's image may not be: its files came to nothing. While they wait, what they came to before counts."""


class Night(Protocol):
    """What a queue needs from the night it belongs to."""

    outbox: Path
    ledger: Ledger
    configuration: Configuration
    worklist: Worklist
    problems: list[str]
    place: Outbox

    def template(self, entry: SeriesEntry) -> str:
        """Name or path of the template for an image."""
        ...

    def folder(self, case: str) -> str:
        """An empty place for a case to be made in."""
        ...

    def patient(self, entry: SeriesEntry) -> Whose:
        """Whose image it is, as documents may say it."""
        ...


@dataclass(frozen=True)
class _Planned:
    """Slices of a plan's image, and digests of it and of the plan's objects."""

    slices: tuple[bytes, ...]
    digests: tuple[bytes, ...]


@dataclass(eq=False)
class FractionsInOrder:
    """One patient's.

    Args:
        night: that they are treated in.
        fractions: in order of acquisition.
        rules: what besides inputs, template and policy decides a result.
    """

    night: Night
    fractions: Sequence[PairedFraction]
    rules: str
    left: int = 0
    """Fractions not yet looked at, the one at hand left out."""
    folder: str = ""
    """Of the course, relative to the outbox; empty until there is one."""
    _plans: dict[str, _Planned] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.patient = self.night.patient(self.fractions[0].image).hash
        self._unkeyed = patient_key(self.fractions[0].image.headers[0].text("PatientID"))
        for placed in self.night.ledger.fractions(patient=self._unkeyed):  # from before hashes were keyed
            self.night.ledger.place(replace(placed, patient=self.patient))
        self.images = {image_key(f.image) for f in self.fractions}
        for fraction in self.fractions:  # What a site has set wrongly stops the night before its work, not in the middle.
            self._judged_by(fraction.image)

    def requests(self) -> Iterator[FractionFiles]:
        """What is to be done, one after the other: each is made when what came of the one before is in the ledger."""
        self.left = len(self.fractions)
        for fraction in self.fractions:
            self.left -= 1
            request = None
            with self.night.worklist.own_fault_of(fraction.image):
                request = self._considered(fraction)
            if request is not None:
                yield request
        self._write_course()

    def _considered(self, fraction: PairedFraction) -> FractionFiles | None:
        night, entry, plan = self.night, fraction.image, fraction.plan
        if plan is None:
            if night.ledger.last_output(image_key(entry))[0]:  # Done already: what it came to stays and goes on counting.
                night.worklist.leave(image_key(entry))
            else:
                night.worklist.hold(entry, fraction.waits)
            return None
        its, planned = slices(entry, night.ledger), self._planned(plan)
        stands_on = {image_key(entry): its, image_key(plan.image): planned.slices}
        if night.worklist.leaves(entry, stands_on):
            return None
        if missed := _lacking(entry, plan):
            night.worklist.hold(entry, "; ".join(missed))
            return None
        template, policy, digests = self._judged_by(entry)
        earlier = self._earlier(fraction, plan)
        said = [*digests, self.rules, str(fraction.number), *(f"{number} {name}" for number, name in earlier.items())]
        contents = [series_digest(its), *planned.digests, *night.ledger.digests(fraction.recomputed)]
        paths = (*entry.paths, *plan.image.paths, *plan.paths, *fraction.recomputed)
        due = night.worklist.due(entry, job_key(said, contents), paths, stands_on, fraction)
        job = night.ledger.job(image_key(entry))
        if job is not None and job.state is not State.HELD:
            night.ledger.place(Placed(image_key(entry), self.patient, plan.plan.sop_instance_uid, acquired(entry)))
        if not due:
            return None
        return FractionFiles(
            case=case_name(entry),
            files=_names(entry.paths),
            series_uid=entry.uid,
            folder=night.folder(case_name(entry)),
            plan=PlanFiles(
                image=_names(plan.image.paths),
                structure_set=str(plan.structure_set.resolve()),
                plan=str(plan.path.resolve()),
                plan_uid=plan.plan.sop_instance_uid,
                doses=_names(plan.doses),
            ),
            number=fraction.number,
            number_from=fraction.number_from,
            earlier=tuple(str((night.outbox / CASES / name).resolve()) for name in earlier.values()),
            earlier_numbers=tuple(earlier),
            recomputed=_names(fraction.recomputed),
            template=template,
            policy=policy,
            profile=night.configuration.profile,
            kept=str((night.outbox / KEPT / case_name(entry)).resolve()),
            predecessor=night.ledger.last_output(image_key(entry))[1],
            seed=night.configuration.seed,
            patient=night.patient(entry),
        )

    def _judged_by(self, entry: SeriesEntry) -> tuple[str, str, tuple[str, str]]:
        """Template and policy of an image, and their digests.

        Raises:
            InputError: one of them is not there or not what its schema asks for.
        """
        template = self.night.template(entry)
        policy = self.night.configuration.policies.get(template, self.night.configuration.policy)
        return template, policy, (load_template(template).digest, load_policy(policy).digest)

    def _planned(self, plan: PlanSet) -> _Planned:
        """Asked once a night."""
        uid = plan.plan.sop_instance_uid
        if uid not in self._plans:
            its, ledger = slices(plan.image, self.night.ledger), self.night.ledger
            self._plans[uid] = _Planned(its, (series_digest(its), *ledger.digests(plan.paths)))
        return self._plans[uid]

    def _earlier(self, fraction: PairedFraction, plan: PlanSet) -> dict[int, str]:
        """Case folders of earlier fractions under the same plan by number; also of images that have left the inbox."""
        ledger, found = self.night.ledger, dict[int, str]()
        for placed in ledger.fractions(plan=plan.plan.sop_instance_uid):
            job, number = ledger.job(placed.image), fraction.numbers.get(placed.acquired, 0)
            name, _ = ledger.last_output(placed.image)
            if name and 0 < number < fraction.number and job is not None and job.state not in _WITHOUT_RESULT:
                found[number] = name
        return found

    def _write_course(self) -> None:
        """Write the patient's course where it does not stand on just these cases yet."""
        self.night.place.must_be_there()
        ledger, outbox = self.night.ledger, self.night.outbox
        names = [name for placed in ledger.fractions(patient=self.patient) for name in ledger.outputs(placed.image)]
        cases = fraction_cases([outbox / CASES / name for name in names])
        if not cases:
            return
        folder = course_folder(outbox, cases)
        try:
            if not is_written(folder, cases):
                write_course_of(cases, folder, formerly=self._unkeyed)
        except Exception as error:  # A course that cannot be told must not stop the night.
            said = error.public if isinstance(error, RecontourError) else type(error).__name__
            self.night.problems.append(f"The course {folder.name} could not be written: {said}")
        if (folder / "report.html").is_file():
            self.folder = str(folder.relative_to(outbox))


def _lacking(entry: SeriesEntry, plan: PlanSet) -> list[str]:
    """Why a fraction waits: what its image or its planning CT lacks."""
    return [*lacking(entry), *(f"its planning CT: {missed}" for missed in lacking(plan.image))]


def _names(paths: Sequence[Path]) -> tuple[str, ...]:
    return tuple(str(path.resolve()) for path in paths)
