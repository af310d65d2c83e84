"""Deformable registration: mm at landmarks of which it is known where they went, ours beside every peer.

python benchmarks/deformable.py              every pair and peer: some hours on two cores
python benchmarks/deformable.py --pairs 1    a quick look: one pair of each kind, nothing written
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import peers
from benchmarks.known import Pair, breathing_pair, head_neck_pair, head_neck_patients, timing_pair
from benchmarks.record import DATA, alone, record
from registration.transforms import Space, Transform, jacobian

OURS = "recontour"
HEAD_NECK_PAIRS, BREATHING_PAIRS = 12, 4
SLOW = ("simpleitk_bspline",)
"""Not run on the large pair: more than ten minutes."""


def pairs_of(kind: str) -> list[Callable[[], Pair]]:
    """What makes the pairs of one kind, the first ones first."""
    if kind == "head_neck":
        patients = head_neck_patients()[:: max(1, len(head_neck_patients()) // HEAD_NECK_PAIRS)]
        return [lambda p=p, n=n: head_neck_pair(p, n) for n, p in enumerate(patients[:HEAD_NECK_PAIRS])]
    if kind == "breathing":
        return [lambda n=n: breathing_pair(n) for n in range(BREATHING_PAIRS)]
    return [timing_pair]


def ours(kind: str, number: str) -> dict[str, Any]:
    """One pair by ours: rigid by intensity, then deformable, as a night does it. In a process of its own."""
    from registration.deformable import Deformable
    from registration.method import RegistrationContext
    from registration.rigid import RigidByIntensity
    from registration.transforms import Affine

    pair = pairs_of(kind)[int(number)]()
    peers.forget_peak()
    at_rest = peers.peak_mib()
    known = {"fixed_mask": pair.fixed_masks["Body"], "moving_mask": pair.moving_masks["FieldOfView"]}
    began = time.perf_counter()
    start = RigidByIntensity().fit(pair.fixed, pair.moving, RegistrationContext(**known)).moving_from_fixed
    assert isinstance(start, Affine)
    halfway = time.perf_counter()
    fit = Deformable().fit(pair.fixed, pair.moving, RegistrationContext(**known, start=start))
    ended = time.perf_counter()
    peak = peers.peak_mib()
    points = fit.moving_from_fixed.points(pair.fixed_points, Space.of(pair.fixed.geometry))
    return {
        **judged(pair, points, fit.moving_from_fixed),
        "seconds": round(ended - began, 1),
        "seconds_rigid": round(halfway - began, 1),
        "peak_mib": peak,
        "peak_mib_before": at_rest,
    }


def theirs(kind: str, number: str, peer: str) -> dict[str, Any]:
    """One pair by a peer."""
    pair = pairs_of(kind)[int(number)]()
    try:
        answer = peers.run(peer, pair)
    except RuntimeError as error:
        return {"failed": str(error)}
    figures = judged(pair, answer.moving_points, answer.moving_from_fixed)
    return {**figures, "seconds": answer.seconds, "peak_mib": answer.peak_mib}


def judged(pair: Pair, points: np.ndarray, moving_from_fixed: Transform) -> dict[str, Any]:
    """Distances (mm) at the landmarks, of all and of each group, before and after; folded voxels inside the body."""
    distances, before = pair.distances(points), pair.distances(pair.fixed_points)
    folded = (jacobian(moving_from_fixed, pair.fixed.geometry).array <= 0) & pair.fixed_masks["Body"].array
    return {
        "pair": pair.name,
        "before": _spread(before),
        "tre": _spread(distances),
        "groups": {name: _spread(distances[chosen]) for name, chosen in pair.groups.items() if chosen.any()},
        "folded_voxels": int(folded.sum()),
    }


def _spread(distances: np.ndarray) -> dict[str, float]:
    found = {"mean": distances.mean(), "median": np.median(distances), "p95": np.percentile(distances, 95)}
    return {name: round(float(value), 2) for name, value in found.items()}


def _row(results: list[dict[str, Any]]) -> dict[str, Any]:
    """One method over all pairs of a kind: landmarks of a pair together, then pairs alike."""
    done = [r for r in results if "tre" in r]
    failed = [r["failed"] for r in results if "failed" in r]
    if not done:
        return {"pairs": 0, "failed": failed}
    names = sorted({name for r in done for name in r["groups"]})
    return {
        "pairs": len(done),
        "tre_mean": round(mean(r["tre"]["mean"] for r in done), 2),
        "tre_median": round(median(r["tre"]["median"] for r in done), 2),
        "tre_p95": round(mean(r["tre"]["p95"] for r in done), 2),
        "tre_worst_pair": round(max(r["tre"]["median"] for r in done), 2),
        "groups_mean": {n: round(mean(r["groups"][n]["mean"] for r in done if n in r["groups"]), 2) for n in names},
        "folded_voxels": sum(r["folded_voxels"] for r in done),
        "seconds": round(median(r["seconds"] for r in done), 1),
        "peak_mib": max(r["peak_mib"] for r in done),
        **({"failed": failed} if failed else {}),
    }


def table(kind: str, count: int, methods: tuple[str, ...]) -> dict[str, Any]:
    """Every method on the first `count` pairs of a kind, each alone on the machine."""
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in methods}
    for number in range(min(count, len(pairs_of(kind)))):
        for name in methods:
            try:
                part = ("ours", kind, str(number)) if name == OURS else ("theirs", kind, str(number), name)
                result = alone(str(Path(__file__)), *part)
            except RuntimeError as error:
                result = {"failed": str(error).strip().splitlines()[-1]}
            print(f"{kind} {number} {name}: {json.dumps(result)}", file=sys.stderr, flush=True)
            rows[name].append(result)
    starts = [
        r["before"]["mean"] for r in max(rows.values(), key=lambda found: sum("before" in r for r in found)) if "before" in r
    ]
    before = round(mean(starts), 2) if starts else None
    return {"before_mean": before, **{name: _row(results) for name, results in rows.items()}}


def whole(count: int | None, methods: tuple[str, ...]) -> None:
    """The tables; written only where nothing was left out."""
    figures = {
        "peers": peers.versions(),
        "unit": "mm at landmarks; rows are over pairs: mean of means, median of medians, mean of 95th percentiles",
        "head_neck": table("head_neck", count or HEAD_NECK_PAIRS, methods),
        "breathing": table("breathing", count or BREATHING_PAIRS, methods),
    }
    if count is not None:
        print(json.dumps(figures, indent=1))
        return
    quick = tuple(name for name in methods if name not in SLOW)
    record("deformable", {**figures, "512x512x200": table("timing", 1, quick)})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, help="so many of each kind; nothing is written")
    parser.add_argument("--methods", nargs="+", default=[OURS, *peers.NAMES], choices=[OURS, *peers.NAMES])
    return parser.parse_args()


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] in ("ours", "theirs"):
        print(json.dumps({"ours": ours, "theirs": theirs}[sys.argv[1]](*sys.argv[2:])))
    elif not DATA.is_dir():
        print(f"REAL PATIENTS ARE NOT THERE ({DATA}): nothing measured")
    else:
        wanted = _arguments()
        whole(wanted.pairs, tuple(wanted.methods))
