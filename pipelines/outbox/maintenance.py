"""What a person does about a ledger: look it over, restore it, try what failed again, or take note of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from pathlib import Path

from patient.errors import InputError
from pipelines.outbox.job import Job, State
from pipelines.outbox.ledger import Ledger
from pipelines.outbox.ledger_file import LEDGER, restore
from pipelines.outbox.publish import CASES, locked

_A_LOG = re.compile(r"-failed(-\d+)?$")
"""Ends the names of folders that keep the log of what went wrong."""


def check_outbox(outbox: Path) -> tuple[str, ...]:
    """What is odd about a ledger, in sentences.

    Raises:
        InputError: it is so damaged that it cannot be read; says what to do.
    """
    with Ledger(outbox / LEDGER, read_only=True) as ledger:
        folders, faults = ledger.folders(), ledger.faults()
    there = {path.name for path in (outbox / CASES).glob("[!.]*") if path.is_dir() and not _A_LOG.search(path.name)}
    gone = [f"{CASES}/{name} was published and is not there any more" for name in folders if name not in there]
    unknown = [f"{CASES}/{name} is there and not in the ledger" for name in sorted(there - set(folders))]
    return (*faults, *gone, *unknown)


def restore_ledger(outbox: Path) -> str:
    """Put the backup in the ledger's place; the name of the file that keeps what was there.

    Raises:
        NightBusy: a night holds the outbox.
        InputError: there is no backup, or it is damaged too.
    """
    with locked(outbox):
        return restore(outbox).name


def retry_cases(outbox: Path, cases: Collection[str]) -> None:
    """Failed cases are tried again the next night, as if they never had been. Raises as `close_cases`."""
    _each_failed(outbox, cases, Ledger.retry)


def close_cases(outbox: Path, cases: Collection[str]) -> None:
    """Failed cases that a person has taken note of are told no more.

    Raises:
        NightBusy: a night holds the outbox.
        InputError: one of them is not there or has not failed; nothing is changed.
    """
    _each_failed(outbox, cases, Ledger.close)


def _each_failed(outbox: Path, cases: Collection[str], what: Callable[[Ledger, str], None]) -> None:
    if not cases:
        return
    with locked(outbox), Ledger(outbox / LEDGER) as ledger:
        failed: dict[str, Job] = {job.case: job for job in ledger.jobs(State.FAILED)}
        if wrong := [case for case in cases if case not in failed]:
            raise InputError(
                f"No such failed case: {', '.join(wrong)}", where=outbox.name, remedy="`recontour status OUTBOX` names them"
            )
        for case in cases:
            what(ledger, failed[case].image)
