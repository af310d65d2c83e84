"""Evidence by region: where matched points contradict a registration, and where there are none that confirm it.

A figure for a whole body hides a lobe that is wrong. Here points are matched by a search so wide that it does not lean on
the result (`registration.features.matches_around`). Of such pairs some are wrong, but wrong ones point anywhere: a pair
counts where its neighbours say the same. What they say together is compared with the result, ball by ball.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from registration.method import Matches
from registration.transforms import Points, Transform
from registration.working import AIR, Working

BALL = 25.0
"""mm: radius of a region."""
NEIGHBOURS, ALIKE, SUPPORT = 8, 4.0, 3
"""A pair counts where, of its eight nearest in a region, three are off by the same to 4 mm. Of those found anywhere within
50 mm one in two thousand is off by the same as another."""
FEWEST = 5
"""Pairs that count, in a region: fewer say nothing of it."""
CONFIRMED = 4.0
"""mm: a pair that is off by less confirms the result."""
REACH = 30.0
"""mm from a pair that confirms, within which the result is taken for confirmed."""
LUNG_SHARE = 0.03
"""Part of the body from which on what is air in it is asked about apart."""


@dataclass(frozen=True)
class LocalEvidence:
    """What matched points say of a result, region by region; None where there are none.

    Args:
        worst_mm: the largest median distance of a region's matched points from where the result puts them.
        worst_matches: how many they are.
        worst_where: in words: where in the fixed image, and its middle (LPS mm).
        unconfirmed: part of the body that is farther than `REACH` from every matched point that confirms the result.
        unconfirmed_lung: the same of what is air inside the body; None where there is hardly any.
    """

    worst_mm: float | None = None
    worst_matches: int | None = None
    worst_where: str | None = None
    unconfirmed: float | None = None
    unconfirmed_lung: float | None = None


def local_evidence(matches: Matches, transform: Transform, pair: Working) -> LocalEvidence:
    """What matches say of a transform, region by region.

    Args:
        matches: searched wide around the transform, and not used to find it.
        transform: `moving_from_fixed`.
        pair: both images on a coarse grid, and where either shows something.
    """
    counted = matches.where(_supported(matches, transform))
    off = _off(counted, transform)
    body = pair.grid.points(np.argwhere(pair.fixed_valid & pair.moving_valid)[::7])
    air = pair.fixed[pair.fixed_valid & pair.moving_valid][::7] < AIR
    far = _far(body, counted.fixed[off < CONFIRMED])
    return LocalEvidence(
        *_worst(counted.fixed, off, body, pair),
        unconfirmed=float(far.mean()) if len(far) else None,
        unconfirmed_lung=float(far[air].mean()) if len(far) and air.mean() > LUNG_SHARE else None,
    )


def _off(matches: Matches, transform: Transform) -> NDArray[np.float64]:
    return np.linalg.norm(matches.moving - transform.points(matches.fixed, transform.source), axis=1)


def _supported(matches: Matches, transform: Transform) -> NDArray[np.bool_]:
    """Which pairs are off from a transform by the same as enough of their neighbours."""
    if len(matches) <= SUPPORT:
        return np.zeros(len(matches), dtype=bool)
    by = matches.moving - transform.points(matches.fixed, transform.source)
    count = min(NEIGHBOURS, len(matches) - 1)
    away, near = KDTree(matches.fixed).query(matches.fixed, k=count + 1)
    alike = np.linalg.norm(by[near[:, 1:]] - by[:, None], axis=2) < ALIKE
    return (alike & (away[:, 1:] < BALL)).sum(axis=1) >= SUPPORT


def _worst(
    points: Points, off: NDArray[np.float64], body: Points, pair: Working
) -> tuple[float, int, str] | tuple[None, None, None]:
    """Of all balls around a point: the largest median distance, of how many, and where."""
    balls = [ball for ball in KDTree(points).query_ball_point(points, BALL) if len(ball) >= FEWEST] if len(points) else []
    if not balls:
        return None, None, None
    worst = max(balls, key=lambda ball: float(np.median(off[ball])))
    return float(np.median(off[worst])), len(worst), _named(points[worst].mean(axis=0), body, pair)


def _named(at: Points, body: Points, pair: Working) -> str:
    """Where a point lies in what the fixed image shows of the body; which part of the patient that is, nobody said."""
    low, high = np.percentile(body, (1, 99), axis=0)
    x, y, z = (float(v) for v in 3 * (at - low) / np.maximum(high - low, 1e-6))
    ends = ((z, "lower", "upper"), (y, "front", "back"), (x, "right", "left"))
    said = [first if part < 1 else last for part, first, last in ends if not 1 <= part < 2] or ["middle"]
    k, j, i = np.clip(np.rint(pair.grid.indices(at)).astype(int), 0, np.array(pair.grid.shape) - 1)
    around = pair.fixed[max(0, k - 2) : k + 3, max(0, j - 2) : j + 3, max(0, i - 2) : i + 3]
    kind = "lung" if np.median(around) < AIR else "tissue"
    return f"{kind}, {' '.join(said)} of the image, around ({', '.join(f'{v:.0f}' for v in at)}) mm"


def _far(points: Points, confirmed: Points) -> NDArray[np.bool_]:
    """Which points are farther than `REACH` from all that is confirmed."""
    if not len(confirmed):
        return np.ones(len(points), dtype=bool)
    return KDTree(confirmed).query(points)[0] > REACH
