"""Surfaces to loops (loops to masks: `patient.rasterisation`).

A *field's* loops lie where its surface is, between voxels. A *mask's* loops run inside the edges of its outermost pixels
(`INSET`), so that every reader, whether it tests pixel centres or rounds points to pixels, gets the same mask back.
Holes are keyholes: one loop with a channel of no width (PS3.3 C.8.8.6.3), which every reader understands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import cast

import contourpy
import numpy as np
import shapely
from numpy.typing import NDArray

from patient.curve import area, at_bends, enclosing, smooth_area
from patient.geometry import MEETS, Geometry
from patient.loop import Loop
from patient.parallel import each
from patient.slices import neighbours
from patient.volume import Field, Level, Mask

INSET = 0.35
"""How far inside the pixel edge a mask's loop runs, in pixels. Between 0.25 and 0.5 every known reader agrees."""
SMOOTH_MM = 0.03
"""A field's loop may leave out points that lie closer than this to the line between their neighbours."""
MOST_POINTS = 2000
"""Points of a loop with its holes: 27 bytes each must fit the 64 KB that an explicit VR can say (PS3.5 7.1.2)."""
COARSEST = 1.0
"""Pixels up to which a field's contours are simplified to keep within that; what has more points then keeps them."""
FINER = 4
"""How often the tolerance is halved where contours would cross, before every point is kept."""
NOTABLE = 0.5
"""Pixels of simplification from which on a person is told."""
SMALLEST_PIXELS = 1e-3
"""Loops of less area are numerical dust."""
_MULTIPOLYGON = shapely.GeometryType.MULTIPOLYGON
Points = NDArray[np.float64]


def loops_of_mask(mask: Mask) -> tuple[Loop, ...]:
    """Loops of a mask, one or more a plane, such that `mask_of_loops` gives the mask back.

    Diagonal neighbours are separate parts; pixels at the border of the array are closed there.

    Args:
        mask: bool `[z, y, x]`, usually cropped to its own box. On slices the nearest plane is drawn.
    """
    return _loops(lambda place: _inset_plane(mask.array[_nearest(place, mask.array)]), mask.geometry, 0.0)


def _nearest(place: float, array: NDArray[np.bool_]) -> int:
    return int(np.clip(np.rint(place), 0, len(array) - 1))


def _inset_plane(mask: NDArray[np.bool_]) -> Points | None:
    """Less positive inside than negative outside, so that the zero level runs `INSET` inside the pixel edge; framed."""
    if not mask.any():
        return None
    plane = np.full((mask.shape[0] + 2, mask.shape[1] + 2), -(0.5 + INSET))
    plane[1:-1, 1:-1] += mask
    return plane


def loops_of_field(field: Field) -> tuple[Loop, ...]:
    """Loops of a field's surface on the planes of its grid, finer than its pixels.

    Args:
        field: cropped with a voxel of margin; where the surface leaves the array it is closed half a voxel outside. On
            slices of the grid's own: linear between its planes.
    """
    sign, level = np.float32(1.0 if field.level is Level.PROBABILITY else -1.0), np.float32(field.level.value)
    tolerance = SMOOTH_MM / min(field.geometry.spacing[1:])
    return _loops(lambda place: _mirrored_plane(sign * (_plane(field, place) - level)), field.geometry, tolerance)


def _plane(field: Field, place: float) -> NDArray[np.float32]:
    """Values of a field at a place among its planes, linear between two of them."""
    array = field.volume.array
    if abs(place - round(place)) < MEETS:
        return array[round(place)]
    below, above, share = neighbours(np.arange(len(array), dtype=np.float64), place)
    return (1 - np.float32(share)) * array[below] + np.float32(share) * array[above]


def _mirrored_plane(values: NDArray[np.float32]) -> Points | None:
    """Positive inside; framed by the border's own values with their sign turned, where positive."""
    values[np.isnan(values)] = -1.0
    if not (values > 0).any():
        return None
    plane = np.pad(values.astype(np.float64), 1, mode="edge")
    for border in (plane[0], plane[-1], plane[:, 0], plane[:, -1]):
        np.negative(np.abs(border), out=border)
    return plane


