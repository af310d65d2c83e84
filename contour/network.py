"""Contours by a network: an image brought to the network's grid, seen in windows, and one structure at a time brought back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from contour.engine import Context, Finding, NotInImage, Offer
from contour.model import ModelCard
from patient.volume import Volume

Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class Grid:
    """How an image is brought to a network. All triples are in the order of the network's own array axes.

    Args:
        patch: voxels that the network sees at once.
        spacing: mm; None for the image's own.
        finest, coarsest: mm between which the image's own voxels, or means of whole blocks of them, are taken as they are;
            None where only `spacing` will do.
        axes: the direction of each array axis: S to the head, I to the feet, L and R, A and P. `SPL` is `[z, y, x]` in LPS;
            a network that was trained on `[x, y, z]` in RAS has `RAS`.
        overlap: share of a patch that neighbouring windows have in common.
        step: windows may be larger than `patch` by multiples of this (a plain convolutional network); 0 where they may not.
    """

    patch: tuple[int, int, int]
    spacing: Spacing | None = None
    finest: Spacing | None = None
    coarsest: Spacing | None = None
    axes: str = "SPL"
    overlap: float = 0.25
    step: int = 0


@dataclass(frozen=True)
class LoadedModel:
    """A network in memory, of whatever kind it was.

    Args:
        card: what it is.
        grid: how an image is brought to it.
        prepare: HU float32, axes as `grid` says, to input channels `[c, ...]`.
        forward: `[1, c, ...]` to probabilities `[1, structures, ...]` in the order of `card.structures`.
    """

    card: ModelCard
    grid: Grid
    prepare: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    forward: Callable[[Tensor], Tensor]


class NetworkEngine:
    """An engine (`contour.engine.Engine`) that answers with what a network finds."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self.name, self.version = model.card.name, model.card.version

    def offers(self) -> Mapping[str, Offer]:
        """The model's structures."""
        card = self._model.card
        return {name: Offer(f"network {card.name} {card.version}", card.licence, card.limits) for name in card.structures}

    def contour(self, image: Volume[np.generic], wanted: Sequence[str], context: Context) -> Iterator[Finding | NotInImage]:
        """One answer for each wanted name, one at a time, each cropped to its own box."""
        raise NotImplementedError
