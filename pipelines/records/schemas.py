"""JSON Schemas of what nights, evaluations and training write: `python -m pipelines.records.schemas docs/schemas`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from pipelines.records.case import CaseResult
from pipelines.records.course import CourseResult
from pipelines.records.evaluation import EvaluationResult
from pipelines.records.fraction import FractionResult
from pipelines.records.night import NightRecord
from pipelines.records.training import TrainingRecord

DOCUMENTS: dict[str, TypeAdapter[Any]] = {
    "result": TypeAdapter(CaseResult),
    "fraction": TypeAdapter(FractionResult),
    "course": TypeAdapter(CourseResult),
    "night": TypeAdapter(list[NightRecord]),
    "evaluation": TypeAdapter(EvaluationResult),
    "training": TypeAdapter(TrainingRecord),
}
"""By the name of the JSON file; a fraction's result.json is described by itself."""


def schema_text(document: str) -> str:
    """The schema of a document, as it is written: every key stands in the file, also where it is empty.

    Raises:
        KeyError: no such document.
    """
    schema = DOCUMENTS[document].json_schema(mode="serialization")
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": f"{document}.json"}
    return json.dumps({**schema, **head}, indent=1, sort_keys=True) + "\n"


def write_schemas(folder: Path) -> None:
    """Write <document>.schema.json of every document."""
    folder.mkdir(parents=True, exist_ok=True)
    for document in DOCUMENTS:
        (folder / f"{document}.schema.json").write_text(schema_text(document), encoding="utf-8")


if __name__ == "__main__":
    write_schemas(Path(sys.argv[1]))
