"""Rigid registration: how often it is right, by intensity and by features, on pairs of known truth, and what it refuses.

python benchmarks/rigid.py              every pair
python benchmarks/rigid.py --pairs 2    a quick look: two of each kind, nothing written
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import peers
from benchmarks.known import (
    Pair,
    cropped_pair,
    ct_mr_pair,
    head_neck_ct,
    head_neck_pair,
    head_neck_patients,
    rigid_pair,
    wrong_pairs,
)
from benchmarks.record import DATA, alone, record
from patient.errors import NotTrusted
from registration.method import Method, RegistrationContext
from registration.transforms import Affine, Space

RIGHT_MM = 2.0
"""Right is what leaves less than this at the landmarks, in the mean, beyond what the best rigid transform leaves."""
PAIRS = 12
LONG_MM = 200.0
"""A patient whose image is cropped in two must show at least so much of its length."""


def _long_patients() -> list[Path]:
    found = []
    for folder in head_neck_patients():
        volume, _ = head_neck_ct(folder)
        if ((volume.array > -500).mean(axis=(1, 2)) > 0.01).sum() * volume.geometry.spacing[0] >= LONG_MM:
            found.append(folder)
    return found


def pairs_of(kind: str, count: int) -> list[Callable[[], Pair]]:
    """What makes the pairs of one kind."""
    patients = head_neck_patients()
    if kind == "rigid":
        return [lambda n=n: rigid_pair(patients[n * 2 % len(patients)], n) for n in range(count)]
    if kind == "bent":
        return [lambda n=n: head_neck_pair(patients[n * 2 % len(patients)], n) for n in range(count)]
    if kind == "cropped":
        long = _long_patients()
        return [lambda n=n: cropped_pair(long[n % len(long)], n) for n in range(count)]
    if kind == "ct_mr":
        return [lambda n=n: ct_mr_pair(n) for n in range(count)]
    return [lambda n=n, which=which: wrong_pairs(n)[which] for n in range(count) for which in range(3)]


KINDS = ("rigid", "bent", "cropped", "ct_mr")


def _method(name: str) -> Method:
    if name == "intensity":
        from registration.rigid import RigidByIntensity

        return RigidByIntensity()
    from registration.features import RigidByFeatures

    return RigidByFeatures()


def _best_rigid(pair: Pair) -> float:
    """mm: the mean that the best rigid transform leaves at the landmarks (Kabsch 1976)."""
    a, b = (points - points.mean(axis=0) for points in (pair.fixed_points, pair.moving_points))
    u, _, vt = np.linalg.svd(a.T @ b)
    turn = vt.T @ np.diag((1, 1, np.linalg.det(vt.T @ u.T))) @ u.T
    return float(np.linalg.norm(a @ turn.T - b, axis=-1).mean())


def _ours(pair: Pair, name: str) -> dict[str, Any]:
    context = RegistrationContext(fixed_mask=pair.fixed_masks["Body"], moving_mask=pair.moving_masks["FieldOfView"])
    peers.forget_peak()
    began = time.perf_counter()
    try:
        fit = _method(name).fit(pair.fixed, pair.moving, context)
    except NotTrusted as refusal:
        return {"refused": str(refusal), "seconds": round(time.perf_counter() - began, 2)}
    seconds = round(time.perf_counter() - began, 2)
    evidence = fit.evidence
    out: dict[str, Any] = {
        "seconds": seconds,
        "peak_mib": peers.peak_mib(),
        "matches": evidence.matches,
        "inliers": evidence.inliers,
    }
    if pair.truth is not None:
        at = fit.moving_from_fixed.points(pair.fixed_points, Space.of(pair.fixed.geometry))
        out["tre"] = round(float(pair.distances(at).mean()), 3)
        out["off"] = _off(pair, at)
    return out


def _off(pair: Pair, moving_points: np.ndarray) -> list[float]:
    """How far, and where to (x, y, z in the fixed image), the landmarks' mean is put from where the truth has it."""
    assert pair.truth is not None
    home = pair.truth.inverse().points(moving_points, pair.truth.target) if isinstance(pair.truth, Affine) else moving_points
    return [round(float(mm), 2) for mm in (home - pair.fixed_points).mean(axis=0)]


