"""DVHs of a prostate plan beside the planning system's own (Eclipse) and those of SlicerRT, CERR and dicompyler-core.

The first two are tables that came with the case. DICOMPYLER names a python that has dicompyler-core (an environment of its
own with dicompyler-core 0.5.6, pydicom 2, numpy 1, shapely and scikit-image); without it that column is absent.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from adaptive.dose.dvh import Dvh, dvh
from adaptive.dose.lattice import HALF_SLICE, NOTHING_BEYOND
from benchmarks.record import DATA, main, record
from patient.read.rtdose import read_dose
from patient.read.rtstruct import read_structure_set

CASE = DATA / "dvh-prostate"
Table = NDArray[np.float64]
Curve = Callable[[Table], Table]
TOLERANCE = 1.0
"""Percent of the structure's volume."""
DOSES = {"D95": 95, "D50": 50, "D2": 2}


def tables(name: str) -> dict[str, tuple[float, Table]]:
    """For each structure its volume in cc and its cumulative DVH `[n, 2]` (Gy, percent), from a CSV of columns in pairs."""
    head, *rows = list(csv.reader((CASE / name).open(encoding="utf-8")))
    found = {}
    for column in range(0, len(head) - 1, 2):
        pairs = [row[column : column + 2] for row in rows if len(row) > column + 1]
        curve = np.array([pair for pair in pairs if "" not in pair], dtype=np.float64)
        key = head[column].partition(" Dose")[0].removesuffix("_DvhArray").replace(" ", "").lower()
        found[key] = float(head[column + 1].partition("% of ")[2].split()[0]), curve
    return found


def eclipse() -> dict[str, tuple[float, Table]]:
    """Its bins are 0.046 Gy wide; the one dose in the file that is misprinted (35.604, its point misplaced) is restored."""
    found = tables("dvh_Eclipse.csv")
    for _, curve in found.values():
        bins = np.arange(len(curve)) * curve[1, 0]
        wrong = np.abs(curve[:, 0] - bins) > 0.01
        assert wrong.sum() <= 1, "more than the one known misprint"
        curve[wrong, 0] = bins[wrong]
    return found


def compared(curve: Curve, reference: Table) -> dict[str, float]:
    """Share of the reference's bins between 0.5 and 99.5 % of volume that agree, and the largest difference in percent."""
    bins = reference[(reference[:, 1] > 0.5) & (reference[:, 1] < 99.5)]
    off = np.abs(curve(bins[:, 0]) - bins[:, 1])
    return {
        "within_1_percent": round(float((off <= TOLERANCE).mean()), 3),
        "largest_off_percent": round(float(off.max()), 2),
    }


def interpolated(table: Table) -> Curve:
    return lambda gray: np.interp(gray, table[:, 0], table[:, 1])


_DICOMPYLER = """
import json, sys
from dicompylercore import dicomparser, dvhcalc
structures, dose = sys.argv[1:]
found = {}
for number, roi in dicomparser.DicomParser(structures).GetStructures().items():
    dvh = dvhcalc.get_dvh(structures, dose, number).relative_volume
    found[roi["name"]] = [dvh.bins[:-1].tolist(), dvh.counts.tolist()]
print(json.dumps(found))
"""


def dicompyler() -> dict[str, Curve]:
    """Its DVHs by default settings; nothing where it is not installed."""
    if not (python := os.environ.get("DICOMPYLER")):
        return {}
    command = [python, "-c", _DICOMPYLER, str(CASE / "RS.dcm"), str(CASE / "RD.dcm")]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return {name: interpolated(np.array(curve).T) for name, curve in found.items()}


def doses(curve: Table) -> dict[str, float]:
    """D95, D50 and D2 of a cumulative table, Gy."""
    return {name: float(np.interp(-percent, -curve[:, 1], curve[:, 0])) for name, percent in DOSES.items()}


def of(found: Dvh, reference: Table) -> dict[str, Any]:
    """One of our DVHs beside the reference."""
    wanted = doses(reference)
    off = {name: round((found.dose_at_percent(percent) or 0) - wanted[name], 3) for name, percent in DOSES.items()}
    curve = compared(lambda gray: np.array([found.volume_at(float(gy)) for gy in gray]), reference)
    return {**curve, "off_gy": off, "volume_cc": round(found.volume_cc, 1), "covered_percent": round(100 * found.covered, 2)}


def whole() -> None:
    structures, dose = read_structure_set(CASE / "RS.dcm"), read_dose(CASE / "RD.dcm")
    theirs, peers = eclipse(), {name: tables(f"dvh_{name}.csv") for name in ("SlicerRT", "CERR")}
    third = dicompyler()
    figures: dict[str, Any] = {}
    for structure in structures.structures:
        key = structure.name.replace(" ", "").lower()
        volume, reference = theirs[key]
        began = time.perf_counter()
        found = dvh(structure, dose, frame_of_reference=structures.frame_of_reference)
        seconds = time.perf_counter() - began
        bare = dvh(structure, dose, frame_of_reference=structures.frame_of_reference, end=NOTHING_BEYOND)
        figures[structure.name] = {
            "eclipse_cc": volume,
            "ours": {**of(found, reference), "resolution_mm": round(found.resolution, 2), "s": round(seconds, 2)},
            "ours_ending_at_the_last_contour": of(bare, reference),
            **{name: compared(interpolated(table[key][1]), reference) for name, table in peers.items()},
            **({"dicompyler-core": compared(third[structure.name], reference)} if third else {}),
        }
    record(
        "dvh",
        {
            "on": "a prostate plan on a phantom: share of Eclipse's bins between 0.5 and 99.5 % of volume within 1 % of it",
            "rules": f"cells on the contours' planes, trilinear dose, {HALF_SLICE}; only where dose is known",
            "structures": figures,
        },
    )


if __name__ == "__main__":
    main(whole, {})
