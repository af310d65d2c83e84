"""Nights on workers that somebody else started."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from distributed import Client

from patient.errors import OutOfResources
from pipelines.configuration import Configuration
from pipelines.night.run import run_night
from pipelines.outbox.job import State
from pipelines.outbox.ledger import Ledger
from pipelines.records.night import read_nights
from tests.making import phantom, write_ct
from tests.scenarios.waiting import Clock, hangs, until

HOME = Path(__file__).parents[2]
RECONTOUR = str(Path(sys.executable).with_name("recontour"))
QUIET = Configuration(settle_minutes=0, time_limit=60.0)
LONG = "3600s"


class Cluster:
    """A scheduler and workers, each a process of its own as a clinic would start them."""

    def __init__(self, folder: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(HOME), "DASK_TEMPORARY_DIRECTORY": str(folder / "scratch")}
        self.how = {"env": environment, "stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "cwd": folder}
        self.file = folder / "scheduler.json"
        address = ("--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(self.file))
        self.scheduler = self._start("scheduler", "--port", "0", *address)
        until(lambda: _address(self.file) is not None, self.scheduler)
        self.address, self.workers = str(_address(self.file)), list[subprocess.Popen[bytes]]()

    def add_workers(self, count: int, *how: str) -> None:
        address = ("--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(self.file))
        self.workers.append(self._start("worker", "--nworkers", str(count), "--nthreads", "1", *address, *how))
        with Client(self.address, timeout=LONG) as client:
            until(lambda: len(client.scheduler_info(n_workers=-1)["workers"]) == count, self.workers[-1])

    def _start(self, *what: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", "dask", *what], **self.how)

    def stop(self) -> None:
        for process in (*self.workers, self.scheduler):
            process.terminate()
            process.wait()


@pytest.fixture
def cluster(tmp_path):
    started = Cluster(tmp_path)
    yield started
    started.stop()


@pytest.fixture
def scheduler(cluster):
    """Address of a scheduler with two workers."""
    cluster.add_workers(2)
    return cluster.address


def _address(file):
    """Where the scheduler listens; None while it has not said so, or not to the end."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))["address"]
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def _inbox(folder, names):
    for name in names:
        write_ct(folder / name, phantom(), tag=name)
    return folder


def test_a_night_on_a_clusters_workers_publishes_its_cases_and_leaves_the_cluster_running(scheduler, tmp_path):
    inbox, out = _inbox(tmp_path / "in", ["a", "b"]), tmp_path / "out"
    command = [RECONTOUR, "nightly", inbox, "-o", out, "--scheduler", scheduler, "--settle-minutes", "0", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(HOME)}
    done = subprocess.run(list(map(str, command)), capture_output=True, encoding="utf-8", env=environment)
    assert done.returncode == 3, done.stderr
    for case in json.loads(done.stdout)["cases"]:
        assert (out / case["folder"] / "rtstruct.dcm").is_file()
    assert not any((out / ".work").iterdir())
    with Client(scheduler, timeout=LONG) as client:
        assert len(client.scheduler_info(n_workers=-1)["workers"]) == 2


def test_on_a_clusters_workers_too_one_bad_case_does_not_stop_the_others(scheduler, tmp_path):
    inbox, out = _inbox(tmp_path / "in", ["good", "raise", "hang", "die", "more"]), tmp_path / "out"
    clock = hangs(out, published=3)
    record = run_night(inbox, out, QUIET, scheduler=scheduler, function="tests.scenarios.trivial:by_rows", now=clock)
    assert sorted(c.state for c in record.cases) == ["done", "done", "failed", "failed", "failed"]
    reasons = " ".join(r for c in record.cases for r in c.reasons)
    assert "longer than 60 s" in reasons
    assert "unexpected RuntimeError" in reasons


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "http//x"])
def test_an_address_where_no_scheduler_answers_is_a_wrong_call(tmp_path, address):
    inbox = _inbox(tmp_path / "in", ["a"])
    command = [RECONTOUR, "nightly", inbox, "-o", tmp_path / "out", "--scheduler", address, "--settle-minutes", "0"]
    done = subprocess.run(list(map(str, command)), capture_output=True, encoding="utf-8")
    assert done.returncode == 2, done.stderr
    assert f"No Dask scheduler answers at {address}" in done.stderr


def _nothing_was_tried(out: Path, why: str) -> None:
    """Whatever was under way is ready, did not count, and is on the page with the reason."""
    with Ledger(out / "ledger.sqlite", read_only=True) as ledger:
        assert {(job.state, job.attempts) for job in ledger.jobs()} == {(State.READY, 0)}
    record = read_nights(out)[-1]
    assert {case.state for case in record.cases} == {"ready"}
    assert any(why in problem.what for problem in record.problems)
    assert not any((out / ".work").iterdir())


def test_a_scheduler_without_workers_is_told_and_ends_the_night_in_order(cluster, tmp_path):
    inbox, out = _inbox(tmp_path / "in", ["a", "b"]), tmp_path / "out"
    with pytest.raises(OutOfResources, match="no worker"):
        run_night(inbox, out, QUIET, scheduler=cluster.address, now=Clock(lambda: True))
    _nothing_was_tried(out, "no worker")


def test_the_last_worker_that_dies_ends_the_night_in_order(cluster, tmp_path):
    inbox, out = _inbox(tmp_path / "in", ["die", "more"]), tmp_path / "out"
    cluster.add_workers(1, "--no-nanny")
    clock = Clock(lambda: cluster.workers[0].poll() is not None)
    with pytest.raises(OutOfResources, match="no worker"):
        run_night(inbox, out, QUIET, scheduler=cluster.address, function="tests.scenarios.trivial:die", now=clock)
    _nothing_was_tried(out, "no worker")


def test_a_scheduler_that_dies_ends_the_night_in_order(cluster, tmp_path):
    inbox, out = _inbox(tmp_path / "in", ["a", "b"]), tmp_path / "out"
    cluster.add_workers(1)

    def kill() -> None:
        until(lambda: any((out / ".work").glob("*/hangs")), cluster.scheduler)
        cluster.scheduler.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(OutOfResources, match="scheduler is gone"):
        run_night(inbox, out, QUIET, scheduler=cluster.address, function="tests.scenarios.trivial:waits")
    killer.join()
    _nothing_was_tried(out, "scheduler is gone")
