"""Margins by side against analytic shapes at positions between voxels: volume, distance to the true surface, time.

python benchmarks/margins.py             500 positions: a few minutes on one core
python benchmarks/margins.py --trials 20 a quick look, nothing written

Spheres and ellipsoids of 5 to 60 mm on slices of 3 mm and pixels of 1.27 mm. The true surface is the Minkowski sum of the
shape with octants of ellipsoids: its support function is the sum of both. Areas are summed over the same slices on both
sides, so that where the slices happen to lie counts for neither; of the field between pixels, and of the contours as drawn.

The margin is made from the exact signed distance, which shows the margin's own error, and from contours on the slices, as a
clinic draws them. Many shapes have the same contours: between their convex hull and the tangents through neighbouring ones
lies all that is convex. How far these two are apart after the margin is what nobody can know.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.record import record
from contour.derived_structures import grown
from patient.geometry import Geometry
from patient.loop import Loop
from patient.manual_contours import field_of_structure
from patient.outline import loops_of_field
from patient.structures import Structure
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
REACH = 0.5
"""Percent of volume."""
SUB = 6
Floats, Distances = NDArray[np.float64], NDArray[np.float32]


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
    """An ellipsoid's signed distance: to the foot a²y/(t + a²) of a point y, with the t that puts it on the surface."""
    y = np.abs(grid.points(np.moveaxis(np.indices(grid.shape), 0, -1)).reshape(-1, 3)) + 1e-9
    squares = np.square(np.asarray(half_axes, dtype=np.float64))
    low = np.full(len(y), -squares.min())
    high = np.linalg.norm(y, axis=1) * np.sqrt(squares.max())
    for _ in range(50):
        middle = (low + high) / 2
        outside = (squares * np.square(y / (middle[:, None] + squares))).sum(axis=1) > 1
        low, high = np.where(outside, middle, low), np.where(outside, high, middle)
    foot = squares * y / (high[:, None] + squares)
    values = np.linalg.norm(y - foot, axis=1) * np.sign(np.square(y / half_axes).sum(axis=1) - 1)
    return Field(Volume(np.clip(values, -9, 9).astype(np.float32).reshape(grid.shape), grid), Level.DISTANCE)


def area_inside(plane: Distances) -> float:
    """Pixels of a slice of a field that lie inside its surface, by cubic splines between them."""
    part = (np.arange(SUB) + 0.5) / SUB - 0.5
    j, i = np.nonzero(np.abs(plane) < 2 * max(SPACING[1:]))
    at = np.stack(np.broadcast_arrays(j[:, None, None] + part[:, None], i[:, None, None] + part))
    fine = ndimage.map_coordinates(plane.astype(np.float64), at, order=3, mode="nearest")
    share = np.clip(0.5 - fine / (max(SPACING[1:]) / SUB), 0, 1)
    return float(np.count_nonzero(plane <= -2 * max(SPACING[1:])) + share.sum() / SUB**2)


def profiles(heights: Sequence[float], half_axes: Sequence[float] | Floats) -> tuple[Floats, Floats]:
    """Height and scale of the sections of the least and the most that is convex and has an ellipsoid's contours there."""
    known = np.array([[z, np.sqrt(1 - (z / half_axes[2]) ** 2)] for z in heights])
    low, high = known[0, 0] - SPACING[0], known[-1, 0] + SPACING[0]
    if len(known) == 1:
        return known, np.array([[low, 2 * known[0, 1]], *known, [high, 2 * known[0, 1]]])
    slopes = np.diff(known[:, 1]) / np.diff(known[:, 0])
    most = [*known]
    for end, slope, to in ((known[0], slopes[0], low), (known[-1], slopes[-1], high)):
        reach = float(np.clip(-end[1] / slope if slope else np.inf, *sorted((0.0, to - end[0]))))
        reach = reach if np.sign(-slope) == np.sign(to - end[0]) else to - end[0]
        most.append(np.array([end[0] + reach, max(0.0, end[1] + slope * reach)]))
    for k in range(len(known) - 1):
        before, after = slopes[k - 1] if k else np.inf, slopes[k + 1] if k + 2 < len(known) else -np.inf
        if np.isfinite(before) and np.isfinite(after) and before != after:
            z = (known[k + 1, 1] - known[k, 1] + before * known[k, 0] - after * known[k + 1, 0]) / (before - after)
            most.append(np.array([z, known[k, 1] + before * (z - known[k, 0])]))
        elif np.isfinite(before):
            most.append(np.array([known[k + 1, 0], known[k, 1] + before * SPACING[0]]))
        elif np.isfinite(after):
            most.append(np.array([known[k, 0], known[k + 1, 1] - after * SPACING[0]]))
    return known, np.array(most)


