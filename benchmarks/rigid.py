"""Rigid registration: how often it is right, by intensity and by features, on pairs of known truth.

python benchmarks/rigid.py                        every trial: an hour and more on two cores
python benchmarks/rigid.py --trials 4             a quick look: four of each kind, nothing written
python benchmarks/rigid.py --only features        one kind alone; its row replaces the one that is recorded
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import peers
from benchmarks.known import Pair, cropped_pair, ct_mr_pair, head_neck_ct, head_neck_patients, rigid_pair
from benchmarks.record import DATA, RESULTS, record
from patient.errors import NotTrusted
from registration.features import RigidByFeatures
from registration.method import Method, RegistrationContext
from registration.rigid import RigidByIntensity
from registration.transforms import Affine, Points, Rigid, Space

LARGEST_MM, LARGEST_DEGREES = 20.0, 10.0
"""Of the moves that are to be found."""
LONG_MM = 200.0
"""A patient whose image is cropped in two must show at least so much of its length."""


@dataclass(frozen=True)
class Kind:
    """One row of the table.

    Args:
        trials: how many.
        mm, degrees: what counts as right, at the middle of the landmarks.
        make: the pair of a trial.
        method: ours.
        peer: one of `peers.NAMES`, tried on the first `peer_trials`; empty for none.
        peer_trials: how many of the same pairs the peer is given.
    """

    trials: int
    mm: float
    degrees: float
    make: Callable[[int], Pair]
    method: Method
    peer: str = "simpleitk_rigid"
    peer_trials: int = 40


@dataclass(frozen=True)
class Trial:
    """How far an answer is off; None where the method refused to give one."""

    pair: str
    seconds: float
    mm: float | None = None
    degrees: float | None = None
    refused: str = ""


def _long_patients() -> list[Path]:
    found = []
    for folder in head_neck_patients():
        volume, _ = head_neck_ct(folder)
        if ((volume.array > -500).mean(axis=(1, 2)) > 0.01).sum() * volume.geometry.spacing[0] >= LONG_MM:
            found.append(folder)
    return found


def kinds() -> dict[str, Kind]:
    """Every row by name."""
    patients, long = head_neck_patients(), _long_patients()

    def whole(n: int) -> Pair:
        return rigid_pair(patients[n % len(patients)], n, LARGEST_MM, LARGEST_DEGREES)

    def part(n: int) -> Pair:
        return cropped_pair(long[n % len(long)], n)

    return {
        "features": Kind(200, 3.0, 1.0, part, RigidByFeatures()),
        "intensity": Kind(200, 1.5, 0.5, whole, RigidByIntensity()),
        "ct_mr": Kind(50, 2.0, 1.0, ct_mr_pair, RigidByIntensity(), peer_trials=10),
    }


def off(pair: Pair, moving_points: Points) -> tuple[float, float]:
    """mm at the middle of the landmarks, and degrees, between where the landmarks are put and where they are."""
    found, true = (_rigid_part(pair.fixed_points, points) for points in (moving_points, pair.moving_points))
    middle = pair.fixed_points.mean(axis=0)
    apart = found.points(middle, found.source) - true.points(middle, true.source)
    return float(np.linalg.norm(apart)), float(Rigid(found.matrix @ np.linalg.inv(true.matrix), AT, AT).degrees())


AT = Space("landmarks")


def _rigid_part(a: Points, b: Points) -> Rigid:
    """The rigid map that takes points a nearest to b (Kabsch 1976)."""
    middle_a, middle_b = a.mean(axis=0), b.mean(axis=0)
    u, _, vt = np.linalg.svd((a - middle_a).T @ (b - middle_b))
    turn = vt.T @ np.diag((1, 1, np.linalg.det(vt.T @ u.T))) @ u.T
    return Rigid.of(turn, middle_b - turn @ middle_a, AT, AT)


def ours(pair: Pair, method: Method) -> Trial:
    """One trial of a method of ours."""
    context = RegistrationContext(fixed_mask=pair.fixed_masks["Body"], moving_mask=pair.moving_masks["FieldOfView"])
    began = time.perf_counter()
    try:
        found = method.fit(pair.fixed, pair.moving, context).moving_from_fixed
    except NotTrusted as refusal:
        return Trial(pair.name, time.perf_counter() - began, refused=str(refusal))
    assert isinstance(found, Affine)
    seconds = time.perf_counter() - began
    return Trial(pair.name, seconds, *off(pair, found.points(pair.fixed_points, Space.of(pair.fixed.geometry))))


def theirs(pair: Pair, peer: str) -> Trial:
    """One trial of a peer."""
    try:
        answer = peers.run(peer, pair)
    except RuntimeError as error:
        return Trial(pair.name, 0.0, refused=str(error))
    return Trial(pair.name, answer.seconds, *off(pair, answer.moving_points))


def row(kind: Kind, trials: list[Trial]) -> dict[str, Any]:
    """What the trials of one method come to."""
    found = [(t.mm, t.degrees) for t in trials if t.mm is not None and t.degrees is not None]
    right = sum(mm <= kind.mm and degrees <= kind.degrees for mm, degrees in found)
    mm, degrees = (np.array(values) for values in zip(*found, strict=True)) if found else (np.zeros(0), np.zeros(0))
    return {
        "trials": len(trials),
        "right": right,
        "share_right": round(right / len(trials), 4),
        "refused": sum(bool(t.refused) for t in trials),
        "wrong_and_not_refused": len(found) - right,
        "mm": {str(q): round(float(np.percentile(mm, q)), 2) for q in (50, 95, 100)} if found else None,
        "degrees": {str(q): round(float(np.percentile(degrees, q)), 2) for q in (50, 95, 100)} if found else None,
        "seconds_median": round(float(np.median([t.seconds for t in trials])), 2),
    }


def table(name: str, kind: Kind, trials: int, peer_trials: int) -> dict[str, Any]:
    """Ours, and the peer on the first of the same pairs."""
    mine: list[Trial] = []
    other: list[Trial] = []
    for n in range(trials):
        pair = kind.make(n)
        mine.append(ours(pair, kind.method))
        if kind.peer and n < peer_trials:
            other.append(theirs(pair, kind.peer))
        print(f"{name} {n}: {json.dumps([asdict(t) for t in (*mine[-1:], *other[n:])])}", file=sys.stderr, flush=True)
    out: dict[str, Any] = {"right_is": {"mm": kind.mm, "degrees": kind.degrees}, "recontour": row(kind, mine)}
    return {**out, kind.peer: row(kind, other)} if other else out


def whole(trials: int | None, only: str | None) -> None:
    """The tables; written only where no trial was left out."""
    chosen = {name: kind for name, kind in kinds().items() if only in (None, name)}
    tables = {
        name: table(name, kind, trials or kind.trials, min(kind.peer_trials, trials or kind.trials))
        for name, kind in chosen.items()
    }
    if trials is not None:
        print(json.dumps(tables, indent=1))
        return
    path = RESULTS / "rigid.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    kept = {name: before[name] for name in kinds() if name in before}
    moves = {"moves_up_to": {"mm": LARGEST_MM, "degrees": LARGEST_DEGREES}}
    record("rigid", {"peers": peers.versions(), **moves, **kept, **tables})


if __name__ == "__main__":
    if not DATA.is_dir():
        print(f"REAL PATIENTS ARE NOT THERE ({DATA}): nothing measured")
    else:
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--trials", type=int, help="so many of each kind; nothing is written")
        parser.add_argument("--only", choices=("features", "intensity", "ct_mr"))
        given = parser.parse_args()
        whole(given.trials, given.only)
