"""The sample patient's anatomy: simple shapes with right Hounsfield units, evaluated plane by plane.

Coordinates are mm: x to the patient's left, y to the back, z to the head from the lowest plane; the patient is 550 mm from
the lower chest to the vertex, lies on a couch with a head rest, and wears a mask. Nobody was measured for this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LENGTH = 550.0
FIELD_OF_VIEW = 500.0
Floats = NDArray[np.float32]

_Z = np.array([0, 60, 130, 190, 230, 262, 285, 330, 356, 385, 430, 470, 505, 530, 543, 549], dtype=float)
_HALF_WIDTH = np.array([158, 165, 164, 160, 168, 150, 78, 62, 64, 70, 77, 76, 68, 48, 24, 2], dtype=float)
_HALF_DEPTH = np.array([108, 112, 108, 98, 84, 74, 66, 66, 80, 88, 95, 94, 84, 60, 30, 2], dtype=float)
_MIDDLE_Y = np.array([0, 0, 2, 6, 10, 12, 8, 4, -4, -4, 0, 2, 4, 6, 6, 6], dtype=float)
_CANAL_Y = np.array([62, 64, 66, 60, 50, 42, 36, 30, 28, 26, 24, 24, 24, 24, 24, 24], dtype=float)


@dataclass(frozen=True)
class Plane:
    """One plane while it is painted: HU and the places of its pixels."""

    hu: Floats
    x: Floats
    y: Floats
    z: float
    pixel: float

    def paint(self, inside: NDArray[Any], hu: float) -> None:
        """Mix `hu` in where a signed distance (mm, positive inside) covers a pixel wholly or in part."""
        rows = np.flatnonzero(inside.max(axis=1) > -self.pixel)
        if not rows.size:
            return
        part = slice(int(rows[0]), int(rows[-1]) + 1)
        cover = np.clip(0.5 + inside[part] / self.pixel, 0.0, 1.0)
        self.hu[part] += cover * (np.float32(hu) - self.hu[part])

    def ellipse(self, x: float, y: float, a: float, b: float) -> Floats:
        """Signed distance (about) to an ellipse, positive inside, right up to 15 mm outside; nothing where it vanished."""
        out = np.full(self.hu.shape, -1e3, dtype=np.float32)
        if min(a, b) > 0.3:
            window = self._window(self.y[:, 0], y, b), self._window(self.x[0], x, a)
            q = np.hypot((self.x[window] - np.float32(x)) / np.float32(a), (self.y[window] - np.float32(y)) / np.float32(b))
            out[window] = (1.0 - q) * np.float32(min(a, b))
        return out

    @staticmethod
    def _window(at: Floats, middle: float, half: float) -> slice:
        first, last = np.searchsorted(at, (middle - half - 15.0, middle + half + 15.0))
        return slice(int(first), int(last))

    def ellipsoid(self, x: float, y: float, z: float, a: float, b: float, c: float) -> Floats:
        """The same for an ellipsoid's cut by this plane."""
        left = 1.0 - ((self.z - z) / c) ** 2
        return self.ellipse(x, y, a * np.sqrt(left), b * np.sqrt(left)) if left > 0 else self.ellipse(x, y, 0, 0)


@dataclass(frozen=True)
class Truth:
    """What is known of a plane: signed distances, positive inside."""

    external: Floats
    lung_l: Floats
    lung_r: Floats
    canal: Floats
    trachea: Floats


def paint(plane: Plane, vessels: NDArray[np.float64]) -> Truth:
    """Paint one plane of the patient from outside in, and say what is where.

    Args:
        plane: filled with air.
        vessels: `[n, 6]` from `grow_vessels`.
    """
    z = plane.z
    a, b, y0, yc = (float(np.interp(z, _Z, v)) for v in (_HALF_WIDTH, _HALF_DEPTH, _MIDDLE_Y, _CANAL_Y))
    _couch(plane)
    external = _outline(plane, a, b, y0)
    _mask(plane, external)
    plane.paint(external, -100.0)
    plane.paint(external - 7.0, 48.0)
    for side in (-1.0, 1.0):
        _shoulder(plane, side)
    lungs = [_lung(plane, side) for side in (-1.0, 1.0)]
    if z < 215:
        _chest(plane, a, b, lungs, vessels)
    if z > 350:
        _head(plane, a, b, y0)
    canal = _spine(plane, yc)
    trachea = _airway(plane, yc)
    return Truth(external, lungs[1], lungs[0], canal, trachea)


