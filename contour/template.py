"""What a site wants contoured: TOML with a schema that refuses what it does not know and says which line is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, model_validator

from contour.postprocessing import Postprocessing
from contour.recipe import Recipe, ingredients, parse
from patient.errors import TemplateError
from patient.names import lookup
from patient.settings import Fault, Shipped, Table, refused
from patient.structures import Code

EXISTING = "existing"
"""The engine of what only a person draws: it is read from the clinic's own structure set."""
NOT_IN_EXISTING_SET = "it has to come from an existing structure set (--existing)"
TARGETS = ("GTV", "CTV", "ITV", "PTV")
Channel = Annotated[int, Field(ge=0, le=255)]


class Limits(Table):
    """How sure an engine has to be of a structure, by the Dice that it predicts of itself (0 to 1).

    Args:
        review_below: less is flagged for a person, in the place of the engine's own limit.
        withhold_below: less is not written at all.
    """

    review_below: Annotated[float, Field(ge=0, le=1)] = 0.0
    withhold_below: Annotated[float, Field(ge=0, le=1)] = 0.0

    @model_validator(mode="after")
    def _ordered(self) -> Limits:
        if 0 < self.review_below < self.withhold_below:
            raise ValueError("withhold_below lies above review_below: nothing would ever be flagged")
        return self


class _Entry(Table):
    engine: str = ""
    recipe: str = ""
    required: bool = False
    type: str = ""
    color: tuple[Channel, Channel, Channel] | None = None
    volume_cc: tuple[float, float] | None = None
    clean: Postprocessing | None = None
    confidence: Limits | None = None
    least_area_mm2: Annotated[float, Field(ge=0)] | None = None
    """Contours that are smaller are not written; without it the template's own."""
    source: str = ""
    """Where a margin or limit comes from."""


class _File(Table):
    description: str
    least_area_mm2: Annotated[float, Field(ge=0)] = 0.0
    """Of every structure that does not say it itself."""
    structures: dict[Annotated[str, Field(min_length=1, max_length=16)], _Entry]


@dataclass(frozen=True)
class Wanted:
    """One structure of a template.

    Args:
        name: TG-263.
        engine: name of the engine that shall find it, "any", "existing", or empty for a derived structure.
        recipe: how it is derived; None for a found one.
        required: its absence sends the case to review.
        clean: what is done to it before it is used; None for nothing.
        confidence: how sure its engine has to be; None for what the engine itself asks.
        least_area_mm2: contours that are smaller are not written; 0 for none.
        source: where its margins or limits come from, as the template says it.
        interpreted_type, color, code, volume_cc: as `patient.names`, unless the template says otherwise.
    """

    name: str
    engine: str
    recipe: Recipe | None
    recipe_text: str
    required: bool
    interpreted_type: str
    color: tuple[int, int, int]
    code: Code | None
    volume_cc: tuple[float, float] | None
    clean: Postprocessing | None = None
    confidence: Limits | None = None
    least_area_mm2: float = 0.0
    source: str = ""

    @property
    def is_target(self) -> bool:
        """A gross, clinical, internal or planning target volume, by its type or its name."""
        return self.interpreted_type in TARGETS or self.name.startswith(TARGETS)


@dataclass(frozen=True)
class Template:
    """A site template, whole and consistent: every ingredient of a recipe is wanted before it is used.

    `digest` is SHA-256 of the file's text: part of a job's key.
    """

    name: str
    description: str
    structures: tuple[Wanted, ...]
    digest: str


_SHIPPED = Shipped("contour", "templates", "template", TemplateError)


def available_templates() -> tuple[str, ...]:
    """Names of the templates that are shipped."""
    return _SHIPPED.names()


def load_template(name_or_path: str) -> Template:
    """A shipped template by name, or a site's own by path.

    Raises:
        TemplateError: not there, or not what the schema asks for; says which lines.
    """
    source, read = _SHIPPED.read(name_or_path, _File)
    wanted: list[Wanted] = []
    faults: list[Fault] = []
    known: set[str] = set()
    for structure, entry in read.structures.items():
        try:
            wanted.append(_wanted(structure, entry, known, read.least_area_mm2))
        except TemplateError as error:
            faults.append(Fault(error.what, source.line(["structures", structure])))
        known.add(structure)
    if faults:
        raise refused(faults, source, TemplateError)
    return Template(source.name, read.description, tuple(wanted), source.digest)


def _wanted(name: str, entry: _Entry, known: set[str], least_area_mm2: float) -> Wanted:
    if bool(entry.engine) == bool(entry.recipe):
        raise TemplateError(f"{name} needs either an engine or a recipe")
    if entry.confidence is not None and entry.recipe:
        raise TemplateError(f"{name} is derived: only an engine says how sure it is")
    recipe = None
    if entry.recipe:
        try:
            recipe = parse(entry.recipe)
        except TemplateError as error:
            raise TemplateError(f"{name}: {error.what}") from error
        missing = [i for i in ingredients(recipe) if i not in known]
        if missing:
            raise TemplateError(f"{name} is derived from {missing[0]}, which is not wanted before it")
    listed = lookup(name)
    color = entry.color or (listed.color if listed else None)
    if color is None:
        raise TemplateError(f"{name} is no TG-263 name known here and has no color")
    return Wanted(
        name=name,
        engine=entry.engine,
        recipe=recipe,
        recipe_text=entry.recipe,
        required=entry.required,
        interpreted_type=entry.type or (listed.interpreted_type if listed else "ORGAN"),
        color=color,
        code=listed.code if listed else None,
        volume_cc=entry.volume_cc or (listed.volume_cc if listed else None),
        clean=entry.clean,
        confidence=entry.confidence,
        least_area_mm2=least_area_mm2 if entry.least_area_mm2 is None else entry.least_area_mm2,
        source=entry.source,
    )
