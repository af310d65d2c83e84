"""A whole planning case, DICOM in to RTSTRUCT and report out, by the head_neck template with the network that is shipped."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import json

from benchmarks.record import main, record
from data_samples.course import planning_image
from data_samples.dicom import Identity, write_ct
from data_samples.planned import plan_patient
from registration.transforms import Space

WORK = Path(tempfile.gettempdir()) / "recontour-benchmark-planning-case"


def whole() -> None:
    figures = {}
    for slices in (300, 450):
        folder = WORK / f"ct-{slices}"
        if not folder.is_dir():
            identity = Identity(("benchmark", "case", str(slices)), "20260105")
            space = Space(str(identity.series), str(identity.frame))
            write_ct(folder, planning_image(plan_patient(0), space, slices, 512, 0), identity)
        shutil.rmtree(WORK / "out", ignore_errors=True)
        command = [
            str(Path(sys.executable).with_name("recontour")),
            "contour",
            str(folder),
            "-o",
            str(WORK / "out"),
            "--template",
            "head_neck",
            "--json",
        ]
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert process.stdout is not None
        result = json.loads(process.stdout.read())
        _, _, usage = os.wait4(process.pid, 0)
        figures[f"{slices}_slices"] = {
            "command_s": round(time.perf_counter() - start, 2),
            "peak_memory_mib": round(usage.ru_maxrss / 1024),
            "steps_s": result["timing"]["steps_s"],
            "structures": sum(s["volume_cc"] is not None for s in result["structures"]),
        }
    record("case", {**figures, "reach": "300 slices: 30 s and 3 GB; 450 slices: 45 s and 4 GB"})


if __name__ == "__main__":
    main(whole, {})
