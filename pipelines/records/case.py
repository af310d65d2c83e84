"""What a case came to: the types behind result.json (its JSON Schema in docs/ is generated from them)."""

from __future__ import annotations

from enum import StrEnum
from importlib.metadata import version
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pipelines.outbox.job_key import patient_key, patient_word

VERSION = version("recontour")
CASE_SCHEMA_VERSION = "1.2"


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


class Figures(Record):
    """A record whose numbers may be none: null stands for what is no number."""

    model_config = ConfigDict(ser_json_inf_nan="null")


State = Literal["contoured", "derived", "kept", "not_in_image", "no_model", "not_confident", "not_drawn", "withheld"]
MADE = ("contoured", "derived", "kept")
"""The states of a structure that is there."""
WORDS: dict[State, str] = {
    "contoured": "contoured",
    "derived": "derived",
    "kept": "kept",
    "not_in_image": "not in the field of view",
    "no_model": "no model for this body part",
    "not_confident": "model not confident",
    "not_drawn": "not drawn",
    "withheld": "withheld",
}
"""What pages and reasons say of a state."""
_OLD_STATES = {"not_trusted": "not_confident", "not_offered": "no_model"}
"""Of schema 1.0."""


class FlagRecord(Record):
    """Something a person should know, with a word that scripts can match."""

    code: str
    detail: str


class StructureRecord(Record):
    """One line of the report's table: what the template wanted and what came of it."""

    name: str
    state: State
    """Where there is no contour: `not_in_image`, the field of view does not show it; `no_model`, no engine knows it in this
    part of the body or this kind of image; `not_confident`, an engine is not sure enough of what it sees; `not_drawn`, the
    template asks for a person's contour, and there is none; `withheld`, the existing set has it under another name."""
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

    @field_validator("state", mode="before")
    @classmethod
    def _of_schema_1_0(cls, state: object) -> object:
        return _OLD_STATES.get(state, state) if isinstance(state, str) else state


class ImageRecord(Record):
    """The image that was contoured, without Patient ID, name and birth date."""

    patient: str
    """What pages call the patient, as `patient_key` of the site's settings says; empty for nothing."""
    patient_hash: str
    """Hash that is the same for all images of a patient: a course is told of those that have it in common. In an outbox
    it is keyed by the outbox's secret; elsewhere whoever can try all Patient IDs finds the one behind it."""
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

    @model_validator(mode="before")
    @classmethod
    def _with_patient_id(cls, said: Any) -> Any:
        return without_patient_id(said, patient_hash=True)


def without_patient_id(said: Any, *, patient_hash: bool = False) -> Any:
    """A record of an earlier schema, which held the Patient ID, as it is written now; any other as it is."""
    if not isinstance(said, dict) or "patient_id" not in said:
        return said
    who = str(said["patient_id"])
    known = {"patient_hash": patient_key(who)} if patient_hash else {}
    return {key: value for key, value in said.items() if key != "patient_id"} | known | {"patient": patient_word(who)}


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

    schema_version: Literal["1.0", "1.1", "1.2"] = Field(default=CASE_SCHEMA_VERSION, alias="schema")
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
