"""Nights under faults: 1000 trivial cases in a night and a second one; then ten nights in which somebody kills at random.

In each of the ten nights new cases arrive, and the scheduler, a worker or the night itself is killed (SIGKILL) at a random
moment. Afterwards one quiet night. Counted: cases lost, cases done twice, unfinished cases that no page names, and how much
the workers' memory grows over the 1000 cases.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.record import ROOT, record
from pipelines.configuration import Configuration
from pipelines.night.run import run_night
from pipelines.outbox.job import State
from pipelines.outbox.ledger import Ledger
from pipelines.outbox.ledger_file import LEDGER
from pipelines.records.night import read_nights
from tests.planning import identity, image

CASES = int(os.environ.get("RECONTOUR_CHAOS_CASES", "1000"))
NIGHTS, A_NIGHT = 10, 15
WARM = CASES // 20
TRIVIAL = "tests.scenarios.trivial:slow"
SETTINGS = Configuration(settle_minutes=0, workers=2, memory_limit_mib=2000)
UNFINISHED = (State.HELD, State.READY, State.RUNNING, State.FAILED)


@dataclass
class Memory:
    """Of all workers of this process, twice a second once `WARM` cases are done (they import before): MiB by worker."""

    outbox: Path
    seen: dict[int, list[float]] = field(default_factory=dict)
    over: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        while not self.over.wait(0.5):
            if _done(self.outbox) < WARM:
                continue
            for child in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    if "spawn_main" in " ".join(child.cmdline()):
                        self.seen.setdefault(child.pid, []).append(child.memory_info().rss / 2**20)

    @property
    def growth(self) -> float:
        """The most that a worker grew by, from its first look to its largest."""
        return max(max(looks) - looks[0] for looks in self.seen.values())


def arrive(inbox: Path, first: int, count: int) -> None:
    """So many planning CTs of as many patients."""
    for number in range(first, first + count):
        image(inbox / f"{number:05d}", identity(f"case {number}", "20260101"), f"P{number}", planes=1)


def many(folder: Path) -> dict[str, float]:
    inbox, outbox, memory = folder / "in", folder / "out", Memory(folder / "out")
    arrive(inbox, 0, CASES)
    watcher = threading.Thread(target=memory.watch)
    watcher.start()
    begun = time.perf_counter()
    first = run_night(inbox, outbox, SETTINGS, function="tests.scenarios.trivial:succeed")
    between = time.perf_counter()
    second = run_night(inbox, outbox, SETTINGS, function="tests.scenarios.trivial:succeed")
    ended = time.perf_counter()
    memory.over.set()
    watcher.join()
    if [case.state for case in first.cases] != ["done"] * CASES or second.unchanged != CASES:
        raise RuntimeError("not all cases were done once")
    return {"first_s": between - begun, "second_s": ended - between, "memory_growth_mib": memory.growth}


class Cluster:
    """A scheduler and two workers of its own, which may be killed."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.file, environment = folder / "scheduler.json", {**os.environ, "PYTHONPATH": str(ROOT)}
        self.how = {"env": environment, "cwd": folder, "stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
        where = ("--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(self.file))
        self.scheduler = self._start("scheduler", "--port", "0", *where)
        self.worker = self._start("worker", "--nworkers", "2", "--nthreads", "1", *where)
        while not (self.file.exists() and self.file.stat().st_size):
            time.sleep(0.05)
        time.sleep(0.2)
        self.address = json.loads(self.file.read_text(encoding="utf-8"))["address"]

    def _start(self, *what: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", "dask", *what], **self.how)  # type: ignore[call-overload]

    def kill_a_worker(self, chance: random.Random) -> None:
        with suppress(psutil.Error, IndexError):
            chance.choice(psutil.Process(self.worker.pid).children()).kill()

    def stop(self) -> None:
        with suppress(psutil.Error):
            for child in psutil.Process(self.worker.pid).children(recursive=True):
                child.kill()
        for process in (self.worker, self.scheduler):
            process.kill()
            process.wait()


NIGHT = """
import sys
from pathlib import Path
from patient.errors import RecontourError
from benchmarks.chaos import SETTINGS, TRIVIAL
from pipelines.night.run import run_night
try:
    run_night(Path(sys.argv[1]), Path(sys.argv[2]), SETTINGS, scheduler=sys.argv[3], function=TRIVIAL)
except RecontourError as error:
    print(error)
    sys.exit(1)
"""


def killed(folder: Path) -> dict[str, object]:
    chance, inbox, outbox = random.Random(11), folder / "in", folder / "out"
    whom, unnamed, ends = Counter[str](), 0, Counter[int]()
    for number in range(NIGHTS):
        arrive(inbox, number * A_NIGHT, A_NIGHT)
        cluster = Cluster(folder / f"cluster{number}")
        call = [sys.executable, "-c", NIGHT, str(inbox), str(outbox), cluster.address]
        night = subprocess.Popen(call, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL)
        begun, before = time.monotonic(), _done(outbox)
        while _done(outbox) == before and night.poll() is None:
            time.sleep(0.05)
        time.sleep(chance.uniform(0.0, 1.5))
        who = chance.choice(["scheduler", "worker", "night"])
        whom[who] += 1
        if who == "scheduler":
            cluster.scheduler.kill()
        elif who == "worker":
            cluster.kill_a_worker(chance)
        else:
            night.send_signal(signal.SIGKILL)
        ends[night.wait()] += 1
        print(number, who, night.returncode, round(time.monotonic() - begun, 1), _done(outbox), flush=True)
        cluster.stop()
        if who != "night":
            unnamed += _unnamed(outbox)
    run_night(inbox, outbox, SETTINGS, function=TRIVIAL)
    return {"killed": dict(whom), "exits": {str(code): n for code, n in ends.items()}, **_counted(outbox, unnamed)}


def _done(outbox: Path) -> int:
    return len(list((outbox / "cases").glob("[!.]*")))


def _unnamed(outbox: Path) -> int:
    """Unfinished cases that the newest page does not name."""
    named = {line.case for line in read_nights(outbox)[-1].cases}
    with Ledger(outbox / LEDGER, read_only=True) as ledger:
        return sum(job.case not in named for job in ledger.jobs(*UNFINISHED))


def _counted(outbox: Path, unnamed: int) -> dict[str, int]:
    with Ledger(outbox / LEDGER, read_only=True) as ledger:
        outputs = [len(ledger.outputs(job.image)) for job in ledger.jobs()]
        done = len(ledger.jobs(State.DONE))
    return {
        "cases": NIGHTS * A_NIGHT,
        "done": done,
        "lost": NIGHTS * A_NIGHT - len(outputs),
        "twice": sum(n > 1 for n in outputs) + max(0, _done(outbox) - sum(outputs)),
        "unnamed": unnamed + _unnamed(outbox),
    }


def main() -> None:
    place, begun = Path(tempfile.mkdtemp()), time.perf_counter()
    try:
        figures = {"cases": CASES, **many(place / "many"), "ten_nights": killed(place / "killed")}
    finally:
        shutil.rmtree(place, ignore_errors=True)
    rounded = {name: round(value, 1) if isinstance(value, float) else value for name, value in figures.items()}
    reach = "0 lost, 0 twice, 0 unnamed, memory within 20 MiB"
    record("chaos", {**rounded, "whole_s": round(time.perf_counter() - begun), "reach": reach})


if __name__ == "__main__":
    main()
