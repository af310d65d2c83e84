"""What an nnU-Net v2 results folder says: plans.json and dataset.json, as far as they decide how its network is used."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from patient.errors import ModelError

CHECKPOINT = "checkpoint_final.pth"
_FOLDER = re.compile(r"[^_]\w*__\w+__(3d_\w+)")
_SCHEMES = ("CTNormalization", "ZScoreNormalization", "RescaleTo01Normalization", "NoNormalization")


class Properties(BaseModel):
    """Of the training images' foreground, in HU."""

    mean: float = 0.0
    std: float = 1.0
    percentile_00_5: float = 0.0
    percentile_99_5: float = 0.0


class Architecture(BaseModel):
    network_class_name: str
    arch_kwargs: dict[str, Any]


class Configuration(BaseModel):
    spacing: tuple[float, float, float]
    patch_size: tuple[int, int, int]
    normalization_schemes: tuple[str, ...]
    use_mask_for_norm: tuple[bool, ...] = (False,)
    previous_stage: str | None = None
    architecture: Architecture | None = None
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
    configuration: Configuration
    properties: Properties
    channel_of: Mapping[str, int]
    outputs: int
    regions: bool
    transpose: tuple[int, int, int]


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
            f"{len(there)} trained configurations are in this folder",
            where=source.name,
            remedy=f"Give one, such as {there[0].name}",
        )
    return there[0].resolve() if there else None


def read_results(folder: Path) -> Results:
    """Plan and dataset of a folder that holds a results folder.

    Raises:
        ModelError: not there, not readable, a cascade, not of CT alone, or with a normalisation that is not known here.
    """
    place = results_folder(folder)
    if place is None:
        raise ModelError("No nnU-Net results folder", where=folder.name)
    name = place.name.split("__")[2]
    plans, dataset = _json(place / "plans.json"), _json(place / "dataset.json")
    try:
        configuration = Configuration.model_validate(_inherited(plans["configurations"], name))
        read = _Dataset.model_validate(dataset)
        intensities = (
            plans.get("foreground_intensity_properties_per_channel") or plans["foreground_intensity_properties_by_modality"]
        )
        properties = Properties.model_validate(intensities["0"])
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


def _must_be_known(place: Path, configuration: Configuration, dataset: _Dataset, transpose: tuple[int, ...]) -> None:
    schemes = configuration.normalization_schemes
    refused = ""
    if configuration.previous_stage:
        refused = f"It needs the prediction of {configuration.previous_stage} first"
    elif [name.upper() for name in dataset.channel_names.values()] != ["CT"] and (
        len(dataset.channel_names) != 1 or schemes != ("CTNormalization",)
    ):
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


def folds(folder: Path) -> list[Path]:
    """Folders of the folds that were trained; the one on all cases where there is no other."""
    folds = sorted(path for path in folder.glob("fold_[0-9]*") if (path / CHECKPOINT).is_file())
    if not folds and (folder / "fold_all" / CHECKPOINT).is_file():
        folds = [folder / "fold_all"]
    if not folds:
        raise ModelError(f"No fold has a {CHECKPOINT}", where=folder.name)
    return folds


def architecture_of_old_plan(plan: Configuration) -> Architecture:
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
    return Architecture(network_class_name=plan.UNet_class_name, arch_kwargs=arguments)


def _json(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path.name} cannot be read", where=path.parent.name) from error
    if not isinstance(read, dict):
        raise ModelError(f"{path.name} is no table", where=path.parent.name)
    return read
