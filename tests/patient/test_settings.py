"""Files of settings: all faults at once, each with its line and a suggestion."""

from contextlib import suppress
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from contour.template import load_template
from patient.conformance.profile import load_profile
from patient.errors import PolicyError, RecontourError, TemplateError
from patient.settings import Source, parsed, read_source
from pipelines.configuration import load_configuration


class _Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")

    margin: float = 1.0


class _Schema(BaseModel):
    model_config = ConfigDict(extra="forbid")

    colour: Literal["red", "green"] = "red"
    inner: dict[str, _Inner] = {}


def test_every_fault_of_a_file_is_said_with_its_line_and_what_may_have_been_meant() -> None:
    text = 'color = "red"\ncolour = "gren"\n[inner.a]\nmargin = "wide"\n[inner.b]\nmargins = 3.0\n'
    with pytest.raises(PolicyError) as refused:
        parsed(Source("site", "site.toml", text), _Schema)
    said = refused.value.what
    assert "line 1: color: unknown key: did you mean 'colour'?" in said
    assert "line 2: colour: has to be 'red' or 'green': did you mean 'green'?" in said
    assert "line 4: inner.a.margin: has to be a number" in said
    assert "line 6: inner.b.margins: unknown key: did you mean 'margin'?" in said
    assert said.startswith("4 faults")


def test_a_key_within_a_structures_clean_up_is_told_as_any_other(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_text('description = "d"\n[structures.External]\nengine = "anatomy"\nclean = { keep_larges = 1 }\n')
    with pytest.raises(TemplateError, match=r"clean.keep_larges: unknown key: did you mean 'keep_largest'\?.*line 4"):
        load_template(str(path))


def test_a_file_that_is_no_utf8_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_bytes('description = "x"\n# Gerät\n'.encode("latin-1"))
    for load in (load_configuration, lambda p: load_template(str(p)), lambda p: load_profile(str(p))):
        with pytest.raises(RecontourError, match=r"not UTF-8 \[site.toml, line 2\]"):
            load(path)


def test_a_file_that_is_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_text("a = " + "[" * 3000 + "]" * 3000)
    with pytest.raises(TemplateError, match="nested too deeply"):
        load_template(str(path))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_file_of_settings_or_refused(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(raw)
    with suppress(PolicyError):
        assert isinstance(parsed(read_source(path, "settings"), _Schema), _Schema)


def test_a_name_that_is_nearly_right_is_suggested() -> None:
    with pytest.raises(TemplateError, match="did you mean 'thorax'"):
        load_template("torax")
    with pytest.raises(PolicyError, match="did you mean 'eclipse'"):
        load_profile("eclipsee")


def test_what_a_configuration_names_is_looked_at_before_any_work(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_text('template = "torax"\nprofile = "aria"\n[policies]\nthorax = "nobodys"\n')
    with pytest.raises(PolicyError) as refused:
        load_configuration(path)
    said = refused.value.what
    assert "line 1: template: No template 'torax': did you mean 'thorax'?" in said
    assert "line 2: profile: No profile 'aria'" in said
    assert "line 4: policies.thorax: No policy 'nobodys'" in said