def _couch(plane: Plane) -> None:
    wide = 225.0 - np.abs(plane.x)
    for top, thick, hu in ((128.0, 3.0, 40.0), (131.0, 26.0, -930.0), (157.0, 3.0, 40.0)):
        plane.paint(np.minimum(wide, thick / 2 - np.abs(plane.y - top - thick / 2)), hu)
    if plane.z > 300:
        rest = plane.ellipse(0.0, 124.0, 90.0, 34.0)
        plane.paint(np.minimum(rest, 127.0 - plane.y), -900.0)


def _outline(plane: Plane, a: float, b: float, y0: float) -> Floats:
    """Trunk, neck and head with arms, ears and nose."""
    shape = plane.ellipse(0.0, y0, a, b)
    for side in (-1.0, 1.0):
        drop = float(np.clip((262.0 - plane.z) / 40.0, 0.0, 1.0)) ** 0.5
        shape = np.maximum(shape, plane.ellipse(side * 182.0, 18.0, 42.0 * drop, 52.0 * drop))
        shape = np.maximum(shape, plane.ellipsoid(side * 79.0, 12.0, 430.0, 9.0, 15.0, 30.0))
    shape = np.maximum(shape, plane.ellipsoid(0.0, -96.0, 425.0, 14.0, 24.0, 24.0))
    return np.minimum(shape, 126.0 - plane.y)


def _mask(plane: Plane, external: Floats) -> None:
    """A thermoplastic shell of 2.5 mm, a little off the skin."""
    if 290 < plane.z < 545:
        shell = 1.25 - np.abs(external + 5.0)
        plane.paint(np.minimum(shell, 60.0 - plane.y), 60.0)


def _shoulder(plane: Plane, side: float) -> None:
    """Humerus, its head, scapula and clavicle."""
    z = plane.z
    if z < 225:
        plane.paint(plane.ellipse(side * 184.0, 16.0, 13.0, 13.0), 900.0)
        plane.paint(plane.ellipse(side * 184.0, 16.0, 7.0, 7.0), 60.0)
    plane.paint(plane.ellipsoid(side * 172.0, 14.0, 232.0, 24.0, 24.0, 22.0), 420.0)
    if 120 < z < 235:
        plane.paint(
            3.5
            - np.abs(plane.y - 72.0 + 0.25 * (np.abs(plane.x) - 90.0))
            + np.minimum(0.0, 34.0 - np.abs(plane.x - side * 108.0)),
            520.0,
        )
    plane.paint(
        np.minimum(
            6.0 - np.abs(np.hypot(plane.y + 45.0, 1.0 * (z - 240.0 - 0.1 * np.abs(plane.x)))),
            55.0 - np.abs(plane.x - side * 72.0),
        ),
        500.0,
    )


def _lung(plane: Plane, side: float) -> Floats:
    lung = plane.ellipsoid(side * 76.0, 0.0, 70.0, 60.0, 78.0, 150.0)
    heart = plane.ellipsoid(22.0, -30.0, 40.0, 60.0, 52.0, 70.0)
    return np.minimum(lung, -heart - 2.0)


def _chest(plane: Plane, a: float, b: float, lungs: list[Floats], vessels: NDArray[np.float64]) -> None:
    """Ribs, sternum, lungs with vessels, heart and aorta."""
    wall = plane.ellipse(0.0, 0.0, a - 14.0, b - 13.0)
    phase = np.mod((plane.z + 0.45 * plane.y) / 27.0, 1.0)
    ribs = np.minimum(4.5 - np.abs(wall), 6.0 - np.abs(phase - 0.5) * 27.0)
    plane.paint(np.minimum(ribs, np.abs(plane.x) - 22.0), 620.0)
    plane.paint(np.minimum(np.minimum(17.0 - np.abs(plane.x), 5.0 - np.abs(plane.y + b - 17.0)), 205.0 - plane.z), 320.0)
    for lung in lungs:
        plane.paint(lung, -840.0)
    inside = np.maximum(lungs[0], lungs[1])
    for x, y, z, dx, dy, radius in vessels:
        far = (plane.z - z) / 60.0
        if abs(far) < 1.0:
            spot = plane.ellipse(x + dx * far, y + dy * far, radius * (1 - 0.5 * abs(far)), radius * (1 - 0.5 * abs(far)))
            plane.paint(np.minimum(spot, inside), 30.0)
    plane.paint(plane.ellipsoid(22.0, -30.0, 40.0, 60.0, 52.0, 70.0), 42.0)
    plane.paint(plane.ellipse(20.0, 30.0, 12.0, 12.0), 45.0)


