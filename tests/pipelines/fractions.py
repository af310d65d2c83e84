"""A small plan and a fraction of it as DICOM, with what is known of them: for tests of whole fraction cases."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
from scipy import ndimage

from data_samples.dicom import Identity, write_ct, write_dose, write_plan, write_structures
from patient.geometry import Box, Geometry
from patient.structures import Structure
from patient.volume import Field, Level, Volume
from registration.resampling import resampled
from registration.transforms import Rigid, Space

GRID = Geometry((36, 72, 72), (3.0, 3.0, 3.0), (-106.5, -106.5, -52.5))
SHIFT = np.array([6.0, -4.0, 5.0])
"""mm by which everything lies elsewhere in the fraction."""
ISOCENTRE = (15.0, 0.0, 0.0)
FRACTIONS = 30


def _image() -> np.ndarray:
    """A body with texture enough to tell its places apart."""
    rng = np.random.default_rng(0)
    _, j, i = np.indices(GRID.shape)
    inside = ((j - 36) / 26) ** 2 + ((i - 36) / 30) ** 2 < 1
    texture = sum(ndimage.gaussian_filter(rng.normal(size=GRID.shape), s) * s**1.5 * a for s, a in ((1.2, 260), (3.0, 300)))
    return np.where(inside, np.clip(40 + texture, -300, 900), -1000.0)


def _noisy(hu: np.ndarray, seed: int) -> np.ndarray:
    return np.rint(hu + np.random.default_rng(seed).normal(0, 12, hu.shape)).clip(-1024, 3000).astype(np.int16)


def _ball(name: str, number: int, kind: str, at, radius: float) -> Structure:
    points = GRID.points(np.moveaxis(np.indices(GRID.shape), 0, -1))
    distance = (np.linalg.norm(points - np.asarray(at), axis=-1) - radius).astype(np.float32)
    box = Box.of(distance < 0).padded(1, GRID.shape)
    field = Field(Volume(distance[box.slices], GRID.cropped(box)), Level.DISTANCE)
    return Structure(name, number, kind, (200, 40 * number, 90), field=field)


def write_pair(folder: Path) -> tuple[Path, Path]:
    """PLAN (CT, RTSTRUCT, RTPLAN, RTDOSE) and FRACTION folders; what lies at p in the plan lies at p + SHIFT today."""
    plan, today = Identity((str(1),), "20260105"), Identity(("2",), "20260119", "Synthetic fraction", 2)
    here = replace(GRID, image=str(plan.series), frame_of_reference=str(plan.frame))
    there = replace(GRID, image=str(today.series), frame_of_reference=str(today.frame))
    hu = _image()
    moved = resampled(Rigid.of(np.eye(3), -SHIFT, Space.of(there), Space.of(here)), Volume(hu, here), there, -1000.0).array
    write_ct(folder / "plan" / "CT", Volume(_noisy(hu, 1), here), plan)
    write_ct(folder / "fraction", Volume(_noisy(moved, 2), there), today)
    structures = [
        _ball("CTV", 1, "CTV", ISOCENTRE, 18.0),
        _ball("PTV", 2, "PTV", ISOCENTRE, 23.0),
        _ball("Parotid_L", 3, "ORGAN", (-35.0, 10.0, 0.0), 14.0),
        _ball("SpinalCord", 4, "ORGAN", (-5.0, 40.0, 10.0), 9.0),
    ]
    drawn = write_structures(folder / "plan" / "rtstruct.dcm", folder / "plan" / "CT", structures, plan)
    asked = write_plan(folder / "plan" / "rtplan.dcm", plan, drawn, ISOCENTRE, FRACTIONS, {2: ("PTV", 70.0)})
    points = here.points(np.moveaxis(np.indices(here.shape), 0, -1))
    away = np.linalg.norm(points - np.asarray(ISOCENTRE), axis=-1)
    dose = Volume((70 / (1 + np.exp((away - 32) / 6))).astype(np.float32), here)
    write_dose(folder / "plan" / "rtdose.dcm", dose, plan, asked)
    return folder / "plan", folder / "fraction"


def changed(path: Path, **attributes: object) -> None:
    """Rewrite a DICOM file with other attributes."""
    dataset = pydicom.dcmread(path)
    for name, value in attributes.items():
        setattr(dataset, name, value)
    if "SOPInstanceUID" in attributes:
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(path)
