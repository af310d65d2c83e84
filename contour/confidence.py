"""How far a network's contour may be trusted: a few plain features of what it found, and the Dice that they predict.

The prediction is one logistic formula whose numbers stand in the model's card: it can be checked by hand. It was fitted on
patients whom the network was not trained on or contours little better for it, and knows only what a contour looks like, not
where it should be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from contour.model import Calibration, Population

Floats = NDArray[np.float32]
NORMAL_95 = 1.96
WORST = 6.0
"""Standard deviations: what is more unusual is not worse."""
RIDGE_WEIGHT, RIDGE_STRUCTURE = 1.5, 15.0
"""What weights and a structure's own offset cost, times their square, beside the cross-entropy of all findings."""


@dataclass(frozen=True)
class Features:
    """What a finding looks like; each is 0 for a perfect one and grows as it becomes doubtful.

    Args:
        doubt: `-log` of the expected Dice, were the probabilities true (0 where every voxel is certain).
        wavering: `-log` of the mean probability inside.
        strange: standard deviations of the logarithm of its volume from the population's median, beyond the first.
        scattered: share of its voxels that lie apart from the piece that was kept.
        small: standard deviations of the logarithm of its volume below the population's median; 0 above it, and where the
            image cuts it.
    """

    doubt: float
    wavering: float
    strange: float
    scattered: float
    small: float = 0.0

    @staticmethod
    def of(
        values: Floats, kept: NDArray[np.bool_], voxel_cc: float, population: Population | None, *, cut: bool
    ) -> Features:
        """Of one structure on the network's grid.

        Args:
            values: probabilities.
            kept: the voxels that the structure was found to be; not empty.
            voxel_cc: volume of a voxel.
            population: None where it is not known.
            cut: the image ends within the structure, so that it may be smaller than usual.
        """
        inside = values > 0.5
        sure = float(values[inside].sum())
        doubt = -math.log(2 * sure / float(values.sum() + inside.sum()))
        volume = float(kept.sum()) * voxel_cc
        away = 0.0 if population is None else deviation(volume, population, cut=cut)
        strange = max(0.0, abs(away) - 1)
        apart = 1.0 - float(kept.sum()) / float(inside.sum())
        return Features(
            doubt, -math.log(sure / float(inside.sum())), min(WORST, strange), max(0.0, apart), min(WORST, max(0.0, -away))
        )


def deviation(volume_cc: float, population: Population, *, cut: bool = False) -> float:
    """Standard deviations of log volume from the population's median; 0 for a small one that the image cuts."""
    spread = math.log(population.high_cc / population.low_cc) / (2 * NORMAL_95)
    away = math.log(volume_cc / population.median_cc) / max(spread, 0.05)
    return 0.0 if cut and away < 0 else away


def predicted(features: Features, structure: str, calibration: Calibration) -> float:
    """The Dice that a finding is expected to reach; a structure that nobody calibrated has the others' mean offset."""
    known = calibration.intercepts
    at = known[structure] if structure in known else float(np.mean(list(known.values())))
    values = asdict(features)
    at += sum(weight * values[name] for name, weight in calibration.weights.items())
    return 1.0 / (1.0 + math.exp(-at))


@dataclass(frozen=True)
class Example:
    """A finding of a patient, and the Dice that it reached."""

    patient: str
    structure: str
    features: Features
    dice: float


def calibrated(seen: Sequence[Example], review_below: float) -> Calibration:
    """The formula that predicts these findings' Dice best: cross-entropy with a ridge, no weight above zero.

    A doubtful sign can then never raise a prediction, however few patients there were.

    Raises:
        ValueError: nothing to learn from.
    """
    if not seen:
        raise ValueError("no findings to calibrate on")
    names = list(asdict(seen[0].features))
    structures = sorted({s.structure for s in seen})
    x = np.array([[asdict(s.features)[n] for n in names] for s in seen])
    scale = np.maximum(x.std(axis=0), 1e-3)
    which = np.array([structures.index(s.structure) for s in seen])
    y = np.clip([s.dice for s in seen], 0.005, 0.995)

    def cost(at: NDArray[np.float64]) -> float:
        weights, common, own = at[: len(names)], at[len(names)], at[len(names) + 1 :]
        logits = x / scale @ weights + common + own[which]
        entropy = np.logaddexp(0, logits) - y * logits
        ridge = RIDGE_WEIGHT * (weights**2).sum() + RIDGE_STRUCTURE * (own**2).mean()
        return float(entropy.mean() + ridge / len(seen))

    free = len(structures) + 1
    bounds = [(None, 0.0)] * len(names) + [(None, None)] * free
    found = minimize(cost, np.zeros(len(names) + free), method="L-BFGS-B", bounds=bounds).x
    weights = {name: round(float(w / s), 6) for name, w, s in zip(names, found, scale, strict=False)}
    intercepts = {
        name: round(float(found[len(names)] + own), 6) for name, own in zip(structures, found[len(names) + 1 :], strict=True)
    }
    patients = len({s.patient for s in seen})
    return Calibration(weights=weights, intercepts=intercepts, review_below=review_below, patients=patients)
