"""Rigid registration: how often it is right, by intensity and by features, on pairs of known truth.

python benchmarks/rigid.py                        every trial: an hour and more on two cores
python benchmarks/rigid.py --trials 4             a quick look: four of each kind, nothing written
python benchmarks/rigid.py --only features        one kind alone; its rows replace those that are recorded
python benchmarks/rigid.py --who peer             the peer alone, on the same pairs; our rows stay as they are recorded
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import peers
from benchmarks.known import Pair, cropped_pair, ct_mr_pair, head_neck_ct, head_neck_patients, rigid_pair
from benchmarks.record import DATA, RESULTS, record
from patient.errors import NotTrusted
from registration.features import RigidByFeatures
from registration.method import Fit, RegistrationContext
from registration.quality import judged
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
        told: what the method is told beside the images.
        method: ours.
        peer: one of `peers.NAMES`, tried on the first `peer_trials`; empty for none.
        peer_trials: how many of the same pairs the peer is given.
        doubts: why an answer of ours is not trusted.
    """

    trials: int
    mm: float
    degrees: float
    make: Callable[[int], Pair]
    told: Callable[[Pair], RegistrationContext]
    method: RigidByIntensity | RigidByFeatures
    peer: str = "simpleitk_rigid"
    peer_trials: int = 40
    doubts: Callable[[Fit, Pair], tuple[str, ...]] = lambda fit, pair: ()


@dataclass(frozen=True)
class Trial:
    """How far an answer is off; None where the method refused to give one."""

    pair: str
    seconds: float
    mm: float | None = None
    degrees: float | None = None
    from_truth: Rigid | None = None
    refused: str = ""
    doubted: tuple[str, ...] = ()


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
        "features": Kind(200, 3.0, 1.0, part, _masks, RigidByFeatures()),
        "intensity": Kind(200, 1.5, 0.5, whole, _masks, RigidByIntensity()),
        "ct_mr": Kind(50, 2.0, 1.0, ct_mr_pair, _nothing_told, RigidByIntensity(), peer_trials=10, doubts=_doubts),
    }


def _masks(pair: Pair) -> RegistrationContext:
    return RegistrationContext(fixed_mask=pair.fixed_masks["Body"], moving_mask=pair.moving_masks["FieldOfView"])


def _nothing_told(pair: Pair) -> RegistrationContext:
    return RegistrationContext()


def _doubts(fit: Fit, pair: Pair) -> tuple[str, ...]:
    return judged(fit, pair.fixed, pair.moving, RegistrationContext()).verdict.reasons


def from_truth(pair: Pair, moving_points: Points) -> Rigid:
    """What is left between where the landmarks are put and where they are, seen in the fixed image, about their middle."""
    found, true = (Rigid.nearest(pair.fixed_points, points, AT, AT) for points in (moving_points, pair.moving_points))
    middle = Rigid.of(np.eye(3), pair.fixed_points.mean(axis=0), AT, AT)
    return Rigid(middle.inverse().matrix @ true.inverse().matrix @ found.matrix @ middle.matrix, AT, AT)


AT = Space("landmarks")


def _off(left: Rigid) -> tuple[float, float]:
    return float(np.linalg.norm(left.translation)), left.degrees()


def _answered(name: str, seconds: float, left: Rigid) -> Trial:
    return Trial(name, seconds, *_off(left), left)


def ours(pair: Pair, kind: Kind) -> Trial:
    """One trial of a method of ours."""
    began = time.perf_counter()
    try:
        fit = kind.method.fit(pair.fixed, pair.moving, kind.told(pair))
    except NotTrusted as refusal:
        return Trial(pair.name, time.perf_counter() - began, refused=str(refusal))
    seconds = time.perf_counter() - began
    found = fit.moving_from_fixed
    assert isinstance(found, Affine)
    points = found.points(pair.fixed_points, Space.of(pair.fixed.geometry))
    return replace(_answered(pair.name, seconds, from_truth(pair, points)), doubted=kind.doubts(fit, pair))


def theirs(pair: Pair, peer: str) -> Trial:
    """One trial of a peer."""
    try:
        answer = peers.run(peer, pair)
    except RuntimeError as error:
        return Trial(pair.name, 0.0, refused=str(error))
    return _answered(pair.name, answer.seconds, from_truth(pair, answer.moving_points))


