"""Spoilt DICOM files of every kind in nights: tracebacks that reach a user, nights and good cases lost, peak memory.

usage: fuzz.py [FILES A KIND] [MINUTES]

Each night is a process of its own, so that the memory is a night's. After MINUTES no further night is begun.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.record import record
from tests.fuzzing import KINDS, Told, night_alone

FILES = 2000
A_NIGHT = 100
MINUTES = 60.0


def main(files: int, minutes: float) -> None:
    came = list(_nights(files, time.monotonic() + 60 * minutes))
    told = [one for one, _ in came]
    figures = {
        "kinds": KINDS,
        "files": sum(one.files for one in told),
        "nights": len(came),
        "nights_lost": sum(one.lost for one in told),
        "good_cases_not_published": sum(one.missing for one in told),
        "tracebacks": sum(len(one.tracebacks) for one in told),
        "peak_memory_mib": max(peak for _, peak in came),
    }
    record("fuzz", figures)
    for text in sorted({text for one in told for text in one.tracebacks})[:20]:
        print(text)


def _nights(files: int, until: float) -> Iterator[tuple[Told, int]]:
    """Of each kind in turn."""
    for first in range(0, files, A_NIGHT):
        for kind in KINDS:
            if time.monotonic() < until:
                yield night_alone(kind, min(A_NIGHT, files - first), first + 100)


if __name__ == "__main__":
    given = [float(said) for said in sys.argv[1:]]
    asked = (*given, *(FILES, MINUTES)[len(given) :])
    main(int(asked[0]), asked[1])
