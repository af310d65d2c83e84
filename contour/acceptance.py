"""What a contouring system must reach to be used: limits as data, and whether a summary of many patients keeps them.

TOML with a schema that refuses what it does not know and says which line is wrong. A limit is about the mean (or median)
over patients; where its 95 % interval reaches beyond the limit, it is kept or broken, but not surely so, and that is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from contour.summary import Summary
from patient.settings import Shipped, Table

DEFAULT_TOLERANCE = 3.0
Measure = Literal["dice", "surface_dice", "hd95", "mean_surface_distance", "volume_bias_percent", "missed"]
_LEAST: tuple[Measure, ...] = ("dice", "surface_dice")
_MOST: tuple[Measure, ...] = ("hd95", "mean_surface_distance")


class StructureLimits(Table):
    """Limits of one structure; a measure without one is reported and not judged."""

    dice: Annotated[float, Field(ge=0, le=1)] | None = None
    surface_dice: Annotated[float, Field(ge=0, le=1)] | None = None
    hd95: Annotated[float, Field(gt=0)] | None = None
    mean_surface_distance: Annotated[float, Field(gt=0)] | None = None
    volume_bias_percent: Annotated[float, Field(gt=0)] | None = None
    """Largest amount, larger or smaller."""
    missed: Annotated[int, Field(ge=0)] | None = 0
    """Patients in whom it is in the reference and was not predicted."""
    tolerance: Annotated[float, Field(gt=0)] | None = None
    """mm of its surface Dice."""
    between_ends: bool = False
    """Scored between the first and last slice of the reference only."""
    source: str = ""


class _File(Table):
    description: str
    source: str
    statistic: Literal["mean", "median"] = "mean"
    tolerance: Annotated[float, Field(gt=0)] = DEFAULT_TOLERANCE
    structures: dict[Annotated[str, Field(min_length=1, max_length=64)], StructureLimits]


@dataclass(frozen=True)
class Limits:
    """A file of limits.

    Args:
        statistic: of the patients' values that is compared with a limit.
        tolerance: mm of the surface Dice of structures without their own.
    """

    name: str
    description: str
    source: str
    statistic: Literal["mean", "median"]
    tolerance: float
    structures: Mapping[str, StructureLimits]
    digest: str

    def of(self, structure: str) -> StructureLimits | None:
        """Of a structure; None where nothing is asked of it."""
        return self.structures.get(structure)


@dataclass(frozen=True)
class Judgement:
    """One limit and what came of it.

    Args:
        rises: True for a limit that must not be exceeded.
        value: the statistic; None where no patient was measured.
        passed: None where nothing was measured: that is no pass.
        sure: the statistic's 95 % interval lies wholly on its side of the limit.
    """

    structure: str
    measure: Measure
    limit: float
    rises: bool
    value: float | None
    passed: bool | None
    sure: bool
    source: str


_SHIPPED = Shipped("contour", "limits", "limits")


def available_limits() -> tuple[str, ...]:
    """Names of the limits that are shipped."""
    return _SHIPPED.names()


def load_limits(name_or_path: str) -> Limits:
    """Shipped limits by name, or a site's own by path.

    Raises:
        PolicyError: not there, or not what the schema asks for; says which lines.
    """
    source, read = _SHIPPED.read(name_or_path, _File)
    return Limits(source.name, read.description, read.source, read.statistic, read.tolerance, read.structures, source.digest)


def judge(limits: Limits, structure: str, summaries: Mapping[Measure, Summary | None], missed: int) -> list[Judgement]:
    """Every limit of a structure.

    Args:
        summaries: of each measure over the patients in whom it could be measured.
        missed: patients in whom the reference has it and nothing was predicted.
    """
    asked = limits.of(structure)
    if asked is None:
        return []
    source = asked.source or limits.source
    out: list[Judgement] = []
    for measure in (*_LEAST, *_MOST, "volume_bias_percent"):
        limit = getattr(asked, measure)
        if limit is not None:
            out.append(_judged(structure, measure, limit, limits.statistic, summaries.get(measure), source))
    if asked.missed is not None:
        measured = missed > 0 or any(summary is not None for summary in summaries.values())
        kept = missed <= asked.missed if measured else None
        out.append(
            Judgement(structure, "missed", asked.missed, True, float(missed) if measured else None, kept, True, source)
        )
    return out


def _judged(
    structure: str, measure: Measure, limit: float, statistic: Literal["mean", "median"], found: Summary | None, source: str
) -> Judgement:
    rises = measure not in _LEAST
    if found is None:
        return Judgement(structure, measure, limit, rises, None, None, False, source)
    value, interval = (found.mean, found.mean_interval) if statistic == "mean" else (found.median, found.median_interval)
    signed = measure == "volume_bias_percent"

    def keeps(v: float) -> bool:
        return (abs(v) if signed else v) <= limit if rises else v >= limit

    passed = keeps(value)
    ends = {keeps(v) for v in interval} if interval else set()
    if signed and interval and not passed and interval[0] < -limit and interval[1] > limit:
        ends = {True, False}
    return Judgement(structure, measure, limit, rises, value, passed, ends == {passed}, source)
