"""Functions and files stay small enough to be read in one sitting: a function has one thing to do, a file one topic."""

from __future__ import annotations

import ast
from pathlib import Path
from statistics import quantiles

ROOT = Path(__file__).parents[1]
PACKAGES = ("patient", "registration", "contour", "adaptive", "pipelines", "recontour", "data_samples")
SOURCES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}
FILES = {name: source.count("\n") for name, source in SOURCES.items()}
FUNCTIONS = {
    f"{name}:{node.lineno} {node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
    for name, source in SOURCES.items()
    for node in ast.walk(ast.parse(source))
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
}
"""Lines of each, from `def` to its end, its docstring with it."""


def _at(percent: int, lines: dict[str, int]) -> float:
    return quantiles(lines.values(), n=100, method="inclusive")[percent - 1]


def _over(most: int, lines: dict[str, int]) -> list[str]:
    return [f"{name}: {n} lines" for name, n in lines.items() if n > most]


def test_half_of_all_functions_are_of_few_lines_and_none_is_long() -> None:
    assert len(FUNCTIONS) > 1000
    assert _at(50, FUNCTIONS) <= 9
    assert _at(90, FUNCTIONS) <= 26
    assert _over(80, FUNCTIONS) == []


def test_files_are_of_one_topic_and_none_is_long() -> None:
    assert len(FILES) > 200
    assert _at(50, FILES) < 150
    assert _at(90, FILES) <= 280
    assert _over(450, FILES) == []
