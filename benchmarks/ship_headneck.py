"""A finished training run as the model folder that is shipped.

python benchmarks/ship_headneck.py RUN CASES OUT [--version 0.1] [--targets]
RUN as `benchmarks/train_headneck.py` leaves it, with `--targets` as `benchmarks/train_targets.py` does, CASES as
`benchmarks/headneck_cases.py` writes them. Scores and the
calibration of its confidence are put in by `benchmarks/networks.py` and `benchmarks/confidence.py`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import train_headneck, train_targets
from benchmarks.headneck_cases import BITS
from contour.cases import TrainingCase, read_cases
from contour.model import OURS, ModelCard, Offset, Shape, write_model
from contour.unet import Architecture
from pipelines.training.train import population

Triple = tuple[float, float, float]
FINEST, COARSEST = (2.0, 3.7, 3.7), (3.3, 5.5, 5.5)
"""mm between which nearly all training patients' voxels lie."""
LANDMARKS = ("Brainstem", "Parotid_L", "Parotid_R", "Larynx", "Bone_Mandible")
DATA = (
    "OpenKBP (Babier et al., Medical Physics 48 (2021) 5549; repository ababier/open-kbp, MIT licence): CT and clinical "
    "contours of head-and-neck patients of several clinics, 128 x 128 x 128 voxels of 2.7 to 5.4 mm in plane, "
    "1.5 to 3.3 mm between planes."
)
SPLIT = "By patient: 153 trained on, 16 held out (every tenth of the training patients), 33 measured on."
TARGETS_LIMITS = (
    "What clinics treated in other patients, from the CT alone: it sees neither stage nor histology, neither endoscopy nor "
    "PET. A suggestion to edit or to throw away, never a prescription."
)
LIMITS = (
    "Clinical contours on coarse voxels, not a consensus. Trained on adults lying on their back whose images were cropped "
    "to the treated region: cord and oesophagus end where the clinic ended them. Not trained on children, after large "
    "resections, on MR or cone-beam images. A person has to look at every contour."
)


def layout(cases: Sequence[TrainingCase]) -> tuple[Offset, ...]:
    """Where the landmarks of the training patients lie to each other."""
    centres: list[dict[str, np.ndarray]] = []
    for case in cases:
        there = {}
        for name in set(case.known) & set(LANDMARKS):
            k, j, i = np.argwhere(case.mask(name, BITS)).mean(axis=0) * case.spacing
            there[name] = np.array([i, j, k])
        centres.append(there)
    offsets = []
    for a, b in combinations(LANDMARKS, 2):
        away = np.array([there[a] - there[b] for there in centres if a in there and b in there])
        if len(away) >= 20:
            mean, sd = (tuple(round(float(v), 1) for v in of(axis=0)) for of in (away.mean, away.std))
            offsets.append(Offset.model_validate({"of": a, "seen_from": b, "mean": mean, "sd": sd, "patients": len(away)}))
    return tuple(offsets)


def shape(architecture: Architecture, finest: Triple, coarsest: Triple) -> Shape:
    """What a card says of a network's grid."""
    return Shape(
        spacing=architecture.spacing,
        finest=finest,
        coarsest=coarsest,
        patch=architecture.patch,
        filters=architecture.filters,
        windows=architecture.windows,
    )


def organs(version: str, cases: Sequence[TrainingCase]) -> ModelCard:
    """The card of the organs' model; the digest of its weights is put in when they are written."""
    architecture = train_headneck.ARCHITECTURE
    return ModelCard(
        name="recontour-headneck",
        version=version,
        kind=OURS,
        structures=architecture.structures,
        sha256="0" * 64,
        licence="Apache-2.0",
        data=DATA,
        split=SPLIT,
        limits=LIMITS,
        architecture=shape(architecture, FINEST, COARSEST),
        suggestion=int(version.split(".")[0]) < 1,
        landmarks=LANDMARKS,
        landmarks_needed=2,
        population=population(cases, BITS, architecture.structures),
        layout=layout(cases),
    )


def targets(version: str, cases: Sequence[TrainingCase]) -> ModelCard:
    """The card of the targets' model: always a suggestion."""
    architecture = train_targets.ARCHITECTURE
    return organs(version, cases).model_copy(
        update={
            "name": "recontour-headneck-targets",
            "structures": architecture.structures,
            "limits": TARGETS_LIMITS,
            "architecture": shape(architecture, train_targets.FINEST, train_targets.COARSEST),
            "suggestion": True,
            "offered": ("PTV_7000", "PTV_5600"),
            "population": population(cases, BITS, architecture.structures),
        }
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("cases", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--version", default="0.1", help="below 1 every contour is a suggestion")
    parser.add_argument("--targets", action="store_true")
    said = parser.parse_args()
    held = torch.load(said.run / "checkpoint.pt", weights_only=True, map_location="cpu")
    card = (targets if said.targets else organs)(said.version, read_cases(said.cases / "train"))
    halves = {name: value.half() for name, value in held["mean"].items()}
    written = write_model(said.out, card, halves)
    print(f"{said.out}: step {held['step']}, SHA-256 {written.sha256[:12]}")
