"""Lungs of two real chests against the clinic's, as imaged and changed: turned, noisy, thick slices, diseased.

python benchmarks/lungs.py            all of it: about four minutes
python benchmarks/lungs.py as_imaged  the chests as they are

What is painted (fluid, tumour, gas) is no patient's. It shows whether a lung of which a part is missing is flagged.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.record import DATA, main, record
from contour.anatomy import AnatomyEngine
from contour.engine import Absent, Context, Finding
from contour.evaluate import NotCompared, compare
from contour.truncation import Extent, abrupt_ends, uneven_pairs
from patient.geometry import Geometry
from patient.rasterisation import mask_of_united_loops
from patient.read.images import open_folder
from patient.read.rtstruct import read_structure_set
from patient.volume import Mask, Volume

CLINIC = {
    "lung-nsclc-001": ("RTSTRUCT", {"Lung_L": "Lung-Left", "Lung_R": "Lung-Right"}),
    "thorax-oncentra": ("RTSTRUCT.dcm", {"Lung_L": "LUNG_L", "Lung_R": "LUNG_R"}),
}
NAMES = ("Lung_L", "Lung_R")
FLUID, TISSUE, GAS = 10, 40, -1000


@dataclass(frozen=True, eq=False)
class Chest:
    """A CT, upright (slices run to the head, rows to the back, columns to the left), and the clinic's lungs on its grid."""

    image: Volume[Any]
    lungs: Mapping[str, Mask]

    def painted(self, where: NDArray[np.bool_], hu: float) -> Chest:
        """With tissue of another density, as noisy as tissue is."""
        array = self.image.array.copy()
        array[where] = np.random.default_rng(1).normal(hu, 15.0, int(where.sum())).astype(array.dtype)
        return replace(self, image=Volume(array, self.image.geometry))


def chest(patient: str) -> Chest:
    """As the clinic imaged and drew it."""
    structures, names = CLINIC[patient]
    path, image = DATA / patient / structures, open_folder(DATA / patient / "CT")
    drawn = read_structure_set(path if path.is_file() else next(path.iterdir()))
    lungs = {
        name: mask_of_united_loops(drawn[theirs].loops, image.geometry).placed_in(image.geometry)
        for name, theirs in names.items()
    }
    return Chest(image.load(), lungs)


def figures(of: Chest) -> dict[str, Any]:
    """By lung: Dice, HD95, slices missing and extra at each end, the worst slice, and what is flagged."""
    grid, found = of.image.geometry, {a.name: a for a in AnatomyEngine().contour(of.image, NAMES, Context())}
    extents = {n: e for n, a in found.items() if isinstance(a, Finding) and (e := Extent.of(a.field, grid))}
    uneven = list(uneven_pairs(extents))
    return {name: _one(name, found[name], of, extents.get(name), [f for n, f in uneven if n == name]) for name in NAMES}


def _one(name: str, answer: Finding | Absent, of: Chest, extent: Extent | None, uneven: list[Any]) -> dict[str, Any]:
    if isinstance(answer, Absent) or extent is None:
        return {"not found": answer.reason if isinstance(answer, Absent) else "empty"}
    flags = [f"{flag.code}: {flag.detail}" for flag in (*answer.flags, *abrupt_ends(name, extent), *uneven)]
    agreement = compare(answer.field.mask(), of.lungs[name], 2.0)
    if isinstance(agreement, NotCompared):
        return {"not compared": agreement.reason, "flags": flags}
    slices = {key: value if isinstance(value, int) else round(value, 1) for key, value in asdict(agreement.slices).items()}
    return {
        "dice": round(agreement.dice, 4),
        "hd95": round(agreement.hd95, 2),
        "volume_percent": round(agreement.volume_bias_percent, 1),
        "slices": slices,
        "flags": flags,
    }


def prone(of: Chest) -> Chest:
    """Stored as a prone patient is: rows and columns run the other way, and the header says so."""
    return _stored(of, (1, 2))


