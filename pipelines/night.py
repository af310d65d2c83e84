"""The night: look at the inbox, decide what is whole and new, work on it, publish it, write down what came of it."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from pathlib import Path

from contour.template import load_template
from patient.errors import InputError, OutOfResources
from patient.read.index import Index, SeriesEntry, scan
from pipelines.case import CaseRequest, installed_engines
from pipelines.configuration import Configuration
from pipelines.fractions import FractionsInOrder
from pipelines.job_key import case_name, image_key, job_key, series_digest
from pipelines.ledger import FINISHED, MOST_ATTEMPTS, Ledger, State
from pipelines.night_record import CaseLine, NightRecord
from pipelines.pairing import Before, PairedFraction, Pairing, pair
from pipelines.publish import CASES, KEPT, WORK, disk_watched, free_name, locked, publish, sweep, write_whole
from pipelines.report.page import write_index
from pipelines.result import VERSION
from pipelines.work import Outcome, Request, cluster, run_all

Progress = Callable[[int, int, str], None]
NIGHTS_SHOWN = 60


def run_night(
    inbox: Path,
    outbox: Path,
    configuration: Configuration,
    *,
    scheduler: str | None = None,
    function: str = "",
    progress: Progress = lambda done, total, what: None,
) -> NightRecord:
    """One night over an inbox; the inbox is only read.

    Args:
        inbox: a folder tree with anything in it.
        outbox: where everything goes; made where it is not there.
        configuration: of the site.
        scheduler: address of a Dask scheduler; a local cluster without.
        function: what makes a case (for tests and benchmarks); empty for what is meant to.
        progress: called with cases done, cases there are, and a word.

    Raises:
        NightBusy: another night holds the outbox.
        InputError: no such inbox, an outbox that cannot be written, a template that is wrong.
        OutOfResources: the disk has no room even for the ledger; the next night goes on from what it says.
    """
    if not inbox.is_dir():
        raise InputError("No such inbox", where=inbox.name)
    with locked(outbox), disk_watched(outbox), Ledger(outbox / "ledger.sqlite") as ledger:
        sweep(outbox)
        ledger.recover(outbox / CASES)
        night = _Night(inbox, outbox, configuration, ledger, function)
        night.look(scan(inbox))
        try:
            night.work(scheduler, progress)
        finally:
            record = night.close()
            sweep(outbox)
    return record


@dataclass
class _Night:
    inbox: Path
    outbox: Path
    configuration: Configuration
    ledger: Ledger
    function: str
    started: datetime = field(default_factory=datetime.now)
    lines: dict[str, CaseLine] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    unchanged: int = 0
    _begun: float = field(default_factory=time.monotonic)
    _entries: dict[str, SeriesEntry] = field(default_factory=dict)
    _attempts: dict[str, int] = field(default_factory=dict)
    _images: dict[str, str] = field(default_factory=dict)
    _lanes: list[Iterator[Request]] = field(default_factory=list)
    _courses: list[FractionsInOrder] = field(default_factory=list)

    def look(self, index: Index) -> None:
        """Decide for each CT series of the inbox what is to be done; for a fraction, when its turn comes."""
        names = _names_in(index)
        pairing = self._paired(index)
        self.problems = [redacted(str(problem.error), names) for problem in index.problems]
        self.problems += [redacted(problem, names) for problem in pairing.problems]
        rules = self._rules()
        for entry in (*pairing.to_contour, *pairing.planned):
            self.ledger.displace(image_key(entry))
        for entry in pairing.to_contour:
            template = load_template(self.template(entry))
            if self.settled(entry, entry.paths):
                key = job_key((template.digest, rules), [series_digest(entry, self.ledger)])
                if self.due(entry, key):
                    self._lanes.append(iter([self._request(entry)]))
        for fractions in pairing.courses:
            course = FractionsInOrder(self, fractions, rules)
            self._courses.append(course)
            self._lanes.append(course.requests())

    def _paired(self, index: Index) -> Pairing:
        here = {image_key(entry) for entry in index.of("CT")}
        treated = {f.image: f.plan for f in self.ledger.fractions() if self.ledger.last_output(f.image)[0]}
        before = Before(
            days=lambda plan: [f.acquired for f in self.ledger.fractions(plan=plan) if f.image not in here],
            plan=lambda entry: treated.get(image_key(entry), ""),
        )
        return pair(index, by_weekdays=self.configuration.fraction_numbers == "weekdays", before=before)

    def _rules(self) -> str:
        """Everything besides inputs, template and policy that decides a result."""
        said = [VERSION, self.function, self.configuration.profile, str(self.configuration.seed)]
        return " ".join([*said, *(f"{name} {engine.version}" for name, engine in sorted(installed_engines().items()))])

    def settled(self, entry: SeriesEntry, paths: Sequence[Path]) -> bool:
        """Whether all files of a case have been quiet for long enough; holds it where not."""
        quiet = (time.time() - max(path.stat().st_mtime for path in paths)) / 60.0
        if quiet < self.configuration.settle_minutes:
            self.hold(entry, f"files still arriving: quiet for {quiet:.1f} of {self.configuration.settle_minutes:g} minutes")
            return False
        return True

    def hold(self, entry: SeriesEntry, reason: str) -> None:
        """Wait with an image, and not for ever."""
        image, case, state = image_key(entry), case_name(entry), State.HELD
        job = self.ledger.job(image)
        over = f"not whole after {self.configuration.hold_days:g} days: {reason}"
        if job is not None and job.state is State.REFUSED and job.reasons == (over,):
            self.leave()
            return
        since = job.changed if job is not None and job.state is State.HELD else time.time()
        self.ledger.move(image, State.HELD, case=case, reasons=(reason,))
        if (time.time() - since) / 86400.0 > self.configuration.hold_days:
            state, reason = State.REFUSED, over
            self.ledger.move(image, State.REFUSED, reasons=(reason,))
        self.lines[image] = CaseLine(case=case, state=state, reasons=(reason,))

    def leave(self) -> None:
        """There is nothing to do about an image."""
        self.unchanged += 1

    def due(self, entry: SeriesEntry, key: str, fraction: PairedFraction | None = None) -> bool:
        """Whether there is something to do about an image: its key is new, or it failed and may be tried again."""
        image, case = image_key(entry), case_name(entry)
        job = self.ledger.job(image)
        given_up = job is not None and (job.state is not State.FAILED or job.attempts >= MOST_ATTEMPTS)
        if job is not None and job.key == key and job.state in FINISHED and given_up:
            self.leave()
            return False
        self.ledger.move(image, State.READY, case=case, key=key)
        self._entries[image], self._images[case] = entry, image
        number, notes = (fraction.number, fraction.notes) if fraction else (None, ())
        self.lines[image] = CaseLine(case=case, state=State.READY, fraction=number, notes=notes)
        return True

    def template(self, entry: SeriesEntry) -> str:
        """Name of the template for an image."""
        part = entry.headers[0].text("BodyPartExamined").upper().replace(" ", "").replace("_", "")
        return self.configuration.body_parts.get(part, self.configuration.template)

    def work(self, scheduler: str | None, progress: Progress) -> None:
        """Work on what is due, publish as it comes."""
        lanes = [chain([first], lane) for lane in self._lanes if (first := next(lane, None)) is not None]
        if not lanes:
            return
        total = len(lanes) + sum(course.left for course in self._courses)
        progress(0, total, "starting workers")
        workers = min(self.configuration.workers, len(lanes))
        with cluster(workers, self.configuration.memory_limit_mib, scheduler, self.outbox / WORK) as client:
            outcomes = run_all(client, lanes, self.configuration.time_limit, self.function, self._start, self._beat)
            for done, outcome in enumerate(outcomes, start=1):
                self._record(outcome)
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
        )

    def _start(self, case: str) -> None:
        self._attempts[case] = self.ledger.start(self._images[case])

    def _beat(self, cases: Sequence[str]) -> None:
        self.ledger.beat([self._images[case] for case in cases])

    def _record(self, outcome: Outcome) -> None:
        image = self._images[outcome.case]
        names = _name_parts(self._entries[image])
        reasons = tuple(redacted(reason, names) for reason in outcome.reasons)
        folder = log = ""
        made = next((self.outbox / WORK).glob(f"{outcome.case}-*"), None)
        state = outcome.state
        if state in (State.DONE, State.REVIEW) and made is not None:
            try:
                folder = self._publish(image, made, outcome, reasons)
            except OutOfResources as error:
                state, reasons = State.FAILED, (str(error),)
        if not folder:
            if made is not None:
                shutil.rmtree(made, ignore_errors=True)
            log = self._keep_log(outcome, names) if outcome.detail else ""
            said = (*reasons, f"log in {log}") if log else reasons
            self.ledger.end(image, self._attempts[outcome.case], state, said)
        if state is not State.FAILED:
            shutil.rmtree(self.outbox / KEPT / outcome.case, ignore_errors=True)
        said = {"state": state, "reasons": reasons, "folder": folder, "log": log, "wall_s": outcome.wall_s}
        self.lines[image] = self.lines[image].model_copy(update={**said, "decision": outcome.decision if folder else ""})

    def _publish(self, image: str, made: Path, outcome: Outcome, reasons: tuple[str, ...]) -> str:
        name = free_name(self.outbox, outcome.case)
        output = self.ledger.intend(image, name, outcome.rtstruct_uid, outcome.state, reasons)
        publish(made, self.outbox / CASES / name)
        self.ledger.published(output, self._attempts[outcome.case])
        return f"{CASES}/{name}"

    def _keep_log(self, outcome: Outcome, names: Sequence[str]) -> str:
        """The traceback of an unexpected error, in a folder of the case's own; empty where there is no room for it."""
        folder = self.outbox / WORK / f"{outcome.case}-log"
        name = free_name(self.outbox, f"{outcome.case}-failed")
        try:
            folder.mkdir(exist_ok=True)
            (folder / "log.txt").write_text(redacted(outcome.detail, names), encoding="utf-8")
            publish(folder, self.outbox / CASES / name)
        except (OSError, OutOfResources):
            shutil.rmtree(folder, ignore_errors=True)
            return ""
        return f"{CASES}/{name}/log.txt"

    def close(self) -> NightRecord:
        """Write night.json and the morning's page, whatever happened."""
        for course in self._courses:
            for image in course.images & set(self.lines):
                self.lines[image] = self.lines[image].model_copy(update={"course": course.folder})
        record = NightRecord(
            started=self.started.isoformat(timespec="seconds"),
            finished=datetime.now().isoformat(timespec="seconds"),
            wall_s=round(time.monotonic() - self._begun, 2),
            cases=tuple(self.lines.values()),
            unchanged=self.unchanged,
            problems=tuple(self.problems),
        )
        nights = [*read_nights(self.outbox), record][-NIGHTS_SHOWN:]
        write_whole(self.outbox / "night.json", "[" + ",\n".join(night.model_dump_json() for night in nights) + "]")
        write_index(self.outbox, nights)
        return record


def read_nights(outbox: Path) -> list[NightRecord]:
    """The nights that an outbox remembers, oldest first."""
    path = outbox / "night.json"
    if not path.is_file():
        return []
    return [NightRecord.model_validate(night) for night in json.loads(path.read_text(encoding="utf-8"))]


def _name_parts(entry: SeriesEntry) -> tuple[str, ...]:
    """What a patient's name and birth date consist of, to be kept out of every message."""
    parts: set[str] = set()
    for header in entry.headers[:1]:
        parts.update(re.split(r"[\^=,;\s_]+", header.text("PatientName")))
        parts.add(header.text("PatientBirthDate"))
    return tuple(sorted((part for part in parts if len(part) > 2), key=len, reverse=True))


def _names_in(index: Index) -> tuple[str, ...]:
    return tuple({part for entry in index.series for part in _name_parts(entry)})


def redacted(text: str, names: Sequence[str]) -> str:
    """A message without parts of a patient's name: file names may hold them."""
    for name in names:
        text = re.sub(re.escape(name), "***", text, flags=re.IGNORECASE)
    return text
