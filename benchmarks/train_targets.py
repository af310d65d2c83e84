"""Trains the head-and-neck target model that is shipped: what clinics treated, on voxels twice as long as their contours'.

python benchmarks/train_targets.py CASES RUN --steps 5000
CASES as `benchmarks/headneck_cases.py` writes them; RUN is a folder that git does not see. A killed run goes on.
A few organs are learnt beside the targets: they say whether an image shows a head and neck at all.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.headneck_cases import BITS
from benchmarks.train_headneck import settings, train
from contour.cases import TrainingCase, read_cases
from contour.training import Schedule
from contour.unet import Architecture

TARGETS = BITS[7:]
LANDMARKS = ("Brainstem", "Parotid_L", "Parotid_R", "Larynx", "Bone_Mandible")
ARCHITECTURE = Architecture(
    structures=(*TARGETS, *LANDMARKS), spacing=(5.5, 7.5, 7.5), patch=(32, 32, 32), filters=(16, 32, 64, 128)
)
FINEST, COARSEST = (4.0, 7.0, 7.0), (6.6, 11.0, 11.0)
"""mm between which twice the length of the training patients' voxels lies."""


def halved(case: TrainingCase) -> TrainingCase:
    """A case on voxels of twice the length: mean HU, and a structure where it fills half of them."""
    k, j, i = (n // 2 for n in case.hu.shape)

    def blocks(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return values[: 2 * k, : 2 * j, : 2 * i].reshape(k, 2, j, 2, i, 2).mean(axis=(1, 3, 5))

    labels = np.zeros((k, j, i), np.uint32)
    for n, name in enumerate(BITS):
        labels |= (blocks(case.mask(name, BITS).astype(np.float32)) >= 0.5).astype(np.uint32) << np.uint32(n)
    hu = np.rint(blocks(case.hu.astype(np.float32))).astype(np.int16)
    z, y, x = (2 * s for s in case.spacing)
    known = tuple(
        name for n, name in enumerate(BITS) if name in case.known and (labels >> np.uint32(n) & np.uint32(1)).any()
    )
    return TrainingCase(case.name, hu, labels, known, (z, y, x))


if __name__ == "__main__":
    said = settings(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter))
    cases = [halved(case) for case in read_cases(said.cases / "train")]
    train(said, cases, ARCHITECTURE, (), Schedule(said.steps, said.rate, seed=said.seed))
