"""What surfaces are compared on, and how far two of them are apart where the fraction's image shows them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adaptive.decision.measurement import Figure, Measurement
from adaptive.propagation.field_surface import Surface, outward, surface
from adaptive.propagation.shape import common
from patient.geometry import Geometry
from patient.trust import Estimated, Trust
from patient.volume import Field, Mask

MOST = 60_000
"""Points of a surface from which distances are taken: more of a body's surface say nothing more."""


@dataclass(frozen=True)
class Ground:
    """What all comparisons of one fraction stand on.

    Args:
        seen: bool on today's whole grid: where today's image and the plan's both show the patient.
        patient_position: of today's image (HFS, ...), for the couch's axes.
        trust: in today's structures and the planned ones' place.
        surface_error: mm within which today's whole surface lies with 95 % confidence; None where unknown: no intervals.
        basis: what they stand on, in words.
    """

    seen: Mask
    patient_position: str
    trust: Trust
    surface_error: float | None = None
    basis: str = ""

    def measured(
        self, structure: str, quantity: str, unit: str, value: float, planned: float | None, error: float | None, *said: str
    ) -> Measurement:
        """A measurement on this ground; a size is never below 0, whatever its error."""
        interval = None
        if error is not None:
            interval = (value - error if quantity.startswith("shift_") else max(0.0, value - error), value + error)
        basis = "; ".join(part for part in (self.basis, *said) if part)
        return Measurement(structure, quantity, unit, Estimated(Figure(value, planned, interval), self.trust), basis)

    def on(self, part: Geometry) -> NDArray[np.bool_]:
        """What is seen of a part of the grid; nothing beyond the grid."""
        return self.seen.placed_in(part).array


def surfaces_apart(one: Field, other: Field, ground: Ground) -> tuple[float, float] | None:
    """Mean and 95th percentile (mm) of the way between two surfaces, as `structure_change` has them.

    Returns:
        None where nothing of one of them is seen.

    Raises:
        FrameMismatch: a field does not lie on voxels of today's image.
    """
    part = common(ground.seen.geometry, one, other)
    return _apart(*_both_directions(one, other, part, ground.on(part)))


_Apart = tuple[NDArray[np.float64], Surface]
"""mm from each point of a surface to another, and that surface."""


def _both_directions(planned: Field, today: Field, part: Geometry, seen: NDArray[np.bool_]) -> tuple[_Apart, _Apart]:
    old, new = surface(planned, part), surface(today, part)
    return _distances(old, new, today, seen), _distances(new, old, planned, seen)


def _apart(there: _Apart, back: _Apart) -> tuple[float, float] | None:
    """The mean of both directions and the greater of their 95th percentiles, by area."""
    ways = [(np.abs(mm), of.area) for mm, of in (there, back)]
    if not all(len(mm) for mm, _ in ways):
        return None
    mean = 0.5 * sum(float(np.average(mm, weights=area)) for mm, area in ways)
    return mean, max(_percentile(mm, area, 95) for mm, area in ways)


def _distances(of: Surface, to: Surface, field: Field, seen: NDArray[np.bool_]) -> _Apart:
    """From what is seen of one surface to all of the other, and what is seen of it."""
    kept = of.part(np.all(seen[tuple(np.moveaxis(of.voxels, -1, 0))], axis=1)).thinned(MOST)
    if not len(kept.points) or not len(to.points):
        return np.empty(0), kept
    return outward(kept, to, field), kept


def _percentile(values: NDArray[np.float64], weights: NDArray[np.float64], percent: float) -> float:
    order = np.argsort(values)
    below = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(below, percent / 100 * below[-1])])
