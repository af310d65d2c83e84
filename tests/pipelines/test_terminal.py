"""What the console says: progress without a terminal, reasons that are left out, every fault of a call at once."""

from pathlib import Path

import pytest

from patient.errors import InputError
from pipelines.commands import terminal
from pipelines.commands.terminal import (
    MOST_REASONS,
    Faults,
    StepLines,
    check_all,
    must_be_free,
    must_exist,
    progress,
    show_lines,
)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_without_a_terminal_each_step_has_a_line_with_the_time_that_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    said = StepLines("Contouring", clock)
    for now, fraction, word in (
        (0, 0.0, "reading"),
        (10, 0.25, "lungs"),
        (10.2, 0.26, "bones"),
        (12, 0.3, "bones"),
        (60, 1.0, "done"),
    ):
        clock.now = now
        said(fraction, word)
    assert capsys.readouterr().err.splitlines() == [
        "Contouring: 0 %, reading",
        "Contouring: 25 %, lungs, about 0:30 left",
        "Contouring: 30 %, bones, about 0:28 left",
        "Contouring: 100 %, done",
    ]


def test_a_long_step_says_now_and_then_that_it_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    said = StepLines("Night", clock)
    for now in range(0, 100, 5):
        clock.now = now
        said(0.5, "1 of 2")
    assert len(capsys.readouterr().err.splitlines()) == 4


def test_progress_is_said_in_lines_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("Evaluating") as update:
        update(0.0, "case 1")
    assert "Evaluating: 0 %, case 1" in capsys.readouterr().err


def test_reasons_that_are_not_shown_are_counted(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal.people, "width", 200, raising=False)
    show_lines([("case", "review", tuple(f"reason [{n}]" for n in range(MOST_REASONS + 7)))])
    said = capsys.readouterr().err
    assert "reason [4]" in said
    assert "reason [5]" not in said
    assert "and 7 more" in said


def test_all_faults_of_a_call_are_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(Faults) as refused:
        check_all(lambda: must_exist(tmp_path / "one", "PREDICTED"), lambda: None, lambda: must_be_free(tmp_path / "full"))
    assert [error.what for error in refused.value.errors] == [
        "PREDICTED: no such file or folder",
        "The output folder is not empty",
    ]
    with pytest.raises(InputError, match="PREDICTED"):
        check_all(lambda: must_exist(tmp_path / "one", "PREDICTED"))
