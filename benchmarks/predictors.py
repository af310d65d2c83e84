"""From a CT array to masks on the CT's grid with one network: ours, MONAI's plain sliding window, nnU-Net's own predictor.

    NNUNET_HOME=.peers/nnunet benchmarks/nnunet.sh                       makes nnU-Net's environment, once
    python benchmarks/predictors.py                                      five patients, every method in fp32 and bf16
    python benchmarks/predictors.py --shape 64 128 128 --patients 1      a quick look; nothing is written

All get the same weights, patch, overlap, spacing and arrays: validation patients of 128 x 128 x 128 made finer, linearly, to
300 x 512 x 512, their clinical contours likewise. Every run is a process of its own; it is timed from the array to one
boolean mask a structure, with the weights loaded before. What each does is what its users get: ours chooses one piece of an
organ and leaves out what is where no organ can be; the other two keep every voxel above 0.5.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean, median
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.headneck_cases import BITS, case
from benchmarks.networks import OPEN_ENDED
from benchmarks.peers import forget_peak, peak_mib
from benchmarks.record import DATA, ROOT, alone, record
from contour import windows
from contour.cases import TrainingCase
from contour.engine import Context, Finding
from contour.evaluate import between_ends
from contour.grid import Grid
from contour.model import read_model
from contour.network import NetworkEngine
from contour.shipped import HEAD_NECK
from contour.unet import windowed
from contour.unet_model import load
from patient.geometry import Geometry
from patient.volume import Volume

NNUNET = Path(os.environ.get("NNUNET_HOME", ROOT / ".peers" / "nnunet")) / "bin" / "python"
SHAPE = (300, 512, 512)
PRECISIONS = ("fp32", "bf16")
Masks = dict[str, NDArray[np.bool_]]
Predict = Callable[[Volume[Any]], Masks]


class Timed(nn.Module):
    """A network, and how long it ran: what is left of a method's time is resampling and putting together."""

    seconds, windows = 0.0, 0

    def __init__(self, inner: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: Tensor) -> Tensor:
        began = time.perf_counter()
        found = self.inner(inputs).float()
        Timed.seconds, Timed.windows = Timed.seconds + time.perf_counter() - began, Timed.windows + 1
        return found


# ---- the three methods: weights in memory, then image to masks ---------------------------------------------------------


def ours(precision: str) -> Predict:
    """The engine of a night; it chooses bf16 itself where the processor has it, here it is told."""
    model = load(HEAD_NECK)
    engine = NetworkEngine(replace(model, forward=Timed(model.forward)))

    def predict(image: Volume[Any]) -> Masks:
        with patch.object(windows, "_fast_bf16", return_value=precision == "bf16"):
            answers = engine.contour(image, tuple(engine.offers()), Context())
            return {a.name: a.field.mask().placed_in(image.geometry).array for a in answers if isinstance(a, Finding)}

    return predict


def monai(precision: str) -> Predict:
    """What a user of MONAI writes: resample, sliding window, all probabilities back on the CT's grid, the largest wins."""
    from monai.inferers.utils import sliding_window_inference

    module, card = read_model(HEAD_NECK)
    network, grid, ranges = Timed(module), load(HEAD_NECK).grid, _ranges(card)

    def predict(image: Volume[Any]) -> Masks:
        spacing, own = spacing_for(grid, image), image.geometry.spacing
        shape = [round(n * a / b) for n, a, b in zip(image.array.shape, own, spacing, strict=True)]
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            hu = torch.from_numpy(image.array.astype(np.float32))[None, None]
            inputs = windowed(interpolate(hu, shape, mode="trilinear")[0], ranges)[None]
            coarse = sliding_window_inference(
                inputs, grid.patch, 1, lambda x: torch.sigmoid(network(x)), overlap=grid.overlap, mode="gaussian"
            )
            assert isinstance(coarse, Tensor)
            best, label = interpolate(coarse, image.array.shape, mode="trilinear")[0].max(dim=0)
            label[best <= 0.5] = -1
            return {name: (label == n).numpy() for n, name in enumerate(card.structures)}

    return predict


