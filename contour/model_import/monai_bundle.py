"""MONAI bundles (configs/metadata.json, configs/inference.json, models/model.pt) as the whole-body CT one and VISTA3D are.

The configuration is read, never run (`contour.model_import.monai_config`): which network, how the image is prepared, the
window, the activation. Code that a bundle brings (scripts/) is not copied into the store.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from contour.model_import.description import ABOUT, About, Described, channels_of, read_about, safe_name
from contour.model_import.monai_config import NETWORKS, Configuration, NetworkCall
from patient.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from contour.network import LoadedModel

KIND = "monai-bundle"
METADATA, INFERENCE, WEIGHTS = "configs/metadata.json", "configs/inference.json", "models/model.pt"
_KEPT = (METADATA, INFERENCE, WEIGHTS, "LICENSE", "docs/README.md", "docs/license.txt", "docs/data_license.txt")
_NOTHING = (
    *("LoadImage", "EnsureType", "EnsureChannelFirst", "CastToType", "ToDevice", "ToTensor", "DeleteItems", "SelectItems"),
    *("CropForeground", "VistaPreTransform", "Orientation", "Spacing"),
)
"""Steps of a preparation that change no intensity, or that `Grid` stands for."""
_INTENSITY = ("ScaleIntensityRange", "ScaleIntensity", "NormalizeIntensity", "ThresholdIntensity")
_ONLY_BY_POINTS = (2, 16, 18, 20, 21, *range(23, 28), *range(128, 133))
"""Classes of VISTA3D that it finds only from parts or with a click (`everything_labels` of its bundle leaves them out)."""
Hu = NDArray[np.float32]


@dataclass(frozen=True)
class Bundle:
    """What a bundle's configuration says, as far as it decides how its network is used.

    Args:
        channel_of: class to output channel (of VISTA3D: to its class number), without background.
        outputs: channels of the output; 0 for a network that is asked class by class.
        exclusive: one class a voxel.
    """

    name: str
    version: str
    network: NetworkCall
    channel_of: Mapping[str, int]
    outputs: int
    exclusive: bool
    axes: str
    spacing: tuple[float, float, float] | None
    patch: tuple[int, int, int]
    overlap: float
    steps: tuple[tuple[str, Mapping[str, Any]], ...]


def found(source: Path) -> Mapping[str, Path] | None:
    """The files to keep of a bundle; None if it is none."""
    if not (source / METADATA).is_file():
        return None
    missing = [place for place in (INFERENCE, WEIGHTS) if not (source / place).is_file()]
    if missing:
        raise ModelError(
            f"The bundle has no {missing[0]}",
            where=source.name,
            remedy="Fetch its large files (large_files.yml) by hand; of configurations, JSON is read",
        )
    return {place: source / place for place in _KEPT if (source / place).is_file()}


def described(folder: Path, digest: str) -> Described:
    """What the bundle says, with the description's words before its own.

    Raises:
        ModelError: cannot be used, or not without a better description.
    """
    about = read_about(folder / ABOUT, About)
    bundle = read_bundle(folder, about)
    channels = channels_of(about, bundle.channel_of)
    return Described.of(about, channels, kind=KIND, name=bundle.name, version=bundle.version, digest=digest)


def load(folder: Path, model: Described) -> LoadedModel:
    """The network with its weights.

    Raises:
        ModelError: weights that are not this network's.
    """
    from contour.model_import.weights import expect_channels, filled, gathered, on_device_of, read_checkpoint
    from contour.network import Grid, LoadedModel

    about = read_about(folder / ABOUT, About)
    bundle = read_bundle(folder, about)
    held = read_checkpoint(folder / WEIGHTS)
    state = next((held[key] for key in ("model", "state_dict") if isinstance(held.get(key), Mapping)), held)
    network = filled(_built(bundle.network), state, bundle.name)
    parts = [model.channels[name] for name in model.card.structures]

    def forward(inputs: Tensor) -> Tensor:
        outputs = on_device_of(inputs, network)(inputs)
        logits = outputs[0] if isinstance(outputs, list | tuple) else outputs
        expect_channels(logits, inputs, bundle.outputs, bundle.name)
        probabilities = logits.float().softmax(1) if bundle.exclusive else logits.float().sigmoid()
        return gathered(probabilities, parts, bundle.exclusive)

    asked = _asked_by_class(network, parts) if bundle.network.name == "vista3d132" else forward
    grid = Grid(patch=bundle.patch, spacing=bundle.spacing, axes=bundle.axes, overlap=bundle.overlap)
    whole = any(name in ("NormalizeIntensity", "ScaleIntensity") for name, _ in bundle.steps)
    return LoadedModel(model.card, grid, _preparation(bundle), asked, whole)


def read_bundle(folder: Path, about: About) -> Bundle:
    """A bundle's two configurations.

    Raises:
        ModelError: not readable, or with steps that are not known here.
    """
    metadata = Configuration(_json(folder / METADATA), METADATA)
    inference = Configuration(_json(folder / INFERENCE), INFERENCE)
    images = metadata.value("network_data_format#inputs#image", {})
    if images.get("modality", "CT") != "CT" or images.get("num_channels", 1) != 1:
        raise ModelError("The bundle is not for one CT", where=METADATA)
    classes = {
        int(number): str(name) for number, name in metadata.value("network_data_format#outputs#pred#channel_def", {}).items()
    }
    network = inference.network("network_def")
    by_class = network.name == "vista3d132"
    outputs = 0 if by_class else int(metadata.value("network_data_format#outputs#pred#num_channels", len(classes)))
    stated = network.arguments.get("out_channels", outputs)
    if not by_class and not outputs == stated == len(classes):
        raise ModelError(
            f"The bundle names {len(classes)} classes, says {outputs} channels, and builds a network of {stated}",
            where=METADATA,
            why="Structures would be other organs than their names say",
            remedy="Name every class in metadata.json's channel_def, as its makers ordered them",
        )
    steps = _steps(inference, "preprocessing")
    axes, spacing = _grid(steps, about)
    patch = inference.value("inferer#roi_size") or images.get("spatial_shape")
    if not isinstance(patch, list) or len(patch) != 3 or not all(isinstance(p, int) and p > 0 for p in patch):
        raise ModelError("The bundle does not say how large a patch its network sees", where=INFERENCE)
    return Bundle(
        name=safe_name(str(metadata.value("name", "monai-bundle"))),
        version=str(metadata.value("version", "")),
        network=network,
        channel_of={
            name: number
            for number, name in classes.items()
            if name.lower() != "background" and not (by_class and number in _ONLY_BY_POINTS)
        },
        outputs=outputs,
        exclusive=not by_class and _exclusive(_steps(inference, "postprocessing")),
        axes=axes,
        spacing=spacing,
        patch=(patch[0], patch[1], patch[2]),
        overlap=float(inference.value("inferer#overlap", 0.25)),
        steps=tuple(step for step in steps if step[0] in _INTENSITY),
    )


def _steps(inference: Configuration, key: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Name without the dictionary's `d`, and plain arguments, of each step."""
    steps: list[tuple[str, Mapping[str, Any]]] = []
    for n in range(len(inference.listed(f"{key}#transforms"))):
        at = f"{key}#transforms#{n}"
        name = str(inference.value(f"{at}#_target_", "")).rpartition(".")[2].removesuffix("d")
        if key == "preprocessing" and name not in (*_NOTHING, *_INTENSITY):
            raise ModelError(f"The bundle prepares images by {name}, which is not known here", where=INFERENCE)
        wanted = ("axcodes", "pixdim", *_ARGUMENTS)
        steps.append((name, {a: v for a in wanted if (v := inference.value(f"{at}#{a}")) is not None}))
    return steps


