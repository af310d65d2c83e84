"""Where organs lie to each other: what is to be believed of a network that has never seen another part of the body.

A network that was trained on heads and necks finds "parotids" in arms. Their places give them away: each landmark has votes
from the others whose places fit, by the offsets between organs in the training patients, and one without a vote is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import cc3d
import numpy as np
from numpy.typing import NDArray

from contour.model import Offset
from patient.geometry import Box, Geometry

Bools = NDArray[np.bool_]
PIECE = 0.2
"""Of a structure's largest piece: what is smaller and apart is dropped."""
MOST = 5
"""Pieces of a structure that are looked at."""
AWAY, PLAY = 4.0, 8.0
"""How far an organ may be from where another puts it: standard deviations of the training patients, and mm more."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """What a structure may be: some of its pieces.

    Args:
        kept: voxels on the network's grid.
        centre: LPS mm.
        volume_cc: of them.
    """

    kept: Bools
    centre: tuple[float, float, float]
    volume_cc: float


def candidates(inside: Bools, grid: Geometry) -> list[Candidate]:
    """What a structure may be: all of its large pieces together first, then each alone, largest first."""
    if not inside.any():
        return []
    labels = cc3d.connected_components(inside, connectivity=26)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    large = [int(n) for n in np.argsort(-sizes, kind="stable")[:MOST] if sizes[n] >= max(1.0, PIECE * sizes.max())]
    sets = [large, *([n] for n in large)] if len(large) > 1 else [large]
    return [_candidate(np.isin(labels, chosen), grid) for chosen in sets]


def _candidate(kept: Bools, grid: Geometry) -> Candidate:
    box = Box.of(kept)
    index = np.argwhere(kept[box.slices]).mean(axis=0) + box.start
    x, y, z = (float(v) for v in grid.points(index))
    return Candidate(kept, (x, y, z), float(kept.sum()) * grid.voxel_cc)


def placed(found: Mapping[str, Sequence[Candidate]], layout: Iterable[Offset]) -> dict[str, Candidate | None]:
    """Of each landmark the candidate whose place most other landmarks agree with; None where none does.

    Args:
        found: candidates by landmark.
        layout: offsets between landmarks.
    """
    best: dict[str, tuple[int, Candidate]] = {}
    for name, of in found.items():
        for candidate in of:
            votes = sum(
                any(fits(candidate, other, offset) for other in found.get(offset.seen_from, ()))
                for offset in _from(name, layout)
            )
            if votes and (name not in best or votes > best[name][0]):
                best[name] = votes, candidate
    return {name: best[name][1] if name in best else None for name in found}


def fits(candidate: Candidate, other: Candidate, offset: Offset) -> bool:
    """Whether an organ lies where another puts it."""
    away = np.abs(np.subtract(candidate.centre, other.centre) - offset.mean)
    return bool((away <= AWAY * np.asarray(offset.sd) + PLAY).all())


def _from(name: str, layout: Iterable[Offset]) -> Iterable[Offset]:
    """Every known offset of a structure as seen from another one."""
    for offset in layout:
        if offset.of == name:
            yield offset
        elif offset.seen_from == name:
            x, y, z = offset.mean
            yield Offset(of=name, seen_from=offset.of, mean=(-x, -y, -z), sd=offset.sd, patients=offset.patients)
