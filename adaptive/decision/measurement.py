"""One figure about a patient today: what decisions are made of and reports show."""

from __future__ import annotations

from dataclasses import dataclass, replace

from patient.trust import Estimated, Trust


@dataclass(frozen=True)
class Figure:
    """A value today and in the plan.

    Args:
        value: today's.
        planned: the plan's; None where there is nothing to compare with.
        interval: between which today's value lies with 95 % confidence; None where that is not known.
    """

    value: float
    planned: float | None = None
    interval: tuple[float, float] | None = None

    @property
    def change(self) -> float | None:
        """Today's less the plan's, in the same unit."""
        return None if self.planned is None else self.value - self.planned

    @property
    def relative(self) -> float | None:
        """The change as part of the plan's value; None where the plan's is 0 or unknown."""
        return None if not self.planned else (self.value - self.planned) / self.planned


@dataclass(frozen=True)
class Measurement:
    """A quantity of a structure, or of the patient as a whole.

    Args:
        structure: its name in the plan's structure set; empty for the patient as a whole.
        quantity: "volume", "shift", "dice", "Dmean", "D95%", "V20Gy", "separation", "setup", ...
        unit: of the value: "cc", "mm", "Gy", "%", "degrees", "" for a ratio.
        figure: not trusted where it stands on a step that was not.
        basis: what it stands on, in words ("plan's dose placed by the couch correction").
    """

    structure: str
    quantity: str
    unit: str
    figure: Estimated[Figure]
    basis: str = ""

    @property
    def trust(self) -> Trust:
        """In the figure."""
        return self.figure.trust

    def given(self, trust: Trust) -> Measurement:
        """The same, where it also stands on something else."""
        return replace(self, figure=self.figure.given(trust))


@dataclass(frozen=True)
class Measured:
    """All figures of one fraction.

    Args:
        fraction: its number in the course, from 1.
        measurements: of that day.
    """

    fraction: int
    measurements: tuple[Measurement, ...]

    def of(self, structure: str, quantity: str) -> Measurement | None:
        """One figure, by the structure's name without regard to case; None where it was not measured."""
        name = structure.casefold()
        return next((m for m in self.measurements if m.quantity == quantity and m.structure.casefold() == name), None)
