"""Ledger and publishing by model: whatever comes and whatever fails at whatever call, nothing is lost or done twice.

Whole nights, each in a process of its own that can die at any write, fsync, rename, removal, statement or commit. Only the
workers are left out: cases are made in the night's own process.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

import pipelines.night.run
from patient.errors import RecontourError
from pipelines.configuration import Configuration
from pipelines.night.run import run_night
from pipelines.night.work import run_case
from pipelines.outbox.job import State
from pipelines.outbox.ledger import Ledger
from pipelines.outbox.ledger_file import LEDGER
from pipelines.outbox.maintenance import check_outbox, close_cases, retry_cases
from pipelines.records.night import read_nights
from tests.planning import identity, image, plan

FAST = "/dev/shm" if Path("/dev/shm").is_dir() else None
CONFIGURATION = Configuration(settle_minutes=10, hold_days=3, workers=1)
TOLD = "tests.scenarios.trivial:told"
LONG_AGO = 3600.0
EXAMPLES = int(os.environ.get("RECONTOUR_MODEL_EXAMPLES", "6"))
KINDS = ("crash", "cancel", "full", "full from here on", "unreadable")
CANNOT_FAIL = ("os.remove", "os.rmdir", "committed")
"""Calls at which a night can die or be cancelled, and for which no disk is ever full."""
TRACE = 99


@dataclass
class Fault:
    """What goes wrong, and at which of the calls of a night that change something on a disk."""

    kind: str = ""
    at: int = 0
    calls: list[str] = field(default_factory=list)

    def call(self, what: str) -> None:
        self.calls.append(what)
        here = len(self.calls) == self.at or (self.kind == "full from here on" and len(self.calls) > self.at)
        if not here or not self.kind:
            return
        if self.kind == "crash":
            os._exit(9)
        if self.kind == "cancel":
            signal.raise_signal(signal.SIGINT)
        elif what not in CANNOT_FAIL:
            self._refuse(what)

    def _refuse(self, what: str) -> None:
        if what.startswith("sql"):
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        number = errno.EIO if self.kind == "unreadable" else errno.ENOSPC
        raise OSError(number, os.strerror(number))


class Watched(sqlite3.Connection):
    """Each statement that writes, and each commit before and after, is a call at which a night may fail."""

    fault = Fault()

    def execute(self, statement: str, *values):  # type: ignore[override]
        word = statement.split()[0]
        if word in ("BEGIN", "INSERT", "UPDATE", "DELETE", "COMMIT"):
            self.fault.call(f"sql {word}")
        done = super().execute(statement, *values)
        if word == "COMMIT":
            self.fault.call("committed")
        return done


def _watch(fault: Fault, outbox: Path) -> None:
    """In a night's own process: every call that changes something in the outbox is told to `fault`."""
    inside = str(outbox)

    def hook(event: str, values: tuple) -> None:
        if event == "open":
            path, mode, flags = values
            writes = (mode and set("wax+") & set(mode)) or (not mode and flags & (os.O_WRONLY | os.O_RDWR))
            if writes and str(path).startswith(inside):
                fault.call(event)
        elif event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir") and str(values[0]).startswith(inside):
            fault.call(event)

    Watched.fault = fault
    sqlite3.connect = partial(sqlite3.connect, factory=Watched)
    os.fsync = lambda handle: fault.call("fsync")
    sys.addaudithook(hook)


def _inline(client, queues, time_limit, function, started, beat, now):
    for request in itertools.chain.from_iterable(queues):
        started(request.case)
        yield run_case(request, function)


def _night(inbox: Path, outbox: Path, fault: Fault, later: float, report: Path) -> None:
    """In a process of its own; ends it."""
    code = TRACE
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        clock = time.time
        time.time = lambda: clock() + later
        pipelines.night.run.cluster = lambda *_: nullcontext()
        pipelines.night.run.run_all = _inline
        _watch(fault, outbox)
        code = _code(inbox, outbox)
    except BaseException:
        report.write_text(traceback.format_exc())
    if code != TRACE:
        report.write_text(json.dumps(fault.calls))
    os._exit(code)


def _code(inbox: Path, outbox: Path) -> int:
    try:
        run_night(inbox, outbox, CONFIGURATION, function=TOLD)
    except KeyboardInterrupt:
        return 130
    except RecontourError:  # A sentence, and an exit code.
        return 1
    return 0


