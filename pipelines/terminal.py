"""What all commands share: who is spoken to, how work shows its progress, and how an output folder comes to be."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from patient.errors import InputError

DONE, OUR_FAULT, WRONG_CALL, LOOK, SOME_FAILED, BUSY, CANCELLED = 0, 1, 2, 3, 4, 5, 130
people = Console(stderr=True, highlight=False)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


@contextmanager
def progress(what: str) -> Iterator[Any]:
    """A bar with time left, on stderr; `update(fraction, word)`."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=people, transient=True) as bar:
        task = bar.add_task(what, total=1.0)
        yield lambda fraction, word: bar.update(task, completed=fraction, description=f"{what}: {word}")


@contextmanager
def published(out: Path) -> Iterator[Path]:
    """A work folder on the output's own filesystem, which becomes the output when all went well: whole or not at all.

    Raises:
        InputError: the output is not empty, or nothing can be written there.
    """
    from pipelines.publish import disk_watched, publish

    must_be_free(out)
    made = _beside(out)
    try:
        with disk_watched(made.parent):
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
    """A work folder on the output's own filesystem.

    Raises:
        InputError: nothing can be written there.
    """
    try:
        out.resolve().parent.mkdir(parents=True, exist_ok=True)
        made = out.resolve().parent / f".recontour-{os.getpid()}-{time.time_ns()}"
        made.mkdir()
        return made
    except OSError as error:
        raise InputError(f"The output cannot be written: {error.strerror}", where=out.name) from error


def table_of(headings: Sequence[tuple[str, str]]) -> Table:
    """A plain table; each heading with its side, "left" or "right"."""
    table = Table(box=None)
    for heading, side in headings:
        table.add_column(heading, justify=side)  # type: ignore[arg-type]
    return table


def show_lines(lines: list[tuple[str, str, tuple[str, ...]]]) -> None:
    """Cases with their states and reasons."""
    table = table_of([("case", "left"), ("state", "left"), ("why", "left")])
    for case, state, reasons in lines:
        table.add_row(case, state, "\n".join(reasons[:5]))
    people.print(table)
