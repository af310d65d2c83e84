"""Margins by side against analytic shapes at positions between voxels: the drawn surface's distance to the true one, volume.

python benchmarks/margins.py             500 positions: about half an hour on two cores
python benchmarks/margins.py --trials 20 a quick look, nothing written

Spheres and ellipsoids of 5 to 60 mm on slices of 3 mm and pixels of 1.27 mm. The true surface is the Minkowski sum of the
shape with octants of ellipsoids: its support function is the sum of both. Volumes are sums over the same slices on both
sides, so that where the slices happen to lie counts for neither.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.record import record
from contour.derive import grown
from patient.drawn import field_of_loops
from patient.geometry import Geometry
from patient.outline import loops_of_field
from patient.structures import Loop
from patient.volume import Field, Level, Volume

SPACING = (3.0, 1.27, 1.27)
TRIALS = 500
DIAMETERS = (5.0, 10.0, 20.0, 40.0, 60.0)
MARGINS = (
    (7.0, 7.0, 7.0, 5.0, 7.0, 7.0),
    (5.0, 5.0, 8.0, 3.0, 10.0, 6.0),
    (5.0, 5.0, 5.0, 5.0, 5.0, 5.0),
    (0.0, 6.0, 4.0, 2.0, 3.0, 0.0),
)
SHRINKING = ((-3.0,) * 6, (-2.0, -1.0, -2.0, 0.0, -3.0, -1.0))
Floats = NDArray[np.float64]


def directions(n: int) -> Floats:
    """Unit vectors (x, y, z), spread evenly."""
    at = np.arange(n) + 0.5
    z, turn = 1 - 2 * at / n, np.pi * (1 + np.sqrt(5)) * at
    return np.column_stack([np.sqrt(1 - z * z) * np.cos(turn), np.sqrt(1 - z * z) * np.sin(turn), z])


NORMALS = directions(6000)


def support(half_axes: Sequence[float] | Floats, mm: Sequence[float]) -> Floats:
    """How far the grown ellipsoid reaches along each normal, mm."""
    left, right, front, back, head, foot = mm
    kernel = np.where(NORMALS > 0, (left, back, head), (right, front, foot))
    return np.linalg.norm(NORMALS * half_axes, axis=1) + np.linalg.norm(NORMALS * kernel, axis=1)


def off(points: Floats, reach: Floats) -> Floats:
    """mm from the true surface, outside positive, of points (x, y, z)."""
    return np.concatenate(
        [(part @ NORMALS.T - reach).max(axis=1) for part in np.array_split(points, len(points) // 200 + 1)]
    )


def shrunk_off(points: Floats, radius: float, mm: Sequence[float]) -> Floats:
    """Of a sphere made smaller: what is left is where the whole kernel fits in."""
    left, right, front, back, head, foot = (-v for v in mm)
    kernel = directions(4000)
    kernel = kernel * np.where(kernel > 0, (left, back, head), (right, front, foot))
    return np.array([np.linalg.norm(point + kernel, axis=1).max() for point in points]) - radius


def area(z: float, reach: Floats) -> float:
    """mm2 of the true shape at a height, from the way to its surface in 90 directions."""
    angles = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    left = reach - NORMALS[:, 2] * z
    if left.min() <= 0:
        return 0.0
    flat = np.stack([np.cos(angles), np.sin(angles)])
    ahead = NORMALS[:, :2] @ flat
    radii = np.where(ahead > 1e-9, left[:, None] / np.maximum(ahead, 1e-9), np.inf).min(axis=0)
    return float(0.5 * np.sin(angles[1]) * np.sum(radii * np.roll(radii, -1)))


def shape(half_axes: Sequence[float] | Floats, grid: Geometry) -> Field:
    """An ellipsoid's signed distance: exact for spheres, else exact at the surface and to first order beside it."""
    points = grid.points(np.moveaxis(np.indices(grid.shape), 0, -1))
    one, two = (np.linalg.norm(points / np.power(half_axes, n), axis=-1) for n in (1, 2))
    values = np.where(one > 0.05, one * (one - 1) / np.maximum(two, 1e-6), -0.9 * min(half_axes))
    return Field(Volume(np.clip(values, -9, 9).astype(np.float32), grid), Level.DISTANCE)


