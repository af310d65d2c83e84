"""Trains the head-and-neck model that is shipped.

python benchmarks/train_headneck.py CASES RUN --steps 12000
CASES as `benchmarks/headneck_cases.py` writes them; RUN is a folder that git does not see. A killed run goes on.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.headneck_cases import BITS
from contour.cases import read_cases
from contour.training import OpenEnd, Patches, Schedule, Training
from contour.unet import Architecture

ARCHITECTURE = Architecture(
    structures=BITS[:7], spacing=(2.75, 3.75, 3.75), patch=(48, 64, 64), filters=(16, 32, 64, 128, 160)
)
OPEN_ENDS = (OpenEnd("SpinalCord", 10.0, 1e4), OpenEnd("Esophagus", 20.0, 1e4), OpenEnd("Brainstem", 5.0, 0.0))

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, default=12000)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    said = parser.parse_args()
    torch.set_num_threads(said.threads)
    said.run.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", filename=said.run / "training.log", filemode="a"
    )
    patches = Patches(read_cases(said.cases / "train"), BITS, ARCHITECTURE, OPEN_ENDS)
    training = Training(patches, ARCHITECTURE, Schedule(said.steps, said.rate, seed=said.seed), said.run, device=said.device)
    for _ in training.run():
        pass
