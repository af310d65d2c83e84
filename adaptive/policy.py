"""Policies as files: TOML with a schema that refuses what it does not know and says which line is wrong."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from adaptive.histogram import Metric
from adaptive.rules import (
    EXAMPLE,
    OF_PRESCRIPTION,
    TRUST,
    Compare,
    Policy,
    Propagation,
    Rule,
    Separation,
    StructurePolicy,
    Tissue,
    is_dose,
)
from contour.recipe import parse
from patient.errors import PolicyError, TemplateError

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
_MM = ("mm",)
_UNITS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"dice", ("",)),
    (r"volume|overlap_.+|outline_(lost|gained)|air", ("cc",)),
    (r"shift(_(lateral|longitudinal|vertical))?|mean_surface_distance|hd95|outline_max", _MM),
    (r"separation_(lateral|AP|\*)(@.+)?|setup(_(lateral|longitudinal|vertical))?", _MM),
    (r"setup_(rotation|pitch|roll|yaw)", ("degrees",)),
    (TRUST, ("",)),
)
"""Which quantities beside figures of a DVH a rule may name, and in which units."""


def available_policies() -> tuple[str, ...]:
    """Names of the policies that are shipped."""
    folder = files("adaptive").joinpath("policies")
    return tuple(sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")))


def load_policy(name_or_path: str) -> Policy:
    """A shipped policy by name, or a site's own by path.

    Raises:
        PolicyError: not there, or not what the schema asks for; says which line.
    """
    path = Path(name_or_path)
    if path.suffix == ".toml":
        try:
            return _parsed(path.stem, path.read_text(encoding="utf-8"), path.name)
        except (OSError, UnicodeDecodeError) as error:
            raise PolicyError("The policy cannot be read", where=path.name) from error
    if name_or_path not in available_policies():
        there_are = ", ".join(available_policies())
        raise PolicyError(f"No policy {name_or_path!r}", remedy=f"Use one of {there_are}, or a path to your own")
    shipped = files("adaptive").joinpath("policies", f"{name_or_path}.toml")
    return _parsed(name_or_path, shipped.read_text(encoding="utf-8"), f"{name_or_path}.toml")


class _Schema(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Pattern = Annotated[str, Field(min_length=1, pattern=r"^[^?\[\]]+$")]


def _units(quantity: str) -> tuple[str, ...]:
    """The units that a quantity comes in; none where nothing measures it, so that a rule on it would never trip."""
    if is_dose(quantity):
        unit = Metric.named(quantity).unit
        return (unit, OF_PRESCRIPTION) if unit == "Gy" else (unit,)
    return next((units for form, units in _UNITS if re.fullmatch(form, quantity)), ())


class _Rule(_Schema):
    structures: tuple[Pattern, ...] = ()
    quantity: str
    unit: str
    compare: Compare
    rises_above: Number | None = None
    falls_below: Number | None = None
    consecutive: Annotated[int, Field(strict=True, ge=1, le=10)] = 1
    consequence: Literal["review", "replan"]
    required: bool = False
    accepted_in_plan: bool = False
    source: Annotated[str, Field(min_length=1)]

    @field_validator("quantity")
    @classmethod
    def _is_measured(cls, quantity: str) -> str:
        if not _units(quantity):
            raise ValueError(f"nothing measures {quantity!r}")
        return quantity

    @model_validator(mode="after")
    def _makes_sense(self) -> _Rule:
        if (self.rises_above is None) == (self.falls_below is None):
            raise ValueError("a rule needs either rises_above or falls_below")
        units = ("%",) if self.compare is Compare.RELATIVE else _units(self.quantity)
        if self.unit not in units:
            raise ValueError(
                f"{self.quantity} as {self.compare.value} is in {' or '.join(map(repr, units))}, not {self.unit!r}"
            )
        if self.accepted_in_plan and self.compare is not Compare.VALUE:
            raise ValueError('accepted_in_plan goes with compare = "value"')
        return self


class _Structure(_Schema):
    propagate: Propagation | None = None
    tissue: Tissue = Tissue.FREE
    recipe: str = ""
    metrics: tuple[str, ...] = ()
    eud: Number | None = None
    prescription: Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)] | None = None
    source: str = ""

    @field_validator("recipe")
    @classmethod
    def _is_a_recipe(cls, recipe: str) -> str:
        try:
            if recipe:
                parse(recipe.replace("*", "X"))
        except TemplateError as error:
            raise ValueError(error.what) from error
        return recipe

    @field_validator("metrics")
    @classmethod
    def _are_dose(cls, metrics: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := [m for m in metrics if not is_dose(m)]:
            raise ValueError(f"{wrong[0]!r} is no figure of dose in a structure")
        return metrics

    @field_validator("eud")
    @classmethod
    def _is_an_exponent(cls, eud: float | None) -> float | None:
        if eud == 0:
            raise ValueError("an exponent of 0 has no EUD")
        return eud

    @model_validator(mode="after")
    def _makes_sense(self) -> _Structure:
        if self.recipe and self.propagate:
            raise ValueError("a structure with a recipe is rebuilt, so that it is not propagated")
        if "EUD" in self.metrics and self.eud is None:
            raise ValueError("an EUD is wanted, and there is no exponent eud")
        if (self.recipe or self.eud is not None) and not self.source:
            raise ValueError(f"a margin or an exponent needs a source; where there is none: {EXAMPLE!r}")
        return self


class _Separation(_Schema):
    levels: tuple[Number, ...]
    through: tuple[str, ...] = ("isocentre",)
    source: Annotated[str, Field(min_length=1)]


class _File(_Schema):
    schema_: Literal[1] = Field(alias="schema")
    version: Annotated[str, Field(min_length=1)]
    description: str
    separation: _Separation | None = None
    structures: dict[Pattern, _Structure] = {}
    rules: Annotated[dict[str, _Rule], Field(min_length=1)]

    @field_validator("structures")
    @classmethod
    def _stars_have_one_meaning(cls, structures: dict[str, _Structure]) -> dict[str, _Structure]:
        for pattern, entry in structures.items():
            if "*" in entry.recipe and not (pattern.count("*") == 1 and pattern.endswith("*")):
                raise ValueError(f"the recipe of {pattern!r} uses *, so that the name must end in its only *")
        return structures


def _parsed(name: str, text: str, file: str) -> Policy:
    try:
        read = _File.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise PolicyError(f"Not TOML: {error}", where=file) from error
    except ValidationError as error:
        first = error.errors()[0]
        keys = [str(part) for part in first["loc"] if part != "[key]"]
        said = first["msg"].removeprefix("Value error, ")
        raise PolicyError(f"{'.'.join(keys)}: {said}", where=f"{file}, line {_line(text, keys)}") from error
    apart = read.separation
    return Policy(
        name=name,
        version=read.version,
        description=read.description,
        rules=tuple(_rule(key, rule) for key, rule in read.rules.items()),
        structures=tuple((pattern, _structure(entry)) for pattern, entry in read.structures.items()),
        separation=Separation(apart.levels, apart.through) if apart else Separation(),
        text=text,
    )


def _rule(name: str, read: _Rule) -> Rule:
    limit = read.rises_above if read.rises_above is not None else read.falls_below
    assert limit is not None
    return Rule(
        name=name,
        structures=read.structures,
        quantity=read.quantity,
        unit=read.unit,
        compare=read.compare,
        limit=limit,
        rises=read.rises_above is not None,
        consecutive=read.consecutive,
        consequence=read.consequence,
        required=read.required,
        accepted_in_plan=read.accepted_in_plan,
        source=read.source,
    )


def _structure(read: _Structure) -> StructurePolicy:
    how = read.propagate or Propagation.DEFORM
    return StructurePolicy(how, read.recipe, read.metrics, read.eud, read.prescription, read.source, read.tissue)


def _line(text: str, keys: Sequence[str]) -> int:
    """The line of a key: of the longest part of its path that stands in the file."""
    table: list[str] = []
    best, at = 0, 1
    for n, line in enumerate(text.splitlines(), start=1):
        try:
            said = tomllib.loads(line)
        except tomllib.TOMLDecodeError:
            try:  # a value that goes on over several lines
                said = tomllib.loads(line.partition("=")[0] + "= 0") if "=" in line else {}
            except tomllib.TOMLDecodeError:
                continue
        if not said:
            continue
        path = _path(said)
        if line.lstrip().startswith("["):
            table = path
        else:
            path = [*table, *path]
        same = next((i for i, (a, b) in enumerate(zip(path, keys, strict=False)) if a != b), min(len(path), len(keys)))
        if same > best:
            best, at = same, n
    return at


def _path(said: dict[str, Any]) -> list[str]:
    """The keys of a document that holds one."""
    path = []
    while isinstance(said, dict) and len(said) == 1:
        key, said = next(iter(said.items()))
        path.append(key)
    return path
