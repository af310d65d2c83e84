"""What a night came to: the types behind night.json and the summary report, and the file that remembers the nights."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from pipelines.outbox.job import State
from pipelines.outbox.ledger import Ledger
from pipelines.outbox.publish import CASES, write_whole
from pipelines.records.case import Record

NIGHTS_SHOWN = 60
NIGHTS = "night.json"
NIGHT_SCHEMA = "1.1"
WORST_FIRST = (State.FAILED, State.REFUSED, State.REVIEW, State.HELD, State.RUNNING, State.READY, State.DONE)
_CASE = r"\d{8}-[0-9a-f]{10}"
_FOLDER = rf"^(cases/{_CASE}(-\d+)?)?$"
_LOG = rf"^(cases/{_CASE}-failed(-\d+)?/log\.txt)?$"
_COURSE = rf"^(courses/{_CASE})?$"


class ImageLabel(Record):
    """What a person tells a series by; nothing of it is a header's own text but what the site asks for."""

    patient: str = ""
    """The site's key of the patient: a hash, the Patient ID or nothing, as its configuration says."""
    acquired: str = ""
    """YYYY-MM-DD HH:MM, or the day."""
    series: int | None = None
    """Series Number."""
    station: str = ""
    """As the site's configuration calls it, else a hash."""
    body_part: str = ""
    files: int = 0

    @property
    def words(self) -> str:
        """On one line; empty where nothing is known."""
        patient = f"patient {self.patient}" if self.patient else ""
        series = f"series {self.series}" if self.series is not None else ""
        return ", ".join(word for word in (patient, self.acquired, series, self.station, self.body_part) if word)


class CaseLine(Record):
    """One case of a night. Links are made from these names: they hold ids alone."""

    case: str = Field(pattern=rf"^{_CASE}$")
    state: State
    label: ImageLabel = ImageLabel()
    reasons: tuple[str, ...] = ()
    folder: str = Field(default="", pattern=_FOLDER)
    """Relative to the outbox; empty where nothing was published."""
    log: str = Field(default="", pattern=_LOG)
    """File of what went wrong, relative to the outbox; empty where none was kept."""
    wall_s: float = 0.0
    fraction: int | None = None
    """Its number under its plan; null for a planning CT."""
    decision: Literal["", "continue", "review", "replan"] = ""
    """What is recommended about a fraction; empty where there is no decision."""
    course: str = Field(default="", pattern=_COURSE)
    """Folder of the patient's course, relative to the outbox; empty where there is none."""
    notes: tuple[str, ...] = ()
    """How it was paired with its plan, where there is something to say."""


class SeriesLine(Record):
    """One series of the inbox, and what was done with it."""

    modality: str
    label: ImageLabel
    use: str
    """contoured, planning CT, fraction, held, used, noted or not used."""
    why: str
    case: str = ""
    """Of a CT."""


class ProblemLine(Record):
    """Files that could not be read or used for one reason."""

    what: str
    count: int = 1
    files: tuple[str, ...] = ()
    """Hashes of the first few; what they stand for is in the outbox's private folder."""


class NightRecord(Record):
    """One night, whole or still going on."""

    schema_version: Literal["1.1"] = Field(default=NIGHT_SCHEMA, alias="schema")
    started: str
    """ISO 8601, local time."""
    finished: str = ""
    wall_s: float = 0.0
    cases: tuple[CaseLine, ...] = ()
    unchanged: int = 0
    """Cases done before from the same inputs and configuration: nothing was to be done."""
    problems: tuple[ProblemLine, ...] = ()
    """Files that claim to be DICOM and could not be read; plans and courses that could not be used."""
    series: tuple[SeriesLine, ...] = ()
    """Everything in the inbox; kept for the newest night alone."""

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_versions(cls, said: Any) -> Any:
        """1.0 named files in its sentences: their names go, since they may hold a patient's."""
        if not isinstance(said, dict) or said.get("schema") != "1.0":
            return said
        problems = said.get("problems") or ()
        cases = [{**case, "reasons": [_nameless(reason) for reason in case["reasons"]]} for case in said["cases"]]
        gone = [{"what": "Could not be read or used", "count": len(problems)}] if problems else []
        return {**said, "schema": NIGHT_SCHEMA, "cases": cases, "problems": gone}

    @property
    def counts(self) -> list[tuple[State, int]]:
        """State and number of cases, worst first."""
        states = Counter(case.state for case in self.cases)
        return [(state, states[state]) for state in WORST_FIRST if states[state]]


def read_nights(outbox: Path) -> list[NightRecord]:
    """The nights that an outbox remembers, oldest first.

    Raises:
        ValueError: the file is not what its schema asks for.
    """
    path = outbox / NIGHTS
    if not path.is_file():
        return []
    said = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(said, list):
        raise ValueError("no list of nights")
    return [NightRecord.model_validate(night) for night in said]


def labels(outbox: Path) -> dict[str, ImageLabel]:
    """What people tell each case by, as the newest night that met it says; nothing where their file is damaged."""
    try:
        nights = read_nights(outbox)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    return {line.case: line.label for night in nights for line in (*night.cases, *night.series) if line.case}


def remembered(outbox: Path, ledger: Ledger) -> list[NightRecord]:
    """The earlier nights; where their file is damaged it is set aside, and one record stands for them, from the ledger."""
    try:
        return read_nights(outbox)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        aside = next(name for n in range(1, 1_000_000) if not (name := outbox / f"night-set-aside-{n}.json").exists())
        (outbox / NIGHTS).rename(aside)
        said = f"{NIGHTS} was damaged or of an unknown version: it is kept as {aside.name}, and this is what the ledger says"
        return [_from(ledger, said)]


def write_nights(outbox: Path, nights: Sequence[NightRecord]) -> list[NightRecord]:
    """Write night.json, whole or not at all; the nights that it holds now."""
    *earlier, newest = nights[-NIGHTS_SHOWN:]
    kept = [*(night.model_copy(update={"series": ()}) for night in earlier), newest]
    write_whole(outbox / NIGHTS, "[" + ",\n".join(night.model_dump_json() for night in kept) + "]")
    return kept


def _from(ledger: Ledger, why: str) -> NightRecord:
    lines = []
    for job in ledger.jobs():
        folder, _ = ledger.last_output(job.image)
        published = f"{CASES}/{folder}" if folder and job.state in (State.DONE, State.REVIEW) else ""
        lines.append(CaseLine(case=job.case, state=job.state, reasons=job.reasons, folder=published))
    now = datetime.now().isoformat(timespec="seconds")
    return NightRecord(started=now, finished=now, cases=tuple(lines), problems=(ProblemLine(what=why),))


def _nameless(reason: str) -> str:
    return re.sub(r" \[[^\]]*\]", "", str(reason))