def drawn(half_axes: Sequence[float] | Floats, grid: Geometry) -> Field | None:
    """The same from contours on its slices, as a person would draw it."""
    turn = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    loops = []
    for k in range(grid.shape[0]):
        z = float(grid.points((k, 0, 0))[2])
        if abs(z) < half_axes[2]:
            share = np.sqrt(1 - (z / half_axes[2]) ** 2)
            xy = [share * half_axes[0] * np.cos(turn), share * half_axes[1] * np.sin(turn)]
            loops.append(Loop(np.column_stack([*xy, np.full(len(turn), z)])))
    return field_of_loops(loops, grid)


def trial(n: int) -> dict[str, Any] | None:
    """One shape at one position; the same number gives the same."""
    rng = np.random.default_rng([n, 27])
    diameter = DIAMETERS[n % len(DIAMETERS)]
    shrinks = n % 5 >= 2 and rng.random() < 0.25
    sphere = shrinks or rng.random() < 0.5
    half_axes = (diameter / 2 * np.ones(3)) if sphere else diameter / 2 * rng.permutation((0.7, 1.0, 1.3))
    mm = SHRINKING[rng.integers(len(SHRINKING))] if shrinks else MARGINS[rng.integers(len(MARGINS))]
    source = "distances" if rng.random() < 0.5 else "contours"
    room = half_axes[::-1] + max(*mm, 0) + 10
    counts = tuple(int(v) for v in np.ceil(2 * room / SPACING) + 1)
    start = -(np.array(counts) - 1) / 2 * SPACING + rng.uniform(-0.5, 0.5, 3) * SPACING
    grid = Geometry(counts, SPACING, tuple(float(v) for v in start[::-1]))
    field = shape(half_axes, grid) if source == "distances" else drawn(half_axes, grid)
    if field is None:
        return None
    loops = loops_of_field(grown(field, grid, tuple(mm)))
    points = np.concatenate([loop.points for loop in loops])
    found: dict[str, Any] = {"diameter": diameter, "from": source, "shrinks": shrinks, "equal": len(set(mm)) == 1}
    if shrinks:
        apart = shrunk_off(points, diameter / 2, mm)
    else:
        reach = support(half_axes, mm)
        apart = off(points, reach)
        true = sum(area(float(grid.points((k, 0, 0))[2]), reach) for k in range(counts[0]))
        found["volume"] = sum(shapely.Polygon(loop.points[:, :2]).area for loop in loops) / true - 1
    return found | {"mean": float(np.abs(apart).mean()), "bias": float(apart.mean()), "worst": float(np.abs(apart).max())}


def summary(trials: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of trials alike."""
    volumes = [100 * abs(t["volume"]) for t in trials if "volume" in t]
    out = {
        "trials": len(trials),
        "mean_distance_mm": round(float(np.mean([t["mean"] for t in trials])), 3),
        "largest_mean_distance_mm": round(max(t["mean"] for t in trials), 3),
        "worst_distance_mm": round(max(t["worst"] for t in trials), 3),
        "within_reach_of_distance": round(float(np.mean([t["mean"] <= 0.15 and t["worst"] <= 0.5 for t in trials])), 3),
    }
    if volumes:
        out |= {
            "mean_volume_error_percent": round(float(np.mean(volumes)), 2),
            "largest_volume_error_percent": round(max(volumes), 2),
        }
        out["within_half_a_percent"] = round(float(np.mean(np.array(volumes) <= 0.5)), 3)
    return out


def main() -> None:
    """All trials, by what the margin was made from and by size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, help="so many, and nothing written")
    asked = parser.parse_args()
    found = [t for n in range(asked.trials or TRIALS) if (t := trial(n)) is not None]
    figures: dict[str, Any] = {
        "reach": "volume within 0.5 %, distance to the true surface at most 0.15 mm mean, 0.5 mm worst",
        "spacing_mm": SPACING,
        "said": "from distances: the signed distance at voxel centres; from contours: outlines on the slices alone, "
        "so that where it ends between two slices is not known",
    }
    for source in ("distances", "contours"):
        for what, shrinks in (("grown", False), ("shrunk", True)):
            of = [t for t in found if t["from"] == source and t["shrinks"] is shrinks]
            figures[f"{what} from {source}"] = {
                f"{diameter:g} mm": summary(chosen)
                for diameter in DIAMETERS
                if (chosen := [t for t in of if t["diameter"] == diameter])
            }
    if asked.trials:
        print(json.dumps(figures, indent=1))
    else:
        record("margins", figures)


if __name__ == "__main__":
    main()
