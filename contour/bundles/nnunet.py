"""nnU-Net v2 results folders: `Trainer__Plans__configuration/` with plans.json, dataset.json and fold_N/checkpoint_final.pth.

Isensee et al., Nature Methods 18 (2021) 203. The network is built from the plan by the library that nnU-Net itself builds it with;
folds are averaged before the softmax, as nnU-Net does. Predictions of mirrored images are not: they cost eight times the time.
nnU-Net does not look at an image's directions, and nor does its folder say them: a person must, as `axes` in the description.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from contour.bundles.about import ABOUT, About, channels_of, read_about, safe_name
from contour.model import ModelCard
from patient.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from contour.network import LoadedModel

KIND = "nnunet"
CHECKPOINT = "checkpoint_final.pth"
OVERLAP = 0.5
"""nnU-Net's own tile step."""
_FOLDER = re.compile(r"[^_]\w*__\w+__(3d_\w+)")
_UNETS = ("PlainConvUNet", "ResidualEncoderUNet")
_SCHEMES = ("CTNormalization", "ZScoreNormalization", "RescaleTo01Normalization", "NoNormalization")


class _Properties(BaseModel):
    """Of the training images' foreground, in HU."""

    mean: float = 0.0
    std: float = 1.0
    percentile_00_5: float = 0.0
    percentile_99_5: float = 0.0


class _Architecture(BaseModel):
    network_class_name: str
    arch_kwargs: dict[str, Any]


class _Configuration(BaseModel):
    spacing: tuple[float, float, float]
    patch_size: tuple[int, int, int]
    normalization_schemes: tuple[str, ...]
    use_mask_for_norm: tuple[bool, ...] = (False,)
    previous_stage: str | None = None
    architecture: _Architecture | None = None
    UNet_class_name: str = "PlainConvUNet"
    UNet_base_num_features: int = 32
    unet_max_num_features: int = 320
    conv_kernel_sizes: list[list[int]] = []
    pool_op_kernel_sizes: list[list[int]] = []
    n_conv_per_stage_encoder: list[int] = []
    n_conv_per_stage_decoder: list[int] = []


class _Dataset(BaseModel):
    channel_names: dict[str, str]
    labels: dict[str, int | list[int]]


@dataclass(frozen=True)
class Results:
    """What a results folder says, as far as it decides how its network is used.

    Args:
        folder: `Trainer__Plans__configuration`.
        channel_of: class to output channel, without background and what was ignored.
        outputs: how many channels there are.
        regions: classes overlap (sigmoid) instead of excluding each other (softmax).
        transpose: order of the file's array axes [z, y, x] in the network.
    """

    folder: Path
    configuration_name: str
    configuration: _Configuration
    properties: _Properties
    channel_of: Mapping[str, int]
    outputs: int
    regions: bool
    transpose: tuple[int, int, int]


def found(source: Path) -> Mapping[str, Path] | None:
    """The files to keep of a results folder, or of a dataset's folder that holds one; None if it is neither."""
    folder = results_folder(source)
    if folder is None:
        return None
    wanted = [folder / "dataset.json", folder / "plans.json", *(fold / CHECKPOINT for fold in _folds(folder))]
    licences = sorted(path for path in folder.iterdir() if path.is_file() and path.name.upper().startswith("LICEN"))
    return {f"{folder.name}/{path.relative_to(folder).as_posix()}": path for path in (*wanted, *licences)}


def results_folder(source: Path) -> Path | None:
    """The one results folder that is, or is in, `source`.

    Raises:
        ModelError: there are several.
    """
    if not source.is_dir():
        return None
    inside = [source, *sorted(path for path in source.iterdir() if path.is_dir())]
    there = [path for path in inside if _FOLDER.fullmatch(path.resolve().name) and (path / "plans.json").is_file()]
    if len(there) > 1:
        raise ModelError(
            f"{len(there)} trained configurations are in this folder", where=source.name, remedy=f"Give one, such as {there[0].name}"
        )
    return there[0].resolve() if there else None


def card(folder: Path, digest: str) -> ModelCard:
    """What the folder says, with the description's words before its own.

    Raises:
        ModelError: cannot be used, or not without a better description.
    """
    results = read_results(folder)
    about = read_about(folder / ABOUT, About)
    channels = channels_of(about, results.channel_of)
    return ModelCard(
        name=about.name or safe_name(results.folder.name.replace("__", "-")),
        version=about.version or results.configuration_name,
        kind=KIND,
        structures=tuple(channels),
        sha256=digest,
        licence=about.licence,
        data=about.data,
        limits=about.limits,
    )


