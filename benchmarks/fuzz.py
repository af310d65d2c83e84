"""Spoilt DICOM files of every kind in nights: tracebacks that reach a user, nights and good cases lost, peak memory.

usage: fuzz.py [FILES A KIND]
"""

from __future__ import annotations

import logging
import resource
import sys
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.record import record
from tests.fuzzing import KINDS, Told, inbox, night_over

FILES = 2000
A_NIGHT = 100


def main(files: int) -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    told, nights = Told(), 0
    for kind in KINDS:
        for seed in range(0, files, A_NIGHT):
            count = min(A_NIGHT, files - seed)
            with TemporaryDirectory() as place:
                inbox(Path(place, "in"), kind, count, seed + 100)
                night_over(Path(place, "in"), Path(place, "out"), told)
            told.files, nights = told.files + count, nights + 1
    figures = {
        "kinds": KINDS,
        "files": told.files,
        "nights": nights,
        "nights_lost": told.lost,
        "good_cases_not_published": told.missing,
        "tracebacks": len(told.tracebacks),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
    }
    record("fuzz", figures)
    for text in sorted(set(told.tracebacks))[:20]:
        print(text)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else FILES)
