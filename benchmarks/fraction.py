"""One fraction of full size, DICOM in to all DICOM and report out, by `recontour adapt`: seconds by step, and peak memory.

The plan has 200 planes of 512 x 512, 30 structures, a dose and an RTPLAN; the cone beam image 200 planes of 512 x 512.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.record import record
from contour.derived_structures import derive
from contour.recipe import parse
from data_samples.course import dose_grid, field_of_view, fraction_image, planning_image, structure, truth_grid
from data_samples.dicom import Identity, write_ct, write_dose, write_plan, write_structures
from data_samples.motion import course_of_changes, plan_from_fraction
from data_samples.planned import STRUCTURES, plan_patient
from patient.structures import Structure
from patient.volume import Field
from registration.transforms import Rigid, Space

SLICES, SIZE = 200, 512
WORK = Path(tempfile.gettempdir()) / "recontour-benchmark-fraction"
MORE = (
    *(f"{name} + 3 mm" for name in STRUCTURES[1:9]),
    *(f"{name} + 5 mm" for name in STRUCTURES[1:7]),
    "External - 5 mm",
    "PTV_5600 - PTV_7000",
)
"""Recipes of the structures that the sample patient does not have, up to 30."""


def written(folder: Path) -> None:
    """The plan, and the second of three fractions."""
    patient = plan_patient(0)
    identity = Identity(("benchmark", "fraction"), "20260105")
    space = Space(str(identity.series), str(identity.frame))
    image = planning_image(patient, space, SLICES, SIZE, 0)
    grid, same = image.geometry, Rigid.identity(space, space)
    write_ct(folder / "plan" / "CT", image, identity)
    fields: dict[str, Field] = {name: patient.structure(name, same, grid) for name in STRUCTURES}
    for recipe in MORE:
        made = derive(parse(recipe), fields, grid)
        assert isinstance(made, Field)
        fields[recipe.replace(" ", "").replace("mm", "")[:16]] = made
    structures = [structure(name, n, field) for n, (name, field) in enumerate(fields.items(), 1)]
    drawn = write_structures(folder / "plan" / "rtstruct.dcm", folder / "plan" / "CT", structures, identity)
    prescribed = {STRUCTURES.index("PTV_7000") + 1: ("PTV_7000", 70.0)}
    asked = write_plan(folder / "plan" / "rtplan.dcm", identity, drawn, patient.isocentre, 35, prescribed)
    write_dose(folder / "plan" / "rtdose.dcm", dose_grid(patient), identity, asked)
    change = course_of_changes(3, 0)[1]
    today = Identity(("benchmark", "fraction", "2"), "20260120", "Synthetic cone beam CT", 3)
    at = Space(str(today.series), str(today.frame))
    truth = plan_from_fraction(patient, change, truth_grid(patient, at, 6.0), space, (0, 2))
    planes = round(patient.hu.geometry.shape[0] * patient.hu.geometry.spacing[0] * 4 / 3)
    view = field_of_view(patient, at, (planes, SIZE))
    write_ct(folder / "fraction", fraction_image(patient, truth, view, np.random.default_rng(7)), today)
    assert len(structures) == 30 and all(isinstance(s, Structure) for s in structures)  # noqa: PT018


def main() -> None:
    if not WORK.is_dir():
        written(WORK)
    shutil.rmtree(WORK / "out", ignore_errors=True)
    recontour = str(Path(sys.executable).with_name("recontour"))
    command = [recontour, "adapt", str(WORK / "plan"), str(WORK / "fraction"), "-o", str(WORK / "out"), "--json"]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    result = json.loads(process.stdout.read())
    _, status, usage = os.wait4(process.pid, 0)
    planes = [len(list((WORK / part).glob("*.dcm"))) for part in ("plan/CT", "fraction")]
    record(
        "fraction",
        {
            "planes_of_plan_and_fraction": planes,
            "size": SIZE,
            "structures": len(result["structures"]),
            "command_s": round(time.perf_counter() - start, 1),
            "processor_s": round(usage.ru_utime + usage.ru_stime, 1),
            "peak_memory_mib": round(usage.ru_maxrss / 1024),
            "exit": os.waitstatus_to_exitcode(status),
            "steps_s": result["timing"]["steps_s"],
            "reach": "90 s and 4 GB",
        },
    )


if __name__ == "__main__":
    main()
