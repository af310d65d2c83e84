"""Calibrates a model's confidence by cross-validation, and measures how well it ranks patients that it never saw.

python benchmarks/confidence.py MODEL VALIDATION CALIBRATION [CALIBRATION ...]
The formula and its threshold come from the calibration patients alone (each predicted by a formula that left it out) and are
written into the model's card; the validation patients are only measured. Patients that the network was trained on may be
among those calibrated on where it contours them little better than others (`benchmarks/networks.py` says so).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.networks import Measured, measured
from benchmarks.record import record
from contour.cases import read_cases
from contour.confidence import Example, calibrated, predicted
from contour.model import read_card, write_card
from contour.network import NetworkEngine
from contour.unet_model import load

BAD = 0.6
"""Dice below which a contour must be flagged."""
CAUGHT = 0.9
"""Share of the bad ones that the threshold catches on the calibration patients."""
SPARED = 0.85
"""Share of the good ones that it leaves alone there, where both cannot be had: this one counts."""

FOLDS = 10
"""Parts of the calibration patients, each predicted from the others."""


def left_out(examples: list[Example]) -> list[float]:
    """Each example's Dice as a formula predicts it that never saw its patient."""
    parts = {p: n % FOLDS for n, p in enumerate(sorted({e.patient for e in examples}))}
    formulas = [calibrated([e for e in examples if parts[e.patient] != n], 0.0) for n in range(FOLDS)]
    return [predicted(e.features, e.structure, formulas[parts[e.patient]]) for e in examples]


def threshold(said: list[float], dice: list[float]) -> float:
    """Predicted Dice below which clinical review is required: catches the bad ones where that spares most of the good
    ones."""
    bad, good = (np.array([p for p, d in zip(said, dice, strict=True) if (d < BAD) == is_bad]) for is_bad in (True, False))
    most = float(np.quantile(good, 1 - SPARED))
    return round(min(most, float(np.quantile(bad, CAUGHT)) + 0.01) if len(bad) >= 5 else most, 3)


def figures(said: list[float], dice: list[float], at: float) -> dict[str, float | int | None]:
    """How predictions rank true Dice, and what a threshold flags."""
    p, d = np.array(said), np.array(dice)
    bad, good = p[d < BAD], p[d >= BAD]
    return {
        "findings": len(p),
        "spearman": round(float(spearmanr(p, d).statistic), 3),
        "mean_error": round(float(np.abs(p - d).mean()), 3),
        "threshold": at,
        "bad": len(bad),
        "bad_flagged": round(float((bad < at).mean()), 3) if len(bad) else None,
        "good_flagged": round(float((good < at).mean()), 3),
    }


def examples_of(found: list[Measured]) -> list[Example]:
    """Those that were found: what was not found is said to be missing, and needs no score."""
    return [m.example for m in found if m.example is not None]


if __name__ == "__main__":
    model, validation, *calibration = (Path(a) for a in sys.argv[1:])
    engine = NetworkEngine(load(model))
    known = examples_of([m for folder in calibration for case in read_cases(folder) for m in measured(engine, case)])
    crossed, dice = left_out(known), [e.dice for e in known]
    at = threshold(crossed, dice)
    formula = calibrated(known, at)
    write_card(model, read_card(model).model_copy(update={"confidence": formula}))
    others = examples_of([m for case in read_cases(validation) for m in measured(engine, case)])
    said = [predicted(e.features, e.structure, formula) for e in others]
    record(
        "confidence",
        {
            "formula": formula.model_dump(),
            "calibration, patients left out": figures(crossed, dice, at),
            "validation": figures(said, [e.dice for e in others], at),
        },
    )
