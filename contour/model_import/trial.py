"""What a network must do before it is taken in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from patient.errors import ModelError

if TYPE_CHECKING:
    from contour.network import LoadedModel


def must_answer(model: LoadedModel) -> None:
    """One patch of air through the network: what cannot answer is refused when it is added, not in the night.

    Raises:
        ModelError: no answer, or no probabilities.
    """
    import torch

    grid = model.grid
    spacing = grid.spacing or (1.0, 1.0, 1.0)
    if not (all(0.05 <= mm <= 50 for mm in spacing) and all(1 <= n <= 1024 for n in grid.patch) and 0 <= grid.overlap < 1):
        raise ModelError(
            f"Voxels of {spacing} mm, {grid.patch} of them at once, overlapping by {grid.overlap}: no network's grid",
            where=model.card.name,
        )
    try:
        inputs = torch.from_numpy(np.ascontiguousarray(model.prepare(np.full(model.grid.patch, -1000.0, np.float32))))
        with torch.inference_mode():
            answer = model.forward(inputs[None])
    except ModelError:
        raise
    except Exception as error:  # whatever a third-party network or its runtime raises
        said = str(error).strip().splitlines()
        raise ModelError(
            f"The network does not run: {said[-1][:160] if said else type(error).__name__}", where=model.card.name
        ) from error
    wanted = (1, len(model.card.structures), *model.grid.patch)
    if tuple(answer.shape) != wanted:
        raise ModelError(f"The network answers with {tuple(answer.shape)}, not {wanted}", where=model.card.name)
    low, high = float(answer.min()), float(answer.max())
    if not 0 <= low <= high <= 1 + 1e-3:
        raise ModelError(
            f"The network's answers run from {low:.3g} to {high:.3g}: no probabilities",
            where=model.card.name,
            remedy="Say in the description whether they are logits (softmax or sigmoid)",
        )
