"""A clinic's archive in small: patients with a planning CT and drawn structures, under the clinic's own names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray

from patient.read.images import open_folder
from patient.structures import Structure, StructureSet
from patient.volume import Field, Volume
from patient.write.rtstruct import write_structure_set
from tests.making import write_ct

SHAPE = (16, 40, 48)
SPACING = (3.0, 3.0, 3.0)
NAMES = {"Parotid_L": "PAROTID_L", "Parotid_R": "Rt Parotid", "SpinalCord": "cord"}
Masks = dict[str, NDArray[np.bool_]]


def ball(centre: Sequence[float], radius: Sequence[float], shape: Sequence[int] = SHAPE) -> NDArray[np.bool_]:
    """An ellipsoid, in voxels (z, y, x)."""
    grid = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    return sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radius, strict=True)) < 1  # type: ignore[return-value]


def anatomy(seed: int) -> tuple[NDArray[np.int16], Masks]:
    """A body with two bright glands, the patient's left at high columns, and a cord; a little different in each patient."""
    rng = np.random.default_rng(seed)
    dz, dy, dx = rng.uniform(-1.5, 1.5, 3)
    masks: Masks = {
        "Parotid_L": ball((8 + dz, 18 + dy, 36 + dx), (4, 5, 4)),
        "Parotid_R": ball((8 + dz, 18 + dy, 11 + dx), (4, 5, 4)),
        "SpinalCord": ball((8, 28 + dy, 24 + dx), (40, 2.6, 2.6)),
    }
    hu = np.full(SHAPE, -1000, np.int16)
    hu[ball((8, 20, 24), (60, 17, 21))] = 30
    hu[masks["Parotid_L"] | masks["Parotid_R"]] = 180
    hu[masks["SpinalCord"]] = -90
    return (hu + rng.normal(0, 8, SHAPE)).astype(np.int16), masks


def moved(masks: Masks, by: int) -> Masks:
    """Each structure so many voxels to the left and up: what somebody else would have drawn."""
    return {name: np.roll(mask, (0, by, by), axis=(0, 1, 2)) for name, mask in masks.items()}


def draw(
    ct: Path,
    masks: Masks,
    path: Path,
    names: Mapping[str, str] = NAMES,
    *,
    when: str = "20260101",
    more: Sequence[Structure] = (),
) -> Path:
    """An RTSTRUCT on a CT, under a clinic's names."""
    image = open_folder(ct)
    path.parent.mkdir(parents=True, exist_ok=True)
    held = [
        Structure(names.get(name, name), color=(200, 30, 30), field=Field.of_mask(Volume(mask, image.geometry)))
        for name, mask in masks.items()
    ]
    write_structure_set(path, StructureSet((*held, *more)), image, version="0")
    dataset = pydicom.dcmread(path)
    dataset.StructureSetDate, dataset.StructureSetTime = when, "120000"
    dataset.save_as(path, enforce_file_format=True)
    return path


def patient(
    folder: Path, seed: int, names: Mapping[str, str] = NAMES, *, without: Sequence[str] = (), who: str = ""
) -> Path:
    """One patient's folder: `CT` and `RS.dcm`."""
    hu, masks = anatomy(seed)

    def change(_: int, dataset: pydicom.Dataset) -> None:
        dataset.PatientID = who or f"P{seed}"

    ct = write_ct(folder / "CT", hu, change, spacing=SPACING, tag=f"patient {seed}")
    draw(ct, {n: m for n, m in masks.items() if n not in without}, folder / "RS.dcm", names)
    return folder


def archive(folder: Path, count: int) -> Path:
    """Patients `p0`, `p1`, ..., each in a folder of its own."""
    for seed in range(count):
        patient(folder / f"p{seed}", seed)
    return folder
