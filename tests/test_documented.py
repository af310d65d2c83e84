"""The documents and the product say the same: commands, options, exit codes, states, settings, paths and examples."""

from __future__ import annotations

import doctest
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from adaptive.decision import policy
from contour import acceptance as limit
from contour import template
from patient.conformance.profile import Profile, load_profile
from patient.errors import InputError
from pipelines.command_reference import PAGE, Called, command_page, commands
from pipelines.commands.terminal import EXIT_CODES
from pipelines.configuration import Configuration
from pipelines.outbox.job import TRANSITIONS, State
from registration.quality import Policy as RegistrationPolicy

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = (ROOT / "README.md", *sorted(DOCS.rglob("*.md")))
CALLED = {one.words: one for one in commands()}
_BLOCK = re.compile(r"^ *```(?P<kind>[^\n]*)\n(?P<text>.*?)^ *```", re.M | re.S)


def _text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks_of(page: Path, *kinds: str) -> list[str]:
    return [block["text"] for block in _BLOCK.finditer(_text(page)) if block["kind"].strip() in kinds]


def _table(page: Path, heading: str) -> list[list[str]]:
    """The rows of the table whose first column has this heading; `\\|` in a cell stands for a stroke."""
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in _text(page).splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in row] for row in rows]
    first = next(n for n, row in enumerate(cells) if row[0] == heading)
    width = len(cells[first])
    table = []
    for row in cells[first + 2 :]:
        if len(row) != width:
            break
        table.append(row)
    return table


def _code(cell: str) -> list[str]:
    return re.findall(r"`([^`]*)`", cell)


def _calls(text: str) -> list[str]:
    """Lines that call recontour, continued lines joined, without what stands before and behind the call."""
    found = re.findall(r"(?:^|[ /=])(recontour (?:-|[a-z]+).*)", re.sub(r"\\\n[\s#]*", "", text), re.M)
    return [re.split(r"\s+(?:#|>|\||&&|;)|  +", call)[0] for call in found]


ALL_CALLS = [
    (page.relative_to(ROOT).as_posix(), call)
    for page in PAGES
    if page.name != PAGE
    for text in blocks_of(page, "", "sh", "text")
    for call in _calls(text)
] + [
    (path.relative_to(ROOT).as_posix(), call)
    for path in sorted(ROOT.joinpath("deploy").iterdir())
    for call in _calls(_text(path))
    if " nightly " in call
]
INLINE = sorted(
    {code for page in PAGES for code in re.findall(r"`(-?-[a-z][\w-]*|recontour [^`|]*)`", _BLOCK.sub("", _text(page)))}
)
OTHERS = {"--disable_tta"}
"""Options of other people's programs that the text names."""


def test_the_reference_of_the_command_line_is_the_help_of_the_commands() -> None:
    written = _text(DOCS / "reference" / PAGE)
    assert written == command_page(), "run python -m pipelines.command_reference docs/reference"
    for one in CALLED.values():
        assert f"## {one.words}\n" in written
        for option in (name for each in one.command.params for name in each.opts if name.startswith("-")):
            assert option in written, f"{one.words} {option}"


def _parsed(call: str) -> None:
    bare = re.sub(r"[\[\]'\"]|\.\.\.", "", re.sub(r"\$\w+", "1", call))
    words = [word for word in shlex.split(bare) if word != "OPTIONS"]
    group, rest = CALLED["recontour"], words[1:]
    while hasattr(group.command, "commands") and rest and rest[0] in group.command.commands:
        group: Called = CALLED[f"{group.words} {rest[0]}"]
        rest = rest[1:]
    asks_for_help = {"--help", "--version"} & set(rest)
    assert asks_for_help or not hasattr(group.command, "commands"), f"no such command: {call}"
    if not asks_for_help:
        group.command.make_context(group.words, rest, parent=group.context.parent)


@pytest.mark.parametrize(("page", "call"), ALL_CALLS)
def test_every_call_in_the_documents_names_a_command_and_options_that_exist(page: str, call: str) -> None:
    _parsed(call)


@pytest.mark.parametrize("code", INLINE)
def test_commands_and_options_named_in_the_text_exist(code: str) -> None:
    options = (
        {option for one in CALLED.values() for each in one.command.params for option in each.opts} | {"--help"} | OTHERS
    )
    said = code.split()
    if code.startswith("recontour "):
        called = max((words for words in CALLED if f"{code} ".startswith(f"{words} ")), key=len)
        assert called != "recontour" or said[1].startswith("-") or said[1].isupper(), f"no such command: {code}"
    assert {word for word in said if word.startswith("-")} <= options