def _spine(plane: Plane, yc: float) -> Floats:
    """Vertebral bodies and discs, arches with their gaps, processes; the canal with its cord. The canal is returned."""
    z = plane.z
    canal = plane.ellipse(0.0, yc, 10.5, 8.5)
    if z > 372:
        return np.full(canal.shape, -1e3, dtype=np.float32)
    level = (z / 25.0) % 1.0
    depth = 15.0 if z < 250 else 10.0
    body = plane.ellipse(0.0, yc - 8.5 - depth, 20.0 if z < 250 else 13.0, depth)
    is_disc = level > 0.82
    plane.paint(body, 75.0 if is_disc else 480.0)
    if not is_disc:
        plane.paint(body - 2.0, 180.0)
    arch = np.minimum(plane.ellipse(0.0, yc + 1.0, 16.5, 14.5), -canal)
    side_open = is_disc or level < 0.12
    plane.paint(np.minimum(arch, plane.y - yc + (2.0 if side_open else 12.0)), 420.0 if side_open else 640.0)
    if not side_open:
        plane.paint(
            np.minimum(5.0 - np.abs(plane.y - yc - 2.0), 30.0 - np.abs(plane.x)) + np.minimum(0.0, np.abs(plane.x) - 14.0),
            420.0,
        )
    plane.paint(np.minimum(3.5 - np.abs(plane.x), 15.0 - np.abs(plane.y - yc - 27.0)) - (4.0 if side_open else 0.0), 420.0)
    plane.paint(canal, 15.0)
    plane.paint(plane.ellipse(0.0, yc, 6.0, 5.0), 38.0)
    return canal


def _airway(plane: Plane, yc: float) -> Floats:
    """Trachea and main bronchi; above, larynx and pharynx as far as the nose. The trachea is returned."""
    z, y = plane.z, yc - 62.0
    nothing = np.full(plane.hu.shape, -1e3, dtype=np.float32)
    if z < 118:
        return nothing
    if z < 150:
        away = (150.0 - z) * 0.9
        spots = [plane.ellipse(side * (6.0 + away), y + 4.0, 6.5, 6.5) for side in (-1.0, 1.0)]
        plane.paint(np.maximum(*spots) + 1.5, 45.0)
        plane.paint(np.maximum(*spots), -985.0)
        return nothing
    if z < 330:
        lumen = plane.ellipse(0.0, y + (z - 150.0) * 0.08, 9.0, 8.5)
        plane.paint(lumen + 2.0, 55.0)
        plane.paint(lumen, -990.0)
        return lumen
    if z < 400:
        plane.paint(plane.ellipse(0.0, y + 14.0 + (z - 330.0) * 0.05, 8.0, 4.5), -980.0)
    return nothing


def _head(plane: Plane, a: float, b: float, y0: float) -> None:
    """Skull and brain, mandible, teeth, sinuses, orbits and parotids."""
    z = plane.z
    skull = plane.ellipsoid(0.0, 6.0, 455.0, 71.0, 86.0, 84.0)
    if z > 376:
        plane.paint(skull, 950.0)
        plane.paint(skull - 6.5, 36.0)
    if 345 < z < 392:
        arc = 5.5 - np.abs(plane.ellipse(0.0, -22.0, 48.0, 58.0))
        rise = np.minimum(arc, -10.0 - plane.y + (z - 352.0) * 1.1)
        plane.paint(rise, 850.0)
        if 376 < z < 388:
            plane.paint(np.minimum(4.0 - np.abs(plane.ellipse(0.0, -28.0, 30.0, 42.0)), -38.0 - plane.y), 1600.0)
    for side in (-1.0, 1.0):
        plane.paint(plane.ellipsoid(side * 56.0, 2.0, 388.0, 9.0, 17.0, 26.0), -5.0)
        plane.paint(plane.ellipsoid(side * 24.0, -62.0, 412.0, 12.0, 14.0, 15.0), -990.0)
        plane.paint(plane.ellipsoid(side * 31.0, -72.0, 443.0, 13.0, 13.0, 13.0), 10.0)


def grow_vessels(seed: int) -> NDArray[np.float64]:
    """Lung vessels as short slanted tubes: `[n, 6]` of x, y, z, drift in x and y over 60 mm, radius."""
    rng = np.random.default_rng(seed)
    n = 150
    side = rng.choice([-1.0, 1.0], n)
    x = side * rng.uniform(34.0, 122.0, n)
    y, z = rng.uniform(-65.0, 60.0, n), rng.uniform(-40.0, 190.0, n)
    return np.column_stack(
        [x, y, z, side * rng.uniform(-18.0, 30.0, n), rng.uniform(-25.0, 25.0, n), rng.uniform(1.0, 3.2, n)]
    )
