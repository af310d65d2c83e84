"""The mean head and neck that the sample course is made from: no patient is in it (`make_population.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from patient.geometry import Geometry
from patient.volume import Volume

FILE = Path(__file__).with_name("population.npz")
ORGANS = ("Brainstem", "SpinalCord", "Parotid_L", "Parotid_R", "Esophagus", "Larynx", "Bone_Mandible")


@dataclass(frozen=True, eq=False)
class Population:
    """The mean anatomy, 3 mm fine, LPS mm from the middle of the brainstem.

    Args:
        hu: `[z, y, x]`.
        surfaces: External, PTV (what was a target in most) and the organs, as signed distances on the same grid: mm,
            negative inside, cut off at 31.75.
        provenance: what it was made from, and under which licence.
    """

    hu: Volume[np.int16]
    surfaces: Mapping[str, Volume[np.float32]]
    provenance: str


@cache
def population() -> Population:
    """As stored beside this module."""
    with np.load(FILE, allow_pickle=False) as stored:
        spacing, step = float(stored["spacing"]), np.float32(stored["step"])
        x, y, z = (float(v) for v in stored["origin"])
        hu = stored["hu"]
        grid = Geometry(hu.shape, (spacing, spacing, spacing), (x, y, z), image="population")
        surfaces = {name: Volume(stored[name].astype(np.float32) * step, grid) for name in ("External", "PTV", *ORGANS)}
        return Population(Volume(hu, grid), surfaces, str(stored["provenance"]))
