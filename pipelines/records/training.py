"""training.json: what a clinic's own model was made from, and how (its JSON Schema in docs/ is made from it)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipelines.records.case import VERSION, Record


class LearntStructure(Record):
    """A structure of the model and in how many patients it was drawn."""

    structure: str
    train: int
    validation: int
    written: tuple[str, ...]
    """How the archive writes it."""


class UnknownName(Record):
    """A name of the archive that means nothing known, and in how many cases it stands."""

    name: str
    cases: int


class PlanRecord(Record):
    """The network and its grid; mm and voxels (z, y, x)."""

    spacing: tuple[float, float, float]
    finest: tuple[float, float, float]
    coarsest: tuple[float, float, float]
    patch: tuple[int, int, int]
    filters: tuple[int, ...]
    open_ends: tuple[str, ...]
    """Structures that nobody knows to end where their contours end."""


class PreparedCase(Record):
    """A case that is used."""

    case: str
    part: Literal["train", "validation"]
    names: dict[str, str]
    """TG-263 to the name as it is written."""


class TrainingRecord(Record):
    """training.json."""

    schema_version: Literal["1.0"] = Field(default="1.0", alias="schema")
    version: str = VERSION
    key: str
    """SHA-256 over the archive's structure sets and images, and what was asked for."""
    structures: tuple[LearntStructure, ...]
    not_learnt: tuple[str, ...]
    """Structures that were understood and are not learnt, and why."""
    unknown: tuple[UnknownName, ...]
    empty: tuple[str, ...]
    """Structures without a contour, by case."""
    left_out: tuple[str, ...]
    """Files and cases that were not used, and why."""
    cases: tuple[PreparedCase, ...]
    split: str
    plan: PlanRecord
    steps: int = 0
    seed: int = 0
    loss: float | None = None
    """Mean over the last hundred steps; null where the run was gone on from when all its steps were done."""
    remarks: tuple[str, ...] = ()
