"""Policies as files: TOML with a schema that refuses what it does not know and says which line is wrong."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from adaptive.decision.rules import (
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
from adaptive.dose.histogram import Metric
from contour.recipe import parse
from patient.errors import TemplateError
from patient.settings import Shipped, Table

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
_MM = ("mm",)
_UNITS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"dice", ("",)),
    (r"volume|overlap_.+|outline_(lost|gained)|air", ("cc",)),
    (r"shift(_(lateral|longitudinal|vertical))?|mean_surface_distance|hd95|outline_max", _MM),
    (r"separation_(lateral|AP|\*)(@.+)?|setup(_(lateral|longitudinal|vertical|residual|drift))?", _MM),
    (r"setup_(rotation|pitch|roll|yaw)", ("degrees",)),
    (TRUST, ("",)),
)
"""Which quantities beside figures of a DVH a rule may name, and in which units."""


_SHIPPED = Shipped("adaptive", "policies", "policy")


def available_policies() -> tuple[str, ...]:
    """Names of the policies that are shipped."""
    return _SHIPPED.names()


def load_policy(name_or_path: str) -> Policy:
    """A shipped policy by name, or a site's own by path.

    Raises:
        PolicyError: not there, or not what the schema asks for; says which lines.
    """
    source, read = _SHIPPED.read(name_or_path, _File)
    apart = read.separation
    return Policy(
        name=source.name,
        version=read.version,
        description=read.description,
        rules=tuple(_rule(key, rule) for key, rule in read.rules.items()),
        structures=tuple((pattern, _structure(entry)) for pattern, entry in read.structures.items()),
        separation=Separation(apart.levels, apart.through) if apart else Separation(),
        digest=source.digest,
    )


Pattern = Annotated[str, Field(min_length=1, pattern=r"^[^?\[\]]+$")]


def _units(quantity: str) -> tuple[str, ...]:
    """The units that a quantity comes in; none where nothing measures it, so that a rule on it could never be exceeded."""
    if is_dose(quantity):
        unit = Metric.named(quantity).unit
        return (unit, OF_PRESCRIPTION) if unit == "Gy" else (unit,)
    return next((units for form, units in _UNITS if re.fullmatch(form, quantity)), ())


class _Rule(Table):
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


class _Structure(Table):
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
            raise ValueError(f"{wrong[0]!r} is not a dose metric")
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


class _Separation(Table):
    levels: tuple[Number, ...]
    through: tuple[str, ...] = ("isocentre",)
    source: Annotated[str, Field(min_length=1)]


class _File(Table):
    schema_: Literal[1] = Field(alias="schema")
    version: Annotated[str, Field(min_length=1)]
    description: str
    separation: _Separation | None = None
    structures: dict[Pattern, _Structure] = Field(default_factory=dict)
    rules: Annotated[dict[str, _Rule], Field(min_length=1)]

    @field_validator("structures")
    @classmethod
    def _stars_have_one_meaning(cls, structures: dict[str, _Structure]) -> dict[str, _Structure]:
        for pattern, entry in structures.items():
            if "*" in entry.recipe and not (pattern.count("*") == 1 and pattern.endswith("*")):
                raise ValueError(f"the recipe of {pattern!r} uses *, so that the name must end in its only *")
        return structures


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
