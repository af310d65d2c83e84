"""Nights on workers that somebody else started."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from distributed import Client

from pipelines.configuration import Configuration
from pipelines.night import run_night
from tests.making import phantom, write_ct

HOME = Path(__file__).parents[2]
RECONTOUR = str(Path(sys.executable).with_name("recontour"))
QUIET = Configuration(settle_minutes=0, time_limit=6.0)


@pytest.fixture
def scheduler(tmp_path):
    """Address of a scheduler with two workers, each a process of its own as a clinic would start them."""
    environment = {**os.environ, "PYTHONPATH": str(HOME), "DASK_TEMPORARY_DIRECTORY": str(tmp_path / "scratch")}
    file = tmp_path / "scheduler.json"
    quiet = {"env": environment, "stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "cwd": tmp_path}
    dask = [sys.executable, "-m", "dask"]
    scheduler = ["scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", file]
    worker = [
        "worker",
        "--scheduler-file",
        file,
        "--nworkers",
        "2",
        "--nthreads",
        "1",
        "--no-dashboard",
        "--host",
        "127.0.0.1",
    ]
    started = [subprocess.Popen([*dask, *map(str, what)], **quiet) for what in (scheduler, worker)]
    try:
        deadline = time.monotonic() + 60
        while (address := _address(file)) is None and time.monotonic() < deadline:
            time.sleep(0.1)
        assert address is not None
        with Client(address, timeout="30s") as client:
            client.wait_for_workers(2, timeout=60)
        yield address
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait(timeout=30)


def _address(file):
    """Where the scheduler listens; None while it has not said so, or not to the end."""
    try:
        return json.loads(file.read_text())["address"]
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
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 3, done.stderr
    for case in json.loads(done.stdout)["cases"]:
        assert (out / case["folder"] / "rtstruct.dcm").is_file()
    assert not any((out / ".work").iterdir())
    with Client(scheduler, timeout="10s") as client:
        assert len(client.scheduler_info(n_workers=-1)["workers"]) == 2


def test_on_a_clusters_workers_too_one_bad_case_does_not_stop_the_others(scheduler, tmp_path):
    inbox, out = _inbox(tmp_path / "in", ["good", "raise", "hang", "die", "more"]), tmp_path / "out"
    record = run_night(inbox, out, QUIET, scheduler=scheduler, function="tests.scenarios.trivial:by_rows")
    assert sorted(c.state for c in record.cases) == ["done", "done", "failed", "failed", "failed"]
    reasons = " ".join(r for c in record.cases for r in c.reasons)
    assert "longer than 6 s" in reasons
    assert "unexpected RuntimeError" in reasons


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "http//x"])
def test_an_address_where_no_scheduler_answers_is_a_wrong_call(tmp_path, address):
    inbox = _inbox(tmp_path / "in", ["a"])
    command = [RECONTOUR, "nightly", inbox, "-o", tmp_path / "out", "--scheduler", address, "--settle-minutes", "0"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert f"No Dask scheduler answers at {address}" in done.stderr
