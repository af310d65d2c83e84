"""Air inside the body: cavities that the plan's dose did not know, and those that it knew and that are filled now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import edt
import numpy as np
from numpy.typing import NDArray

from adaptive.change import Ground
from adaptive.measurement import Measurement
from adaptive.shape import inside
from patient.geometry import Box, Geometry
from patient.volume import Field, Volume

AIR = -400.0
"""HU below which a voxel is more air than tissue."""
SKIN = 3.0
"""mm inside the body's outline in which air is the room's."""


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
