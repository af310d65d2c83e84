"""What the closed loops of a structure enclose, whatever way they were drawn: nested loops are holes, others are united.

Most systems read the loops of a slice by exclusive-or. That is right where one lies in another (a hole), and wrong where a
loop is there twice or where two cross: what they share would be carved out. So loops are compared as shapes here, not as
digits, and everybody who fills them, measures them or carries them over starts from the same `Region`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from patient.loop import Loop

ONE_SLICE_MM = 0.1
"""Loops closer than this along the normal lie on one slice."""
SAME_MM = 0.1
"""Two outlines no further apart than this, on the average along them, are one: rounding, or the same contour drawn again."""
SAME_PART = 0.05
"""At most so much of the smaller loop's area counts as rounding."""
XOR = "CLOSEDPLANAR_XOR"
"""Geometric type of loops that are meant to be combined by exclusive-or (PS3.3 C.8.8.6.3)."""

Points = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Region:
    """Closed loops; a point is inside where an odd number of those of its slice enclose it.

    Args:
        loops: no two of a slice alike or crossing.
        repeated: loops that were there more than once, and count once.
        crossing: slices on which loops crossed, and were united.
        interpolated: slices between contours that were left out in drawing, and were interpolated.
        area_mm2: summed over all slices; with `exclusive_mm2`, the same read by exclusive-or of the loops as drawn, given
            only where the two may differ.
    """

    loops: tuple[Loop, ...]
    repeated: int = 0
    crossing: int = 0
    interpolated: int = 0
    area_mm2: float | None = None
    exclusive_mm2: float | None = None

    @property
    def empty(self) -> bool:
        """Whether the loops enclose nothing."""
        return not any(_encloses(loop.points) for loop in self.loops)

    def remark(self, spacing: float | None) -> str:
        """What was odd about the loops, with both readings of their volume; empty for nothing. `spacing`: of slices, mm."""
        odd = [f"{self.repeated} contours are there more than once"] if self.repeated else []
        odd += [f"contours cross on {self.crossing} slices and are united"] if self.crossing else []
        if not odd or self.area_mm2 is None or self.exclusive_mm2 is None:
            return ""
        scale, unit = (spacing / 1000, "cc") if spacing else (0.01, "cm2")
        ours, theirs = self.area_mm2 * scale, self.exclusive_mm2 * scale
        return f"{'; '.join(odd)}: {ours:.3g} {unit}, and {theirs:.3g} {unit} where a system reads them by exclusive-or"


def region_of(loops: Sequence[Loop]) -> Region:
    """What loops enclose. Points and open lines enclose nothing.

    Loops of a slice that are alike (from another start, reversed, moved by rounding) count once; those that cross are
    united; those that lie in another, or beside it, stay as they are. Loops typed CLOSEDPLANAR_XOR are taken by their word.
    """
    closed = [loop for loop in loops if len(loop.points) >= 3 and loop.kind.startswith("CLOSED")]
    if len(closed) < 2:
        return Region(tuple(closed))
    axes = _axes(max(closed, key=lambda loop: len(loop.points)).points)
    kept: dict[int, tuple[Loop, ...]] = {n: (loop,) for n, loop in enumerate(closed)}
    repeated = crossing = 0
    for together in _slices(closed, axes):
        own = {n: closed[n].points @ axes.T for n in together if closed[n].kind != XOR}
        meeting = _meeting({n: points for n, points in own.items() if np.ptp(points[:, 2]) <= ONE_SLICE_MM})
        if not meeting:
            continue
        shapes = _shapes([own[n][:, :2] for n in meeting])
        alike, crossed = _compared(shapes)
        repeated += len(alike)
        crossing += bool(crossed)
        kept.update((meeting[n], ()) for n in alike)
        for group in crossed:
            first = closed[meeting[group[0]]]
            rings = _rings(shapely.union_all(shapes[group]), axes, float(first.points[0] @ axes[2]))
            kept.update((meeting[n], ()) for n in group)
            kept[meeting[group[0]]] = tuple(replace(first, points=points, digits=b"") for points in rings)
    if not repeated and not crossing:
        return Region(tuple(closed))
    left = tuple(loop for loops in kept.values() for loop in loops)
    return Region(left, repeated, crossing, area_mm2=_odd_area(left, axes), exclusive_mm2=_odd_area(closed, axes))


def _slices(loops: Sequence[Loop], axes: Points, fewest: int = 2) -> Iterator[list[int]]:
    """Loops of a slice, where there are so many; told from the first point of each."""
    heights = np.array([loop.points[0] for loop in loops]) @ axes[2]
    order = np.argsort(heights, kind="stable")
    for some in np.split(order, np.flatnonzero(np.diff(heights[order]) > ONE_SLICE_MM) + 1):
        if len(some) >= fewest:
            yield sorted(some.tolist())


