"""Conformance by tools that nobody of this project wrote (dicom3tools, dcmtk), for tests of what is written."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest

from tests.making import DATA

HOME = Path(os.environ.get("RECONTOUR_REFEREES", DATA.parent / "referees"))
SIGNED = "Unrecognized enumerated value <0x1> for value 1 of attribute <Pixel Representation>"
"""Of Dose Type ERROR: PS3.3 C.8.8.3.4.6 asks for two's complement there, and dciodvfy does not know it."""
OVERVIEW = (
    "Attribute present when condition unsatisfied (which may not be present otherwise) "
    "Type 1C Conditional Element=<ReferencedRTPlanSequence> Module=<RTDose>"
)
"""Of PLAN_OVERVIEW, which is younger than dciodvfy's table: the plan's item holds the index of its overview (C.8.8.3)."""


def errors_of(paths: list[Path], ct: Path, place: Path) -> str:
    """What the referees complain of, beyond what they complain of in the CT itself; empty where there is nothing.

    dciodvfy aborts on doses of 32 bits: what it judges is a copy of 16, alike in everything else.

    Args:
        paths: the objects.
        ct: folder of the image that they belong to.
        place: a folder to write copies into.
    """
    validate = HOME / "validate.sh"
    if not validate.is_file() or shutil.which("dciodvfy") is None:
        pytest.skip("THE REFEREES ARE NOT THERE: set RECONTOUR_REFEREES and run their setup")
    judged = [sixteen_bits(path, place / f"16-{path.name}") for path in paths]
    for path in judged:
        ended = subprocess.run(["dciodvfy", path], capture_output=True, check=False)
        assert ended.returncode >= 0, f"dciodvfy was killed by signal {-ended.returncode} on {path.name}"
    environment = os.environ | {"REFEREES_HOME": os.environ.get("REFEREES_HOME", ".referees")}
    call = ["bash", validate, "--ct", ct, *judged]
    said = subprocess.run(call, capture_output=True, encoding="utf-8", env=environment, check=False).stdout
    known = {f"{path}: Error - {alarm}" for path in judged for alarm in _false_alarms(path)}
    return "\n".join(line for line in said.splitlines() if line.strip() not in known)


def _false_alarms(path: Path) -> list[str]:
    header = pydicom.dcmread(path, stop_before_pixels=True)
    signed = [SIGNED] if header.get("DoseType") == "ERROR" else []
    return signed + ([OVERVIEW] if header.get("DoseSummationType") == "PLAN_OVERVIEW" else [])


def sixteen_bits(path: Path, copy: Path) -> Path:
    """A dose of 32 bits in 16, in a copy; any other object as it is."""
    dataset = pydicom.dcmread(path)
    if dataset.get("BitsAllocated") != 32:
        return path
    stored = dataset.pixel_array.astype(np.float64)
    kind = np.dtype("<i2" if dataset.PixelRepresentation else "<u2")
    step = max(float(np.abs(stored).max()), 1.0) / np.iinfo(kind).max
    dataset.PixelData = np.rint(stored / step).astype(kind).tobytes()
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.DoseGridScaling = f"{float(dataset.DoseGridScaling) * step:.9e}"
    dataset.save_as(copy)
    return copy
