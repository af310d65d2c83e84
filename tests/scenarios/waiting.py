"""Clocks and events for nights that are tested: nothing here depends on how busy the machine is."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

HOUR = 3600.0


class Clock:
    """Stands still until something has happened; from then on an hour goes by at each look."""

    def __init__(self, happened: Callable[[], bool]) -> None:
        self.happened, self.hours = happened, 0

    def __call__(self) -> float:
        self.hours += bool(self.happened())
        return self.hours * HOUR


def hangs(outbox: Path, *, published: int = 0) -> Clock:
    """A clock that goes while a case hangs, once so many others are published."""

    def happened() -> bool:
        return any((outbox / ".work").glob("*/hangs")) and len(list((outbox / "cases").glob("[!.]*"))) >= published

    return Clock(happened)


def until(happened: Callable[[], bool], process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    """Wait for something that a process does; a process that ends without having done it is a failure."""
    while not happened():
        if process.poll() is not None and not happened():
            raise AssertionError(f"it ended with {process.returncode} before that")
        time.sleep(0.02)