def test_the_documents_show_every_command() -> None:
    shown = " ".join(call for _, call in ALL_CALLS) + _text(ROOT / "README.md")
    for words, one in CALLED.items():
        if not hasattr(one.command, "commands"):
            assert words in shown or words.rpartition(" ")[2] in shown, words


def test_the_exit_codes_in_the_documents_are_those_of_the_commands() -> None:
    assert [int(row[0]) for row in _table(DOCS / "reference/exit-codes.md", "exit")] == list(EXIT_CODES)


def test_the_states_in_the_documents_are_those_of_the_ledger_with_their_ways_out() -> None:
    rows = _table(DOCS / "reference/states.md", "state")
    assert {State(_code(row[0])[0]): frozenset(map(State, _code(row[2]))) for row in rows} == {
        state: ways for state, ways in TRANSITIONS.items() if state is not None
    }


def test_the_settings_in_the_documents_are_those_of_the_configuration_with_their_defaults() -> None:
    page = DOCS / "reference/configuration.md"
    rows = {_code(row[0])[0]: row for row in _table(page, "key")}
    assert set(rows) == set(Configuration.model_fields)
    example, defaults = blocks_of(page, "toml")
    assert set(tomllib.loads(example)) == set(Configuration.model_fields)
    Configuration.model_validate(tomllib.loads(example))
    tables = Configuration.model_validate(tomllib.loads(defaults))
    for key, row in rows.items():
        default = getattr(Configuration(), key)
        if row[2] == "see below":
            assert getattr(tables, key) == default, key
        elif key != "workers":
            said = tomllib.loads(f"{key} = {_code(row[2])[0]}")
            assert getattr(Configuration.model_validate(said), key) == default, key


def _keys(model: type[BaseModel]) -> Iterator[str]:
    """The keys of a file of settings, in all of its tables."""
    for name, field in model.model_fields.items():
        yield field.alias or name
        for inner in _models_in(field.annotation):
            yield from _keys(inner)


def _models_in(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)


SETTINGS = {
    "templates.md": set(_keys(template._File)),
    "policies.md": set(_keys(policy._File)),
    "evaluation.md": set(_keys(limit._File)),
    "how-to/tps-profile.md": set(_keys(Profile)),
    "how-to/registration-limits.md": {field.name for field in fields(RegistrationPolicy)} - {"version"},
}
"""Pages that explain a file of settings, and every key that such a file may have."""


@pytest.mark.parametrize("page", SETTINGS)
def test_every_key_of_a_file_of_settings_stands_on_its_page(page: str) -> None:
    text = _text(DOCS / page)
    assert [key for key in sorted(SETTINGS[page]) if not re.search(rf"\b{key}\b", text)] == []


def test_every_path_in_the_table_of_where_to_change_what_exists() -> None:
    rows = _table(DOCS / "architecture.md", "Where would I change ...?")
    assert len(rows) == 10
    for question, path in rows:
        assert len(_code(path)) == 1, question
        assert (ROOT / _code(path)[0]).exists(), f"{question}: {path}"


def test_every_page_stands_in_the_navigation_of_the_site() -> None:
    listed = set(re.findall(r"[\w/-]+\.md", _text(ROOT / "mkdocs.yml")))
    assert listed == {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_between_documents_lead_to_files_and_headings_that_exist(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)", _BLOCK.sub("", _text(page))):
        linked = (page.parent / target).resolve() if target else page
        assert linked.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in _anchors(linked), f"{page.name}: {target}#{anchor}"


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", _BLOCK.sub("", _text(page)), re.M)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading.lower())).strip("-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_examples_in_python_run_as_they_are_written(page: Path) -> None:
    examples = doctest.DocTestParser().get_doctest(_text(page), {}, page.name, str(page), 0)
    if examples.examples:
        failed = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS).run(examples).failed
        assert failed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_blocks_of_python_and_toml_can_be_read(page: Path) -> None:
    for text in blocks_of(page, "python"):
        compile(text, str(page), "exec")
    for text in blocks_of(page, "toml"):
        tomllib.loads(text)


WHOLE = [
    (page.relative_to(ROOT).as_posix(), text)
    for page in PAGES
    for text in (blocks_of(page, "toml") if page.name != "policies.md" else ["\n".join(blocks_of(page, "toml"))])
    if re.search(r"^description = ", text, re.M)
]
READERS = (template.load_template, limit.load_limits, policy.load_policy, load_profile)


@pytest.mark.parametrize(("page", "text"), WHOLE, ids=[page for page, _ in WHOLE])
def test_whole_files_of_settings_in_the_documents_are_taken(page: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "shown.toml"
    path.write_text(text, encoding="utf-8")
    refused = []
    for read in READERS:
        try:
            read(str(path))
        except InputError as error:
            refused.append(error.what)
    assert len(refused) == len(READERS) - 1, f"{page}: {refused}"