@cache
def _library() -> Path:
    """Images of one patient: two to be contoured, a plan, and fractions of four days."""
    folder = Path(tempfile.mkdtemp(dir=FAST))
    for name in ("a", "b"):
        image(folder / name, identity(name, "20260101"), name)
    planned = identity("plan P1", "20260102")
    image(folder / "plan" / "ct", planned, "P1")
    plan(folder / "plan" / "objects", planned, "P1", date="20260105")
    for day in (7, 8, 9, 12):
        image(folder / f"day{day:02d}", identity(f"day {day}", f"202601{day:02d}", "CBCT"), "P1")
    return folder


NAMES = ("a", "b", "day07", "day08", "day09", "day12")


class Nights:
    """An inbox, an outbox, and what has been done to them."""

    def __init__(self) -> None:
        self.place = Path(tempfile.mkdtemp(dir=FAST))
        self.inbox, self.outbox = self.place / "in", self.place / "out"
        self.inbox.mkdir()
        self.later = 0.0
        shutil.copytree(_library() / "plan", self.inbox / "plan")
        self.date("plan", LONG_AGO)

    def date(self, name: str, ago: float) -> None:
        when = time.time() + self.later - ago
        for path in (self.inbox / name).rglob("*.dcm"):
            os.utime(path, (when, when))

    def night(self, fault: Fault | None = None) -> int:
        fault, report = fault or Fault(), self.place / "report"
        if (pid := os.fork()) == 0:
            _night(self.inbox, self.outbox, fault, self.later, report)
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        assert code != TRACE, report.read_text(encoding="utf-8")
        if code != 9:
            fault.calls = json.loads(report.read_text(encoding="utf-8"))
        return code

    def ledger(self) -> Ledger:
        return Ledger(self.outbox / LEDGER, read_only=True)

    def failed(self) -> list[str]:
        if not (self.outbox / LEDGER).exists():
            return []
        with self.ledger() as ledger:
            return [job.case for job in ledger.jobs(State.FAILED)]

    def told(self, folder: str) -> dict:
        return json.loads((self.outbox / "cases" / folder / "told.json").read_text(encoding="utf-8"))

    def nothing_is_half_or_twice(self) -> None:
        """At any moment, also right after a crash."""
        for case in (self.outbox / "cases").glob("[!.]*"):
            assert (case / ("log.txt" if "-failed" in case.name else "told.json")).is_file(), case.name
        if not (self.outbox / LEDGER).exists():
            return
        with self.ledger() as ledger:
            assert ledger.faults() == []
            for job in ledger.jobs():
                made = [self.told(folder) for folder in ledger.outputs(job.image)]
                assert all(one != next_ for one, next_ in itertools.pairwise(made)), f"{job.case} was made twice"
                files = [set(told["files"]) for told in made]
                assert not any(next_ < one for one, next_ in itertools.pairwise(files)), f"{job.case} was made from fewer"
                assert job.attempts <= 3

    def all_is_told(self) -> None:
        """After a night that went to its end."""
        assert check_outbox(self.outbox) == ()
        assert not any((self.outbox / ".work").iterdir())
        lines = {line.case: line.state for line in read_nights(self.outbox)[-1].cases}
        with self.ledger() as ledger:
            for job in ledger.jobs(State.READY, State.RUNNING, State.HELD, State.FAILED):
                assert job.closed or lines.get(job.case) == job.state, f"{job.case} is {job.state} and not on the page"
            self.no_day_is_missing(ledger)

    def no_day_is_missing(self, ledger: Ledger) -> None:
        days = [(placed, ledger.job(placed.image)) for placed in ledger.fractions()]
        newest = {placed.image: ledger.last_output(placed.image)[0] for placed, _ in days}
        for placed, job in days:
            if job.state in (State.DONE, State.REVIEW) and self.is_here(placed.acquired):
                before = [
                    newest[other.image]
                    for other, its in days
                    if other.acquired[:8] < placed.acquired[:8] and newest[other.image] and its.state not in _NO_RESULT
                ]
                assert self.told(newest[placed.image])["earlier"] == before, f"a day is missing under {placed.acquired}"

    def is_here(self, acquired: str) -> bool:
        return (self.inbox / f"day{acquired[6:8]}").is_dir()


_NO_RESULT = (State.FAILED, State.REFUSED)


