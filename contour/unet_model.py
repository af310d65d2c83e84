"""A model folder of our own kind, ready for the engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from contour.model import architecture_of, read_model
from contour.network import Grid, LoadedModel
from contour.unet import windowed
from patient.errors import ModelError

OVERLAP = 0.25


def load(folder: Path) -> LoadedModel:
    """A `recontour-unet`.

    Raises:
        ModelError: as `contour.model.read_model`.
    """
    module, card = read_model(folder)
    architecture, shape = architecture_of(card), card.architecture
    if shape is None:
        raise ModelError(f"The card of {card.name} has no architecture")
    grid = Grid(
        patch=architecture.patch,
        spacing=architecture.spacing,
        finest=shape.finest,
        coarsest=shape.coarsest,
        overlap=OVERLAP,
    )

    def prepare(hu: NDArray[np.float32]) -> NDArray[np.float32]:
        return windowed(torch.from_numpy(hu)[None], architecture.windows).numpy()

    def forward(inputs: Tensor) -> Tensor:
        return torch.sigmoid(module(inputs).float())

    return LoadedModel(card, grid, prepare, forward)