def nnunet(precision: str) -> Predict:
    """nnU-Net's own predictor and resampling, mirroring off; the two windows are its channels, the structures its regions.

    It has no bf16 on a processor; here the network is run in it, as in MONAI.
    """
    os.environ.setdefault("nnUNet_def_n_proc", str(os.cpu_count()))
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor  # type: ignore[import-not-found]
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager  # type: ignore[import-not-found]

    module, card = read_model(HEAD_NECK)
    network, grid, ranges = Timed(module), load(HEAD_NECK).grid, _ranges(card)

    def predict(image: Volume[Any]) -> Masks:
        predictor = nnUNetPredictor(
            tile_step_size=1 - grid.overlap, use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False
        )
        plans = PlansManager(_plans(grid.patch, spacing_for(grid, image), len(ranges)))
        configuration, weights = plans.get_configuration("3d_fullres"), [network.state_dict()]
        predictor.manual_initialization(network, plans, configuration, weights, _dataset(card.structures), "", None)
        channels = windowed(torch.from_numpy(image.array.astype(np.float32))[None], ranges).numpy()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            label = predictor.predict_single_npy_array(channels, {"spacing": list(image.geometry.spacing)})
        return {name: label == n for n, name in enumerate(card.structures, 1)}

    return predict


METHODS: dict[str, Callable[[str], Predict]] = {"recontour": ours, "monai": monai, "nnunet": nnunet}


def spacing_for(grid: Grid, image: Volume[Any]) -> list[float]:
    """mm of the network's grid for an image, the same for every method."""
    return [grid.spacing_for(axis, own)[0] for axis, own in enumerate(image.geometry.spacing)]


def _ranges(card: Any) -> tuple[tuple[float, float], ...]:
    return tuple((low, high) for low, high in card.architecture.windows)


def _plans(size: tuple[int, int, int], spacing: list[float], channels: int) -> dict[str, Any]:
    """What nnU-Net plans by default: cubic for images, linear for logits, planes apart where a voxel is long."""
    fine = {"order_z": 0, "force_separate_z": None}
    kinds = {"data": (3, False), "seg": (1, True), "probabilities": (1, False)}
    resampling: dict[str, Any] = {f"resampling_fn_{kind}": "resample_data_or_seg_to_shape" for kind in kinds}
    for kind, (order, labels) in kinds.items():
        resampling[f"resampling_fn_{kind}_kwargs"] = {"is_seg": labels, "order": order, **fine}
    return {
        "dataset_name": "Dataset001_benchmark",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(n): {} for n in range(channels)},
        "configurations": {
            "3d_fullres": {
                "data_identifier": "nnUNetPlans_3d_fullres",
                "architecture": {},
                "preprocessor_name": "DefaultPreprocessor",
                "patch_size": list(size),
                "spacing": spacing,
                "normalization_schemes": ["NoNormalization"] * channels,
                "use_mask_for_norm": [False] * channels,
                **resampling,
            }
        },
    }


def _dataset(structures: tuple[str, ...]) -> dict[str, Any]:
    """Structures as regions: these nnU-Net gives a sigmoid each, and knows them by a list longer than 1."""
    return {
        "labels": {"background": 0, **{name: [n, n] for n, name in enumerate(structures, 1)}},
        "regions_class_order": list(range(1, len(structures) + 1)),
        "channel_names": {"0": "noNorm", "1": "noNorm"},
        "file_ending": ".nii.gz",
    }


# ---- one run in its own process ------------------------------------------------------------------------------------------


