"""Weights of others, read so that nothing in a file can run."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from patient.errors import ModelError

_KINDS = ("Float64", "Float32", "Float16", "Int64", "Int32", "Bool")
_NUMBERS = [np._core.multiarray.scalar, (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"), np.dtype]  # type: ignore[attr-defined]
_SAFE: list[Any] = [*_NUMBERS, *(getattr(np.dtypes, f"{kind}DType") for kind in _KINDS)]
"""Beside tensors and plain values: numpy's numbers, which nnU-Net keeps in its checkpoints. None of them calls anything."""


def read_checkpoint(path: Path) -> Mapping[str, Any]:
    """A checkpoint of torch: tensors, numbers, texts, lists and dicts, and nothing else.

    Raises:
        ModelError: missing, cut short, or a pickle that would run code.
    """
    try:
        with torch.serialization.safe_globals(_SAFE):
            held = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            "The weights hold more than numbers",
            where=path.name,
            why="A pickle may run any program when it is read",
            remedy="Do not open the file with other software; ask its source for a state dict or safetensors",
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        said = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise ModelError(
            f"The weights cannot be read: {said}", where=path.name, remedy="Take the file from its source again"
        ) from error
    if not isinstance(held, Mapping):
        raise ModelError(f"The weights are a {type(held).__name__}, not a state dict", where=path.name)
    return held


def filled(module: nn.Module, state: object, where: str) -> nn.Module:
    """The network with these weights, ready to run (eval, no gradients).

    Raises:
        ModelError: the weights are of another network, of another number of classes, or not finite.
    """
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError("The weights are no table of tensors", where=where)
    plain = {_plain(str(key)): value for key, value in state.items()}
    wanted = module.state_dict()
    if strange := sorted(set(plain) ^ set(wanted)):
        raise _other(f"{strange[0]} is in only one of them", where)
    for name, value in wanted.items():
        if plain[name].shape != value.shape:
            raise _other(f"{name} has the shape {tuple(plain[name].shape)}, not {tuple(value.shape)}", where)
        if not torch.isfinite(plain[name]).all():
            raise ModelError(f"The weights hold numbers that are not finite, in {name}", where=where)
    module.load_state_dict(plain)
    return module.eval().requires_grad_(False)


def _plain(key: str) -> str:
    """A weight's name without what parallel training or compilation put before it."""
    for prefix in ("module.", "_orig_mod."):
        key = key.removeprefix(prefix)
    return key


def _other(what: str, where: str) -> ModelError:
    return ModelError(
        f"The weights are of another network, or of another number of classes, than the model's own description: {what}",
        where=where,
        why="A network with wrong weights draws wrong organs",
        remedy="Use weights and description of one release",
    )


def on_device_of(inputs: Tensor, module: nn.Module) -> nn.Module:
    """The network where its input is; moved once, when it is first run there."""
    first = next(module.parameters(), None)
    return module if first is None or first.device == inputs.device else module.to(inputs.device)


def gathered(probabilities: Tensor, channels: Sequence[tuple[int, ...]], exclusive: bool) -> Tensor:
    """Probabilities `[1, structures, ...]` of structures that are each made of some of the output's channels.

    Args:
        probabilities: `[1, channels, ...]`.
        channels: of each structure.
        exclusive: one class a voxel (softmax), so that probabilities add up; otherwise the largest counts.
    """
    if all(len(c) == 1 for c in channels):
        return probabilities[:, [c[0] for c in channels]]
    out = probabilities.new_empty((1, len(channels), *probabilities.shape[2:]))
    for n, c in enumerate(channels):
        parts = probabilities[0, list(c)]
        out[0, n] = parts.sum(0).clamp(max=1.0) if exclusive else parts.amax(0)
    return out


def expect_channels(outputs: Tensor, inputs: Tensor, channels: int, where: str) -> Tensor:
    """The output of a network, if it is `[1, channels, ...]` over the input's voxels.

    Raises:
        ModelError: another number of classes, or another size.
    """
    if tuple(outputs.shape) != (1, channels, *inputs.shape[2:]):
        raise ModelError(
            f"The network answers with {tuple(outputs.shape)}, not {(1, channels, *inputs.shape[2:])}",
            where=where,
            why="With another number of classes every structure would be another organ",
            remedy="Correct the model's description",
        )
    return outputs
