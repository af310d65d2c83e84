"""A network as one file, TorchScript (.pt, .ts) or ONNX, with a description beside it that says what the file cannot.

Neither is a pickle, but TorchScript is a program: it is read before it is loaded, and one that reaches for files, or that
runs something on being loaded, is refused. ONNX is read from memory, so that it cannot name other files either.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from contour.model_import.description import ABOUT, Described, ExportedAbout, Intensities, channels_of, read_about, safe_name
from patient.errors import InputError, ModelError
from patient.read.inflate import refuse_expansion

if TYPE_CHECKING:
    from torch import Tensor

    from contour.network import LoadedModel

TORCHSCRIPT, ONNX = "torchscript", "onnx"
_ENDINGS = {".ts": TORCHSCRIPT, ".pt": TORCHSCRIPT, ".onnx": ONNX}
_FORBIDDEN = re.compile(r"\b(save|load|from_file|__setstate__|__torch__\.torch\.classes)\b")
"""Words of TorchScript that reach outside a network, wherever they stand: names can be passed on in other ones."""
_OPERATORS = re.compile(r"\bops\s*\.\s*(\w+)")
Hu = NDArray[np.float32]


def found(source: Path) -> Mapping[str, Path] | None:
    """The file and its description, `NAME.toml` beside `NAME.onnx`; None if it is no such file."""
    if not source.is_file() or source.suffix.lower() not in _ENDINGS:
        return None
    described = source.with_suffix(".toml")
    kept = {f"network{source.suffix.lower()}": source}
    return {**kept, ABOUT: described} if described.is_file() else kept


def described(folder: Path, digest: str) -> Described:
    """What the description says.

    Raises:
        ModelError: there is none, or it lacks something.
    """
    path, kind = _file(folder)
    about = _about(folder)
    first = 1 if about.output == "softmax" else 0
    channels = channels_of(about, {str(n): n for n in range(first, about.channels)})
    return Described.of(about, channels, kind=kind, name=safe_name(path.stem), version=about.version, digest=digest)


def load(folder: Path, model: Described) -> LoadedModel:
    """The network.

    Raises:
        ModelError: not a network that can be read, or one that does more than compute.
    """
    from contour.model_import.weights import expect_channels, gathered
    from contour.network import Grid, LoadedModel

    path, kind = _file(folder)
    about = _about(folder)
    run = _torchscript(path) if kind == TORCHSCRIPT else _onnx(path, about.channels)
    parts = [model.channels[name] for name in model.card.structures]

    def forward(inputs: Tensor) -> Tensor:
        outputs = expect_channels(run(inputs), inputs, about.channels, path.name).float()
        if about.output != "probabilities":
            outputs = outputs.softmax(1) if about.output == "softmax" else outputs.sigmoid()
        return gathered(outputs, parts, exclusive=about.output == "softmax")

    grid = Grid(patch=about.patch, spacing=about.spacing, axes=about.axes, overlap=about.overlap)
    return LoadedModel(model.card, grid, lambda hu: np.stack([shown(hu, one) for one in about.intensities]), forward)


def shown(hu: Hu, intensities: Intensities) -> Hu:
    """HU as one input channel."""
    clipped = hu if intensities.clip is None else hu.clip(*intensities.clip)
    if intensities.clip is not None and intensities.to is not None:
        (low, high), (start, end) = intensities.clip, intensities.to
        clipped = (clipped - np.float32(low)) * np.float32((end - start) / (high - low)) + np.float32(start)
    return ((clipped - np.float32(intensities.mean)) / np.float32(intensities.std)).astype(np.float32)


def _about(folder: Path) -> ExportedAbout:
    if not (folder / ABOUT).is_file():
        raise ModelError(
            "Nobody says what the network's channels, voxels and intensities are",
            where=folder.name,
            remedy="Put a TOML file of the same name beside it; docs/models.md has one to copy",
        )
    return read_about(folder / ABOUT, ExportedAbout)


def _file(folder: Path) -> tuple[Path, str]:
    for path in sorted(folder.glob("network.*")):
        if path.suffix in _ENDINGS:
            return path, _ENDINGS[path.suffix]
    raise ModelError("No network file", where=folder.name)


def _torchscript(path: Path) -> Callable[[Tensor], Tensor]:
    import torch

    from contour.model_import.weights import on_device_of

    _must_only_compute(path)
    try:
        module = torch.jit.load(str(path), map_location="cpu").eval()
    except (RuntimeError, ValueError, OSError) as error:
        raise ModelError(
            "TorchScript that cannot be read", where=path.name, remedy="Take the file from its source again"
        ) from error
    return lambda inputs: _answer(on_device_of(inputs, module)(inputs), path)


def _must_only_compute(path: Path) -> None:
    """Reads the program in a TorchScript file.

    Raises:
        ModelError: no TorchScript, or it does more than compute.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if "/code/" in m.filename and m.filename.endswith(".py")]
            refuse_expansion(sum(member.file_size for member in members), path.stat().st_size, path.name)
            code = [archive.read(member).decode() for member in members]
    except (InputError, OSError, zipfile.BadZipFile, UnicodeDecodeError, RuntimeError) as error:
        raise ModelError("Not a TorchScript file, or one cut short", where=path.name) from error
    if not code:
        raise ModelError(
            "Weights without a network",
            where=path.name,
            why="A pickle or state dict does not say what it belongs to",
            remedy="Export the network with torch.jit.script or trace, or as ONNX",
        )
    for text in code:
        reaching = _FORBIDDEN.search(text)
        foreign = next((name for name in _OPERATORS.findall(text) if name not in ("aten", "prim")), None)
        if reaching or foreign:
            raise ModelError(
                f"The network does more than compute: {reaching[0] if reaching else f'ops.{foreign}'}",
                where=path.name,
                why="It could read or write files while it contours",
                remedy="Export only the network's forward pass",
            )


def _onnx(path: Path, channels: int) -> Callable[[Tensor], Tensor]:
    import torch

    try:
        import onnxruntime
    except ImportError as error:
        raise ModelError(
            "ONNX models need onnxruntime", where=path.name, remedy="pip install 'recontour[models]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own errors derive from Exception alone
        said = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise ModelError(f"ONNX that cannot be read: {said}", where=path.name) from error
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1 or inputs[0].type != "tensor(float)":
        raise ModelError("The network needs one float32 input and one output", where=path.name)
    stated = outputs[0].shape[1] if len(outputs[0].shape) > 1 else None
    if isinstance(stated, int) and stated != channels:
        raise ModelError(
            f"The network has {stated} classes, its description {channels}",
            where=path.name,
            remedy="Correct the description",
        )

    def run(image: Tensor) -> Tensor:
        answer: Any = session.run(None, {inputs[0].name: image.detach().float().cpu().numpy()})
        return torch.from_numpy(np.asarray(answer[0])).to(image.device)

    return run


def _answer(outputs: object, path: Path) -> Tensor:
    from torch import Tensor

    first = outputs[0] if isinstance(outputs, list | tuple) and outputs else outputs
    if not isinstance(first, Tensor):
        raise ModelError(f"The network answers with a {type(first).__name__}", where=path.name)
    return first
