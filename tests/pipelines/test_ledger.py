import itertools
import shutil
import sqlite3
from pathlib import Path

import pytest

from patient.errors import InputError
from pipelines.outbox.job import TRANSITIONS, State
from pipelines.outbox.ledger import Ledger
from pipelines.outbox.ledger_file import BACKUP, LEDGER, VERSION
from pipelines.outbox.maintenance import check_outbox, restore_ledger

OLDER = Path(__file__).parent / "ledgers"


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as opened:
        yield opened


def _bring(ledger, image, state):
    ways = {State.HELD: [State.HELD], State.READY: [State.READY]}
    for step in ways.get(state, [State.READY, State.RUNNING, *([state] if state is not State.RUNNING else [])]):
        ledger.move(image, step, case="c", key="k")


@pytest.mark.parametrize(("before", "to"), list(itertools.product(State, State)))
def test_a_job_moves_only_as_the_table_says(ledger, before, to):
    _bring(ledger, "i", before)
    if to in TRANSITIONS[before]:
        ledger.move("i", to)
        assert ledger.job("i").state is to
    else:
        with pytest.raises(ValueError, match=f"{before} cannot become {to}"):
            ledger.move("i", to)
        assert ledger.job("i").state is before


def test_a_night_that_died_while_working_leaves_jobs_that_are_ready_again_but_not_for_ever(ledger, tmp_path):
    ledger.move("i", State.READY, case="c", key="k")
    for attempt in (1, 2, 3):
        ledger.start("i")
        ledger.recover(tmp_path)
        assert ledger.job("i").state is (State.READY if attempt < 3 else State.FAILED)


def test_a_night_that_died_between_publishing_and_writing_it_down_is_read_rightly(ledger, tmp_path):
    for image, published in (("a", True), ("b", False)):
        ledger.move(image, State.READY, case=image, key="k")
        ledger.start(image)
        ledger.intend(image, f"folder-{image}", "1.2.3", State.REVIEW, ["look"])
        if published:
            (tmp_path / f"folder-{image}").mkdir()
    ledger.recover(tmp_path)
    assert (ledger.job("a").state, ledger.job("a").reasons) == (State.REVIEW, ("look",))
    assert ledger.last_output("a") == ("folder-a", "1.2.3")
    assert ledger.job("b").state is State.READY
    assert ledger.last_output("b") == ("", "")


def test_new_inputs_start_a_jobs_attempts_anew(ledger):
    ledger.move("i", State.READY, case="c", key="k")
    ledger.start("i")
    ledger.move("i", State.FAILED)
    ledger.move("i", State.READY, key="other")
    assert ledger.job("i").attempts == 0


def test_what_is_written_is_there_when_opened_again(tmp_path):
    with Ledger(tmp_path / "l.sqlite") as ledger:
        ledger.move("i", State.HELD, case="c", key="", reasons=["wait"])
    with Ledger(tmp_path / "l.sqlite", read_only=True) as ledger:
        assert ledger.jobs(State.HELD)[0].reasons == ("wait",)


def _done(ledger, image="i", key="k", folder="f"):
    ledger.move(image, State.READY, case=image, key=key)
    ledger.start(image)
    ledger.published(ledger.intend(image, folder, "1.2.3", State.DONE, []))


def test_what_was_given_back_does_not_count_as_tried_however_often(ledger):
    ledger.move("i", State.READY, case="c", key="k")
    for _ in range(5):
        ledger.start("i")
        assert [job.image for job in ledger.give_back("cancelled")] == ["i"]
    assert (ledger.job("i").state, ledger.job("i").attempts) == (State.READY, 0)


@pytest.mark.parametrize("way", [[State.HELD], [State.HELD, State.REFUSED], [State.READY], []])
def test_a_job_whose_newest_output_is_of_its_very_key_is_done_whatever_came_between(ledger, way):
    _done(ledger)
    for state in way:
        ledger.move("i", state)
    assert ledger.done_before("i", "k")
    assert ledger.job("i").state is State.DONE
    assert not ledger.done_before("i", "other")


def test_a_folder_that_the_disk_did_not_confirm_is_asked_about_again_and_then_done(ledger, tmp_path):
    ledger.move("i", State.READY, case="c", key="k")
    ledger.start("i")
    ledger.intend("i", "f", "1.2.3", State.DONE, [])
    (tmp_path / "f").mkdir()
    ledger.recover(tmp_path)
    assert (ledger.job("i").state, ledger.outputs("i")) == (State.DONE, ["f"])


def test_what_is_held_waits_from_when_its_files_were_last_seen_to_change(ledger):
    ledger.hold("i", "c", "arriving", seen="a")
    first = ledger.job("i").changed
    ledger.hold("i", "c", "arriving", seen="a")
    assert ledger.job("i").changed == first
    ledger.hold("i", "c", "arriving", seen="b")
    assert ledger.job("i").changed > first