def part(kind: str, count: str, name: str) -> dict[str, Any]:
    """One method on all pairs of a kind, in a process of its own."""
    rows = []
    for make in pairs_of(kind, int(count)):
        pair = make()
        if name in ("intensity", "features"):
            row = _ours(pair, name)
        else:
            try:
                answer = peers.run(name, pair)
                row = {"seconds": answer.seconds, "peak_mib": answer.peak_mib}
                if pair.truth is not None:
                    row["tre"] = round(float(pair.distances(answer.moving_points).mean()), 3)
                    row["off"] = _off(pair, answer.moving_points)
            except RuntimeError as error:
                row = {"failed": str(error), "seconds": 0.0}
        least = _best_rigid(pair) if pair.truth is not None else None
        rows.append({"pair": pair.name, "least": None if least is None else round(least, 3), **row})
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return {"rows": rows}


def _success(found: dict[str, Any]) -> dict[str, Any]:
    rows = found["rows"]
    answered = [r for r in rows if "tre" in r]
    right = [r for r in answered if r["tre"] < RIGHT_MM + r["least"]]
    return {
        "pairs": len(rows),
        "right": len(right),
        "wrong_and_not_refused": len(answered) - len(right),
        "refused": sum("refused" in r for r in rows),
        "failed": sum("failed" in r for r in rows),
        "tre_median": round(median(r["tre"] for r in answered), 2) if answered else None,
        "tre_p95": round(float(np.percentile([r["tre"] for r in answered], 95)), 2) if answered else None,
        "least_possible_median": round(median(r["least"] for r in rows), 2),
        "seconds": round(median(r["seconds"] for r in rows), 2),
        "peak_mib": max((r["peak_mib"] for r in rows if "peak_mib" in r), default=None),
    }


def _agreement(found: dict[str, Any]) -> dict[str, Any]:
    """CT and MR: whether one answer comes from every start. The headers' own agreement is no truth here.

    The two images of that patient carry the same contour, copied, but their bone lies several mm apart: what is counted
    is how far each answer is from the answers' median.
    """
    offs = np.array([r["off"] for r in found["rows"] if "off" in r])
    if not len(offs):
        return _success(found)
    middle = np.median(offs, axis=0)
    apart = np.linalg.norm(offs - middle, axis=1)
    return {
        "pairs": len(found["rows"]),
        "within_mm_of_the_median_answer": int((apart < RIGHT_MM).sum()),
        "apart_median": round(float(np.median(apart)), 2),
        "apart_worst": round(float(apart.max()), 2),
        "median_answer_from_headers_xyz": [round(float(mm), 2) for mm in middle],
        "refused": sum("refused" in r for r in found["rows"]),
        "seconds": round(median(r["seconds"] for r in found["rows"]), 2),
    }


def _refusals(found: dict[str, Any]) -> dict[str, Any]:
    """Of wrong pairs, how many the method itself refused; a turned patient may also be found right."""
    out: dict[str, dict[str, int]] = {}
    for row in found["rows"]:
        kind = row["pair"].rsplit("-", 1)[0]
        entry = out.setdefault(kind, {"pairs": 0, "refused": 0, "right": 0})
        entry["pairs"] += 1
        entry["refused"] += "refused" in row
        entry["right"] += "tre" in row and row["tre"] < RIGHT_MM + row["least"]
    return out


def _alone(kind: str, count: int, name: str) -> dict[str, Any]:
    try:
        return alone(str(Path(__file__)), "part", kind, str(count), name)
    except RuntimeError as error:
        return {"failed": str(error).strip().splitlines()[-1]}


def whole(count: int | None) -> None:
    """The tables; written only where nothing was left out."""
    pairs = count or PAIRS
    tables: dict[str, Any] = {}
    for kind in KINDS:
        tables[kind] = {}
        for name in ("intensity", "features", "simpleitk_rigid"):
            if (kind, name) == ("ct_mr", "features"):
                continue  # corners of a CT and of an MR are not the same corners
            found = _alone(kind, pairs, name)
            judge = _agreement if kind == "ct_mr" else _success
            tables[kind][name] = judge(found) if "rows" in found else found
    tables["refusals_by_the_method_itself"] = {}
    for name in ("intensity", "features"):
        found = _alone("wrong", max(1, pairs // 2), name)
        tables["refusals_by_the_method_itself"][name] = _refusals(found) if "rows" in found else found
    figures = {"right_is_mm_beyond_the_best_rigid": RIGHT_MM, "peers": peers.versions(), **tables}
    if count is None:
        record("rigid", figures)
    else:
        print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    if sys.argv[1:2] == ["part"]:
        print(json.dumps(part(*sys.argv[2:])))
    elif not DATA.is_dir():
        print(f"REAL PATIENTS ARE NOT THERE ({DATA}): nothing measured")
    else:
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--pairs", type=int, help="so many of each kind; nothing is written")
        whole(parser.parse_args().pairs)
