"""Patients to train on and to measure with: an image, the structures that somebody drew, and which of them are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patient.errors import InputError
from patient.read.npz import read_arrays

MOST_STRUCTURES = 32


@dataclass(frozen=True, eq=False)
class TrainingCase:
    """One patient on one grid, rows to the patient's left, columns to posterior, planes to superior.

    Args:
        name: of the case; never a patient's.
        hu: int16 `[z, y, x]`.
        labels: uint32 `[z, y, x]`, bit n set where structure n is; structures may overlap.
        known: structures that were contoured in this patient. One that was not is unknown, not absent.
        spacing: mm `(z, y, x)`.
    """

    name: str
    hu: NDArray[np.int16]
    labels: NDArray[np.uint32]
    known: tuple[str, ...]
    spacing: tuple[float, float, float]

    def mask(self, structure: str, structures: Sequence[str]) -> NDArray[np.bool_]:
        """Where a structure is, given the names that the bits stand for."""
        return (self.labels >> np.uint32(structures.index(structure)) & np.uint32(1)).astype(bool)


def labelled(masks: Mapping[str, NDArray[np.bool_]], structures: Sequence[str]) -> NDArray[np.uint32]:
    """Masks of one shape `[z, y, x]` as bits, in the order of `structures`.

    Raises:
        ValueError: more structures than there are bits.
    """
    if len(structures) > MOST_STRUCTURES:
        raise ValueError(f"{len(structures)} structures; {MOST_STRUCTURES} have room")
    labels = np.zeros(next(iter(masks.values())).shape, np.uint32)
    for n, name in enumerate(structures):
        if name in masks:
            labels |= masks[name].astype(np.uint32) << np.uint32(n)
    return labels


def write_case(case: TrainingCase, folder: Path) -> Path:
    """One `.npz` a case, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    target, passing = folder / f"{case.name}.npz", folder / f".{case.name}.partial.npz"
    np.savez_compressed(
        passing, hu=case.hu, labels=case.labels, known=np.array(case.known), spacing=np.array(case.spacing, np.float64)
    )
    passing.replace(target)
    return target


def read_case(path: Path) -> TrainingCase:
    """What `write_case` wrote.

    Raises:
        InputError: no such file, not one of these, or it would fill the memory.
    """
    held = read_arrays(path)
    try:
        z, y, x = (float(s) for s in held["spacing"])
        return TrainingCase(path.stem, held["hu"], held["labels"], tuple(str(k) for k in held["known"]), (z, y, x))
    except (KeyError, ValueError, TypeError) as error:
        raise InputError("Is no case to train on", where=path.name) from error


def read_cases(folder: Path) -> list[TrainingCase]:
    """Every case of a folder, by name."""
    return [read_case(path) for path in sorted(folder.glob("*.npz")) if not path.name.startswith(".")]