def test_a_failure_is_closed_or_tried_again_by_a_person_and_told_again_with_new_inputs(ledger):
    ledger.move("i", State.READY, case="c", key="k")
    for _ in range(3):
        ledger.end("i", ledger.start("i"), State.FAILED, ["broken"])
        ledger.close("i")
        assert ledger.job("i").closed
        ledger.move("i", State.READY)
        assert not ledger.job("i").closed
    with pytest.raises(ValueError, match="only a failed job"):
        ledger.retry("i")
    ledger.end("i", ledger.start("i"), State.FAILED, ["broken"])
    ledger.retry("i")
    assert (ledger.job("i").state, ledger.job("i").attempts) == (State.READY, 0)


@pytest.mark.parametrize("older", sorted(OLDER.glob("*.sqlite")), ids=lambda path: path.stem)
def test_a_ledger_of_an_older_version_opens_with_everything_in_it_and_goes_on(tmp_path, older):
    shutil.copy(older, tmp_path / LEDGER)
    cases = tmp_path / "cases"
    (cases / "20260101-unconfirmed").mkdir(parents=True)
    (cases / "20260101-interrupted").mkdir()
    with Ledger(tmp_path / LEDGER, read_only=True) as ledger:
        before = {job.image: job.state for job in ledger.jobs()}
    with Ledger(tmp_path / LEDGER) as ledger:
        ledger.recover(cases)
        states = {job.image: job.state for job in ledger.jobs()}
        assert ledger.last_output("done") == ("20260101-done", "1.2.3")
        assert [f.image for f in ledger.fractions(patient="patient")] == ["review"]
        assert ledger.job("given-up").attempts == 3
    came = {"running": State.READY, "unconfirmed": State.DONE, "interrupted": State.REVIEW}
    assert states == {**before, **came}
    with sqlite3.connect(tmp_path / LEDGER) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (VERSION,)


def test_a_ledger_of_a_newer_version_is_refused_with_a_sentence_and_left_as_it_is(tmp_path):
    with Ledger(tmp_path / LEDGER):
        pass
    with sqlite3.connect(tmp_path / LEDGER) as db:
        db.execute(f"PRAGMA user_version = {VERSION + 1}")
    with pytest.raises(InputError, match="newer version"), Ledger(tmp_path / LEDGER):
        pass


def _spoil(path, how):
    data = path.read_bytes()
    path.write_bytes(
        {"head": b"x" * 100 + data[100:], "middle": data[:4096] + b"\xff" * (len(data) - 4096), "empty": b""}[how]
    )


@pytest.mark.parametrize("how", ["head", "middle", "empty", "gone"])
def test_a_damaged_ledger_is_told_with_what_to_do_and_its_backup_restores_it(tmp_path, how):
    with Ledger(tmp_path / LEDGER) as ledger:
        _done(ledger)
        ledger.back_up()
    (tmp_path / "cases" / "f").mkdir(parents=True)
    if how == "gone":
        (tmp_path / LEDGER).unlink()
    else:
        _spoil(tmp_path / LEDGER, how)
    for look in (lambda: Ledger(tmp_path / LEDGER), lambda: check_outbox(tmp_path)):
        with pytest.raises(InputError, match="--restore"):
            look()
    restore_ledger(tmp_path)
    assert check_outbox(tmp_path) == ()
    with Ledger(tmp_path / LEDGER) as ledger:
        assert ledger.job("i").state is State.DONE


def test_without_a_backup_a_damaged_ledger_is_told_too(tmp_path):
    with Ledger(tmp_path / LEDGER) as ledger:
        _done(ledger)
    _spoil(tmp_path / LEDGER, "head")
    with pytest.raises(InputError, match="no backup"), Ledger(tmp_path / LEDGER):
        pass
    with pytest.raises(InputError, match="no backup"):
        restore_ledger(tmp_path)


def test_a_look_over_names_cases_that_are_gone_and_cases_that_nobody_knows(tmp_path):
    with Ledger(tmp_path / LEDGER) as ledger:
        _done(ledger)
    for name in ("stranger", "20260101-0123456789-failed"):
        (tmp_path / "cases" / name).mkdir(parents=True)
    gone, unknown = check_outbox(tmp_path)
    assert "cases/f was published" in gone
    assert "cases/stranger is there" in unknown


def test_the_ledger_knows_files_by_a_hash_of_their_path(tmp_path):
    path = tmp_path / "Xu_Li.dcm"
    path.write_bytes(b"x")
    with Ledger(tmp_path / LEDGER) as ledger:
        assert ledger.digests([path]) == ledger.digests([path])
        ledger.back_up()
    assert b"Xu_Li" not in (tmp_path / LEDGER).read_bytes() + (tmp_path / BACKUP).read_bytes()


def test_a_ledger_whose_first_run_was_stopped_before_its_first_table_reads_as_empty(tmp_path):
    (tmp_path / LEDGER).touch()
    with Ledger(tmp_path / LEDGER, read_only=True) as ledger:
        assert (ledger.jobs(), ledger.faults()) == ([], [])
    assert (tmp_path / LEDGER).stat().st_size == 0
