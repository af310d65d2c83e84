import itertools

import pytest

from pipelines.ledger import TRANSITIONS, Ledger, State


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
