"""What a site does about change: its rules, and what it wants of each structure. Read from a file by
`adaptive.decision.policy`."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum
from fnmatch import fnmatchcase
from typing import Literal

from adaptive.dose.histogram import Metric
from patient.errors import PolicyError

EXAMPLE = "example, site to set"
"""The source of every number that nobody has published."""
OF_PRESCRIPTION = "% of prescription"
TRUST = "registration_trusted"
"""The quantity that is 1 where today's registration is trusted and 0 where not."""


class Compare(Enum):
    """What of a measurement a rule looks at."""

    VALUE = "value"
    CHANGE = "change"
    RELATIVE = "relative"


class Propagation(Enum):
    """How a planning structure comes to today's image."""

    DEFORM = "deform"
    RIGID = "rigid"
    FRESH = "fresh"
    RECONCILE = "reconcile"


class Tissue(Enum):
    """How a structure's own tissue follows the deformation (`adaptive.propagation.tissue`)."""

    FREE = "free"
    RIGID = "rigid"
    SHRINKING = "shrinking"


@dataclass(frozen=True)
class Rule:
    """One rule.

    Args:
        name: its key in the file.
        structures: names or patterns (`Parotid_*`), without regard to case; none for the patient as a whole.
        quantity: as `Measurement.quantity`; `*` stands for anything.
        unit: of the limit.
        compare: today's value, its change since the plan, or that in percent of the plan's value.
        limit: beyond which the rule is exceeded; at the limit it is not.
        rises: whether beyond means above.
        consecutive: so many fractions in a row must be beyond, today's the last.
        consequence: "review" or "replan".
        required: where it cannot be evaluated, the case goes to review.
        accepted_in_plan: where the plan itself is beyond the limit, today's being so does not exceed it.
        source: of the limit.
    """

    name: str
    structures: tuple[str, ...]
    quantity: str
    unit: str
    compare: Compare
    limit: float
    rises: bool
    consecutive: int
    consequence: Literal["review", "replan"]
    required: bool
    accepted_in_plan: bool
    source: str

    def beyond(self, value: float) -> bool:
        """Whether a compared value is past the limit."""
        return value > self.limit if self.rises else value < self.limit


@dataclass(frozen=True)
class StructurePolicy:
    """What is done with a structure of the plan.

    Args:
        propagate: how it comes to today's image, where it has no recipe.
        recipe: how it is rebuilt from today's structures (`contour.recipe`); empty for none.
        metrics: DVH quantities that are wanted of it, or asked for by a rule (`adaptive.dose.histogram.Metric.named`).
        eud: exponent a of the generalised EUD; None where it is not wanted.
        prescription: Gy, where the plan does not say it.
        source: of the recipe's margin and of the exponent.
        tissue: how it follows, where it is propagated through the deformation.
    """

    propagate: Propagation
    recipe: str = ""
    metrics: tuple[str, ...] = ()
    eud: float | None = None
    prescription: float | None = None
    source: str = ""
    tissue: Tissue = Tissue.FREE


@dataclass(frozen=True)
class Separation:
    """Where the body's width is measured.

    Args:
        levels: mm toward the head (negative: toward the feet) from each point.
        through: names of structures through whose centre it goes; "isocentre" for the plan's.
    """

    levels: tuple[float, ...] = ()
    through: tuple[str, ...] = ("isocentre",)


@dataclass(frozen=True)
class Policy:
    """A site's policy, whole and consistent.

    Args:
        name: of the file.
        version: as the site counts them.
        description: for people.
        rules: in the file's order.
        structures: pattern and what is done, in the file's order.
        separation: where the body's width is measured.
        digest: SHA-256 of the file's text: part of a job's key.
    """

    name: str
    version: str
    description: str
    rules: tuple[Rule, ...]
    structures: tuple[tuple[str, StructurePolicy], ...]
    separation: Separation
    digest: str

    def for_structure(self, name: str) -> StructurePolicy:
        """The first entry whose pattern matches, and the figures of dose that rules ask for; without one it is deformed.

        What `*` stood for in the pattern is put where its recipe says `*` (`PTV*` = `CTV* + 5 mm`). Where that would read as
        something else (`PTV-03`), there is no recipe and the structure is rigidly propagated.
        """
        found = self._entry(name)
        asked = [r.quantity for r in self.rules if any(matches(p, name) for p in r.structures) and is_dose(r.quantity)]
        wanted = [m for m in dict.fromkeys((*found.metrics, *asked)) if m != "EUD" or found.eud is not None]
        return replace(found, metrics=tuple(wanted))

    def _entry(self, name: str) -> StructurePolicy:
        for pattern, found in self.structures:
            if not matches(pattern, name):
                continue
            if "*" not in found.recipe:
                return found
            stood = name[len(pattern) - 1 :]
            if not re.fullmatch(r"[\w~^]*", stood):
                return replace(found, recipe="", propagate=Propagation.RIGID)
            return replace(found, recipe=found.recipe.replace("*", stood))
        return StructurePolicy(Propagation.DEFORM)


def is_dose(quantity: str) -> bool:
    """Whether it is a figure of a DVH."""
    try:
        Metric.named(quantity)
    except PolicyError:
        return False
    return True


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern (`*` for anything) fits a structure's name, without regard to case."""
    return fnmatchcase(name.casefold(), pattern.casefold())
