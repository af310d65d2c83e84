"""Values of a MONAI bundle's configuration, without running it.

A bundle's `$` strings are Python. What stands in a value that we need is read as a small language instead: literals, lists,
dicts, `@references`, `a if condition else b`, comparisons, and one call, that of a network on our list. Anything else is
refused; what we do not need is never looked at.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from patient.errors import ModelError

NETWORKS = {
    "AttentionUnet": "attentionunet",
    "BasicUNet": "basic_unet",
    "DynUNet": "dynunet",
    "SegResNet": "segresnet",
    "SegResNetDS": "segresnet_ds",
    "SwinUNETR": "swin_unetr",
    "UNETR": "unetr",
    "UNet": "unet",
    "VNet": "vnet",
    "vista3d132": "vista3d",
}
"""What a configuration may build, and its module in monai.networks.nets."""

_REFERENCE = re.compile(r"@([A-Za-z_]\w*(?:(?:#|::)\w+)*)")
_ALONE = re.compile(rf"\$?\s*{_REFERENCE.pattern}\s*")
_COMPARISONS = {ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt}
_DEEPEST = 20
"""References within references; deeper is a circle."""


@dataclass(frozen=True)
class NetworkCall:
    """A network on our list, and what it is built with."""

    name: str
    arguments: Mapping[str, Any]


class Configuration:
    """A bundle's inference.json.

    Args:
        content: as parsed.
        where: for messages.
    """

    def __init__(self, content: Mapping[str, Any], where: str) -> None:
        self._content, self._where = content, where

    def value(self, key: str, default: Any = None) -> Any:
        """What stands under a key (`inferer#roi_size`), with references followed; `default` where there is nothing.

        Raises:
            ModelError: it could be told only by running Python.
        """
        try:
            return self.plain(self._under(key))
        except KeyError:
            return default

    def listed(self, key: str) -> Sequence[Any]:
        """What stands in a list, as written; empty where there is none."""
        try:
            at = self._under(key)
            if isinstance(at, str) and (alone := _ALONE.fullmatch(at)):
                at = self._followed(alone[1])
        except KeyError:
            return ()
        return at if isinstance(at, list) else ()

    def network(self, key: str) -> NetworkCall:
        """The network that stands under a key.

        Raises:
            ModelError: none, or not one on our list.
        """
        try:
            written = self._under(key)
        except KeyError:
            raise self._refused(f"It has no {key}") from None
        if isinstance(written, Mapping) and isinstance(written.get("_target_"), str):
            arguments = {name: self.plain(v) for name, v in written.items() if not name.startswith("_")}
            return NetworkCall(self._listed(written["_target_"]), arguments)
        made = self.plain(written)
        if not isinstance(made, NetworkCall):
            raise self._refused(f"{key} is no network")
        return made

    def plain(self, written: Any, depth: int = 0) -> Any:
        """A value as numbers, texts, lists and dicts."""
        if depth > _DEEPEST:
            raise self._refused("Its references go in a circle")
        if isinstance(written, Mapping):
            return {name: self.plain(value, depth + 1) for name, value in written.items()}
        if isinstance(written, list):
            return [self.plain(value, depth + 1) for value in written]
        if not isinstance(written, str) or written[:1] not in ("@", "$"):
            return written
        if alone := _ALONE.fullmatch(written):
            return self.plain(self._followed(alone[1]), depth + 1)
        if not written.startswith("$"):
            return written
        return self._expression(written[1:].strip(), depth)

    def _expression(self, text: str, depth: int) -> Any:
        names: dict[str, str] = {}

        def stand_in(found: re.Match[str]) -> str:
            names[f"_r{len(names)}"] = found[1]
            return f"_r{len(names) - 1}"

        try:
            tree = ast.parse(_REFERENCE.sub(stand_in, text), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise self._runs(text) from None
        return self._read(tree, names, text, depth)

    def _read(self, node: ast.expr, names: Mapping[str, str], text: str, depth: int) -> Any:
        match node:
            case ast.Constant(value=value):
                return value
            case ast.List(elts=parts) | ast.Tuple(elts=parts):
                return [self._read(part, names, text, depth) for part in parts]
            case ast.Dict(keys=keys, values=values) if None not in keys:
                pairs = zip(keys, values, strict=True)
                return {
                    self._read(k, names, text, depth): self._read(v, names, text, depth) for k, v in pairs if k is not None
                }
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                number = self._read(operand, names, text, depth)
                if isinstance(number, int | float):
                    return -number
            case ast.Name(id=name) if name in names:
                return self.plain(self._followed(names[name]), depth + 1)
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return self._read(body if self._read(test, names, text, depth) else orelse, names, text, depth)
            case ast.Compare(left=left, ops=[comparison], comparators=[right]) if type(comparison) in _COMPARISONS:
                sides = self._read(left, names, text, depth), self._read(right, names, text, depth)
                return _COMPARISONS[type(comparison)](*sides)
            case ast.Call(func=function, args=[], keywords=keywords) if all(k.arg for k in keywords):
                arguments = {str(k.arg): self._read(k.value, names, text, depth) for k in keywords}
                return NetworkCall(self._listed(ast.unparse(function)), arguments)
        raise self._runs(text)

    def _under(self, key: str) -> Any:
        """Raises KeyError where there is nothing."""
        at: Any = self._content
        for part in re.split("#|::", key):
            if isinstance(at, str) and (alone := _ALONE.fullmatch(at)):
                at = self._followed(alone[1])
            if isinstance(at, Sequence) and not isinstance(at, str) and part.isdigit() and int(part) < len(at):
                at = at[int(part)]
            elif isinstance(at, Mapping) and part in at:
                at = at[part]
            else:
                raise KeyError(key)
        return at

    def _followed(self, key: str) -> Any:
        try:
            return self._under(key)
        except (KeyError, RecursionError):
            raise self._refused(f"It refers to {key}, which is not there") from None

    def _listed(self, target: str) -> str:
        name = target.rpartition(".")[2]
        if name not in NETWORKS or target not in (
            name,
            f"monai.networks.nets.{name}",
            f"monai.networks.nets.{NETWORKS[name]}.{name}",
        ):
            raise self._refused(f"It would build {target[:60]!r}")
        return name

    def _runs(self, text: str) -> ModelError:
        return self._refused(f"What it needs is told by a program: {text[:60]!r}")

    def _refused(self, what: str) -> ModelError:
        return ModelError(
            what,
            where=self._where,
            why="A bundle's configuration can run any program; this one is read, not run",
            remedy=f"Write the values out in the configuration. Networks: {', '.join(NETWORKS)}",
        )
