"""The models that are shipped, as engines: their cards are read at once, their weights when needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from contour.engine import Absent, Context, Finding, Offer
from contour.model import CARD, offers_of, read_card

if TYPE_CHECKING:
    import numpy as np

    from contour.network import NetworkEngine
    from patient.volume import Volume

MODELS = Path(str(files("contour").joinpath("models")))
HEAD_NECK, HEAD_NECK_TARGETS = MODELS / "headneck", MODELS / "headneck_targets"


class Shipped:
    """A model folder as an engine; one that offers nothing where no model is installed.

    Args:
        name: what templates call it.
        folder: of the model.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self._folder = name, folder
        self._card = read_card(folder) if (folder / CARD).is_file() else None
        self.version = self._card.version if self._card is not None else "none"

    def offers(self) -> Mapping[str, Offer]:
        """The model's structures."""
        return offers_of(self._card) if self._card is not None else {}

    def contour(self, image: Volume[np.generic], wanted: Sequence[str], context: Context) -> Iterator[Finding | Absent]:
        """As `contour.network.NetworkEngine`.

        Raises:
            ValueError: a name that is not offered.
            ModelError: the weights are missing, cut short or changed.
            Cancelled: asked to stop.
        """
        if unknown := [name for name in wanted if name not in self.offers()]:
            raise ValueError(f"not offered: {', '.join(unknown)}")
        yield from _engine(self._folder).contour(image, wanted, context)


def head_neck() -> Shipped:
    """Organs of head and neck."""
    return Shipped("headneck", HEAD_NECK)


def head_neck_targets() -> Shipped:
    """What clinics treated in heads and necks like this one: suggestions, whatever the network is sure of."""
    return Shipped("headneck-targets", HEAD_NECK_TARGETS)


@cache
def _engine(folder: Path) -> NetworkEngine:
    """The weights are read once a process; torch, too, is imported only here."""
    from contour.network import NetworkEngine
    from contour.unet_model import load

    return NetworkEngine(load(folder))