def _loops(plane_of: Callable[[float], Points | None], geometry: Geometry, tolerance: float) -> tuple[Loop, ...]:
    """Zero level of framed planes (None where they hold nothing), kept within `tolerance` pixels; on the image's slices."""
    pixel = min(geometry.spacing[1:])

    def on(place: float) -> list[Loop]:
        loops: list[Loop] = []
        values = plane_of(place)
        for (outer, *holes), reached in _polygons(values, tolerance) if values is not None else ():
            ring = _keyholed(outer, holes) if holes else outer
            kji = np.full((len(ring), 3), float(place))
            kji[:, 1:] = ring[:, ::-1] - 1.0
            loops.append(Loop(geometry.points(kji), tolerance=reached * pixel))
        return loops

    return tuple(loop for loops in each(on, _places(geometry)) for loop in loops)


def coarsely_simplified(loops: Iterable[Loop], grid: Geometry) -> str:
    """A sentence where contours of very many points were simplified by more than half a pixel; empty where none were."""
    reached = max((loop.tolerance for loop in loops), default=0.0)
    if reached <= NOTABLE * min(grid.spacing[1:]):
        return ""
    return f"contours of more than {MOST_POINTS} points were simplified by up to {reached:.2f} mm"


def _places(geometry: Geometry) -> Sequence[float]:
    """Where the image's slices lie among the planes of a grid."""
    if geometry.slices is None:
        return range(geometry.shape[0])
    at = geometry.indices(geometry.slices.positions)[:, 0]
    return [float(place) for place in at if -0.5 < place < geometry.shape[0] - 0.5]


_NO_MASK = np.asarray(False)


@lru_cache(maxsize=8)
def _pixels(shape: tuple[int, int]) -> tuple[Points, Points]:
    """x and y of every pixel, as the tracer wants them."""
    x, y = np.meshgrid(np.arange(shape[1], dtype=np.float64), np.arange(shape[0], dtype=np.float64))
    return x, y


def _polygons(plane: Points, tolerance: float) -> Iterator[tuple[list[Points], float]]:
    """Outer rings (x, y) with their holes, first point not repeated, of the region where `plane` > 0.

    The tracer is used without its convenience function, which copies and masks every plane again.

    Yields:
        A polygon, and within how many pixels it follows the level: `tolerance`, or more where it had too many points.
    """
    x, y = _pixels((plane.shape[0], plane.shape[1]))
    generator = contourpy.SerialContourGenerator(
        x,
        y,
        plane,
        _NO_MASK,
        corner_mask=False,
        line_type=contourpy.LineType.Separate,
        fill_type=contourpy.FillType.OuterOffset,
        quad_as_tri=False,
        z_interp=contourpy.ZInterp.Linear,
    )
    outers, offsets_of = cast("tuple[list[Points], list[NDArray[np.uint32]]]", generator.filled(0.0, np.inf))
    traced = [at_bends(points, plane) if tolerance else points for points in outers]
    exact = [[points[a:b] for a, b in pairwise(offsets)] for points, offsets in zip(traced, offsets_of, strict=True)]
    for rings, reached in _simplified(exact, tolerance) if tolerance and exact else ((rings, 0.0) for rings in exact):
        outer, *holes = map(_without_flat_points, rings)
        if len(outer):
            yield [outer, *filter(len, holes)], reached


