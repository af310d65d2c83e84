"""Models that recontour trained: `model.toml` and `weights.safetensors` (`contour.model`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from contour.model import CARD, OURS, WEIGHTS, read_card
from contour.model_import.description import Described
from patient.errors import ModelError

if TYPE_CHECKING:
    from contour.network import LoadedModel

KIND = OURS


def found(source: Path) -> Mapping[str, Path] | None:
    """The files to keep; None where there is no card."""
    if not (source / CARD).is_file():
        return None
    kept = {name: source / name for name in (CARD, WEIGHTS, "LICENSE") if (source / name).is_file()}
    if WEIGHTS not in kept:
        raise ModelError(f"No {WEIGHTS}", where=source.name, remedy="Give the folder that `recontour train` wrote")
    return kept


def described(folder: Path, digest: str) -> Described:
    """The model's own card.

    Raises:
        ModelError: as `contour.model.read_card`, or of another kind.
    """
    read = read_card(folder)
    if read.kind != OURS:
        raise ModelError(f"The card says {read.kind}, and the folder has the form of {OURS}", where=folder.name)
    return Described(read, {name: (channel,) for channel, name in enumerate(read.structures)})


def load(folder: Path, model: Described) -> LoadedModel:
    """The network with its weights.

    Raises:
        ModelError: as `contour.model.read_model`.
    """
    from contour.unet_model import load as load_unet

    return replace(load_unet(folder), card=model.card)