class LedgerModel(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.it = Nights()
        self.here: set[str] = set()

    @rule(name=st.sampled_from(NAMES), ago=st.sampled_from([0.0, LONG_AGO]))
    def arrive(self, name: str, ago: float) -> None:
        if name not in self.here:
            shutil.copytree(_library() / name, self.it.inbox / name)
            self.here.add(name)
        self.it.date(name, ago)  # One that is there already is touched: the same bytes.

    @precondition(lambda self: self.here)
    @rule(data=st.data())
    def change(self, data) -> None:
        name = data.draw(st.sampled_from(sorted(self.here)))
        path = min((self.it.inbox / name).iterdir())
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        self.it.date(name, LONG_AGO)

    @precondition(lambda self: self.here)
    @rule(data=st.data())
    def vanish(self, data) -> None:
        name = data.draw(st.sampled_from(sorted(self.here)))
        shutil.rmtree(self.it.inbox / name)
        self.here.remove(name)

    @precondition(lambda self: self.here)
    @rule(data=st.data())
    def lose_a_slice(self, data) -> None:
        folder = self.it.inbox / data.draw(st.sampled_from(sorted(self.here)))
        for path in sorted(folder.iterdir())[1:]:
            path.unlink()
        self.it.date(folder.name, LONG_AGO)

    @rule()
    def touch_the_plan(self) -> None:
        self.it.date("plan", 0.0)

    @rule(days=st.sampled_from([0.02, 1.0, 4.0]))
    def time_passes(self, days: float) -> None:
        self.it.later += days * 86400.0

    @rule(kind=st.sampled_from(KINDS), at=st.integers(1, 160))
    def night_with_a_fault(self, kind: str, at: int) -> None:
        before = self._attempts()
        code = self.it.night(Fault(kind, at))
        self.it.nothing_is_half_or_twice()
        if kind == "cancel" and code == 130:
            now = self._attempts(State.READY, State.HELD)
            assert all(n <= before.get(image, 0) for image, n in now.items()), "a cancel counts as tried"
            assert not any((self.it.outbox / ".work").iterdir()) or not (self.it.outbox / "night.json").exists()

    @rule()
    def night(self) -> None:
        assert self.it.night() == 0
        self.it.nothing_is_half_or_twice()
        self.it.all_is_told()

    @precondition(lambda self: self.it.failed())
    @rule(again=st.booleans())
    def a_person_looks(self, again: bool) -> None:
        (retry_cases if again else close_cases)(self.it.outbox, self.it.failed())

    def _attempts(self, *states: State) -> dict[str, int]:
        if not (self.it.outbox / LEDGER).exists():
            return {}
        with self.it.ledger() as ledger:
            return {job.image: job.attempts for job in ledger.jobs(*states)}

    def teardown(self) -> None:
        """Whatever was: with room, quiet files and a person who wants failed cases tried again, all is done, once."""
        for name in self.here:  # Slices that were lost are brought back.
            for path in (_library() / name).iterdir():
                if not (self.it.inbox / name / path.name).exists():
                    shutil.copy(path, self.it.inbox / name)
        for name in (*self.here, "plan"):
            self.it.date(name, LONG_AGO)
        retry_cases(self.it.outbox, self.it.failed())
        for _ in range(2):
            assert self.it.night() == 0
            self.it.nothing_is_half_or_twice()
            self.it.all_is_told()
        record = read_nights(self.it.outbox)[-1]
        assert {line.state for line in record.cases} <= {"held", "refused", "failed"}
        assert record.unchanged >= len(self.here)
        shutil.rmtree(self.it.place)


TestLedgerModel = LedgerModel.TestCase
TestLedgerModel.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=14,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def _with_three_images() -> Nights:
    nights = Nights()
    for name in ("a", "day07", "day08"):
        shutil.copytree(_library() / name, nights.inbox / name)
        nights.date(name, LONG_AGO)
    return nights


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_call_of_a_night_fails_the_next_night_has_all_done_once(kind):
    whole, step = Fault(), 1 if EXAMPLES > 6 else 17
    _with_three_images().night(whole)
    for at in range(1 + 3 * KINDS.index(kind) % step, len(whole.calls) + 1, step):
        nights = _with_three_images()
        nights.night(Fault(kind, at))
        nights.nothing_is_half_or_twice()
        assert nights.night() == 0, (kind, at, whole.calls[at - 1])
        nights.nothing_is_half_or_twice()
        nights.all_is_told()
        with nights.ledger() as ledger:
            states = sorted(job.state for job in ledger.jobs())
            assert states == ["done", "review", "review"], (kind, at, whole.calls[at - 1], states)
        shutil.rmtree(nights.place)
