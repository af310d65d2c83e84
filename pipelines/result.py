"""What a case came to: the types behind result.json (its JSON Schema in docs/ is generated from them)."""

from __future__ import annotations

from enum import StrEnum
from importlib.metadata import version
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

VERSION = version("recontour")
SCHEMA_VERSION = "1.0"


class Verdict(StrEnum):
    """May it be imported: yes, yes but look first, no."""

    PUBLISH = "publish"
    REVIEW = "review"
    REFUSE = "refuse"


class Record(BaseModel):
    """What is written as JSON: keys are as named, nothing else is accepted, docstrings become the schema's descriptions."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_by_name=True,
        serialize_by_alias=True,
        use_attribute_docstrings=True,
        json_schema_serialization_defaults_required=True,
    )


class FlagRecord(Record):
    """Something a person should know, with a word that scripts can match."""

    code: str
    detail: str


class StructureRecord(Record):
    """One line of the report's table: what the template wanted and what came of it."""

    name: str
    state: Literal["contoured", "derived", "kept", "not_in_image", "withheld", "not_trusted", "not_offered"]
    interpreted_type: str = ""
    color: tuple[int, int, int] | None = None
    required: bool = False
    engine: str = ""
    """Name and version of what made it, or the derivation, or "as read"."""
    source: str = ""
    """Where its margins or limits come from, as the template says it."""
    volume_cc: float | None = None
    centroid_mm: tuple[float, float, float] | None = None
    """LPS."""
    planes: int = 0
    loops: int = 0
    confidence: float | None = None
    reason: str = ""
    """Why it is not there, where it is not."""
    flags: tuple[FlagRecord, ...] = ()


class ImageRecord(Record):
    """The image that was contoured. The patient's id stays inside the case's folder; name and birth date stand nowhere."""

    patient_id: str
    study_uid: str
    series_uid: str
    frame_of_reference_uid: str
    modality: str
    acquired: str
    """Series date, YYYYMMDD, or empty."""
    patient_position: str
    shape: tuple[int, int, int]
    """Voxels (k, j, i)."""
    spacing_mm: tuple[float, float, float]
    notes: tuple[str, ...] = ()


class Provenance(Record):
    """From what, with what: enough to make it again."""

    version: str
    template: str
    template_digest: str
    engines: dict[str, str]
    input_digest: str
    """SHA-256 over the sorted SOP Instance UIDs and file digests."""
    sources: tuple[str, ...]
    """SOP Instance UIDs of every object used besides the image (an existing structure set)."""
    predecessor_uid: str = ""
    seed: int = 0


class Timing(Record):
    """Wall seconds by step, and the process's peak memory."""

    steps_s: dict[str, float]
    total_s: float
    peak_memory_mib: float


class CaseResult(Record):
    """result.json."""

    schema_version: Literal["1.0"] = Field(default=SCHEMA_VERSION, alias="schema")
    case: str
    verdict: Verdict
    reasons: tuple[str, ...] = ()
    """Why review or refuse, worst first."""
    image: ImageRecord | None = None
    structures: tuple[StructureRecord, ...] = ()
    rtstruct_uid: str = ""
    gate: tuple[str, ...] = ()
    """Warnings of the conformance check; errors refuse the output."""
    provenance: Provenance | None = None
    timing: Timing | None = None
