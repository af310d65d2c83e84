"""What a person says of a model that its own files do not: a TOML file; and how a model's classes become structures."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, field_validator, model_validator

from contour.model import ModelCard
from patient.errors import ModelError
from patient.names import lookup, match
from patient.settings import Source, Table, parsed, read_source

ABOUT = "about.toml"

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]
Class = str | int


class Intensities(Table):
    """One input channel: HU cut to `clip`, then `clip` mapped linearly to `to`, or `mean` taken off and divided by `std`."""

    clip: tuple[float, float] | None = None
    to: tuple[float, float] | None = None
    mean: float = 0.0
    std: Positive = 1.0


class About(Table):
    """Of any kind of model.

    Args:
        name, version: of the model, where its files do not say it or a site wants another.
        licence: SPDX where there is one, of the weights.
        data, limits: as on a `ModelCard`, in words.
        axes: direction of each array axis that the model was trained on, as `contour.network.Grid`: `SPL`, `RAS`.
        structures: TG-263 to the model's class, or to several that make it up: by name, or by output channel. Empty: the
            classes whose names are known.
    """

    name: Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,39})?$")] = ""
    version: str = ""
    licence: str = ""
    data: str = ""
    limits: str = ""
    axes: str = ""
    structures: dict[Annotated[str, Field(min_length=1, max_length=16)], Class | tuple[Class, ...]] = Field(
        default_factory=dict
    )

    @field_validator("axes")
    @classmethod
    def _three_directions(cls, axes: str) -> str:
        pairs = ("SI", "PA", "LR")
        if axes and (len(axes) != 3 or any(sum(letter in pair for letter in axes) != 1 for pair in pairs)):
            raise ValueError("three letters, one each of S or I, P or A, L or R")
        return axes


class ExportedAbout(About):
    """Of a network without any description of its own: TorchScript, ONNX.

    Args:
        spacing, patch: mm and voxels, in the order of `axes`.
        overlap: of neighbouring patches.
        output: what the channels are: probabilities; logits of which one class a voxel is right (softmax); logits of
            structures that may overlap (sigmoid).
        channels: how many the output has, background included.
        intensities: one an input channel.
    """

    spacing: tuple[Positive, Positive, Positive]
    patch: tuple[Count, Count, Count]
    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.25
    output: Literal["probabilities", "softmax", "sigmoid"]
    channels: Count
    intensities: Annotated[tuple[Intensities, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _whole(self) -> ExportedAbout:
        if not self.axes:
            raise ValueError("axes are missing")
        return self


Told = TypeVar("Told", bound=About)


@dataclass(frozen=True)
class Described:
    """A model as its files and a person describe it.

    Args:
        card: what it is.
        channels: which of the network's outputs make up each structure of the card; of VISTA3D, which class numbers.
    """

    card: ModelCard
    channels: Mapping[str, tuple[int, ...]]

    @staticmethod
    def of(
        about: About, channels: Mapping[str, tuple[int, ...]], *, kind: str, name: str, version: str, digest: str
    ) -> Described:
        """By the description's words, and by the files' own name and version where it has none."""
        card = ModelCard(
            name=about.name or name,
            version=about.version or version,
            kind=kind,
            structures=tuple(channels),
            sha256=digest,
            licence=about.licence,
            data=about.data,
            limits=about.limits,
        )
        return Described(card, channels)


def read_about(path: Path, schema: type[Told]) -> Told:
    """A model's about.toml; an empty one where none was given.

    Raises:
        ModelError: not TOML, or not what the schema asks for.
    """
    source = read_source(path, "description of the model", ModelError) if path.is_file() else Source("about", ABOUT, "")
    return parsed(source, schema, ModelError, "docs/models.md lists what each kind of model needs to be told")


def channels_of(
    about: About, channel_of: Mapping[str, int], known: Mapping[str, tuple[str, ...]] | None = None
) -> dict[str, tuple[int, ...]]:
    """Which output channels make up each structure, in TG-263 names.

    Args:
        about: what the person asked for; where nothing, every class whose name is known.
        channel_of: of the model's classes by name, without the background.
        known: structure to classes; None for `class_names`.

    Raises:
        ModelError: a class that the model does not have, or no class is known.
    """
    if about.structures:
        return {name: _asked(name, classes, channel_of) for name, classes in about.structures.items()}
    found: dict[str, tuple[int, ...]] = {}
    for name, classes in (class_names() if known is None else known).items():
        if all(c in channel_of for c in classes):
            found[name] = tuple(channel_of[c] for c in classes)
    used = {channel for channels in found.values() for channel in channels}
    for written, channel in channel_of.items():
        entry = lookup(written) or match(written)
        if entry is not None and channel not in used and found.setdefault(entry.name, (channel,)) != (channel,):
            raise ModelError(f"Two classes mean {entry.name}", remedy="Say which in the description's [structures]")
    if not found:
        raise ModelError(
            "None of the model's classes has a TG-263 name that is known here",
            remedy="Name them in the description's [structures]",
        )
    return found


def _asked(name: str, classes: Class | tuple[Class, ...], channel_of: Mapping[str, int]) -> tuple[int, ...]:
    channels: list[int] = []
    for one in classes if isinstance(classes, tuple) else (classes,):
        channel = channel_of.get(one) if isinstance(one, str) else one
        if channel is None or channel not in channel_of.values():
            there = ", ".join(sorted(channel_of)[:6])
            raise ModelError(
                f"{name}: the model has no class {one!r}", remedy=f"Among its {len(channel_of)} classes are {there}"
            )
        channels.append(channel)
    return tuple(channels)


@cache
def class_names() -> Mapping[str, tuple[str, ...]]:
    """TG-263 to the class or classes that public models have for it."""
    table = tomllib.loads(files("contour.model_import").joinpath("classes.toml").read_text(encoding="utf-8"))["structures"]
    return {name: (classes,) if isinstance(classes, str) else tuple(classes) for name, classes in table.items()}


def safe_name(text: str) -> str:
    """A model's name as its files give it, as a folder and an engine may be called."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:40] or "model"