_ARGUMENTS = (
    *(
        "a_min",
        "a_max",
        "b_min",
        "b_max",
        "clip",
        "minv",
        "maxv",
        "factor",
        "subtrahend",
        "divisor",
        "nonzero",
        "channel_wise",
    ),
    *("threshold", "above", "cval", "softmax", "sigmoid"),
)


def _grid(steps: Sequence[tuple[str, Mapping[str, Any]]], about: About) -> tuple[str, tuple[float, float, float] | None]:
    axes, spacing, turned_before = about.axes, None, bool(about.axes)
    for name, arguments in steps:
        if name == "Orientation":
            axes, turned_before = about.axes or str(arguments.get("axcodes", "")), True
        if name == "Spacing":
            pixdim = arguments["pixdim"]
            x, y, z = (float(p) for p in (pixdim if isinstance(pixdim, list) else [pixdim] * 3))
            if not turned_before and not x == y == z:
                raise ModelError(
                    "The bundle resamples before it turns the image: to what, depends on the file", where=INFERENCE
                )
            spacing = (x, y, z)
    if not axes:
        raise ModelError(
            "The bundle does not say in which direction its arrays run",
            where=INFERENCE,
            why="A wrong guess flips left and right",
            remedy='Say it in the description, as axes = "RAS"',
        )
    return About(axes=axes).axes, spacing


def _exclusive(steps: Sequence[tuple[str, Mapping[str, Any]]]) -> bool:
    for name, arguments in steps:
        if name == "Activations" and bool(arguments.get("softmax")) != bool(arguments.get("sigmoid")):
            return bool(arguments.get("softmax"))
    raise ModelError("The bundle does not say whether its classes overlap (softmax or sigmoid)", where=INFERENCE)


def _preparation(bundle: Bundle) -> Callable[[Hu], Hu]:
    """HU to one input channel, by MONAI's own transforms."""
    module = import_module("monai.transforms.intensity.array")
    transforms = [getattr(module, name)(**arguments) for name, arguments in bundle.steps]

    def prepare(hu: Hu) -> Hu:
        channel: Any = hu[None]
        for transform in transforms:
            channel = transform(channel)
        return np.asarray(channel, dtype=np.float32)

    return prepare


def _built(call: NetworkCall) -> nn.Module:
    try:
        made = getattr(import_module(f"monai.networks.nets.{NETWORKS[call.name]}"), call.name)
        return made(**call.arguments)
    except (ImportError, TypeError, ValueError, AttributeError, AssertionError, LookupError, RuntimeError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"The bundle describes no {call.name}: {said}", where=INFERENCE) from error


def _asked_by_class(network: nn.Module, parts: Sequence[tuple[int, ...]]) -> Callable[[Tensor], Tensor]:
    """VISTA3D answers for the classes that it is asked for, by their numbers."""
    import torch

    from contour.model_import.weights import expect_channels, gathered, on_device_of

    numbers = sorted({number for part in parts for number in part})
    places = [tuple(numbers.index(number) for number in part) for part in parts]

    def forward(inputs: Tensor) -> Tensor:
        asked = torch.tensor(numbers, device=inputs.device)[:, None]
        logits = on_device_of(inputs, network)(inputs, class_vector=asked).transpose(0, 1)
        expect_channels(logits, inputs, len(numbers), "VISTA3D")
        return gathered(logits.float().sigmoid(), places, exclusive=False)

    return forward


def _json(path: Path) -> Mapping[str, Any]:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path.name} cannot be read: {error}", where=path.parent.parent.name) from error
    if not isinstance(read, dict):
        raise ModelError(f"{path.name} is no table", where=path.parent.parent.name)
    return read