def finer(values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Linear, edge to edge."""
    return interpolate(torch.from_numpy(values.astype(np.float32))[None, None], shape, mode="trilinear")[0, 0].numpy()


def image_of(known: TrainingCase, shape: tuple[int, int, int]) -> Volume[Any]:
    """A patient's CT in HU, made finer."""
    k, j, i = (a * n / m for a, n, m in zip(known.spacing, known.hu.shape, shape, strict=True))
    return Volume(np.rint(finer(known.hu, shape)).astype(np.int16), Geometry(shape, (k, j, i)))


def dice(found: Masks, known: TrainingCase, grid: Geometry, structures: tuple[str, ...]) -> dict[str, float]:
    """To the clinic's contours, made finer; 0 for what was not found."""
    agreed = {}
    for name in (name for name in structures if name in known.known):
        truth = finer(known.mask(name, BITS), grid.shape) > 0.5
        mask = found.get(name, np.zeros(grid.shape, np.bool_))
        if name in OPEN_ENDED:
            mask = between_ends(Volume(mask, grid), Volume(truth, grid)).array
        agreed[name] = 2 * float((mask & truth).sum()) / max(1.0, float(mask.sum() + truth.sum()))
    return agreed


def one(method: str, precision: str, patient: str, shape: tuple[int, int, int]) -> dict[str, Any]:
    """One method on one patient."""
    known = case(DATA / "headneck" / "validation" / patient)
    image, predict = image_of(known, shape), METHODS[method](precision)
    forget_peak()
    before = peak_mib()
    began = time.perf_counter()
    found = predict(image)
    seconds, peak = time.perf_counter() - began, peak_mib()
    return {
        "seconds": seconds,
        "network_s": Timed.seconds,
        "windows": Timed.windows,
        "peak_mib": peak,
        "before_mib": before,
        "dice": dice(found, known, image.geometry, load(HEAD_NECK).card.structures),
    }


# ---- the table -----------------------------------------------------------------------------------------------------------

Runs = dict[tuple[str, str, str], dict[str, Any]]
"""By method, precision and patient."""


def row(runs: Runs, method: str, precision: str) -> dict[str, Any]:
    """What a method comes to, and how our method compares on the same patients in the same precision."""
    mine, theirs = ([r for (m, p, _), r in runs.items() if (m, p) == (who, precision)] for who in ("recontour", method))
    values = [[d for r in of for d in r["dice"].values()] for of in (mine, theirs)]
    names = {name for r in theirs for name in r["dice"]}
    ratios = [b["seconds"] / a["seconds"] for a, b in zip(mine, theirs, strict=True)]
    return {
        "seconds": [round(r["seconds"], 2) for r in theirs],
        "seconds_median": round(median(r["seconds"] for r in theirs), 2),
        "of_which_network_median": round(median(r["network_s"] for r in theirs), 2),
        "windows": [r["windows"] for r in theirs],
        "peak_mib": max(r["peak_mib"] for r in theirs),
        "before_mib": max(r["before_mib"] for r in theirs),
        "times_of_ours": {"median": round(median(ratios), 2), "least": round(min(ratios), 2)},
        "dice": round(mean(values[1]), 4),
        "dice_minus_ours": round(mean(values[1]) - mean(values[0]), 4),
        "dice_by_structure": {n: round(mean(r["dice"][n] for r in theirs if n in r["dice"]), 4) for n in sorted(names)},
    }


def whole(patients: int, shape: tuple[int, int, int]) -> None:
    """Every method in turn on every patient; written only at full size."""
    methods = [m for m in METHODS if m != "nnunet" or NNUNET.exists()]
    chosen = [folder.name for folder in sorted((DATA / "headneck" / "validation").glob("pt_*"))[:patients]]
    runs: Runs = {}
    for patient in chosen:
        for precision in PRECISIONS:
            for method in methods:
                python = str(NNUNET) if method == "nnunet" else sys.executable
                part = ("--one", method, precision, patient, "--shape", *map(str, shape))
                runs[method, precision, patient] = run = alone(__file__, *part, python=python)
                said = f"{run['seconds']:.1f} s, {run['peak_mib']} MiB, Dice {mean(run['dice'].values()):.4f}"
                print(f"{patient} {precision} {method}: {said}", file=sys.stderr, flush=True)
    card = load(HEAD_NECK).card
    figures = {
        "model": {"name": card.name, "version": card.version, "sha256": card.sha256},
        "image": shape,
        "patients": chosen,
        "processor_multiplies_bf16": windows._fast_bf16("cpu"),
        "reach": "ours at least 3 times faster at equal Dice (within 0.002)",
        **({} if "nnunet" in methods else {"nnunet": f"not run: no environment (benchmarks/nnunet.sh makes it): {NNUNET}"}),
        **{precision: {method: row(runs, method, precision) for method in methods} for precision in PRECISIONS},
    }
    if shape == SHAPE:
        record("predictors", figures)
    else:
        print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=5, help="of the validation patients, the first so many")
    parser.add_argument("--shape", type=int, nargs=3, default=SHAPE, metavar=("Z", "Y", "X"))
    parser.add_argument("--one", nargs=3, metavar=("METHOD", "PRECISION", "PATIENT"), help=argparse.SUPPRESS)
    said = parser.parse_args()
    if not DATA.is_dir():
        print(f"REAL PATIENTS ARE NOT THERE ({DATA}): nothing measured")
    elif said.one:
        print(json.dumps(one(*said.one, shape=tuple(said.shape))))
    else:
        whole(said.patients, tuple(said.shape))