def load(folder: Path, card: ModelCard) -> LoadedModel:
    """The network with its weights.

    Raises:
        ModelError: weights that are not this network's, or no library to build it with.
    """
    about = read_about(folder / ABOUT, About)
    if not about.axes:
        raise ModelError(
            "Nobody said in which directions the training images' arrays ran",
            where=folder.name,
            why="nnU-Net does not look at them: a wrong guess exchanges left and right",
            remedy='Say axes = "SPL" (as DICOM) or "SAR" (images turned to RAS) in the description',
        )
    results = read_results(folder)
    return loaded(results, card, about.axes, channels_of(about, results.channel_of))


def read_results(folder: Path) -> Results:
    """Plan and dataset of a folder that holds a results folder.

    Raises:
        ModelError: not there, not readable, two-dimensional, a cascade, not of CT alone, or with a normalisation not known here.
    """
    place = results_folder(folder)
    if place is None:
        raise ModelError("No nnU-Net results folder", where=folder.name)
    name = place.name.split("__")[2]
    plans, dataset = _json(place / "plans.json"), _json(place / "dataset.json")
    try:
        configuration = _Configuration.model_validate(_inherited(plans["configurations"], name))
        read = _Dataset.model_validate(dataset)
        intensities = plans.get("foreground_intensity_properties_per_channel") or plans["foreground_intensity_properties_by_modality"]
        properties = _Properties.model_validate(intensities["0"])
        transpose = tuple(int(axis) for axis in plans.get("transpose_forward", (0, 1, 2)))
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        said = error.errors()[0] if isinstance(error, ValidationError) else error
        raise ModelError(f"plans.json or dataset.json is not of nnU-Net v2: {said}", where=place.name) from error
    _must_be_known(place, configuration, read, transpose)
    channel_of, outputs, regions = _heads(read.labels)
    return Results(place, name, configuration, properties, channel_of, outputs, regions, transpose)  # type: ignore[arg-type]


def _inherited(configurations: Mapping[str, Any], name: str) -> dict[str, Any]:
    own = configurations[name]
    parent = own.get("inherits_from")
    return {**(_inherited({k: v for k, v in configurations.items() if k != name}, parent) if parent else {}), **own}


def _must_be_known(place: Path, configuration: _Configuration, dataset: _Dataset, transpose: tuple[int, ...]) -> None:
    schemes = configuration.normalization_schemes
    refused = ""
    if configuration.previous_stage:
        refused = f"It needs the prediction of {configuration.previous_stage} first"
    elif len(dataset.channel_names) != 1 or next(iter(dataset.channel_names.values())).upper() not in ("CT", "0", "IMAGE"):
        refused = f"It was trained on {', '.join(dataset.channel_names.values())}, not on one CT"
    elif len(schemes) != 1 or schemes[0] not in _SCHEMES or any(configuration.use_mask_for_norm):
        refused = f"Its normalisation ({', '.join(schemes)}) is not known here"
    elif sorted(transpose) != [0, 1, 2]:
        refused = f"Its order of axes is {transpose}"
    if refused:
        raise ModelError(refused, where=place.name, remedy="Use a 3d_fullres or 3d_lowres configuration trained on CT")


def _heads(labels: Mapping[str, int | list[int]]) -> tuple[dict[str, int], int, bool]:
    """Class to channel, number of channels, and whether they overlap (nnU-Net's LabelManager)."""
    classes = {name: value for name, value in labels.items() if name not in ("background", "ignore") and value != 0}
    if any(isinstance(value, list) and len(value) > 1 for value in classes.values()):
        return {name: channel for channel, name in enumerate(classes)}, len(classes), True
    values = {name: value[0] if isinstance(value, list) else value for name, value in classes.items()}
    order = sorted({0, *values.values()})
    return {name: order.index(value) for name, value in values.items()}, len(order), False


def loaded(results: Results, card: ModelCard, axes: str, channels: Mapping[str, tuple[int, ...]]) -> LoadedModel:
    """Networks of all folds behind one function.

    Args:
        axes: of the training files' arrays [z, y, x].
        channels: of each structure of the card, in its order.
    """
    import torch

    from contour.bundles.weights import expect_channels, gathered, on_device_of
    from contour.network import Grid, LoadedModel

    networks = [_fold(results, fold) for fold in _folds(results.folder)]
    parts, where = [channels[name] for name in card.structures], results.folder.name

    def forward(inputs: Tensor) -> Tensor:
        logits = sum((on_device_of(inputs, network)(inputs) for network in networks), torch.zeros((), device=inputs.device))
        expect_channels(logits, inputs, results.outputs, where)
        mean = logits.float() / len(networks)
        return gathered(mean.sigmoid() if results.regions else mean.softmax(1), parts, exclusive=not results.regions)

    plan = results.configuration
    grid = Grid(patch=plan.patch_size, spacing=plan.spacing, axes="".join(axes[t] for t in results.transpose), overlap=OVERLAP)
    scheme: Any = plan.normalization_schemes[0]
    return LoadedModel(card, grid, lambda hu: normalised(hu, scheme, results.properties)[None], forward)