def feet_first(of: Chest) -> Chest:
    """Stored as a patient who goes in feet first."""
    return _stored(of, (0, 2))


def _stored(of: Chest, axes: tuple[int, ...]) -> Chest:
    grid = of.image.geometry
    last = [n - 1 if a in axes else 0 for a, n in enumerate(grid.shape)]
    directions = tuple(tuple(-v for v in axis) if a in axes else axis for a, axis in enumerate(grid.axes))
    x, y, z = grid.points(last)
    turned: Any = replace(grid, origin=(float(x), float(y), float(z)), axes=directions)
    masks = {name: Volume(np.flip(mask.array, axes).copy(), turned) for name, mask in of.lungs.items()}
    return Chest(Volume(np.flip(of.image.array, axes).copy(), turned), masks)


def noisy(of: Chest) -> Chest:
    """60 HU more noise, of one pixel's grain."""
    noise = np.random.default_rng(0).normal(0.0, 60.0, of.image.array.shape)
    return replace(of, image=_changed(of.image, noise))


def thick(of: Chest) -> Chest:
    """Every two slices averaged."""
    pairs = of.image.array.shape[0] // 2
    grid = of.image.geometry
    k, j, i = grid.spacing
    x, y, z = grid.points((0.5, 0, 0))
    coarse = replace(
        grid, shape=(pairs, *grid.shape[1:]), spacing=(2 * k, j, i), origin=(float(x), float(y), float(z)), slices=None
    )
    both = of.image.array[: 2 * pairs].reshape(pairs, 2, *grid.shape[1:])
    lungs = {
        name: Volume(mask.array[: 2 * pairs].reshape(pairs, 2, *grid.shape[1:]).any(axis=1), coarse)
        for name, mask in of.lungs.items()
    }
    return Chest(Volume(both.mean(axis=1).astype(np.int16), coarse), lungs)


def denser(of: Chest) -> Chest:
    """All 30 HU up, as a scanner out of calibration."""
    return replace(of, image=_changed(of.image, 30.0))


def lighter(of: Chest) -> Chest:
    """All 30 HU down."""
    return replace(of, image=_changed(of.image, -30.0))


def _changed(image: Volume[Any], by: Any) -> Volume[Any]:
    return Volume(np.clip(image.array + by, -1024, 3071).astype(np.int16), image.geometry)