def _simplified(exact: list[list[Points]], tolerance: float) -> list[tuple[list[Points], float]]:
    """The polygons of a plane with fewer points, and how many pixels each may be off; no two rings cross for it.

    Points go by Douglas and Peucker (1973, Cartographica 10:112). Where the sides of a thin ring or wall would cross, fewer
    go; of polygons of too many points more do, as far as nothing crosses.
    """
    fine = [_thinned(rings, tolerance) for rings in exact]
    for _ in range(FINER):
        if _is_whole(fine):
            break
        tolerance /= 2
        fine = [_thinned(rings, tolerance) for rings in exact]
    else:
        return [(rings, 0.0) for rings in exact]
    coarse, reached = list(fine), [tolerance] * len(fine)
    for n, rings in enumerate(exact):
        while sum(map(len, coarse[n])) > MOST_POINTS and 2 * reached[n] <= COARSEST:
            reached[n] *= 2
            coarse[n] = _thinned(rings, reached[n])
    if max(reached) == tolerance or _is_whole(coarse):
        return list(zip(coarse, reached, strict=True))
    return [(rings, tolerance) for rings in fine]


def _thinned(rings: list[Points], tolerance: float) -> list[Points]:
    """Closed rings within a tolerance, of the area they had; one that would be no ring any more stays as it is."""
    which = np.repeat(np.arange(len(rings)), [len(ring) for ring in rings])
    lines = cast("NDArray[np.object_]", shapely.linestrings(np.concatenate(rings), indices=which))
    thin = (shapely.get_coordinates(line) for line in shapely.simplify(lines, tolerance / 2, preserve_topology=False))
    return [
        enclosing(made, smooth_area(ring), tolerance / 3) if len(made) >= 4 else ring
        for ring, made in zip(rings, thin, strict=True)
    ]


def _is_whole(polygons: list[list[Points]]) -> bool:
    """Whether no two rings of them cross or overlap."""
    rings = [ring for rings in polygons for ring in rings]
    offsets = np.cumsum([0, *map(len, rings)]), np.cumsum([0, *map(len, polygons)]), np.array([0, len(polygons)])
    return bool(np.all(shapely.is_valid(shapely.from_ragged_array(_MULTIPOLYGON, np.concatenate(rings), offsets))))


def _without_flat_points(ring: Points) -> Points:
    """A closed ring (first point repeated) without points on straight lines; empty where nothing is left of it."""
    edges = np.diff(ring, axis=0)
    before = np.concatenate((edges[-1:], edges[:-1]))
    ring = ring[:-1][np.abs(before[:, 0] * edges[:, 1] - before[:, 1] * edges[:, 0]) > 1e-12]
    return ring if len(ring) >= 3 and abs(area(ring)) > SMALLEST_PIXELS else ring[:0]


def _keyholed(outer: Points, holes: Sequence[Points]) -> Points:
    """One loop of an outer ring and its holes, joined by channels of no width.

    From each hole's topmost point (leftmost of those) a channel runs to the left. Nothing of the hole itself lies there, and
    whatever is met reaches as high or higher: taken from top to bottom, it is already part of the loop.
    """
    loop = outer
    tops = [int(np.lexsort((hole[:, 0], hole[:, 1]))[0]) for hole in holes]
    order = sorted(range(len(holes)), key=lambda h: (holes[h][tops[h], 1], holes[h][tops[h], 0]))
    for h in order:
        hole = np.roll(holes[h], -tops[h], axis=0)
        edge, foot = _first_to_the_left(loop, hole[0])
        channel = [loop[: edge + 1], foot[None], hole, hole[:1], foot[None], loop[edge + 1 :]]
        loop = np.concatenate(channel)
    return loop[(loop != np.concatenate((loop[-1:], loop[:-1]))).any(axis=1)]


def _first_to_the_left(loop: Points, point: Points) -> tuple[int, Points]:
    """The edge (index of its first point) that a ray from `point` to -x meets first, and where."""
    x, y = point
    a, b = loop, np.roll(loop, -1, axis=0)
    meets = (np.minimum(a[:, 1], b[:, 1]) <= y) & (y <= np.maximum(a[:, 1], b[:, 1])) & (a[:, 1] != b[:, 1])
    edges = np.flatnonzero(meets)
    a, b = a[edges], b[edges]
    at = a[:, 0] + (y - a[:, 1]) / (b[:, 1] - a[:, 1]) * (b[:, 0] - a[:, 0])
    at = np.where(at <= x, at, -np.inf)
    best = int(np.argmax(at))
    return int(edges[best]), np.array([at[best], y])
