"""A model folder: `model.toml`, which says what a network is and where it comes from, and `weights.safetensors`.

A folder is read whole or refused: the bytes that are loaded are the bytes whose digest the card names, and they fit the
network that the card describes. Nothing in a folder is ever executed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tomli_w
from pydantic import Field, model_validator

from contour.engine import Offer
from patient.durable import replacing
from patient.errors import ModelError
from patient.settings import Table, parsed, read_source

if TYPE_CHECKING:  # A card is read for every case, also where no network runs: torch alone takes a second to import.
    from torch import Tensor, nn

    from contour.unet import Architecture

CARD = "model.toml"
WEIGHTS = "weights.safetensors"
OURS = "recontour-unet"
"""The kind of models that recontour trains."""

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Triple = tuple[Positive, Positive, Positive]
Count = Annotated[int, Field(gt=0)]
TG263 = Annotated[str, Field(min_length=1, max_length=16)]


class Shape(Table):
    """The network, and the grids that it was trained on.

    Args:
        spacing: mm `(z, y, x)` that an image is resampled to where its own do not fit.
        finest, coarsest: mm `(z, y, x)` between which an image's own voxels, or whole blocks of them, are taken as they are.
        patch: voxels `(z, y, x)` of a training patch.
        filters: channels of each level, the finest first.
        windows: HU ranges, one input channel each.
    """

    spacing: Triple
    finest: Triple
    coarsest: Triple
    patch: tuple[Count, Count, Count]
    filters: Annotated[tuple[Count, ...], Field(min_length=3)]
    windows: Annotated[tuple[tuple[float, float], ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _ordered(self) -> Shape:
        if any(not a <= s <= b for a, s, b in zip(self.finest, self.spacing, self.coarsest, strict=True)):
            raise ValueError("spacing must lie between finest and coarsest")
        if any(low >= high for low, high in self.windows):
            raise ValueError("a window needs its lower end first")
        return self


class Score(Table):
    """What a structure reached on patients that the model never saw: means over those that have it.

    Args:
        dice: mean.
        surface_dice: mean share of the surfaces within `tolerance` mm of each other.
        hd95: mm, mean.
        patients: how many have the structure.
    """

    dice: Share
    patients: Count
    surface_dice: Share | None = None
    tolerance: Positive = 3.0
    hd95: Annotated[float, Field(ge=0)] | None = None


class Population(Table):
    """Volumes (cc) of a structure in the training patients: percentiles 2.5, 50 and 97.5."""

    low_cc: Positive
    median_cc: Positive
    high_cc: Positive
    patients: Count


class Offset(Table):
    """Where one structure's middle lies from another's in the training patients: LPS mm (x, y, z), mean and deviation."""

    of: TG263
    seen_from: TG263
    mean: tuple[float, float, float]
    sd: Triple
    patients: Count


class Calibration(Table):
    """How a finding's features become its predicted Dice: `logistic(intercept[structure] + sum(weight * feature))`.

    Args:
        weights: by feature of `contour.confidence.Features`.
        intercepts: by structure.
        review_below: predicted Dice below which clinical review is required.
        patients: how many it was fitted on.
    """

    weights: dict[str, float]
    intercepts: dict[TG263, float]
    review_below: Share
    patients: Count


class ModelCard(Table):
    """What a model is, what it was made from, and what it is worth.

    Args:
        name, version: go into the RTSTRUCT and result.json.
        kind: what reads it: "recontour-unet" for our own.
        structures: TG-263, one output channel each.
        sha256: of the weights' bytes.
        licence: SPDX, of the weights.
        data, split: what it was trained, calibrated and measured on, in words.
        limits: what it is known not to do, in words.
        architecture: of our own kind only.
        suggestion: every contour of it is flagged for a person, however sure the model is: its scores are not yet those that
            it was made for.
        offered: what it answers for, where some of its structures only serve as landmarks; empty for all of them.
        landmarks: structures of which at least `landmarks_needed` must be in an image for the others to be believed.
        layout: where landmarks lie to each other; those that fit no other are not believed.
        scores, population: by structure.
        confidence: None where nobody calibrated it.
    """

    name: Annotated[str, Field(min_length=1)]
    version: str
    kind: str
    structures: Annotated[tuple[TG263, ...], Field(min_length=1)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    licence: str
    data: str = ""
    split: str = ""
    limits: str = ""
    architecture: Shape | None = None
    suggestion: bool = False
    offered: tuple[TG263, ...] = ()
    landmarks: tuple[TG263, ...] = ()
    landmarks_needed: Annotated[int, Field(ge=0)] = 0
    scores: dict[TG263, Score] = Field(default_factory=dict)
    population: dict[TG263, Population] = Field(default_factory=dict)
    layout: tuple[Offset, ...] = ()
    confidence: Calibration | None = None

    @model_validator(mode="after")
    def _consistent(self) -> ModelCard:
        if len(set(self.structures)) < len(self.structures):
            raise ValueError("a structure is there twice")
        named = {
            *self.offered,
            *self.landmarks,
            *self.scores,
            *self.population,
            *(name for o in self.layout for name in (o.of, o.seen_from)),
        }
        if self.confidence is not None:
            named |= set(self.confidence.intercepts)
        if unknown := named - set(self.structures):
            raise ValueError(f"{min(unknown)} is none of the model's structures")
        if self.landmarks_needed > len(self.landmarks):
            raise ValueError("more landmarks are needed than there are")
        if self.kind == OURS and self.architecture is None:
            raise ValueError(f"a {OURS} needs its architecture")
        return self


def offers_of(card: ModelCard) -> Mapping[str, Offer]:
    """What a model offers, each structure with the licence and what the model is known not to do."""
    offer = Offer(f"network {card.name} {card.version}", card.licence, card.limits)
    return dict.fromkeys(card.offered or card.structures, offer)


def read_card(folder: Path) -> ModelCard:
    """The card of a model folder; the weights are not looked at.

    Raises:
        ModelError: no card, or not what the schema asks for.
    """
    path = folder / CARD
    if not path.is_file():
        raise _refused(f"No {CARD}", folder, "Add the model again with `recontour models add`")
    try:
        return parsed(read_source(path, "model card", ModelError), ModelCard, ModelError)
    except ModelError as error:
        raise _refused(f"{error.where}: {error.what}", folder) from error


def read_model(folder: Path) -> tuple[nn.Module, ModelCard]:
    """A network of our own kind, ready to run (eval, float32, no gradients), and its card.

    Raises:
        ModelError: card or weights missing, weights cut short, changed, or of another network.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    from contour.unet import network

    card = read_card(folder)
    if card.kind != OURS:
        raise _refused(f"The model is a {card.kind}, not a {OURS}", folder, "Read it with the reader of its own kind")
    try:
        held = (folder / WEIGHTS).read_bytes()
    except OSError as error:
        raise _refused(f"No {WEIGHTS}", folder, "Add the model again with `recontour models add`") from error
    digest = hashlib.sha256(held).hexdigest()
    if digest != card.sha256:
        raise _refused(
            f"{WEIGHTS} is not what the card was written for: SHA-256 {digest[:12]}…, not {card.sha256[:12]}…",
            folder,
            "It was cut short or changed: take it from its source again",
        )
    module = network(architecture_of(card))
    try:
        state = load(held)
        _fits(state, _own(module))
        module.load_state_dict(state, strict=False)
    except (SafetensorError, RuntimeError, ValueError) as error:
        said = str(error).splitlines()[0]
        raise _refused(f"{WEIGHTS} does not fit the network of the card: {said}", folder) from error
    if not all(torch.isfinite(value).all() for value in module.state_dict().values()):
        raise _refused(f"{WEIGHTS} holds numbers that are not finite", folder)
    return module.eval().requires_grad_(False), card


