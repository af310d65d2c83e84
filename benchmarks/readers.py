"""Referee readers and validators on RTSTRUCTs written from masks with known truth, in every orientation."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.record import REFEREES, ROOT, main, record
from patient.geometry import Box
from patient.outline import loops_of_mask
from patient.read.images import open_folder
from patient.structures import Structure, StructureSet
from patient.volume import Volume
from patient.write.rtstruct import write_structure_set

KINDS = ("iso", "aniso", "rect", "hfp", "ffs", "ffp", "hfdl", "hfdr", "oblique", "thick", "signed")
EXCEPTED = {("rt-utils", "aniso"), ("rt-utils", "rect"), ("platipy", "rect")}


def whole() -> None:
    figures: dict[str, Any] = {}
    worst = 1.0
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            ct, path = Path(folder) / kind, Path(folder) / f"{kind}.rs.dcm"
            subprocess.run([sys.executable, str(REFEREES / "synth_ct.py"), kind, str(ct)], check=True)
            truth = f"{ct}-truth.npz"
            _write(ct, Path(truth), path)
            said = subprocess.run(
                [sys.executable, str(REFEREES / "readers.py"), str(ct), str(path), "--truth", truth, "--json"],
                capture_output=True,
                encoding="utf-8",
                check=False,
                cwd=ROOT,
            )
            valid = subprocess.run(
                [str(REFEREES / "validate.sh"), "--ct", str(ct), str(path)],
                capture_output=True,
                encoding="utf-8",
                check=False,
                cwd=ROOT,
            )
            lowest: dict[str, Any] = {}
            for reader, dice in json.loads(said.stdout).items():
                counted = {n: d for n, d in dice.items() if not (reader == "platipy" and n == "One_voxel_line")}
                numbers = [d if isinstance(d, float) else 0.0 for d in counted.values()]
                lowest[reader] = min(numbers)
                if (reader, kind) not in EXCEPTED:
                    worst = min(worst, *numbers)
            figures[kind] = {"lowest_dice": lowest, "validator": "no error" if valid.returncode == 0 else valid.stdout[:400]}
    record(
        "readers",
        {
            "kinds": figures,
            "lowest_not_excepted": worst,
            "reach": "0.999",
            "excepted": "rt-utils on aniso and rect; platipy on one-voxel lines and rect",
        },
    )


def _write(ct: Path, truth: Path, path: Path) -> None:
    image = open_folder(ct)
    made = []
    for name, mask in np.load(truth).items():
        box = Box.of(mask)
        loops = loops_of_mask(Volume(mask[box.slices], image.geometry.cropped(box)))
        kind = "EXTERNAL" if name == "External" else "ORGAN"
        made.append(Structure(name, interpreted_type=kind, color=(255, 0, 0), algorithm="AUTOMATIC", drawn=loops))
    write_structure_set(path, StructureSet(tuple(made), label="referees"), image, version="0")


if __name__ == "__main__":
    main(whole, {})
