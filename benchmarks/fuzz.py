"""Spoilt DICOM files of every kind in nights: tracebacks that reach a user, nights and good cases lost, peak memory.

usage: fuzz.py [FILES A KIND] [MINUTES]

Each night is a process of its own, so that the memory is a night's. After MINUTES no further night is begun.
"""

from __future__ import annotations

import logging
import multiprocessing
import resource
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.record import record
from tests.fuzzing import KINDS, Told, inbox, model_patient, night_over

FILES = 2000
A_NIGHT = 100
MINUTES = 60.0


def main(files: int, minutes: float) -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    model_patient()  # Once, for all nights.
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
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as process:
        for first in range(0, files, A_NIGHT):
            for kind in KINDS:
                if time.monotonic() < until:
                    yield process.apply(_night, (kind, min(A_NIGHT, files - first), first + 100))


def _night(kind: str, count: int, seed: int) -> tuple[Told, int]:
    """What came of one, and the most memory that it took, MiB."""
    told = Told(files=count)
    with TemporaryDirectory() as place:
        inbox(Path(place, "in"), kind, count, seed)
        night_over(Path(place, "in"), Path(place, "out"), told)
    return told, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


if __name__ == "__main__":
    given = [float(said) for said in sys.argv[1:]]
    asked = (*given, *(FILES, MINUTES)[len(given) :])
    main(int(asked[0]), asked[1])
