"""What others build on says what it is: all of `recontour`, every protocol, and every module that the reference shows."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("patient", "registration", "contour", "adaptive", "pipelines", "recontour")
_ARRAYS = re.compile(r"\b(NDArray|ArrayLike|ndarray|Points)\b")
_SHAPES = re.compile(r"\[\.{0,3}[\w ,./]*\]|\bshape\b|\bscalars?\b")
_VOLUMES = re.compile(r"\b(Volume|Mask)\b")
_UNITS = re.compile(r"\b(mm|HU|Gy|cc|degrees|seconds|bool|float32|int16|0 to 1|0-1|numbers|percent)\b|%|`\[")

SHOWN = {
    name
    for page in (ROOT / "docs/reference").glob("*.md")
    for name in re.findall(r"^::: (\S+)", page.read_text("utf-8"), re.M)
}
"""Modules of which the reference of the Python API shows everything public."""

Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Public:
    """A function, class or method that others may use, with the docstring of what it belongs to."""

    name: str
    node: Documented
    around: str = ""


def _members(owner: Documented, name: str) -> Iterator[Public]:
    around = ast.get_docstring(owner) or ""
    for node in owner.body:
        if isinstance(node, Documented) and not node.name.startswith("_"):
            yield Public(f"{name}.{node.name}", node, around)


def _is_protocol(node: ast.stmt) -> bool:
    return isinstance(node, ast.ClassDef) and any("Protocol" in ast.unparse(base) for base in node.bases)


def _public() -> Iterator[Public]:
    for path in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        module = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:
            public = isinstance(node, Documented) and not node.name.startswith("_")
            if public and (module in SHOWN or _is_protocol(node)):
                yield Public(f"{module}.{node.name}", node, ast.get_docstring(tree) or "")
                if isinstance(node, ast.ClassDef):
                    yield from _members(node, f"{module}.{node.name}")


PUBLIC = {public.name: public for public in _public()}


def _annotations(node: Documented) -> str:
    if isinstance(node, ast.ClassDef):
        return " ".join(ast.unparse(line.annotation) for line in node.body if isinstance(line, ast.AnnAssign))
    arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
    return " ".join(ast.unparse(a) for a in (*(a.annotation for a in arguments), node.returns) if a is not None)


def test_there_are_things_that_others_build_on() -> None:
    assert "recontour.contour" in PUBLIC
    assert "contour.engine.Engine.offers" in PUBLIC
    assert len(PUBLIC) > 80


@pytest.mark.parametrize("public", PUBLIC.values(), ids=PUBLIC)
def test_every_public_thing_has_a_docstring(public: Public) -> None:
    said = ast.get_docstring(public.node)
    assert said, public.name
    assert re.match(r"[A-Z`\"]", said), f"{public.name}: begins with a sentence"


@pytest.mark.parametrize("public", PUBLIC.values(), ids=PUBLIC)
def test_where_arrays_go_in_or_out_their_shape_or_unit_is_said(public: Public) -> None:
    said, around = ast.get_docstring(public.node) or "", public.around
    annotations = _annotations(public.node)
    if _ARRAYS.search(annotations):
        assert _SHAPES.search(said), f"{public.name}: no shape, like `[n, 3]`"
    if _VOLUMES.search(annotations):
        assert _UNITS.search(f"{said} {around}"), f"{public.name}: neither a unit nor what the numbers are"
