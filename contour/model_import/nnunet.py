"""nnU-Net v2 results: `Trainer__Plans__configuration/` with plans.json, dataset.json and fold_N/checkpoint_final.pth.

Isensee et al., Nature Methods 18 (2021) 203. The network is built from the plan by the library that nnU-Net itself uses;
folds are averaged before the softmax, as nnU-Net does. Mirrored images are not predicted too: eight times the time.
nnU-Net does not look at an image's directions, nor does its folder say them: a person must, as `axes` in the description.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from contour.model_import.description import ABOUT, About, Described, channels_of, read_about, safe_name
from contour.model_import.nnunet_plan import (
    CHECKPOINT,
    Properties,
    Results,
    architecture_of_old_plan,
    folds,
    read_results,
    results_folder,
)
from patient.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from contour.network import LoadedModel

KIND = "nnunet"
OVERLAP = 0.5
"""nnU-Net's own tile step."""
_UNETS = ("PlainConvUNet", "ResidualEncoderUNet")


def found(source: Path) -> Mapping[str, Path] | None:
    """The files to keep of a results folder, or of a dataset's folder that holds one; None if it is neither."""
    folder = results_folder(source)
    if folder is None:
        return None
    wanted = [folder / "dataset.json", folder / "plans.json", *(fold / CHECKPOINT for fold in folds(folder))]
    licences = sorted(path for path in folder.iterdir() if path.is_file() and path.name.upper().startswith("LICEN"))
    return {f"{folder.name}/{path.relative_to(folder).as_posix()}": path for path in (*wanted, *licences)}


def described(folder: Path, digest: str) -> Described:
    """What the folder says, with the description's words before its own.

    Raises:
        ModelError: cannot be used, or not without a better description.
    """
    results = read_results(folder)
    about = read_about(folder / ABOUT, About)
    channels = channels_of(about, results.channel_of)
    return Described.of(
        about,
        channels,
        kind=KIND,
        name=safe_name(results.folder.name.replace("__", "-")),
        version=results.configuration_name,
        digest=digest,
    )


def load(folder: Path, model: Described) -> LoadedModel:
    """The network with its weights.

    Raises:
        ModelError: weights that are not this network's, or no library to build it with.
    """
    about = read_about(folder / ABOUT, About)
    if not about.axes:
        raise ModelError(
            "Nobody said in which directions the training images' arrays ran",
            where=folder.name,
            why="nnU-Net does not look at them: a wrong guess flips left and right",
            remedy='Say axes = "SPL" (as DICOM) or "SAR" (images turned to RAS) in the description',
        )
    results = read_results(folder)
    return loaded(results, model, about.axes)


def loaded(results: Results, model: Described, axes: str) -> LoadedModel:
    """Networks of all folds behind one function.

    Args:
        axes: of the training files' arrays [z, y, x].
    """
    import torch

    from contour.model_import.weights import expect_channels, gathered, on_device_of
    from contour.network import Grid, LoadedModel

    networks = [_fold(results, fold) for fold in folds(results.folder)]
    parts, where = [model.channels[name] for name in model.card.structures], results.folder.name

    def forward(inputs: Tensor) -> Tensor:
        logits = sum((on_device_of(inputs, network)(inputs) for network in networks), torch.zeros((), device=inputs.device))
        expect_channels(logits, inputs, results.outputs, where)
        mean = logits.float() / len(networks)
        return gathered(mean.sigmoid() if results.regions else mean.softmax(1), parts, exclusive=not results.regions)

    plan = results.configuration
    grid = Grid(
        patch=plan.patch_size, spacing=plan.spacing, axes="".join(axes[t] for t in results.transpose), overlap=OVERLAP
    )
    scheme: Any = plan.normalization_schemes[0]
    whole = scheme in ("ZScoreNormalization", "RescaleTo01Normalization")
    return LoadedModel(model.card, grid, lambda hu: normalised(hu, scheme, results.properties)[None], forward, whole)


def normalised(
    hu: NDArray[np.float32],
    scheme: Literal["CTNormalization", "ZScoreNormalization", "RescaleTo01Normalization", "NoNormalization"],
    of: Properties,
) -> NDArray[np.float32]:
    """HU as nnU-Net's `default_normalization_schemes` shows them to a network."""
    if scheme == "CTNormalization":
        return (hu.clip(of.percentile_00_5, of.percentile_99_5) - np.float32(of.mean)) / np.float32(max(of.std, 1e-8))
    if scheme == "ZScoreNormalization":
        return (hu - hu.mean()) / max(hu.std(), np.float32(1e-8))
    if scheme == "RescaleTo01Normalization":
        return (hu - hu.min()) / max(np.float32(np.ptp(hu)), np.float32(1e-8))
    return hu


def _fold(results: Results, fold: Path) -> nn.Module:
    from contour.model_import.weights import filled, read_checkpoint

    held = read_checkpoint(fold / CHECKPOINT)
    where = f"{results.folder.name}/{fold.name}"
    trained = held.get("init_args")
    name = trained.get("configuration") if isinstance(trained, Mapping) else None
    if name is not None and name != results.configuration_name:
        raise ModelError(f"The weights are of {name}, not of {results.configuration_name}", where=where)
    if "network_weights" not in held:
        raise ModelError("The checkpoint has no network_weights", where=where, remedy=f"Use nnU-Net's own {CHECKPOINT}")
    return filled(_network(results), held["network_weights"], where)


def _network(results: Results) -> nn.Module:
    try:
        from dynamic_network_architectures.architectures import unet
    except ImportError as error:
        raise ModelError(
            "nnU-Net's networks are not installed",
            remedy="pip install --no-deps dynamic-network-architectures (its U-Nets need nothing that it asks for)",
        ) from error
    plan = results.configuration
    architecture = plan.architecture or architecture_of_old_plan(plan)
    kind = architecture.network_class_name.rpartition(".")[2]
    if kind not in _UNETS:
        raise ModelError(
            f"The network {kind} is not known here", where=results.folder.name, remedy=f"Known are {', '.join(_UNETS)}"
        )
    try:
        arguments = {name: _plain_or_layer(value) for name, value in architecture.arch_kwargs.items()}
        return getattr(unet, kind)(input_channels=1, num_classes=results.outputs, deep_supervision=False, **arguments)
    except (TypeError, ValueError, AssertionError, IndexError, RuntimeError) as error:
        raise ModelError(
            f"plans.json describes no network: {str(error).splitlines()[0]}", where=results.folder.name
        ) from error


def _plain_or_layer(value: Any) -> Any:
    """An argument of a network: layers are named in plans, and only torch's own are looked up."""
    from torch import nn

    if isinstance(value, str) and value.startswith("torch.nn."):
        layer = getattr(nn, value.rpartition(".")[2], None)
        if not isinstance(layer, type) or not issubclass(layer, nn.Module):
            raise ValueError(f"{value} is no layer")
        return layer
    return value
