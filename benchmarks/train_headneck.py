"""Trains the head-and-neck model that is shipped.

python benchmarks/train_headneck.py CASES RUN --steps 12000 [--start MODEL]
CASES as `benchmarks/headneck_cases.py` writes them; RUN is a folder that git does not see. A killed run goes on. MODEL is a
model folder whose weights are trained further, in a network that may be wider.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.headneck_cases import BITS
from contour.cases import TrainingCase, read_cases
from contour.model import read_model
from contour.patches import OpenEnd, Patches
from contour.training import Schedule, Training
from contour.unet import Architecture, grown

ARCHITECTURE = Architecture(
    structures=BITS[:7], spacing=(2.75, 3.75, 3.75), patch=(48, 64, 64), filters=(16, 32, 64, 192, 256)
)
OPEN_ENDS = (OpenEnd("SpinalCord", 10.0, 1e4), OpenEnd("Esophagus", 20.0, 1e4), OpenEnd("Brainstem", 5.0, 0.0))


def settings(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """What a training run is told on the command line."""
    parser.add_argument("cases", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, default=12000)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--start", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def train(
    said: argparse.Namespace,
    cases: Sequence[TrainingCase],
    architecture: Architecture,
    open_ends: Sequence[OpenEnd],
    schedule: Schedule,
) -> None:
    """A run to its end, or on from where it was."""
    torch.set_num_threads(said.threads)
    said.run.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", filename=said.run / "training.log", filemode="a"
    )
    patches = Patches(cases, BITS, architecture, open_ends)
    start = grown(read_model(said.start)[0], architecture) if said.start is not None else None
    for _ in Training(patches, architecture, schedule, said.run, start, said.device).run():
        pass


if __name__ == "__main__":
    said = settings(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter))
    schedule = Schedule(said.steps, said.rate, seed=said.seed)
    train(said, read_cases(said.cases / "train"), ARCHITECTURE, OPEN_ENDS, schedule)