def _meeting(loops: Mapping[int, Points]) -> list[int]:
    """Those whose box meets that of another one."""
    if len(loops) < 2:
        return []
    low = np.array([points[:, :2].min(axis=0) for points in loops.values()])
    high = np.array([points[:, :2].max(axis=0) for points in loops.values()])
    meet = (low[:, None] <= high[None]).all(axis=2)
    return [n for n, met in zip(loops, (meet & meet.T).sum(axis=1) > 1, strict=True) if met]


def _rings(shape: shapely.Geometry, axes: Points, height: float) -> Iterator[Points]:
    """The rings of a shape as loops on a slice, LPS mm."""
    for polygon in shapely.get_parts(shape):
        if isinstance(polygon, shapely.Polygon):
            for ring in shapely.get_rings(polygon):
                flat = shapely.get_coordinates(ring)[:-1]
                yield np.column_stack([flat, np.full(len(flat), height)]) @ axes


def _encloses(points: Points) -> bool:
    """Whether a loop encloses anything; looked at closely only where its signed area vanishes (a figure of eight)."""
    flat = points @ _axes(points)[:2].T
    return shapely.Polygon(flat).area > 0 or _shapes([flat])[0].area > 0


def _axes(points: Points) -> Points:
    """Two directions in a closed loop's plane, and its normal (Newell); upright where it encloses nothing."""
    x, y, z = (points - points[0]).T
    u, v, w = (np.roll(values, -1) for values in (x, y, z))
    normal = np.array([y @ w - z @ v, z @ u - x @ w, x @ v - y @ u])
    length = float(np.linalg.norm(normal))
    normal = normal / length if length > 0 else np.array([0.0, 0.0, 1.0])
    side = np.eye(3)[int(np.argmin(np.abs(normal)))]
    side = side - (side @ normal) * normal
    side = side / np.linalg.norm(side)
    return np.array([side, np.cross(normal, side), normal], dtype=np.float64)


def _shapes(rings: Sequence[Points]) -> NDArray[np.object_]:
    """Polygons of rings; those that touch or cross themselves (a keyhole's channel) by the even-odd rule."""
    shapes = np.array([shapely.Polygon(ring) for ring in rings], dtype=object)
    broken = ~shapely.is_valid(shapes)
    shapes[broken] = shapely.make_valid(shapes[broken])
    return shapes


def _areas(shapes: NDArray[np.object_]) -> NDArray[np.float64]:
    return shapely.area(shapes)  # pyright: ignore[reportUnknownMemberType]


def _lengths(shapes: NDArray[np.object_]) -> NDArray[np.float64]:
    return shapely.length(shapes)  # pyright: ignore[reportUnknownMemberType]


def _compared(shapes: NDArray[np.object_]) -> tuple[set[int], list[list[int]]]:
    """Those that are another one again, and groups of those that cross."""
    area, length = _areas(shapes), _lengths(shapes)
    a, b = np.triu_indices(len(shapes), 1)
    met = shapely.intersects(shapes[a], shapes[b])
    a, b = a[met], b[met]
    shared = _areas(shapely.intersection(shapes[a], shapes[b]))
    smaller = np.minimum(area[a], area[b])
    rounding = np.minimum(SAME_MM * np.minimum(length[a], length[b]), SAME_PART * smaller)
    same = (np.maximum(area[a], area[b]) - shared <= rounding) | (area[a] + area[b] == 0)
    alike = {int(n) for n in b[same]}
    crosses = ~same & (shared > rounding) & (smaller - shared > rounding)
    pairs = [(int(m), int(n)) for m, n in zip(a[crosses], b[crosses], strict=True) if not {int(m), int(n)} & alike]
    return alike, _groups(pairs)


def _groups(pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """What hangs together."""
    groups: list[set[int]] = []
    for pair in pairs:
        touched = [group for group in groups if group & set(pair)]
        groups = [group for group in groups if group not in touched] + [set(pair).union(*touched)]
    return [sorted(group) for group in groups]


def _odd_area(loops: Sequence[Loop], axes: Points) -> float:
    """mm2 that an odd number of the loops of a slice enclose, summed over slices."""
    total = 0.0
    for some in _slices(loops, axes, fewest=1):
        shapes = _shapes([loops[n].points @ axes[:2].T for n in some])
        odd: BaseGeometry = reduce(shapely.symmetric_difference, shapes)
        total += odd.area
    return total
