"""Dose of several fractions on the plan's grid, D_plan(x) = sum over fractions of D_f(today_from_plan(x)), with its
uncertainty.

Errors of one registration method on one patient are partly the same every day and partly not: of their variance the part
`SYSTEMATIC` adds up linearly over images, the rest in quadrature; fractions that share an image share its error.

**What no image showed.** A fraction without an image lies off by what changes from day to day (in quadrature) and by what
the patient drifts with each fraction since the image that it is counted by (the same way, so it adds up linearly). Fractions
before the first image are counted as planned: they have the first image's uncertainty, the drift up to it, and all by which
the first image's dose differs from the planned one. So the interval is never narrower for having seen less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adaptive.alignment.alignment import UNKNOWN
from adaptive.dose.fraction_dose import FractionDose, UncertainDose, gradient_magnitude
from patient.dose import Dose
from patient.errors import FrameMismatch, InputError
from patient.geometry import Geometry
from patient.trust import GIVEN, Estimated
from patient.volume import Volume

SYSTEMATIC = 0.5
"""Part of the variance of a registration's error that is the same every day: example, site to set."""
DAILY = 2.0
"""mm, 95 %, along any one direction, by which a fraction that no image showed lies off from day to day after its couch
correction: example, site to set."""
DRIFT = 0.2
"""mm a fraction, 95 %, by which tissue moves on from the nearest image: parotids move by 3.1 mm over a course, median, and
up to 9.9 (Barker 2004, IJROBP 59:960)."""


@dataclass(frozen=True, eq=False)
class Summed:
    """Dose of several fractions.

    Args:
        dose: Gy, on the plan's grid: NON_RIGID, and of the plan's fractions so far (PLAN_OVERVIEW), never the plan's own.
        half_width: Gy, 95 %.
        shown: 0 to 1: of the fractions the part that stands on an image that shows what lies there.
    """

    dose: Dose
    half_width: Volume[np.float32]
    shown: Volume[np.float32]


@dataclass(frozen=True, eq=False)
class Accumulated:
    """The sum of the fractions so far.

    Args:
        dose: trusted where every day in it is; its doubts name the fractions.
        counted: fractions in it.
        accounting: which image each fraction stands on, in sentences.
    """

    dose: Estimated[Summed]
    counted: int
    accounting: tuple[str, ...]


def accumulated(doses: Sequence[FractionDose], plan: Dose, until: int, fractions: int) -> Accumulated:
    """The dose of fractions 1 to `until`; one without an image counts as the nearest one before, the first ones as planned.

    Args:
        doses: in any order, one a fraction image, on the plan's grid; those later than `until` are left out.
        plan: the plan's own dose, of all fractions.
        until: number of the last fraction to count.
        fractions: planned.

    Raises:
        FrameMismatch: a day is on another grid.
        InputError: two days of one number.
    """
    ordered = sorted((day for day in doses if day.number <= until), key=lambda day: day.number)
    numbers = [day.number for day in ordered]
    if len(set(numbers)) < len(numbers):
        raise InputError("One fraction is given twice", why="Its dose would count twice", remedy="Give each fraction once")
    grid = plan.volume.geometry
    total, widths = np.zeros(grid.shape, dtype=np.float32), _Widths(grid)
    shown, said, trust = np.zeros(grid.shape, dtype=np.float32), list[str](), GIVEN
    planned = Volume(plan.volume.array * np.float32(1 / fractions), grid)
    if before := (numbers[0] if numbers else until + 1) - 1:
        total += planned.array * np.float32(before)
        widths.as_planned(planned, before, ordered[0].dose.judged[0].gray if ordered else None)
        said.append(_counted(1, before, "as planned, before the first image"))
    ends = (*numbers[1:], until + 1)
    for day, end in zip(ordered, ends, strict=False):
        if not day.shown.geometry.same_grid(grid):
            raise FrameMismatch(f"The dose of fraction {day.number} is not on the plan's grid")
        one, doubted = day.dose.judged
        count = end - day.number
        total += one.gray.array * np.float32(count)
        widths.by_image(one, count, before if day is ordered[0] else 0)
        shown += day.shown.array * np.float32(count / until)
        trust &= doubted.about(f"Fraction {day.number}")
        how = f"by the image of fraction {day.number}{'' if doubted else ', which is not trusted'}"
        said.append(_counted(day.number, end - 1, how))
    dose = Dose(
        Volume(total, grid),
        summation="PLAN_OVERVIEW",
        kind=plan.kind,
        transformed="NON_RIGID",
        plan_uid=plan.plan_uid,
        fractions=until,
        structure_set_uid=plan.structure_set_uid,
    )
    return Accumulated(Estimated(Summed(dose, widths.half_width, Volume(shown, grid)), trust), until, tuple(said))


class _Widths:
    """What the uncertainty of a sum is made of, as fractions are added to it; Gy, or Gy² in quadrature."""

    def __init__(self, grid: Geometry) -> None:
        self.grid = grid
        self.linear, self.square, self.drift, self.daily = (np.zeros(grid.shape, dtype=np.float32) for _ in range(4))

    def by_image(self, one: UncertainDose, count: int, before: int) -> None:
        """A fraction with an image, those after it that are counted by it, and how many before it have its uncertainty."""
        width = one.half_width.array * np.float32(count + before)
        self.linear += width
        self.square += width * width
        self._unseen(one.gray, np.arange(1, count))

    def as_planned(self, planned: Volume[np.float32], before: int, first: Volume[np.float32] | None) -> None:
        """Fractions before the first image; None where there is no image at all."""
        if first is None:
            self.drift += gradient_magnitude(planned) * np.float32(before * UNKNOWN)
            return
        self.drift += np.abs(first.array - planned.array) * np.float32(before)
        self._unseen(planned, np.arange(1, before + 1))

    def _unseen(self, gray: Volume[np.float32], since: NDArray[np.int_]) -> None:
        """Fractions that no image showed, by how many fractions lie between each and its image."""
        if not len(since):
            return
        slope = gradient_magnitude(gray)
        self.drift += slope * np.float32(np.minimum(DRIFT * since, UNKNOWN).sum())
        self.daily += np.square(slope * np.float32(DAILY)) * np.float32(len(since))

    @property
    def half_width(self) -> Volume[np.float32]:
        """Gy, 95 %."""
        images = np.float32(SYSTEMATIC) * np.square(self.linear) + np.float32(1 - SYSTEMATIC) * self.square
        return Volume(np.sqrt(images + np.square(self.drift) + self.daily), self.grid)


def _counted(first: int, last: int, how: str) -> str:
    which = f"Fraction {first}" if first == last else f"Fractions {first} to {last}"
    return f"{which} {how}"