def reach_of(profile: Floats, half_axes: Sequence[float] | Floats, mm: Sequence[float]) -> Floats:
    """As `support`, of what has these sections."""
    flat = np.linalg.norm(NORMALS[:, :2] * half_axes[:2], axis=1)
    left, right, front, back, head, foot = mm
    kernel = np.where(NORMALS > 0, (left, back, head), (right, front, foot))
    own = (NORMALS[:, 2:] * profile[:, 0] + flat[:, None] * profile[:, 1]).max(axis=1)
    return own + np.linalg.norm(NORMALS * kernel, axis=1)


def cut(half_axes: Sequence[float] | Floats, grid: Geometry) -> list[float]:
    """Heights of the slices on which an ellipsoid has contours."""
    heights = [float(grid.points((k, 0, 0))[2]) for k in range(grid.shape[0])]
    return [z for z in heights if abs(z) < half_axes[2]]


def drawn(half_axes: Sequence[float] | Floats, grid: Geometry) -> Field | None:
    """The same from contours on its slices, as a person would draw it."""
    turn = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    loops = []
    for z in cut(half_axes, grid):
        share = np.sqrt(1 - (z / half_axes[2]) ** 2)
        xy = [share * half_axes[0] * np.cos(turn), share * half_axes[1] * np.sin(turn)]
        loops.append(Loop(np.column_stack([*xy, np.full(len(turn), z)])))
    return field_of_structure(Structure("Drawn", drawn=tuple(loops)), grid)


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
    began = time.process_time()
    made = grown(field, grid, tuple(mm))
    seconds = time.process_time() - began
    loops = loops_of_field(made)
    points = np.concatenate([loop.points for loop in loops])
    equal = len(set(mm)) == 1
    found: dict[str, Any] = {"diameter": diameter, "from": source, "shrinks": shrinks, "equal": equal, "s": seconds}
    if shrinks:
        apart = shrunk_off(points, diameter / 2, mm)
    else:
        heights = [float(grid.points((k, 0, 0))[2]) for k in range(counts[0])]
        reach = support(half_axes, mm)
        apart = off(points, reach)
        true = sum(area(z, reach) for z in heights)
        found["contours"] = sum(shapely.Polygon(loop.points[:, :2]).area for loop in loops) / true - 1
        found["field"] = sum(area_inside(plane) for plane in made.volume.array) * SPACING[1] * SPACING[2] / true - 1
        if source == "contours":
            ends = (reach_of(profile, half_axes, mm) for profile in profiles(cut(half_axes, grid), half_axes))
            found["known"] = [sum(area(z, end) for z in heights) / true - 1 for end in ends]
    return found | {"mean": float(np.abs(apart).mean()), "bias": float(apart.mean()), "worst": float(np.abs(apart).max())}


def summary(trials: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of trials alike."""
    out: dict[str, Any] = {
        "trials": len(trials),
        "mean_distance_mm": round(float(np.mean([t["mean"] for t in trials])), 3),
        "largest_mean_distance_mm": round(max(t["mean"] for t in trials), 3),
        "worst_distance_mm": round(max(t["worst"] for t in trials), 3),
        "within_reach_of_distance": round(float(np.mean([t["mean"] <= 0.15 and t["worst"] <= 0.5 for t in trials])), 3),
        "s_equal": _mean([t["s"] for t in trials if t["equal"]], 3),
        "s_by_side": _mean([t["s"] for t in trials if not t["equal"]], 3),
    }
    for what in ("field", "contours"):
        if errors := [100 * abs(t[what]) for t in trials if what in t]:
            out[f"volume_of_{what}"] = {
                "mean_error_percent": _mean(errors, 3),
                "largest_error_percent": round(max(errors), 2),
                "within_half_a_percent": _mean([error <= REACH for error in errors], 3),
            }
    if known := [t for t in trials if "known" in t]:
        low, high = (100 * np.array([t["known"][n] for t in known]) for n in (0, 1))
        out["volume_that_contours_leave_open_percent"] = {
            "least": _mean(low, 2),
            "most": _mean(high, 2),
            "of_positions_wider_than_the_reach": _mean(high - low > 2 * REACH, 3),
        }
    return out


def _mean(values: Any, digits: int) -> float | None:
    return round(float(np.mean(values)), digits) if len(values) else None


def main() -> None:
    """All trials, by what the margin was made from and by size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, help="so many, and nothing written")
    asked = parser.parse_args()
    found = [t for n in range(asked.trials or TRIALS) if (t := trial(n)) is not None]
    figures: dict[str, Any] = {
        "reach": "volume within 0.5 %, distance to the true surface at most 0.15 mm mean, 0.5 mm worst",
        "spacing_mm": SPACING,
        "said": "from distances: the exact signed distance at voxel centres, clipped at 9 mm; from contours: outlines on "
        "the slices alone. left open: volume of the least and the most that is convex and has these contours, grown",
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