def architecture_of(card: ModelCard) -> Architecture:
    """The network that a card of our own kind describes.

    Raises:
        ModelError: it describes none, or one that cannot be.
    """
    from contour.unet import Architecture

    shape = card.architecture
    if shape is None:
        raise ModelError(f"The card of {card.name} has no architecture", remedy="Use the reader of its own kind")
    try:
        return Architecture(card.structures, shape.spacing, shape.patch, shape.filters, shape.windows)
    except ValueError as error:
        raise ModelError(f"The card of {card.name} describes no network: {error}") from error


def write_model(folder: Path, card: ModelCard, state: Mapping[str, Tensor]) -> ModelCard:
    """Write a folder of our own kind; the card as written, with the weights' digest.

    A module that a network knows by two names is written once. Each file appears whole or not at all, the card last: one
    whose card is there has the weights that it names, and one that was being replaced when the power went is refused by its
    digest.

    Raises:
        OSError: the folder cannot be written.
        ModelError: the weights are not those of the network that the card describes.
    """
    from safetensors.torch import save

    from contour.unet import network

    wanted = _own(network(architecture_of(card)))
    kept = {name: state[name].detach().cpu().contiguous() for name in wanted if name in state}
    try:
        _fits(kept, wanted)
    except ValueError as error:
        raise _refused(f"The weights do not fit the network of the card: {error}", folder) from error
    folder.mkdir(parents=True, exist_ok=True)
    held = save(kept)
    written = card.model_copy(update={"sha256": hashlib.sha256(held).hexdigest()})
    with replacing(folder / WEIGHTS) as file:
        file.write(held)
    write_card(folder, written)
    return written


def write_card(folder: Path, card: ModelCard) -> None:
    """Write the card alone: new scores, another calibration."""
    with replacing(folder / CARD) as file:
        file.write(tomli_w.dumps(card.model_dump(mode="json", exclude_none=True)).encode())


def _own(module: nn.Module) -> Mapping[str, Tensor]:
    """A network's weights, each under its first name alone."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _fits(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raises ValueError where names or shapes differ: `load_state_dict` says so at length, this in a line."""
    if strange := sorted(set(state) ^ set(wanted)):
        raise ValueError(f"{strange[0]} is in only one of them")
    for name, value in wanted.items():
        if state[name].shape != value.shape:
            raise ValueError(f"{name} has the shape {tuple(state[name].shape)}, not {tuple(value.shape)}")


def _refused(what: str, folder: Path, remedy: str = "Use a whole model folder") -> ModelError:
    return ModelError(what, where=folder.name, why="A network with wrong weights draws wrong organs", remedy=remedy)
