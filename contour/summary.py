"""A measure over many patients: what is usual, how much it varies, and how well so few patients tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 4000
FEWEST = 5
"""Patients: of fewer a bootstrap interval would be much too narrow, and none is given."""
Interval = tuple[float, float]


@dataclass(frozen=True)
class Summary:
    """Of the values of `n` patients, in the values' own unit.

    Args:
        sd: of the sample (n - 1); None for one patient.
        quartiles: 25th and 75th percentile.
        mean_interval, median_interval: 95 % percentile bootstrap over patients (Efron & Tibshirani 1993, chapter 13);
            None for fewer than `FEWEST`.
    """

    n: int
    mean: float
    median: float
    sd: float | None
    lowest: float
    highest: float
    quartiles: Interval
    mean_interval: Interval | None
    median_interval: Interval | None


def summarise(values: Sequence[float], seed: int = 0) -> Summary | None:
    """The summary of finite values, or None where there are none. The same values and seed give the same intervals.

    Raises:
        ValueError: a value is not finite: what could not be measured is left out by who calls, and counted.
    """
    held = np.asarray(values, dtype=np.float64)
    if not held.size:
        return None
    if not np.isfinite(held).all():
        raise ValueError("A value that is not finite has no place among measured ones")
    means: Interval | None = None
    medians: Interval | None = None
    if held.size >= FEWEST:
        drawn = held[np.random.default_rng(seed).integers(held.size, size=(RESAMPLES, held.size))]
        means, medians = _middle(drawn.mean(axis=1)), _middle(np.median(drawn, axis=1))
    low, high = np.percentile(held, (25, 75))
    return Summary(
        n=int(held.size),
        mean=float(held.mean()),
        median=float(np.median(held)),
        sd=float(held.std(ddof=1)) if held.size > 1 else None,
        lowest=float(held.min()),
        highest=float(held.max()),
        quartiles=(float(low), float(high)),
        mean_interval=means,
        median_interval=medians,
    )


def _middle(values: np.ndarray) -> Interval:
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)