def normalised(
    hu: NDArray[np.float32],
    scheme: Literal["CTNormalization", "ZScoreNormalization", "RescaleTo01Normalization", "NoNormalization"],
    of: _Properties,
) -> NDArray[np.float32]:
    """HU as nnU-Net's `default_normalization_schemes` shows them to a network."""
    if scheme == "CTNormalization":
        return (hu.clip(of.percentile_00_5, of.percentile_99_5) - np.float32(of.mean)) / np.float32(max(of.std, 1e-8))
    if scheme == "ZScoreNormalization":
        return (hu - hu.mean()) / max(hu.std(), np.float32(1e-8))
    if scheme == "RescaleTo01Normalization":
        return (hu - hu.min()) / max(np.float32(np.ptp(hu)), np.float32(1e-8))
    return hu


def _folds(folder: Path) -> list[Path]:
    """Folders of the folds that were trained; the one on all cases where there is no other."""
    folds = sorted(path for path in folder.glob("fold_[0-9]*") if (path / CHECKPOINT).is_file())
    if not folds and (folder / "fold_all" / CHECKPOINT).is_file():
        folds = [folder / "fold_all"]
    if not folds:
        raise ModelError(f"No fold has a {CHECKPOINT}", where=folder.name)
    return folds


def _fold(results: Results, fold: Path) -> nn.Module:
    from contour.bundles.weights import filled, read_checkpoint

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
            "nnU-Net's networks are not installed", remedy="pip install 'recontour[models]' (dynamic-network-architectures)"
        ) from error
    plan = results.configuration
    architecture = plan.architecture or _architecture_of_old_plan(plan)
    kind = architecture.network_class_name.rpartition(".")[2]
    if kind not in _UNETS:
        raise ModelError(f"The network {kind} is not known here", where=results.folder.name, remedy=f"Known are {', '.join(_UNETS)}")
    try:
        arguments = {name: _plain_or_layer(value) for name, value in architecture.arch_kwargs.items()}
        return getattr(unet, kind)(input_channels=1, num_classes=results.outputs, deep_supervision=False, **arguments)
    except (TypeError, ValueError, AssertionError, IndexError, RuntimeError) as error:
        raise ModelError(f"plans.json describes no network: {str(error).splitlines()[0]}", where=results.folder.name) from error


def _plain_or_layer(value: Any) -> Any:
    """An argument of a network: layers are named in plans, and only torch's own are looked up."""
    from torch import nn

    if isinstance(value, str) and value.startswith("torch.nn."):
        layer = getattr(nn, value.rpartition(".")[2], None)
        if not isinstance(layer, type) or not issubclass(layer, nn.Module):
            raise ValueError(f"{value} is no layer")
        return layer
    return value


def _architecture_of_old_plan(plan: _Configuration) -> _Architecture:
    """Plans of before 2024 describe a U-Net by its own keys (nnU-Net, plans_handler.py)."""
    stages = len(plan.n_conv_per_stage_encoder)
    depth = "n_conv_per_stage" if plan.UNet_class_name == "PlainConvUNet" else "n_blocks_per_stage"
    arguments = {
        "n_stages": stages,
        "features_per_stage": [min(plan.UNet_base_num_features * 2**n, plan.unet_max_num_features) for n in range(stages)],
        "conv_op": "torch.nn.Conv3d",
        "kernel_sizes": plan.conv_kernel_sizes,
        "strides": plan.pool_op_kernel_sizes,
        depth: plan.n_conv_per_stage_encoder,
        "n_conv_per_stage_decoder": plan.n_conv_per_stage_decoder,
        "conv_bias": True,
        "norm_op": "torch.nn.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    return _Architecture(network_class_name=plan.UNet_class_name, arch_kwargs=arguments)


def _json(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path.name} cannot be read", where=path.parent.name) from error
    if not isinstance(read, dict):
        raise ModelError(f"{path.name} is no table", where=path.parent.name)
    return read
