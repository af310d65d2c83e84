"""One fraction as a course sees it: its image, its plan, its figures and what was decided about it."""

from __future__ import annotations

from dataclasses import dataclass

from adaptive.decision.decision import Decision
from adaptive.decision.measurement import Measured
from patient.trust import Trust


@dataclass(frozen=True)
class CoursePlan:
    """What fractions were given by.

    Args:
        uid: of the plan, or of its structure set where there is no plan object.
        label: as the planner wrote it.
        fractions: planned; None where nobody says.
    """

    uid: str
    label: str = ""
    fractions: int | None = None

    @property
    def name(self) -> str:
        """For people: label and the end of the UID, as two plans may be called the same."""
        return f"{self.label or 'without label'} (…{self.uid[-8:]})"


@dataclass(frozen=True)
class Fraction:
    """One fraction's image and all that came of it.

    Args:
        case: name of its case.
        image: Series Instance UID.
        acquired: YYYYMMDD, or YYYYMMDDHHMMSS; empty where the image does not say.
        plan: by which it was given.
        measured: its number under that plan, and its figures.
        decision: about it.
        counted: fractions in the accumulated dose; None where there is none.
        accounting: which image each counted fraction stands on, in words.
        made: the order in which cases were made; of two about one image the later counts.
    """

    case: str
    image: str
    acquired: str
    plan: CoursePlan
    measured: Measured
    decision: Decision
    counted: int | None = None
    accounting: tuple[str, ...] = ()
    made: int = 0

    @property
    def number(self) -> int:
        """Under its plan, from 1."""
        return self.measured.fraction

    @property
    def trust(self) -> Trust:
        """In its registration: whether its figures may stand in a trend."""
        return self.decision.registration
