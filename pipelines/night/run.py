"""The night: look at the inbox, decide what is whole and new, work on it, publish it, write down what came of it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from pathlib import Path

from contour.template import load_template
from patient.errors import Cancelled, InputError, OutOfResources
from patient.read.completeness import lacking
from patient.read.index import Index, SeriesEntry
from patient.read.scan import scan
from pipelines.configuration import Configuration
from pipelines.course.numbering import Counting
from pipelines.night.attempts import Attempts
from pipelines.night.cluster import cluster, run_all
from pipelines.night.inbox import Inbox
from pipelines.night.pairing import Before, Pairing, pair
from pipelines.night.patient_queue import FractionsInOrder
from pipelines.night.work import Request
from pipelines.night.worklist import Worklist
from pipelines.outbox.job_key import Whose, case_name, image_key, job_key, series_digest, slices
from pipelines.outbox.ledger import Ledger
from pipelines.outbox.ledger_file import LEDGER
from pipelines.outbox.outbox import Outbox, opened, refuse_links
from pipelines.outbox.publish import CASES, WORK, disk_watched, locked, sweep
from pipelines.planning.case import CaseRequest
from pipelines.planning.engines import installed_engines
from pipelines.records.case import VERSION
from pipelines.records.night import CaseLine, NightRecord, ProblemLine, remembered, write_nights
from pipelines.report.page import write_index
from pipelines.stopping import uninterrupted

Progress = Callable[[int, int, str], None]


def run_night(
    inbox: Path,
    outbox: Path,
    configuration: Configuration,
    *,
    scheduler: str | None = None,
    function: str = "",
    progress: Progress = lambda done, total, what: None,
    now: Callable[[], float] = time.monotonic,
) -> NightRecord:
    """One night over an inbox; the inbox is only read.

    Args:
        inbox: a folder tree with anything in it.
        outbox: where everything goes; made where it is not there.
        configuration: of the site.
        scheduler: address of a Dask scheduler; a local cluster without.
        function: what makes a case (for tests and benchmarks); empty for what is meant to.
        progress: called with cases done, cases there are, and a word.
        now: seconds, by the clock that limits are kept by.

    Raises:
        NightBusy: another night holds the outbox.
        InputError: no such inbox, an outbox that cannot be written, a template that is wrong.
        OutOfResources: the disk has no room even for the ledger, no worker is left or the scheduler is gone; the next night
            goes on from what the ledger says.
        KeyboardInterrupt: it was cancelled. As with everything above, the page is written first, and what was under way is
            ready again and does not count as tried.
    """
    if not inbox.is_dir():
        raise InputError("No such inbox", where=inbox.name)
    refuse_links(outbox)
    with locked(outbox), (place := opened(outbox)).watched(), disk_watched(outbox), Ledger(outbox / LEDGER) as ledger:
        sweep(outbox)
        ledger.recover(outbox / CASES)
        night = _Night(inbox, outbox, configuration, ledger, function, place)
        night.look(scan(inbox))
        try:
            night.work(scheduler, progress, now)
        except (KeyboardInterrupt, Cancelled):
            night.stopped("The night was cancelled")
            raise
        except OutOfResources as error:
            night.stopped(str(error))
            raise
        finally:
            with uninterrupted():
                record = night.close()
                if place.is_there():
                    sweep(outbox)
    return record


@dataclass
class _Night:
    inbox: Path
    outbox: Path
    configuration: Configuration
    ledger: Ledger
    function: str
    place: Outbox
    started: datetime = field(default_factory=datetime.now)
    problems: list[str] = field(default_factory=list)
    _begun: float = field(default_factory=time.monotonic)
    _queues: list[Iterator[Request]] = field(default_factory=list)
    _courses: list[FractionsInOrder] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.worklist = Worklist(self.ledger, self.configuration)
        self._here: set[str] = set()
        self._seen: Inbox | None = None
        self.attempts = Attempts(self.outbox, self.ledger, self.worklist, self.place)

    def look(self, index: Index) -> None:
        """Decide for each CT series of the inbox what is to be done; for a fraction, when its turn comes."""
        self._here = {image_key(entry) for entry in index.of("CT")}
        pairing, rules = self._paired(index), self._rules()
        self._seen = Inbox(index, pairing, self.place, self.configuration)
        self._seen.keep()
        for entry in (*pairing.to_contour, *pairing.planned):
            self.ledger.displace(image_key(entry))
        for entry in pairing.to_contour:
            digest = load_template(self.template(entry)).digest
            with self.worklist.own_fault_of(entry):
                self._plan(entry, digest, rules)
        for fractions in pairing.courses:
            course = FractionsInOrder(self, fractions, rules)
            self._courses.append(course)
            self._queues.append(course.requests())

    def _plan(self, entry: SeriesEntry, template: str, rules: str) -> None:
        """A planning CT's queue, where there is something to do."""
        its = slices(entry, self.ledger)
        if self.worklist.leaves(entry, {image_key(entry): its}):
            return
        if missed := lacking(entry):
            self.worklist.hold(entry, "; ".join(missed))
            return
        key = job_key((template, rules), [series_digest(its)])
        if self.worklist.due(entry, key, entry.paths, {image_key(entry): its}):
            self._queues.append(iter([self._request(entry)]))

    def _paired(self, index: Index) -> Pairing:
        treated = {f.image: f.plan for f in self.ledger.fractions() if self.ledger.last_output(f.image)[0]}
        before = Before(
            days=lambda plan: [f.acquired for f in self.ledger.fractions(plan=plan) if f.image not in self._here],
            plan=lambda entry: treated.get(image_key(entry), ""),
        )
        site = self.configuration
        counting = Counting(site.fraction_numbers == "weekdays", frozenset(site.holidays), site.session_hours)
        return pair(index, counting=counting, before=before, answers=site.images)

    def _rules(self) -> str:
        """Everything besides inputs, template and policy that decides a result."""
        said = [VERSION, self.function, self.configuration.profile, str(self.configuration.seed), self.configuration.phase]
        return " ".join([*said, *(f"{name} {engine.version}" for name, engine in sorted(installed_engines().items()))])

    def template(self, entry: SeriesEntry) -> str:
        """Name of the template for an image."""
        part = entry.headers[0].text("BodyPartExamined").upper().replace(" ", "").replace("_", "")
        return self.configuration.body_parts.get(part, self.configuration.template)

    def patient(self, entry: SeriesEntry) -> Whose:
        """Whose image it is, as documents may say it."""
        return self.place.whose(entry.headers[0].text("PatientID"), self.configuration.patient_key)

    def work(self, scheduler: str | None, progress: Progress, now: Callable[[], float]) -> None:
        """Work on what is due, publish as it comes."""
        queues = [chain([first], queue) for queue in self._queues if (first := next(queue, None)) is not None]
        if not queues:
            return
        total = len(queues) + sum(course.left for course in self._courses)
        progress(0, total, "starting workers")
        workers = min(self.configuration.workers, len(queues))
        with cluster(workers, self.configuration.memory_limit_mib, scheduler, self.outbox / WORK) as client:
            started, beat = self.attempts.start, self.attempts.beat
            outcomes = run_all(client, queues, self.configuration.time_limit, self.function, started, beat, now)
            for done, outcome in enumerate(outcomes, start=1):
                self.attempts.record(outcome)
                progress(min(done, total), total, outcome.case)

    def folder(self, case: str) -> str:
        """An empty place for a case to be made in."""
        return str((self.outbox / WORK / f"{case}-{time.time_ns()}").resolve())

    def _request(self, entry: SeriesEntry) -> CaseRequest:
        _, before = self.ledger.last_output(image_key(entry))
        return CaseRequest(
            case=case_name(entry),
            files=tuple(str(path.resolve()) for path in entry.paths),
            series_uid=entry.uid,
            folder=self.folder(case_name(entry)),
            template=self.template(entry),
            predecessor=before,
            profile=self.configuration.profile,
            seed=self.configuration.seed,
            phase=self.configuration.phase,
            patient=self.patient(entry),
        )

    def stopped(self, why: str) -> None:
        """The night ends before its work: what is not done waits for the next one."""
        self.problems.append(why)
        full = suppress(OSError, sqlite3.OperationalError)  # The next night finds it as it is.
        with uninterrupted(), full:
            self.attempts.give_back(why)

    def close(self) -> NightRecord:
        """Write night.json and the summary report, whatever happened; nothing where the outbox has gone."""
        there = self.place.is_there()
        if there:
            self.worklist.close(self._here)
            self._back_up()
        seen = self._seen
        record = NightRecord(
            started=self.started.isoformat(timespec="seconds"),
            finished=datetime.now().isoformat(timespec="seconds"),
            wall_s=round(time.monotonic() - self._begun, 2),
            cases=tuple(self._lines()),
            unchanged=self.worklist.unchanged,
            problems=(*(seen.problems() if seen else ()), *(ProblemLine(what=problem) for problem in self.problems)),
            series=seen.series() if seen is not None else (),
        )
        if there:
            write_index(self.outbox, write_nights(self.outbox, [*remembered(self.outbox, self.ledger), record]))
        return record

    def _lines(self) -> Iterator[CaseLine]:
        """Of the cases, with what people tell them by, and their courses."""
        courses = {image: course.folder for course in self._courses for image in course.images}
        labels = {image_key(e): self._seen.label(e) for e in self._seen.index.of("CT")} if self._seen is not None else {}
        for image, line in self.worklist.lines.items():
            said = {"label": labels.get(image, line.label), "course": courses.get(image, line.course)}
            yield line.model_copy(update=said)

    def _back_up(self) -> None:
        try:
            self.ledger.back_up()
        except (OSError, sqlite3.Error) as error:
            self.problems.append(f"The ledger's backup could not be made: {error}")
