"""A structure as small equal cells on its own planes, for whatever is averaged over its volume.

Every contour stands for half the way to its neighbours: summed areas times spacing, which is unbiased wherever the planes
happen to cut the structure (Cavalieri): also where it was drawn on every second slice (`patient.skipped_slices`). Where
contours of a structure are missing that has them on neighbouring slices there is a gap, not filled. Nested loops of a plane
are holes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patient.errors import InputError
from patient.geometry import Box, Geometry, Slices, Triple
from patient.loop import Loop
from patient.rasterisation import mask_of_region
from patient.region import Region
from patient.skipped_slices import left_out
from patient.structures import Structure

Axes = tuple[Triple, Triple, Triple]
Points = NDArray[np.float64]
CELLS = 250_000
"""Aimed at for a structure; between the two limits below."""
FINEST, COARSEST = 0.1, 2.0
"""mm; edge of a cell."""
TURN = 0.5536
"""Radians (tangent 0.618) by which cells are turned in their plane. Contours follow the patient's axes: a row of cells along
a straight edge would be in or out as one. Measured, a turned lattice errs ten times less in a steep dose."""
GOLDEN = 0.618034
PHASE = np.array([GOLDEN, 0.414214])
"""Parts of a cell by which each plane's cells are shifted against the last one's, for the same reason; and by `GOLDEN` of a
layer each sampled point lies deeper than its neighbour, as doses that fall along the normal would come in steps."""
ONE_PLANE = 0.1
"""mm; loops closer than this along the normal lie on one plane."""
GAP = 1.5
"""Contours further apart than so many spacings have a plane without contour between them."""
SAME_DEPTH = 0.002
"""mm; what planes stand for differs by as much where their places were written with few digits. Their mean then counts."""
TOGETHER = 2_000_000
"""Cells around loops that are looked at together."""
CELL_BY_CELL = Geometry((1, 1, 1), (1.0, 1.0, 1.0), axes=((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)))
"""A grid whose points are its own indices."""


@dataclass(frozen=True)
class End:
    """How far a structure reaches beyond its first and last contour.

    Args:
        slices: part of the slice spacing; 0.5 is right on average of whatever is cut by slices (Cavalieri), 0 is what
            Eclipse's own tables come nearest to.
        most: mm, at most; None for no limit.
    """

    slices: float = 0.5
    most: float | None = None

    def beyond(self, spacing: float) -> float:
        """mm beyond either end contour."""
        return self.slices * spacing if self.most is None else min(self.slices * spacing, self.most)

    def __str__(self) -> str:
        if not self.slices or self.most == 0:
            return "nothing beyond the end contours"
        part = "half a slice spacing" if self.slices == 0.5 else f"{self.slices:g} of a slice spacing"
        limit = "" if self.most is None else f", {self.most:g} mm at most,"
        return f"{part}{limit} beyond the end contours"


HALF_SLICE, NOTHING_BEYOND = End(), End(0.0)


@dataclass(frozen=True, eq=False)
class Slab:
    """What some planes' contours stand for, on one side of them.

    Args:
        points: one in each cell of the layers at the contours, `[n, 3]`, LPS mm.
        offsets: to be added to all points, `[m, 3]`, LPS mm: from those layers to each of m.
        cell_cc: volume of one of the n x m cells.
    """

    points: NDArray[np.float64]
    offsets: NDArray[np.float64]
    cell_cc: float

    @property
    def cc(self) -> float:
        return len(self.points) * len(self.offsets) * self.cell_cc


@dataclass(frozen=True, eq=False)
class Lattice:
    """A structure in cells.

    Args:
        slabs: two for every few planes (below and above them), in order; one where it ends with its contour.
        spacing: mm between its planes.
        resolution: mm, edge of a cell.
        gaps: places between its planes where contours are missing.
        between_cc: volume between its first and last contour, with nothing beyond them.
        half_cc: volume with half a slice spacing beyond them.
    """

    slabs: tuple[Slab, ...]
    spacing: float = 0.0
    resolution: float = 0.0
    gaps: int = 0
    between_cc: float = 0.0
    half_cc: float = 0.0


def lattice(
    structure: Structure,
    *,
    plane_spacing: float | None = None,
    slices: Slices | None = None,
    end: End = HALF_SLICE,
    resolution: float | None = None,
) -> Lattice:
    """A structure in cells on its own planes, of whatever orientation and spacing.

    Args:
        plane_spacing: mm between the planes of the image it was drawn on; without it the least distance of two contours.
        slices: of that image, where they are unevenly spaced.
        end: what lies beyond the end contours; a contour alone stands for its slice whatever is said.
        resolution: mm, edge of a cell; chosen for some 250 000 cells if not given.

    Returns:
        Without slabs for a structure without closed loops.

    Raises:
        InputError: one contour alone, and no plane spacing.
        FrameMismatch: loops that lie across each other's planes.
    """
    loops = structure.region.loops
    if not loops:
        return Lattice(())
    areas = _areas(loops)
    axes = _axes(areas)
    planes = _planes(loops, np.asarray(axes[0]))
    positions = np.array([position for position, _ in planes])
    if structure.drawn is None and structure.field is not None:
        plane_spacing, slices = structure.field.geometry.spacing[0], structure.field.geometry.slices
    steps = np.diff(positions)
    if plane_spacing is None and not len(steps):
        raise InputError(
            f"{structure.name or 'A structure'} has contours on one slice only, and the slice thickness is not known",
            why="It has no volume so",
            remedy="Give the slice spacing of the image it was drawn on",
        )
    spacing = float(steps.min()) if plane_spacing is None else plane_spacing
    below, above, gaps = _halves(positions, spacing) if slices is None else _uneven(positions, slices, axes[0])
    halves = below[0], above[-1]
    if len(planes) > 1:
        below[0], above[-1] = (end.beyond(2 * half) for half in halves)
    edge = resolution or _edge(areas, spacing)
    flat = [[loop.points @ np.asarray(axes[1:]).T for loop in on] for _, on in planes]
    corner, far = (end([end(points, axis=0) for on in flat for points in on], axis=0) for end in (np.min, np.max))
    most = max(1, int(TOGETHER / np.prod((far - corner) / edge + 2)))
    corners = corner - edge * (np.arange(len(planes))[:, None] * PHASE % 1)
    slabs: list[Slab] = []
    pixels = np.zeros(len(planes))
    for some in _together(most, below, above):
        plane, cells = _cells([flat[k] for k in some], corners[some] / edge, edge)
        pixels[some] = np.bincount(plane, minlength=len(some))
        across = (cells + 0.5) * edge + corners[some][plane]
        points = positions[some][plane, None] * np.asarray(axes[0]) + across @ np.asarray(axes[1:])
        depths = (-float(below[some].mean()), float(above[some].mean()))
        slabs += [_layers(points, plane, depth, np.asarray(axes[0]), edge) for depth in depths if depth]
    first, last = pixels[[0, -1]] * edge * edge / 1000
    between = sum(slab.cc for slab in slabs) - first * below[0] - last * above[-1]
    half_cc = between + first * halves[0] + last * halves[1]
    return Lattice(tuple(slabs), spacing, edge, gaps, between, half_cc)


def _halves(positions: Points, spacing: float) -> tuple[Points, Points, int]:
    """mm that each plane stands for, below and above it; and gaps."""
    steps = np.diff(positions)
    missing = (steps > GAP * spacing) & ~left_out(steps / spacing, steps)
    half = np.where(missing, spacing, steps) / 2
    below, above = np.concatenate(([spacing / 2], half)), np.concatenate((half, [spacing / 2]))
    return below, above, int(missing.sum())


def _uneven(positions: Points, slices: Slices, normal: Triple) -> tuple[Points, Points, int]:
    """As `_halves`, half the way to the image's next slice, or over slices left out in drawing to the next contour."""
    places = np.sort(np.asarray(slices.positions) @ np.asarray(normal))
    own = np.abs(places - positions[:, None]).argmin(axis=1)
    steps = np.diff(places)
    below, above = (np.concatenate(ends)[own] / 2 for ends in (([steps[0]], steps), (steps, [steps[-1]])))
    apart = np.diff(places[own])
    left = left_out(np.diff(own), apart)
    below[1:], above[:-1] = np.where(left, apart / 2, below[1:]), np.where(left, apart / 2, above[:-1])
    return below, above, int(((np.diff(own) > 1) & ~left).sum())


