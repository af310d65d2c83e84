"""How well a model contours patients that it never saw, at their native grid, through the engine that a night uses.

python benchmarks/networks.py MODEL CASES [--into-card] [--record NAME]
MODEL is a model folder, CASES a folder as `benchmarks/headneck_cases.py` writes them. `--into-card` puts the scores into the
card; NAME is that of the result's file.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.headneck_cases import BITS
from benchmarks.record import record
from contour.cases import TrainingCase, read_cases
from contour.checks import wrong_side
from contour.confidence import Example, Features
from contour.engine import Context, Finding
from contour.evaluate import NotCompared, Slices, between_ends, compare
from contour.model import Score, read_card, write_card
from contour.network import NetworkEngine
from contour.patches import other_side
from contour.unet_model import load
from patient.geometry import Geometry
from patient.volume import Mask, Volume

TOLERANCE = 3.0
OPEN_ENDED = ("SpinalCord", "Esophagus")
"""Scored between the first and last slice that the clinic drew: it stops where the treated region stops."""
WANTED = {
    "Brainstem": 0.81, "SpinalCord": 0.83, "Parotid_L": 0.81, "Parotid_R": 0.81, "Bone_Mandible": 0.83,
    "Larynx": 0.70, "Esophagus": 0.64,
}  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """One structure of one patient; a structure that was not found has a Dice and a surface Dice of 0 and no distance."""

    patient: str
    structure: str
    dice: float
    surface_dice: float
    hd95: float | None
    seconds: float
    dice_between_ends: float = 0.0
    features: Features | None = None
    confidence: float | None = None
    flagged: bool = True
    slices: Slices | None = None

    @property
    def example(self) -> Example | None:
        return Example(self.patient, self.structure, self.features, self.dice) if self.features is not None else None


def measured(engine: NetworkEngine, case: TrainingCase) -> Iterator[Measured]:
    """Every structure that the clinic drew in a patient and the model offers."""
    grid = Geometry(case.hu.shape, case.spacing)  # type: ignore[arg-type]
    asked = [name for name in engine.offers() if name in case.known]
    began = time.monotonic()
    seen = engine.look(Volume(case.hu, grid), asked, Context())
    for name in asked:
        answer = seen if isinstance(seen, str) else seen.answer(name)
        seconds = time.monotonic() - began
        if isinstance(seen, str) or not isinstance(answer, Finding):
            yield Measured(case.name, name, 0.0, 0.0, None, seconds)
            continue
        truth = Volume(case.mask(name, BITS), grid)
        mask = answer.field.mask()
        ended = between_ends(mask, truth)
        agreed = compare(ended if name in OPEN_ENDED else mask, truth, TOLERANCE)
        features = seen.features(name, cut=any(f.code == "cut_by_field_of_view" for f in answer.flags))
        if isinstance(agreed, NotCompared):
            yield Measured(case.name, name, 0.0, 0.0, None, seconds, 0.0, features, answer.confidence)
            continue
        flagged = any(f.code in ("low_confidence", "wrong_side") for f in answer.flags)
        yield Measured(
            case.name,
            name,
            agreed.dice,
            agreed.surface_dice,
            agreed.hd95,
            seconds,
            _dice(ended, truth),
            features,
            answer.confidence,
            flagged,
            agreed.slices,
        )


def _dice(one: Mask, other: Mask) -> float:
    """Of a mask in its box and one on the whole grid."""
    both = np.logical_and(one.placed_in(other.geometry).array, other.array).sum()
    return float(2 * both / max(one.array.sum() + other.array.sum(), 1))


def scores(found: list[Measured]) -> dict[str, Score]:
    """Means by structure."""
    out = {}
    for name in sorted({m.structure for m in found}):
        of = [m for m in found if m.structure == name]
        distances = [m.hd95 for m in of if m.hd95 is not None]
        out[name] = Score(
            dice=round(float(np.mean([m.dice for m in of])), 3),
            surface_dice=round(float(np.mean([m.surface_dice for m in of])), 3),
            tolerance=TOLERANCE,
            hd95=round(float(np.mean(distances)), 2) if distances else None,
            patients=len(of),
        )
    return out


def spread(structure: str, found: list[Measured]) -> dict[str, object]:
    """What a structure's mean does not say: median, lowest ones by patient, how many were not found.

    And its Dice without what lies above and below the clinic's contours: where an organ ends is where clinics differ most.
    """
    of = [m for m in found if m.structure == structure]
    lowest = sorted(of, key=lambda m: m.dice)[:5]
    distances = [m.hd95 for m in of if m.hd95 is not None]
    return {
        "median_dice": round(float(np.median([m.dice for m in of])), 3),
        "lowest_dice": {m.patient: round(m.dice, 3) for m in lowest},
        "dice_between_the_clinics_ends": round(float(np.mean([m.dice_between_ends for m in of])), 3),
        "largest_hd95": round(max(distances), 2) if distances else None,
        "not_found": sum(m.hd95 is None for m in of),
        **_slices([m.slices for m in of if m.slices is not None]),
    }


def _slices(of: list[Slices]) -> dict[str, object]:
    """Of all patients: slices missing and extra, most of them in one, and the worst slice (mm)."""
    worst = [s.worst for s in of if s.worst is not None]
    return {
        "missing_slices": sum(s.missing for s in of),
        "most_missing_in_a_patient": max((s.missing for s in of), default=0),
        "extra_slices": sum(s.extra for s in of),
        "most_extra_in_a_patient": max((s.extra for s in of), default=0),
        "worst_slice_mm": round(max(worst), 1) if worst else None,
    }


def sides(cases: list[TrainingCase]) -> dict[str, int]:
    """On how many patients with a parotid the check of sides speaks up: as drawn, left and right exchanged, mirrored."""
    caught = {"patients": 0, "as_drawn": 0, "exchanged": 0, "mirrored": 0}
    for case in cases:
        drawn = {}
        for name in set(case.known) & set(WANTED):
            k, j, i = np.argwhere(case.mask(name, BITS)).mean(axis=0) * case.spacing
            drawn[name] = (float(i), float(j), float(k))
        if not any(name.startswith("Parotid") for name in drawn):
            continue
        width = case.hu.shape[2] * case.spacing[2]
        states = {
            "as_drawn": drawn,
            "exchanged": {other_side(name): place for name, place in drawn.items()},
            "mirrored": {name: (width - x, y, z) for name, (x, y, z) in drawn.items()},
        }
        caught["patients"] += 1
        for state, found in states.items():
            caught[state] += any(wrong_side(name, found) for name in found)
    return caught


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("cases", type=Path)
    parser.add_argument("--into-card", action="store_true")
    parser.add_argument("--record", default="networks")
    said = parser.parse_args()
    engine = NetworkEngine(load(said.model))
    cases = read_cases(said.cases)
    found = [m for case in cases for m in measured(engine, case)]
    reached = scores(found)
    card = read_card(said.model)
    if said.into_card:
        write_card(said.model, card.model_copy(update={"scores": reached}))
    patients = {m.patient: m.seconds for m in found}
    record(
        said.record,
        {
            "model": {"name": card.name, "version": card.version, "sha256": card.sha256},
            "patients": len(patients),
            "sides": sides(cases),
            "seconds_a_patient": round(float(np.mean(list(patients.values()))), 2),
            "structures": {
                name: score.model_dump() | {"wanted_dice": WANTED.get(name)} | spread(name, found)
                for name, score in reached.items()
            },
        },
    )  # fmt: skip