def row(kind: Kind, trials: list[Trial]) -> dict[str, Any]:
    """What the trials of one method come to."""
    found = [(t.mm, t.degrees) for t in trials if t.mm is not None and t.degrees is not None]
    right = sum(mm <= kind.mm and degrees <= kind.degrees for mm, degrees in found)
    wrong = [t for t in trials if t.mm is not None and not (t.mm <= kind.mm and (t.degrees or 0.0) <= kind.degrees)]
    mm, degrees = (np.array(values) for values in zip(*found, strict=True)) if found else (np.zeros(0), np.zeros(0))
    return {
        **({"around_their_own_middle": _agreement(kind, trials)} if found else {}),
        "trials": len(trials),
        "right": right,
        "share_right": round(right / len(trials), 4),
        "refused": sum(bool(t.refused) for t in trials),
        "not_trusted": sum(bool(t.doubted) for t in trials),
        "said_to_be_ambiguous": sum(any("ambiguous" in why for why in t.doubted) for t in trials),
        "wrong_and_trusted": sum(not t.doubted for t in wrong),
        "mm": {str(q): round(float(np.percentile(mm, q)), 2) for q in (50, 95, 100)} if found else None,
        "degrees": {str(q): round(float(np.percentile(degrees, q)), 2) for q in (50, 95, 100)} if found else None,
        "seconds_median": round(float(np.median([t.seconds for t in trials])), 2),
    }


def _agreement(kind: Kind, trials: list[Trial]) -> dict[str, Any]:
    """Whether the answers are one answer, wherever it lies: how far each is from the one nearest to all others."""
    lefts = [t.from_truth for t in trials if t.from_truth is not None]
    offs = [[_off(Rigid(a.inverse().matrix @ b.matrix, AT, AT)) for b in lefts] for a in lefts]
    middle = min(range(len(lefts)), key=lambda n: sum(mm for mm, _ in offs[n]))
    mm, degrees = _off(lefts[middle])
    return {
        "share_right": round(float(np.mean([a <= kind.mm and b <= kind.degrees for a, b in offs[middle]])), 4),
        "middle_from_truth": {"mm": round(mm, 2), "degrees": round(degrees, 2)},
    }


WHO = ("recontour", "peer")


def table(name: str, kind: Kind, limit: int | None, who: tuple[str, ...]) -> dict[str, Any]:
    """Rows of ours and of the peer, which is given the first of the same pairs."""
    counts = {"recontour": kind.trials, "peer": kind.peer_trials}
    found: dict[str, list[Trial]] = {w: [] for w in who}
    for n in range(max(min(counts[w], limit or counts[w]) for w in who)):
        pair = kind.make(n)
        for w in who:
            if n < counts[w]:
                trial = ours(pair, kind) if w == "recontour" else theirs(pair, kind.peer)
                found[w].append(trial)
                print(f"{name} {n} {w}: {trial.mm} mm, {trial.degrees} degrees {trial.refused}", file=sys.stderr, flush=True)
    names = {"recontour": "recontour", "peer": kind.peer}
    return {"right_is": {"mm": kind.mm, "degrees": kind.degrees}, **{names[w]: row(kind, t) for w, t in found.items()}}


def whole(limit: int | None, only: str | None, who: tuple[str, ...]) -> None:
    """The tables; written only where no trial was left out."""
    versions = peers.versions()
    if "peer" in who and "absent" in (versions["simpleitk"],):
        raise SystemExit("The peers are not installed: see benchmarks/peers.sh, or measure with --who recontour")
    chosen = {name: kind for name, kind in kinds().items() if only in (None, name)}
    tables = {name: table(name, kind, limit, who) for name, kind in chosen.items()}
    if limit is not None:
        print(json.dumps(tables, indent=1))
        return
    path = RESULTS / "rigid.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    rows = {name: {**before.get(name, {}), **tables.get(name, {})} for name in kinds() if name in before or name in tables}
    named = versions if "peer" in who else before.get("peers", versions)
    record("rigid", {"peers": named, "moves_up_to": {"mm": LARGEST_MM, "degrees": LARGEST_DEGREES}, **rows})


if __name__ == "__main__":
    if not DATA.is_dir():
        print(f"REAL PATIENTS ARE NOT THERE ({DATA}): nothing measured")
    else:
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--trials", type=int, help="so many of each kind; nothing is written")
        parser.add_argument("--only", choices=("features", "intensity", "ct_mr"))
        parser.add_argument("--who", choices=WHO)
        given = parser.parse_args()
        whole(given.trials, given.only, (given.who,) if given.who else WHO)
