"""Names, docstrings, messages and documents use the field's words: `docs/glossary.md` lists those that they do not use."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("patient", "registration", "contour", "adaptive", "pipelines", "data_samples", "recontour")
STATES = {"tripped", "not tripped"}
"""As `result.json` and `course.json` have said it since their first version."""


def _not_used() -> list[str]:
    """The first column of the glossary's last table."""
    table = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8").partition("| not used | use instead |")[2]
    return [word.strip() for row in table.splitlines()[2:] if row.startswith("|") for word in row.split("|")[1].split(",")]


NOT_USED = _not_used()
IN_TEXT = re.compile(r"(?<![\w/-])(" + "|".join(map(re.escape, NOT_USED)) + r")(?![\w-])", re.IGNORECASE)
IN_NAMES = {word.replace(" ", "_") for word in NOT_USED}


def _names(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            yield node.name
        case ast.Name():
            yield node.id
        case ast.arg():
            yield node.arg
        case ast.alias():
            yield node.asname or node.name


def _parts(name: str) -> Iterator[str]:
    """`_way_back` and `WayBack` hold `way_back`, `way` and `back`."""
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)]
    for first in range(len(words)):
        for last in range(first, len(words)):
            yield "_".join(words[first : last + 1])


def _said(source: str, where: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        line = getattr(node, "lineno", 0)
        for name in _names(node):
            yield from (f"{where}:{line}: {name} holds {part}" for part in _parts(name) if part in IN_NAMES)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value not in STATES:
            text = " ".join(node.value.split())
            yield from (f"{where}:{line}: {found[0]}" for found in IN_TEXT.finditer(text))


def _comments(source: str) -> str:
    return "\n".join(line.partition(" # ")[2] or line.strip() for line in source.splitlines() if "# " in line)


def test_the_glossary_lists_words_that_are_not_used() -> None:
    assert len(NOT_USED) > 20


def test_names_docstrings_and_messages_use_the_fields_words() -> None:
    assert "inverse_consistency" not in IN_NAMES
    found: list[str] = []
    for path in (path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))):
        found += _said(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT)))
        found += [f"{path.relative_to(ROOT)}: in its name" for part in _parts(path.stem) if part in IN_NAMES]
    assert found == []


def test_pages_and_documents_use_the_fields_words() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "pipelines").rglob("*.html"))]
    found: list[str] = []
    for page in pages:
        text = page.read_text(encoding="utf-8").partition("## Words that are not used")[0]
        text = re.sub(r"'(not )?tripped'|`(not )?tripped`|\"(not )?tripped\"", "", " ".join(text.split()))
        found += [
            f"{page.relative_to(ROOT)}: ...{text[max(0, m.start() - 30) : m.end() + 30]}..." for m in IN_TEXT.finditer(text)
        ]
    assert found == []
