"""Deformable registration: mm at landmarks of which it is known where they went, ours beside every peer.

python benchmarks/deformable.py                      every pair and peer: an hour and more on two cores
python benchmarks/deformable.py --only breathing     one kind alone
python benchmarks/deformable.py --methods recontour  ours alone; the peers' rows stay as they are recorded
python benchmarks/deformable.py --untimed            on a busy machine: seconds and memory stay as they are recorded
python benchmarks/deformable.py --pairs 1            a quick look: one pair of each kind, nothing written
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import peers
from benchmarks.known import Pair, breathing_pair, head_neck_pair, head_neck_patients, timing_pair
from benchmarks.record import DATA, RESULTS, alone, record
from registration.transforms import Space, Transform, jacobian

OURS = "recontour"
KINDS = {"head_neck": 5, "breathing": 2, "timing": 1}
"""How many pairs of each; "timing" is one of 512 x 512 x 200 voxels."""
LIMIT = 900.0
"""Seconds that a peer is given for a pair."""
TRIES = 3
"""Some peers draw at random, and now and then lose the way: who ends farther off than it began is tried again."""
SLOW = (("timing", "simpleitk_bspline"), ("timing", "simpleitk_demons"))
"""Not run: more than ten minutes."""


def pairs_of(kind: str) -> list[Callable[[], Pair]]:
    """What makes the pairs of one kind, the first ones first."""
    if kind == "head_neck":
        patients = head_neck_patients()[:: max(1, len(head_neck_patients()) // KINDS["head_neck"])]
        return [lambda p=p, n=n: head_neck_pair(p, n) for n, p in enumerate(patients[: KINDS["head_neck"]])]
    if kind == "breathing":
        return [lambda n=n: breathing_pair(n) for n in range(KINDS["breathing"])]
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
    context = RegistrationContext(fixed_mask=pair.fixed_masks["Body"], moving_mask=pair.moving_masks["FieldOfView"])
    began = time.perf_counter()
    start = RigidByIntensity().fit(pair.fixed, pair.moving, context).moving_from_fixed
    assert isinstance(start, Affine)
    halfway = time.perf_counter()
    fit = Deformable().fit(pair.fixed, pair.moving, replace(context, start=start))
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
        answer = peers.run(peer, pair, LIMIT)
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
        "tre_mean_each": {r["pair"]: r["tre"]["mean"] for r in done},
        "groups_mean": {n: round(mean(r["groups"][n]["mean"] for r in done if n in r["groups"]), 2) for n in names},
        "folded_voxels": sum(r["folded_voxels"] for r in done),
        "seconds": round(median(r["seconds"] for r in done), 1),
        "peak_mib": max(r["peak_mib"] for r in done),
        **({"lost_tries": lost} if (lost := sum(r.get("lost", 0) for r in done)) else {}),
        **({"failed": failed} if failed else {}),
    }


def _untimed(row: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """A row whose seconds and memory are those of an earlier run, with the number of pairs that they are over."""
    quality = {name: value for name, value in row.items() if name not in ("seconds", "peak_mib")}
    if "seconds" not in before:
        return quality
    pairs = before.get("timed_pairs", before["pairs"])
    return quality | {"seconds": before["seconds"], "peak_mib": before["peak_mib"], "timed_pairs": pairs}


def one(kind: str, number: int, method: str) -> dict[str, Any]:
    """One method on one pair, alone in its process."""
    part = ("ours", kind, str(number)) if method == OURS else ("theirs", kind, str(number), method)
    for lost in range(1 if method == OURS else TRIES):
        try:
            found = {**alone(str(Path(__file__)), *part), "lost": lost}
        except RuntimeError as error:
            found = {"failed": str(error).strip().splitlines()[-1]}
        if "tre" not in found or found["tre"]["mean"] <= found["before"]["mean"]:
            break
    print(f"{kind} {number} {method}: {json.dumps(found)}", file=sys.stderr, flush=True)
    return found


def whole(counts: dict[str, int], methods: tuple[str, ...], keep: bool, timed: bool) -> None:
    """The tables, written after every pair, so that a run that is cut short leaves what it measured.

    Args:
        counts: kind -> pairs.
        methods: those that are run; the other rows stay as they are recorded.
        keep: whether anything is written.
        timed: False where other work takes a part of the machine.
    """
    path = RESULTS / "deformable.json"
    before = json.loads(path.read_text(encoding="utf-8")) if keep and path.exists() else {}
    figures: dict[str, Any] = {
        "peers": {**before.get("peers", {}), **{name: v for name, v in peers.versions().items() if v != "absent"}},
        "unit": "mm at landmarks; rows are over pairs: mean of means, median of medians, mean of 95th percentiles",
        **{kind: before[kind] for kind in KINDS if kind in before},
    }
    for kind, count in counts.items():
        chosen = [m for m in methods if (kind, m) not in SLOW]
        results: dict[str, list[dict[str, Any]]] = {name: [] for name in chosen}
        for number in range(min(count, len(pairs_of(kind)))):
            for name in chosen:
                results[name].append(one(kind, number, name))
            starts = [
                r["before"]["mean"] for r in max(results.values(), key=lambda v: sum("tre" in r for r in v)) if "tre" in r
            ]
            rows = {name: _row(found) for name, found in results.items()}
            if not timed:
                rows = {name: _untimed(row, before.get(kind, {}).get(name, {})) for name, row in rows.items()}
            known = {name: row for name, row in before.get(kind, {}).items() if name not in chosen}
            figures[kind] = known | {"before_mean": round(mean(starts), 2) if starts else None} | rows
            if keep:
                record("deformable", figures)
    if not keep:
        print(json.dumps(figures, indent=1))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, help="so many of each kind; nothing is written")
    parser.add_argument("--only", choices=KINDS, help="one kind alone; the others stay as they are recorded")
    parser.add_argument("--methods", nargs="+", default=[OURS, *peers.NAMES], choices=[OURS, *peers.NAMES])
    parser.add_argument("--untimed", action="store_true", help="seconds and memory stay as they are recorded")
    return parser.parse_args()


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] in ("ours", "theirs"):
        print(json.dumps({"ours": ours, "theirs": theirs}[sys.argv[1]](*sys.argv[2:])))
    elif not DATA.is_dir():
        print(f"REAL PATIENTS ARE NOT THERE ({DATA}): nothing measured")
    else:
        wanted = _arguments()
        counts = {k: wanted.pairs or n for k, n in KINDS.items() if wanted.only in (None, k)}
        whole(counts, tuple(wanted.methods), wanted.pairs is None, not wanted.untimed)
