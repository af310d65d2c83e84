"""Files of settings: TOML with a schema. All faults of a file are said at once, each with its line and a suggestion."""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from patient.errors import PolicyError, RecontourError

Refusal = type[RecontourError]
MOST_FAULTS = 12
"""Said of one file; a file with more is another kind of file."""


class Table(BaseModel):
    """A table of a file of settings: a key that it does not know is refused, and what was read does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Source:
    """A file of settings as it was read.

    Args:
        name: without folder and suffix.
        file: as messages call it.
        text: whole.
    """

    name: str
    file: str
    text: str

    @property
    def digest(self) -> str:
        """SHA-256 of the text: part of the key of a job that the file decides."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def line(self, keys: Sequence[str]) -> int:
        """Line of a key, from 1: of the longest part of its path that stands in the file."""
        return _line(self.text, keys)


@dataclass(frozen=True)
class Shipped:
    """The files of settings of one kind that come with the product; a site's own is named by its path.

    Args:
        package, folder: where they lie.
        kind: what one is called in messages: `template`.
        refusal: what is raised where one is not there or cannot be read.
    """

    package: str
    folder: str
    kind: str
    refusal: Refusal = PolicyError

    def names(self) -> tuple[str, ...]:
        """Of all that are shipped."""
        folder = files(self.package).joinpath(*self.folder.split("/"))
        return tuple(sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")))

    def source(self, name_or_path: str) -> Source:
        """A shipped file by name, or a site's own by path.

        Raises:
            RecontourError: of kind `refusal`: no such file, or no text.
        """
        if Path(name_or_path).suffix == ".toml":
            return read_source(Path(name_or_path), self.kind, self.refusal)
        if name_or_path not in self.names():
            meant = _meant(name_or_path, self.names())
            raise self.refusal(
                f"No {self.kind} {name_or_path!r}{meant}",
                remedy=f"Use one of {', '.join(self.names())}, or a path to your own (TOML)",
            )
        text = files(self.package).joinpath(*self.folder.split("/"), f"{name_or_path}.toml").read_text(encoding="utf-8")
        return Source(name_or_path, f"{name_or_path}.toml", text)

    def read(self, name_or_path: str, schema: type[Model]) -> tuple[Source, Model]:
        """A shipped file by name, or a site's own by path, and what it says by a schema.

        Raises:
            RecontourError: of kind `refusal`: as `source` and `parsed`.
        """
        source = self.source(name_or_path)
        return source, parsed(source, schema, self.refusal)


def read_source(path: Path, kind: str, refusal: Refusal = PolicyError) -> Source:
    """A file of settings by its path.

    Args:
        kind: what it is called in messages: `configuration`.
        refusal: what is raised.

    Raises:
        RecontourError: of kind `refusal`: it cannot be read, or is not UTF-8; with the line.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise refusal(f"The {kind} cannot be read: {error.strerror}", where=path.name) from error
    try:
        return Source(path.stem, path.name, raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = 1 + raw[: error.start].count(b"\n")
        raise refusal(
            f"The {kind} cannot be read: it is not UTF-8", where=f"{path.name}, line {line}", remedy="Save it as UTF-8"
        ) from error


def parsed(source: Source, schema: type[Model], refusal: Refusal = PolicyError, remedy: str = "") -> Model:
    """What a file says, by a schema.

    Args:
        schema: whose models forbid unknown keys.
        refusal: what is raised.
        remedy: what the reader can do, where it is more than mending the file.

    Raises:
        RecontourError: of kind `refusal`: not TOML, or not what the schema asks for; names every fault with its line.
    """
    try:
        return schema.model_validate(tomllib.loads(source.text))
    except tomllib.TOMLDecodeError as error:
        raise refusal(f"Not TOML: {error}", where=source.file, remedy=remedy) from error
    except RecursionError as error:
        raise refusal("Not TOML that can be read: nested too deeply", where=source.file, remedy=remedy) from error
    except ValidationError as error:
        raise refused([_fault(source, schema, one) for one in error.errors()], source, refusal, remedy) from error


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong in a file of settings: the key's path, what is wrong, the line."""

    what: str
    line: int


def refused(faults: Sequence[Fault], source: Source, refusal: Refusal = PolicyError, remedy: str = "") -> RecontourError:
    """One error of kind `refusal` that names all faults of a file, in their order in it."""
    faults = sorted(dict.fromkeys(faults), key=lambda fault: fault.line)
    if len(faults) == 1:
        return refusal(faults[0].what, where=f"{source.file}, line {faults[0].line}", remedy=remedy)
    said = [f"line {fault.line}: {fault.what}" for fault in faults[:MOST_FAULTS]]
    if len(faults) > MOST_FAULTS:
        said.append(f"and {len(faults) - MOST_FAULTS} more")
    return refusal(f"{len(faults)} faults; " + "; ".join(said), where=source.file, remedy=remedy)


_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
"""What pydantic calls an unknown key: of a model, and of a dataclass."""


def _fault(source: Source, schema: type[BaseModel], error: Any) -> Fault:
    keys = [str(part) for part in error["loc"] if part != "[key]"]
    said = str(error["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    said = said.replace("Input should be a valid ", "has to be a ").replace("Input should be ", "has to be ")
    if error["type"] in _UNKNOWN:
        said = f"unknown key{_meant(keys[-1], _keys_beside(schema, keys))}"
    elif error["type"] == "missing":
        said = "is missing"
    elif error["type"] == "literal_error":
        said += _meant(str(error["input"]), re.findall(r"'([^']*)'", str(error["ctx"]["expected"])))
    key = ".".join(keys)
    return Fault(f"{key}: {said}" if key else said, source.line(keys))


def _meant(written: str, known: Sequence[str]) -> str:
    close = get_close_matches(written, known, n=1)
    return f": did you mean {close[0]!r}?" if close else ""


def _keys_beside(schema: type[BaseModel], keys: Sequence[str]) -> list[str]:
    """The keys that a schema knows where an unknown one stands."""
    whole = schema.model_json_schema(by_alias=True)
    at = _tables(whole, whole)
    for key in keys[:-1]:
        at = [inner for table in at for inner in _tables(whole, _inside(table, key))]
    return [key for table in at for key in table.get("properties", {})]


def _inside(table: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    if key in table.get("properties", {}):
        return table["properties"][key]
    inner = table.get("additionalProperties") or table.get("items")
    return cast("dict[str, Any]", inner) if isinstance(inner, dict) else {}


def _tables(whole: Mapping[str, Any], said: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A part of a JSON Schema with its references followed, each alternative by itself."""
    if "$ref" in said:
        return _tables(whole, whole["$defs"][said["$ref"].rsplit("/", 1)[-1]])
    if several := [*said.get("anyOf", ()), *said.get("allOf", ())]:
        return [table for one in several for table in _tables(whole, one)]
    return [said]


def _line(text: str, keys: Sequence[str]) -> int:
    table: list[str] = []
    best, at = 0, 1
    for n, line in enumerate(text.splitlines(), start=1):
        path = _path(_alone(line))
        if not path:
            continue
        if line.lstrip().startswith("["):
            table = path
        else:
            path = [*table, *path]
        same = next((i for i, (a, b) in enumerate(zip(path, keys, strict=False)) if a != b), min(len(path), len(keys)))
        if same > best:
            best, at = same, n
    return at


def _alone(line: str) -> dict[str, Any]:
    """A line as a document of its own; of a value that goes on over several lines, its key."""
    for text in (line, f"{line.partition('=')[0]}= 0" if "=" in line else ""):
        try:
            return tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError):
            continue
    return {}


def _path(said: Any) -> list[str]:
    """The keys of a document that holds one."""
    path: list[str] = []
    while isinstance(said, dict) and len(table := cast("dict[str, Any]", said)) == 1:
        key, said = next(iter(table.items()))
        path.append(key)
    return path
