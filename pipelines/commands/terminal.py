"""What all commands share: who is spoken to, how work shows its progress, and how an output folder comes to be."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from patient.errors import InputError, ModelError, RecontourError

EXIT_CODES = (DONE, INTERNAL_ERROR, INVALID_ARGUMENTS, NEEDS_REVIEW, SOME_FAILED, BUSY, CANCELLED) = (0, 1, 2, 3, 4, 5, 130)
people = Console(stderr=True, highlight=False, markup=False)

MOST_REASONS = 5
"""Of a case that the console shows; all of them stand on its page."""

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


class Faults(InputError):
    """Several things that are wrong with one call."""

    def __init__(self, errors: Sequence[RecontourError]) -> None:
        super().__init__(f"{len(errors)} invalid arguments")
        self.errors = tuple(errors)


def check_all(*checks: Callable[[], object]) -> None:
    """Everything about a call that can be looked at before any work; all faults are said at once.

    Args:
        checks: each raises where something is wrong.

    Raises:
        InputError: the one fault that was found, or `Faults`.
        ModelError: the one fault that was found.
    """
    errors: list[RecontourError] = []
    for check in checks:
        try:
            check()
        except (InputError, ModelError) as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise Faults(errors)


def must_exist(path: Path | None, what: str) -> None:
    """Raises InputError where a path that was given is not there.

    Args:
        what: the argument, as the command's help calls it.
    """
    if path is not None and not path.exists():
        raise InputError(f"{what}: no such file or folder", where=path.name)


def must_be_folder(path: Path, what: str) -> None:
    """Raises InputError where a path is no folder."""
    if not path.is_dir():
        raise InputError(f"{what}: no such folder", where=path.name)


Update = Callable[[float, str], None]


@contextmanager
def progress(what: str) -> Iterator[Update]:
    """How far work is and how long it will take, on stderr: `update(fraction, word)`.

    A bar on a terminal; elsewhere (a log, a pipe) a line a step.
    """
    if not people.is_terminal:
        yield StepLines(what)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=people, transient=True) as bar:
        task = bar.add_task(what, total=1.0)
        yield lambda fraction, word: bar.update(task, completed=fraction, description=f"{what}: {word}")


class StepLines:
    """Progress where there is no terminal: a line for each new step, and one now and then within a long one.

    Args:
        what: is done.
        clock: seconds that only rise.
    """

    OFTEN, SELDOM = 1.0, 30.0
    """Seconds: no two lines of different steps come faster, and within one step none."""

    def __init__(self, what: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._what, self._clock = what, clock
        self._begun = self._last = clock()
        self._word: str | None = None

    def __call__(self, fraction: float, word: str) -> None:
        """Say it, unless it was said just now."""
        now = self._clock()
        quiet = self.OFTEN if word != self._word else self.SELDOM
        if self._word is not None and now - self._last < quiet:
            return
        self._word, self._last = word, now
        left = (now - self._begun) * (1.0 - fraction) / fraction if fraction > 0.02 else None
        said = f", about {_minutes(left)} left" if left is not None and fraction < 1.0 else ""
        people.print(f"{self._what}: {100 * fraction:.0f} %, {word}{said}")


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


@contextmanager
def published(out: Path) -> Iterator[Path]:
    """A work folder on the output's own filesystem, which becomes the output when all went well: whole or not at all.

    Raises:
        InputError: the output is not empty, or nothing can be written there.
    """
    from pipelines.outbox.publish import disk_watched, publish

    must_be_free(out)
    made = _beside(out)
    try:
        with disk_watched(made.parent):
            _make(made, out)
            yield made
            if out.exists():
                out.rmdir()
            publish(made, out)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def must_be_free(out: Path) -> None:
    """Raises InputError where an output folder holds something: asked before any work."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError("The output folder is not empty", where=out.name, remedy="Give a new one")


def _beside(out: Path) -> Path:
    """Where a work folder on the output's own filesystem may be."""
    return out.resolve().parent / f".recontour-{os.getpid()}-{time.time_ns()}"


def _make(made: Path, out: Path) -> None:
    """Raises InputError where nothing can be written."""
    try:
        made.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"The output cannot be written: {error.strerror}", where=out.name) from error


def table_of(headings: Sequence[tuple[str, str]]) -> Table:
    """A plain table; each heading with its side, "left" or "right"."""
    table = Table(box=None)
    for heading, side in headings:
        table.add_column(heading, justify=side)  # type: ignore[arg-type]
    return table


def show_lines(lines: list[tuple[str, str, tuple[str, ...]]]) -> None:
    """Cases with their states and first reasons; how many more there are is said."""
    table = table_of([("case", "left"), ("state", "left"), ("why", "left")])
    for case, state, reasons in lines:
        more = [f"and {len(reasons) - MOST_REASONS} more"] if len(reasons) > MOST_REASONS else []
        table.add_row(case, state, "\n".join([*reasons[:MOST_REASONS], *more]))
    people.print(table)
