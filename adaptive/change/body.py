"""What differs from the plan in the body as a whole: outline, separation, air."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import edt
import numpy as np
from numpy.typing import ArrayLike, NDArray

from adaptive.change.structures import Change, structure_change
from adaptive.decision.measurement import Measurement
from adaptive.propagation.field_surface import level_at
from adaptive.propagation.shape import Points, inside
from adaptive.propagation.surface_distance import Ground
from patient.geometry import Box, Geometry
from patient.volume import Field, Mask, Volume, mask_at

BAND = 5.0
"""mm about a level over which the separation's median is taken."""
AIR = -400.0
"""HU below which a voxel is more air than tissue."""
SKIN = 3.0
"""mm inside the body's outline in which air is the room's."""


def outline_change(name: str, planned: Field, today: Field, ground: Ground) -> Change:
    """As `structure_change` for the body, and "outline_lost" and "outline_gained" (cc), "outline_max" (mm).

    A body's ends are the scan's: they are no surface, and its shift is left out.
    """
    change = structure_change(name, planned, today, ground)
    kept = tuple(m for m in change.measurements if not m.quantity.startswith("shift"))
    if change.map is None:
        return replace(change, measurements=kept)
    found = next(m for m in kept if m.quantity == "volume")
    # only taken apart here: what is made of them stands on the same ground again
    volume, dice = (next(m for m in kept if m.quantity == q).figure.judged[0] for q in ("volume", "dice"))
    assert volume.planned is not None
    both = dice.value * (volume.value + volume.planned) / 2
    error = ground.surface_error
    more = (
        ("outline_lost", "cc", volume.planned - both, error and error * float(change.map.area.sum()) / 1000),
        ("outline_gained", "cc", volume.value - both, error and error * float(change.map.area.sum()) / 1000),
        ("outline_max", "mm", float(np.abs(change.map.outward).max()), error),
    )
    said = found.basis.removeprefix(ground.basis).removeprefix("; ")
    added = tuple(ground.measured(name, q, unit, max(0.0, value), 0.0, e, said) for q, unit, value, e in more)
    return replace(change, measurements=(*kept, *added))


def separations(
    planned: Field, today: Field, centre: ArrayLike, levels: Sequence[float], ground: Ground, *, structure: str = ""
) -> Change:
    """The body's width through a point, side to side and front to back: "separation_lateral@-20mm", "separation_AP@-20mm".

    Each is the median over lines within 5 mm of the level, from where one leaves the body to where one leaves it opposite.

    Args:
        planned, today: the body's fields.
        centre: LPS mm in today's image: the isocentre, or a structure's centre.
        levels: mm toward the head (negative: toward the feet) from the centre.
        structure: whose centre it is; empty for the isocentre.
        ground: of the fraction.
    """
    measured, notes = [], []
    centre = np.asarray(centre, dtype=np.float64)
    for level in levels:
        for name, along, aside in (("lateral", (1, 0, 0), (0, 1, 0)), ("AP", (0, 1, 0), (1, 0, 0))):
            quantity = f"separation_{name}@{level:+g}mm"
            offsets = np.linspace(-BAND, BAND, 5)
            lines = [centre + (0, 0, level + up) + out * np.asarray(aside) for up in offsets for out in offsets]
            pairs = np.column_stack([_widths(f, np.array(lines), np.asarray(along), ground.seen) for f in (planned, today)])
            whole = pairs[np.isfinite(pairs).all(axis=1)]
            if len(whole) < len(lines) / 2:
                notes.append(f"{quantity} cannot be measured: the body's edges are not seen there")
                continue
            before, now = (float(v) for v in np.median(whole, axis=0))
            error = ground.surface_error and 2 * ground.surface_error
            through = f"through the centre of {structure}" if structure else "through the isocentre"
            measured.append(ground.measured(structure, quantity, "mm", now, before, error, through))
    return Change(structure, tuple(measured), notes=tuple(notes))


def air_change(
    planned: tuple[Volume[Any], Field],
    today: tuple[Volume[Any], Field],
    ground: Ground,
    *,
    besides: tuple[Sequence[Field], Sequence[Field]] = ((), ()),
    near: Field | None = None,
    name: str = "",
    reach: float = 20.0,
) -> Measurement:
    """Volume of air in the body: "air" (cc); with `near` only what lies in or within `reach` of it, of that structure.

    Args:
        planned, today: image (HU) and body, both on voxels of today's image.
        ground: of the fraction.
        besides: what holds air by nature and is not counted (lungs), as planned and as of today.
        near: today's target.
        name: its name; empty without one.
        reach: mm around it.

    Raises:
        FrameMismatch: something does not lie on voxels of today's image.
    """
    grid = ground.seen.geometry
    box = grid.box_of((near or today[1]).geometry)
    if near is not None:
        box = box.padded([int(np.ceil(reach / s)) + 1 for s in grid.spacing], grid.shape)
    part = grid.cropped(box.padded(0, grid.shape))
    look = ground.on(part)
    if near is not None:
        target = inside(near, part) > 0
        look &= edt.edt(~target, anisotropy=part.spacing, black_border=False) <= reach
    before, now = (
        float(_air(image, body, part, lungs, look).sum()) * part.voxel_cc
        for (image, body), lungs in zip((planned, today), besides, strict=True)
    )
    where = f"within {reach:g} mm of {name}" if near is not None else "in the body"
    return ground.measured(name, "air", "cc", now, before, None, f"below {AIR:g} HU {where}, more than {SKIN:g} mm deep")


def _widths(body: Field, at: Points, along: Points, seen: Mask) -> NDArray[np.float64]:
    """mm through points `[n, 3]` inside a body along a line; no number where a point is outside or an end is not seen."""
    grid = body.geometry
    step = 0.5 * min(grid.spacing)
    reach = float(np.linalg.norm(np.asarray(grid.shape) * grid.spacing))
    way = np.arange(0.0, reach, step)
    total, rows = np.zeros(len(at)), np.arange(len(at))
    for sign in (1.0, -1.0):
        values = level_at(body, (at[:, None] + sign * way[:, None] * along).reshape(-1, 3)).reshape(len(at), len(way))
        out = np.argmax(values <= 0, axis=1)  # 0 where there is no such place as well
        last, first = values[rows, out - 1], values[rows, out]
        end = np.where(out > 0, way[out - 1] + step * last / np.where(out > 0, last - first, 1.0), np.nan)
        both = at[:, None] + sign * (end[:, None, None] + [[-step], [step]]) * along
        shown = mask_at(seen, both).all(axis=1)
        total += np.where(shown & (out > 0), end, np.nan)
    return total


def _air(
    image: Volume[Any], body: Field, part: Geometry, besides: Sequence[Field], look: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Plane by plane, and distances to the skin only in planes that hold air."""
    held = image.cropped(image.geometry.box_of(part))
    out = np.zeros(part.shape, dtype=bool)
    low = Volume(held.array < AIR, held.geometry).placed_in(part).array
    low &= look
    for k in np.flatnonzero(low.any(axis=(1, 2))):
        plane = part.cropped(Box((int(k), 0, 0), (int(k) + 1, *part.shape[1:])))
        within = inside(body, plane)[0] > 0
        deep = edt.edt(within, anisotropy=part.spacing[1:], black_border=True) > SKIN
        out[k] = low[k] & deep
        for field in besides:
            out[k] &= inside(field, plane)[0] <= 0
    return out