def _together(most: int, below: Points, above: Points) -> Iterator[NDArray[np.intp]]:
    """Planes in order, in groups of at most `most` that stand for equal depths."""
    depths = np.stack([below, above])
    first = 0
    for k in range(1, len(below) + 1):
        if k == len(below) or k - first == most or np.abs(depths[:, k] - depths[:, first]).max() > SAME_DEPTH:
            yield np.arange(first, k)
            first = k


def _cells(flat: Sequence[Sequence[Points]], corners: Points, edge: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Plane `[n]` and cell (row, column) `[n, 2]` of the cells whose centre lies inside the loops, in order.

    Args:
        flat: the loops of each plane, `[n, 2]` mm along the planes' axes.
        corners: in cells, `[planes, 2]`: where each plane's cells are counted from.
        edge: mm.
    """
    in_cells = [
        Loop(np.column_stack([np.full(len(points), float(k)), points / edge - corner - 0.5]))
        for k, (on, corner) in enumerate(zip(flat, corners, strict=True))
        for points in on
    ]
    low = np.floor(np.min([loop.points.min(axis=0) for loop in in_cells], axis=0)).astype(int)
    high = np.ceil(np.max([loop.points.max(axis=0) for loop in in_cells], axis=0)).astype(int) + 1
    box = Box((int(low[0]), int(low[1]), int(low[2])), (int(high[0]), int(high[1]), int(high[2])))
    mask = mask_of_region(Region(tuple(in_cells)), CELL_BY_CELL.cropped(box))
    found = np.stack(np.unravel_index(np.flatnonzero(mask.array), mask.array.shape), axis=-1)
    found += np.rint(np.asarray(mask.geometry.origin)).astype(np.intp)
    return found[:, 0], found[:, 1:]


def _layers(points: Points, plane: NDArray[np.intp], depth: float, normal: Points, edge: float) -> Slab:
    """What lies between planes and `depth` mm from them, in layers of equal thickness.

    The two sides of a plane have layers of their own: one across the plane would lie half outside a dose that ends there.
    """
    layers = int(np.ceil(abs(depth) / edge - 1e-9))
    thickness = depth / layers
    starts = np.concatenate([[0], np.cumsum(np.bincount(plane))])
    within = ((np.arange(len(points)) - starts[plane] + 0.5) * GOLDEN) % 1 * thickness
    return Slab(
        points + within[:, None] * normal,
        np.outer(np.arange(layers) * thickness, normal),
        edge * edge * abs(thickness) / 1000,
    )


def _areas(loops: Sequence[Loop]) -> Points:
    """`[n, 3]` mm², along each loop's normal as long as its area is large (Newell's sum)."""
    lengths = np.array([len(loop.points) for loop in loops])
    firsts = np.cumsum(lengths) - lengths
    points = np.concatenate([loop.points for loop in loops])
    following = np.arange(1, len(points) + 1)
    following[firsts + lengths - 1] = firsts
    x, y, z = (points - np.repeat(points[firsts], lengths, axis=0)).T
    u, v, w = x[following], y[following], z[following]
    return np.add.reduceat(np.stack([y * w - z * v, z * u - x * w, x * v - y * u], axis=1), firsts) / 2


def _axes(areas: Points) -> Axes:
    """The planes' normal and two directions in them, unit vectors; the normal is the largest loop's."""
    normal = areas[np.argmax(np.linalg.norm(areas, axis=1))]
    normal = normal / np.linalg.norm(normal)
    across = np.eye(3)[np.argmin(np.abs(normal))]
    side = across - (across @ normal) * normal
    side /= np.linalg.norm(side)
    row = np.cos(TURN) * side + np.sin(TURN) * np.cross(normal, side)
    column = np.cross(normal, row)
    return _triple(normal), _triple(column), _triple(row)


def _triple(vector: NDArray[np.float64]) -> Triple:
    x, y, z = (float(v) for v in vector)
    return x, y, z


def _planes(loops: Sequence[Loop], normal: NDArray[np.float64]) -> list[tuple[float, list[Loop]]]:
    """Loops by plane, each with its position along the normal, in order."""
    placed = sorted(((float((loop.points @ normal).mean()), loop) for loop in loops), key=lambda pair: pair[0])
    return [(float(np.mean([at for at, _ in group])), [loop for _, loop in group]) for group in _grouped(placed)]


def _grouped(placed: Sequence[tuple[float, Loop]]) -> Iterator[list[tuple[float, Loop]]]:
    group = [placed[0]]
    for pair in placed[1:]:
        if pair[0] - group[-1][0] > ONE_PLANE:
            yield group
            group = []
        group.append(pair)
    yield group


def _edge(areas: Points, spacing: float) -> float:
    """The edge of a cell of which about `CELLS` fill the loops."""
    cubic = float(np.linalg.norm(areas, axis=1).sum()) * spacing
    return float(np.clip(np.cbrt(cubic / CELLS), FINEST, COARSEST))