def arms(of: Chest) -> Chest:
    """An arm of 90 mm with a bone of 25 mm at either side of the chest, and a couch of foam between two sheets."""
    grid = of.image.geometry
    body = of.image.array[grid.shape[0] // 2] > -300
    rows, columns = np.flatnonzero(body.sum(axis=1) > 50), np.flatnonzero(body.sum(axis=0) > 20)
    y, x = np.meshgrid(*(np.arange(n) * s for n, s in zip(grid.shape[1:], grid.spacing[1:], strict=True)), indexing="ij")
    middle = float(rows.mean()) * grid.spacing[1]
    out = of
    for side in (columns[0] * grid.spacing[2] - 42.0, columns[-1] * grid.spacing[2] + 42.0):
        far = np.hypot(y - middle, x - side)
        for within, hu in ((45.0, TISSUE), (12.5, 700.0)):
            out = out.painted((far < within)[None] & ((of.image.array < -300) | (far < 12.5)), hu)
    return out


def _lung(of: Chest, name: str) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
    mask = of.lungs[name].array
    return mask, np.flatnonzero(mask.any(axis=(1, 2)))


def effusion(of: Chest) -> Chest:
    """Fluid in the right pleura's lowest (dorsal) fifth of every slice, level as fluid lies."""
    mask, _ = _lung(of, "Lung_R")
    rows = np.flatnonzero(mask.any(axis=(0, 2)))
    return of.painted(_solid(mask) & (np.arange(mask.shape[1]) > np.quantile(rows, 0.8))[:, None], FLUID)


def basal_effusion(of: Chest) -> Chest:
    """The right lung's lowest third is fluid."""
    mask, slices = _lung(of, "Lung_R")
    return of.painted(_solid(mask) & (np.arange(mask.shape[0]) < np.quantile(slices, 1 / 3))[:, None, None], FLUID)


def wall_tumour(of: Chest) -> Chest:
    """30 mm of tumour at the left lung's lateral wall, half-way up."""
    return _ball(of, "Lung_L", 15.0, TISSUE, lambda mask, k: _lateral(mask[k]))


def large_tumour(of: Chest) -> Chest:
    """60 mm of it."""
    return _ball(of, "Lung_L", 30.0, TISSUE, lambda mask, k: _lateral(mask[k]))


def collapse(of: Chest) -> Chest:
    """The left lung's dorsal third is as dense as tissue."""
    mask, _ = _lung(of, "Lung_L")
    rows = np.flatnonzero(mask.any(axis=(0, 2)))
    return of.painted(_solid(mask) & (np.arange(mask.shape[1]) > np.quantile(rows, 0.67))[:, None], TISSUE)


def stomach_bubble(of: Chest) -> Chest:
    """60 mm of gas three voxels under the left lung's base."""
    mask, _ = _lung(of, "Lung_L")
    grid = of.image.geometry
    columns = np.argwhere(mask.any(axis=0))
    low = np.where(mask.any(axis=0), mask.argmax(axis=0), 0)
    j, i = columns[np.argmax(low[tuple(columns.T)])]
    k = low[j, i] - (30.0 + 3.0) / grid.spacing[0]
    ball = _within(grid, (k, j, i), 30.0)
    near = ndimage.binary_dilation(mask | of.lungs["Lung_R"].array, iterations=3)
    return of.painted(ball & ~near & (of.image.array > -300), GAS)


def _solid(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """With the pixel of partial volume around it."""
    return ndimage.binary_dilation(mask, np.ones((1, 3, 3), bool))


def _lateral(plane: NDArray[np.bool_]) -> tuple[float, float]:
    j, i = np.nonzero(plane)
    at = i.argmax()
    return float(np.median(j[i == i[at]])), float(i[at])


def _ball(of: Chest, name: str, mm: float, hu: float, at: Callable[[NDArray[np.bool_], int], tuple[float, float]]) -> Chest:
    mask, slices = _lung(of, name)
    k = int(np.median(slices))
    j, i = at(mask, k)
    inside = _within(of.image.geometry, (k, j, i - mm / 2 / of.image.geometry.spacing[2]), mm)
    return of.painted(inside & _solid(mask), hu)


def _within(grid: Geometry, centre: tuple[float, float, float], mm: float) -> NDArray[np.bool_]:
    k, j, i = (((np.arange(n) - c) * s) ** 2 for n, c, s in zip(grid.shape, centre, grid.spacing, strict=True))
    return k[:, None, None] + j[:, None] + i < mm**2


TURNED = (prone, feet_first, noisy, thick, denser, lighter, arms, stomach_bubble)
"""The lungs are as they were: the figures should be, too."""
DISEASED = (effusion, basal_effusion, wall_tumour, large_tumour, collapse)
"""A part of a lung is no air: it is left out, and has to be flagged."""


def changed() -> dict[str, Any]:
    """Every change of every chest."""
    return dict(_changes())


def _changes() -> Iterator[tuple[str, Any]]:
    for patient in CLINIC:
        of = chest(patient)
        for change in (*TURNED, *DISEASED):
            yield f"{patient} {change.__name__}", figures(change(of))


def as_imaged() -> dict[str, Any]:
    """The chests as they are."""
    return {patient: figures(chest(patient)) for patient in CLINIC} | {
        "reach": "Dice 0.97, HD95 4 mm, no end more than 2 slices off without a flag"
    }


def whole() -> None:
    record("lungs", {"as_imaged": as_imaged(), "changed": changed()})


if __name__ == "__main__":
    main(whole, {"as_imaged": as_imaged, "changed": changed})
