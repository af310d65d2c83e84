import json
from pathlib import Path

import pytest

from patient.read.images import open_folder
from pipelines.configuration import Configuration
from pipelines.course.case import write_course_of
from pipelines.night.run import run_night
from pipelines.planning.case import CaseRequest, contour_case
from pipelines.records.schemas import DOCUMENTS, schema_text, write_schemas
from tests.fractions import write_cases
from tests.making import phantom, write_ct

DOCS = Path(__file__).parents[2] / "docs"


def _keys_agree(value, schema, definitions):
    """Every object of a document has exactly the keys that its schema names, all of which it requires."""
    while "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    if isinstance(value, dict) and "properties" in schema:
        assert set(value) == set(schema["properties"]) == set(schema["required"])
        assert not schema["additionalProperties"]
        for key, inner in value.items():
            _keys_agree(inner, schema["properties"][key], definitions)
    elif isinstance(value, list):
        for inner in value:
            _keys_agree(inner, schema.get("items", {}), definitions)
    elif value is not None:
        for kind in schema.get("anyOf", []):
            if "$ref" in kind:
                _keys_agree(value, kind, definitions)


def _follows_its_schema(text: str, document: str) -> None:
    schema = json.loads((DOCS / "schemas" / f"{document}.schema.json").read_text(encoding="utf-8"))
    DOCUMENTS[document].validate_json(text)
    _keys_agree(json.loads(text), schema, schema["$defs"])


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_schemas_in_docs_are_what_the_types_say(document, tmp_path):
    committed = DOCS / "schemas" / f"{document}.schema.json"
    assert committed.read_text(encoding="utf-8") == schema_text(document), (
        "run python -m pipelines.records.schemas docs/schemas"
    )
    assert f"schemas/{committed.name}" in (DOCS / "user-guide.md").read_text(encoding="utf-8")
    write_schemas(tmp_path)
    assert (tmp_path / committed.name).read_text(encoding="utf-8") == committed.read_text(encoding="utf-8")


def test_the_result_of_a_real_case_follows_its_schema_and_says_its_version(tmp_path, ct_folder):
    (tmp_path / "made").mkdir()
    files, uid = tuple(str(path) for path in ct_folder.iterdir()), open_folder(ct_folder).series_uid
    contour_case(CaseRequest(case="c", files=files, series_uid=uid, folder=str(tmp_path / "made")))
    text = (tmp_path / "made" / "result.json").read_text(encoding="utf-8")
    _follows_its_schema(text, "result")
    assert json.loads(text)["schema"] == "1.2"


def test_a_course_and_its_fractions_follow_their_schemas(tmp_path):
    cases = write_cases(tmp_path / "cases", 6)
    write_course_of(cases, tmp_path / "c")
    text = (tmp_path / "c" / "course.json").read_text(encoding="utf-8")
    _follows_its_schema(text, "course")
    assert json.loads(text)["schema"] == "1.1"
    _follows_its_schema((cases[-1] / "result.json").read_text(encoding="utf-8"), "fraction")


def test_the_record_of_a_night_follows_its_schema_also_where_an_older_one_began_it(tmp_path):
    inbox, out = write_ct(tmp_path / "in", phantom((4, 16, 16))), tmp_path / "out"
    quiet = Configuration(settle_minutes=0, workers=1)
    out.mkdir()
    (out / "night.json").write_text('[{"schema_version": "1.0", "started": "2026-01-01T01:00:00"}]')
    run_night(inbox, out, quiet, function="tests.scenarios.trivial:succeed")
    text = (out / "night.json").read_text(encoding="utf-8")
    _follows_its_schema(text, "night")
    assert len(json.loads(text)) == 2
