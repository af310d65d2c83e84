"""What a night came to: the types behind night.json and the morning's page."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from pydantic import Field

from pipelines.result import SCHEMA_VERSION, Record

WORST_FIRST = ("failed", "refused", "review", "held", "running", "ready", "done")


class CaseLine(Record):
    """One case of a night."""

    case: str
    state: str
    reasons: tuple[str, ...] = ()
    folder: str = ""
    """Relative to the outbox; empty where nothing was published."""
    log: str = ""
    """File of what went wrong, relative to the outbox; empty where none was kept."""
    wall_s: float = 0.0
    fraction: int | None = None
    """Its number under its plan; null for a planning CT."""
    decision: str = ""
    """What is recommended about a fraction: continue, review or replan; empty where there is no decision."""
    course: str = ""
    """Folder of the patient's course, relative to the outbox; empty where there is none."""
    notes: tuple[str, ...] = ()
    """How it was paired with its plan, where there is something to say."""


class NightRecord(Record):
    """One night, whole or still going on."""

    schema_version: Literal["1.0"] = Field(default=SCHEMA_VERSION, alias="schema")
    started: str
    """ISO 8601, local time."""
    finished: str = ""
    wall_s: float = 0.0
    cases: tuple[CaseLine, ...] = ()
    unchanged: int = 0
    """Cases done before from the same inputs and configuration: nothing was to be done."""
    problems: tuple[str, ...] = ()
    """Files that claim to be DICOM and could not be read; plans and courses that could not be used."""

    @property
    def counts(self) -> list[tuple[str, int]]:
        """State and number of cases, worst first."""
        states = Counter(case.state for case in self.cases)
        return [(state, states[state]) for state in WORST_FIRST if states[state]]
