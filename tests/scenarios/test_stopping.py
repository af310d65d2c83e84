"""Commands that are told to stop: as if they had never been started, but for what they say."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.configuration import Configuration
from pipelines.night.run import run_night
from pipelines.outbox.job import State
from pipelines.outbox.ledger import Ledger
from pipelines.outbox.maintenance import close_cases, retry_cases
from pipelines.records.night import read_nights
from tests.making import phantom, write_ct
from tests.planning import identity, image, plan
from tests.scenarios.waiting import until

HOME = Path(__file__).parents[2]
QUIET = Configuration(settle_minutes=0, workers=1, memory_limit_mib=900)
COMMAND = """
import sys, time
from functools import partial
from pathlib import Path
import data_samples.course, pipelines.planning.case, pipelines.fraction.case, pipelines.night.run
import pipelines.fraction.registration_case
from pipelines.app import main

def hangs(*values, **more):
    next(Path(OUT).parent.glob(".recontour-*")).joinpath("hangs").touch()
    while True:
        time.sleep(1)

if __name__ == "__main__":
    OUT = sys.argv[sys.argv.index("-o") + 1]
    pipelines.planning.case.contour_case = pipelines.fraction.case.adapt_case = hangs
    pipelines.fraction.registration_case.register_case = hangs
    data_samples.course.write_course = hangs
    pipelines.night.run.run_night = partial(pipelines.night.run.run_night, function="tests.scenarios.trivial:waits")
    main()
"""


def _start(folder: Path, *call) -> subprocess.Popen[bytes]:
    (folder / "command.py").write_text(COMMAND)
    command = [sys.executable, str(folder / "command.py"), *map(str, call)]
    environment = {**os.environ, "PYTHONPATH": str(HOME)}
    return subprocess.Popen(
        command, env=environment, start_new_session=True, stderr=subprocess.PIPE, preexec_fn=_heeding_signals
    )


def _heeding_signals() -> None:
    """As at a terminal, also where the tests themselves were started in the background and are deaf to some."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _night(folder: Path) -> subprocess.Popen[bytes]:
    night = _start(folder, "nightly", folder / "in", "-o", folder / "out", "--settle-minutes", "0", "--workers", "1")
    until(lambda: any((folder / "out" / ".work").glob("*/hangs")), night)
    return night


@pytest.mark.parametrize(
    ("number", "whom"),
    [(signal.SIGINT, os.killpg), (signal.SIGTERM, os.kill), (signal.SIGTERM, os.killpg), (signal.SIGHUP, os.killpg)],
    ids=["Ctrl-C", "systemd", "systemd, its whole group", "a terminal that closes"],
)
def test_a_night_that_is_told_to_stop_writes_its_page_and_has_tried_nothing(tmp_path, number, whom):
    write_ct(tmp_path / "in" / "a", phantom((4, 16, 16)))
    night, out = _night(tmp_path), tmp_path / "out"
    whom(night.pid, number)
    said = night.communicate()[1].decode()
    assert night.returncode == 130, said
    assert "Internal error" not in said
    record = read_nights(out)[-1]
    assert [(case.state, case.reasons) for case in record.cases] == [("ready", ("The night was cancelled",))]
    assert "The night was cancelled" in (out / "index.html").read_text(encoding="utf-8")
    with Ledger(out / "ledger.sqlite", read_only=True) as ledger:
        assert [(job.state, job.attempts) for job in ledger.jobs()] == [(State.READY, 0)]
    assert not any((out / ".work").iterdir())
    assert {path.name for path in out.glob(".*")} == {".work", ".lock", ".kept", ".recontour"}


def test_a_case_under_way_in_three_nights_that_were_cancelled_is_done_in_the_fourth(tmp_path):
    write_ct(tmp_path / "in" / "a", phantom((4, 16, 16)))
    for _ in range(3):
        night = _night(tmp_path)
        night.terminate()
        assert night.wait() == 130
    (case,) = run_night(tmp_path / "in", tmp_path / "out", QUIET, function="tests.scenarios.trivial:succeed").cases
    assert case.state == "done"


def test_what_failed_for_good_stands_on_every_page_until_a_person_ends_it(tmp_path):
    inbox, out = write_ct(tmp_path / "in" / "raise", phantom((4, 16, 16))).parent, tmp_path / "out"

    def states():
        return [(c.case, c.state) for c in run_night(inbox, out, QUIET, function="tests.scenarios.trivial:by_rows").cases]

    ((case, _),) = states()
    assert [states() for _ in range(4)] == [[(case, "failed")]] * 4
    for path in (inbox / "raise").iterdir():
        path.unlink()
    assert states() == [(case, "failed")]  # Also when its files have gone.
    assert f"--close {case}" in (out / "index.html").read_text(encoding="utf-8")
    close_cases(out, [case])
    assert states() == []
    write_ct(inbox / "raise", phantom((4, 16, 16)))
    retry_cases(out, [case])
    assert states() == [(case, "failed")]
    with Ledger(out / "ledger.sqlite", read_only=True) as ledger:
        assert ledger.jobs()[0].attempts == 1


@pytest.mark.parametrize("command", ["contour", "adapt", "register", "sample"])
def test_a_command_that_is_told_to_stop_leaves_nothing(tmp_path, command):
    who = identity("plan", "20260102")
    image(tmp_path / "plan", who)
    plan(tmp_path / "plan", who, date="20260105")
    image(tmp_path / "fraction", identity("day", "20260107", "CBCT"))
    inputs = {"contour": ["fraction"], "adapt": ["plan", "fraction"], "register": ["fraction", "fraction"]}.get(command, [])
    (tmp_path / "place").mkdir()
    run = _start(tmp_path, command, *(tmp_path / name for name in inputs), "-o", tmp_path / "place" / "out")
    until(lambda: any((tmp_path / "place").glob(".recontour-*/hangs")), run)
    run.terminate()
    said = run.communicate()[1].decode()
    assert run.returncode == 130, said
    assert list((tmp_path / "place").iterdir()) == []
