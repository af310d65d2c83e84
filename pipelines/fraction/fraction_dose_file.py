"""A fraction's own dose on the plan's grid, beside its result: what later fractions and the course add up.

It is no DICOM object on purpose: one fraction's mapped dose must not be taken for a delivered one. No pickle.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from adaptive.dose.fraction_dose import FractionDose, UncertainDose
from patient.errors import InputError
from patient.geometry import Geometry
from patient.read.npz import read_arrays
from patient.trust import UNRECORDED, Estimated, Trust
from patient.volume import Volume

NAME = "day.npz"
FORM = 2
_STEPS = 65535
_GRID = TypeAdapter(Geometry)


def write_fraction_dose(folder: Path, day: FractionDose, dose_uid: str) -> None:
    """Write day.npz: dose and half-width of one fraction, to 1/65535 of their highest, with its trust and what was shown.

    Args:
        folder: of the case.
        day: on the plan's dose grid.
        dose_uid: SOP Instance UID of the plan's RTDOSE (empty where beams were summed).
    """
    uncertain, trust = day.dose.judged
    (dose, dose_step), (width, width_step) = (_stored(v.array) for v in (uncertain.gray, uncertain.half_width))
    said = {
        "form": FORM,
        "number": day.number,
        "unmapped": day.unmapped,
        "doubts": trust.doubts,
        "grid": asdict(uncertain.gray.geometry),
        "dose_uid": dose_uid,
        "steps": (dose_step, width_step),
    }
    shown = np.packbits(day.shown.array)
    np.savez_compressed(folder / NAME, said=np.array(json.dumps(said)), dose=dose, half_width=width, shown=shown)


def read_fraction_dose(folder: Path, dose_uid: str) -> FractionDose:
    """The dose of a published fraction. One from before trust was recorded (form 1) is not trusted.

    Raises:
        InputError: not there, not readable, of a form to come, or of another plan's dose.
    """
    try:
        file = read_arrays(folder / NAME)
        said = json.loads(str(file["said"]))
        arrays = [
            file[name].astype(np.float32) * np.float32(s)
            for name, s in zip(("dose", "half_width"), said["steps"], strict=True)
        ]
        grid = _GRID.validate_python(said["grid"])
        if said["form"] not in (1, FORM):
            raise ValueError(f"form {said['form']}")
        recorded = said["form"] == FORM
        shown = np.unpackbits(file["shown"], count=arrays[0].size) if recorded else np.ones(arrays[0].size)
        trust = Trust(tuple(said["doubts"])) if recorded else UNRECORDED
    except (InputError, ValueError, KeyError) as error:
        raise InputError("An earlier fraction's dose cannot be read", where=f"{folder.name}/{NAME}") from error
    if said["dose_uid"] != dose_uid:
        raise InputError(
            f"The dose of fraction {said['number']} stands on another plan's dose",
            where=f"{folder.name}/{NAME}",
            why="Doses of two plans are not added up on one grid",
            remedy="Give fractions of this plan",
        )
    uncertain = UncertainDose(Volume(arrays[0], grid), Volume(arrays[1], grid))
    seen = Volume(shown.astype(bool).reshape(grid.shape), grid)
    return FractionDose(said["number"], Estimated(uncertain, trust), seen, said["unmapped"])


def _stored(gray: NDArray[np.float32]) -> tuple[NDArray[np.uint16], float]:
    step = max(float(gray.max()), 1e-9) / _STEPS
    return np.rint(gray / np.float32(step)).clip(0, _STEPS).astype(np.uint16), step
