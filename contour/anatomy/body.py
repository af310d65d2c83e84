"""External: the patient, with arms, ears and nose, air cavities filled; without couch, head rest, mask and table.

What lies on the patient and is thin (shells of couch, mask and head rest, sheets) goes by an opening in each plane; what is
thick but apart and without bone goes as a part of its own. Decisions are made on pixels of about 2 mm, the surface on the
image's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from contour.anatomy.planes import Bools, Spacing, dilated, eroded, filled, holes
from patient.geometry import Box
from patient.parallel import each

THRESHOLD = -350.0
"""Between air and skin."""
SHELL = 4.0
"""Sheets of up to twice this (mm) are no body by themselves."""
EAR = 45.0
"""What an opening took away comes back where it is no larger than this (mm) in any direction: ears, nose, fingers."""
LIMB_CC = 30.0
"""A part apart from the largest is a limb from this volume on, if there is bone in it."""
LIMB_CM2 = 15.0
"""In an image of few planes, from this mean cross-section on."""
BONE = 300.0
"""HU of cortical bone: plates and rails of plastic stay below."""
PIECE_CC = 0.4
"""Smaller pieces that touch the skin are beads of a mask, not ears."""
MOUTH = 5.0
"""Openings of cavities up to this half width (mm) are closed before cavities are filled: nostrils, lips."""
SKIN_SHARE = 0.65
"""Where between the air outside and the tissue inside the skin is drawn: at -350 HU between -1000 and 0."""
SKIN_LEVELS = (-450.0, -200.0)
"""HU within which the skin is drawn, whatever lies on it."""
AROUND = 4
"""Coarse pixels of air that are looked at with the body."""
LUNG_LIKE = -945.0
"""Median HU above which air that leaves the picture is lung cut by the picture's side, not room air."""


@dataclass(frozen=True, eq=False)
class Body:
    """The body on coarse pixels, for others to look inside.

    Args:
        solid: `[z, y, x]`, cavities filled, on every `step`-th pixel in plane.
        step: pixels of the image a coarse pixel.
        spacing: mm of a coarse voxel.
        box: of the body in the upright image.
    """

    solid: Bools
    step: int
    spacing: Spacing
    box: Box

    @property
    def coarse_box(self) -> Box:
        """Of the body on coarse pixels, in all planes, with some air around it where the picture has any."""
        (_, j0, i0), (_, j1, i1), step, shape = self.box.start, self.box.stop, self.step, self.solid.shape
        return Box((0, j0 // step, i0 // step), (shape[0], j1 // step, i1 // step)).padded((0, AROUND, AROUND), shape)


def coarse(hu: NDArray[Any], step: int) -> NDArray[np.int16]:
    """Every `step`-th pixel in plane, averaged over its neighbours: less noise than a mere sample."""
    if step == 1:
        return np.ascontiguousarray(hu, dtype=np.int16)
    nz, ny, nx = hu.shape
    out = np.empty((nz, ny // step, nx // step), dtype=np.int16)
    for plane, result in zip(hu[:, : ny // step * step, : nx // step * step], out, strict=True):
        rows = np.add.reduce([plane[j::step] for j in range(step)], dtype=np.int32)
        total = np.add.reduce([rows[:, i::step] for i in range(step)])
        np.floor_divide(total, step * step, out=result, casting="unsafe")
    return out


def find_body(small: NDArray[np.int16], spacing: Spacing, step: int, threshold: float) -> Body | None:
    """The body on coarse pixels; None where there is nothing like one.

    Args:
        small: HU `[z, y, x]`, upright, coarse.
        spacing: mm of its voxels.
        step: as for `coarse`.
        threshold: HU between air and skin.
    """
    matter = small > threshold
    if matter.mean() < 0.005:
        return None
    for plane, hu in zip(matter, small, strict=True):
        plane |= _enclosed_lung(plane, hu)
    core = _patient_parts(eroded(matter, SHELL, spacing), small, spacing)
    if core is None:
        return None
    core = matter & dilated(core, SHELL + spacing[1], spacing)
    body = core | _small_attached(matter & ~core, core, spacing)
    cropped = _is_cropped(body)
    for k in np.flatnonzero(body.any(axis=(1, 2))):
        body[k] = filled(body[k])
    closed = eroded(dilated(body, MOUTH, spacing), MOUTH, spacing) | body
    for k in np.flatnonzero(body.any(axis=(1, 2))):
        body[k] |= _cavities(body[k], closed[k], small[k], cropped=cropped)
    box = Box.of(body)
    if box.empty:
        return None
    (k0, j0, i0), (k1, j1, i1) = box.start, box.stop
    return Body(body, step, spacing, Box((k0, j0 * step, i0 * step), (k1, j1 * step, i1 * step)))


def skin_levels(small: NDArray[np.int16], body: Body, threshold: float) -> NDArray[np.int16]:
    """HU at which the skin is drawn on every coarse pixel: between what lies inside and outside it within some 10 mm.

    A fixed level would move the skin where it is fat, where a mask or a cushion lies on it, and with the level chosen.

    Args:
        small: HU `[z, y, x]`, coarse.
        body: found on it.
        threshold: where there is no inside or outside near by.
    """
    out = np.full(small.shape, threshold, dtype=np.int16)
    radius = body.spacing[1] * 1.01
    inside, outside = eroded(body.solid, radius, body.spacing), dilated(body.solid, radius, body.spacing)
    np.logical_not(outside, out=outside)

    def fill(k: int) -> None:
        hu = small[k].astype(np.float32)
        tissue, air = _mean_near(np.clip(hu, -200, 100), inside[k]), _mean_near(np.clip(hu, -1000, -400), outside[k])
        level = air + SKIN_SHARE * (tissue - air)
        out[k] = np.where(np.isfinite(level), np.clip(level, *SKIN_LEVELS), threshold)

    each(fill, np.flatnonzero(body.solid.any(axis=(1, 2))).tolist())
    return out


def _mean_near(values: NDArray[np.float32], of: Bools) -> NDArray[np.float32]:
    """Mean of the mask's pixels in a window of five; NaN where there are none."""
    share = ndimage.uniform_filter(of.astype(np.float32), 5, mode="constant")
    total = ndimage.uniform_filter(np.where(of, values, np.float32(0.0)), 5, mode="constant")
    return np.where(share > 0.02, total / np.maximum(share, np.float32(0.02)), np.float32(np.nan))


def _enclosed_lung(matter: Bools, hu: NDArray[np.int16]) -> Bools:
    """Air of a plane that is enclosed and denser than room air: behind it even a thin chest wall is no shell."""
    labels, lung = holes(matter)
    lung &= np.bincount(labels.ravel(), minlength=len(lung)) > 50
    if lung.any():
        large = np.flatnonzero(lung)
        lung[large] = np.asarray(ndimage.median(hu, labels, large)) > LUNG_LIKE
    return lung[labels]


def _patient_parts(inner: Bools, small: NDArray[np.int16], spacing: Spacing) -> Bools | None:
    """The largest part of what is thick, and further ones that hold bone: limbs, not cushions or rails."""
    labels = cc3d.connected_components(inner, connectivity=6)
    stats = cc3d.statistics(labels)
    volumes = stats["voxel_counts"] * np.prod(spacing) / 1000.0
    volumes[0] = 0.0
    bone = np.bincount(labels[small > BONE], minlength=len(volumes))
    largest = int(np.argmax(volumes))
    if volumes[largest] < 1.0:
        return None
    least = min(LIMB_CC, LIMB_CM2 * len(small) * spacing[0] / 10.0)
    limb = (volumes > least) & (bone > 0.01 * stats["voxel_counts"])
    limb[largest] = True
    limb[0] = False
    return limb[labels]


def _small_attached(rest: Bools, core: Bools, spacing: Spacing) -> Bools:
    """Of what the opening took away: pieces that touch the body and are small in every direction."""
    labels = cc3d.connected_components(rest, connectivity=6)
    near = np.zeros_like(core)
    near[:, 1:] |= core[:, :-1]
    near[:, :-1] |= core[:, 1:]
    near[:, :, 1:] |= core[:, :, :-1]
    near[:, :, :-1] |= core[:, :, 1:]
    touching = np.unique(labels[near & rest])
    stats = cc3d.statistics(labels)
    boxes, volumes = stats["bounding_boxes"], stats["voxel_counts"] * np.prod(spacing) / 1000.0
    keep = np.zeros(int(labels.max()) + 1, dtype=bool)
    for label in touching[touching > 0]:
        sizes = [(s.stop - s.start) * mm for s, mm in zip(boxes[label], spacing, strict=True)]
        keep[label] = max(sizes) <= EAR and volumes[label] >= PIECE_CC
    return keep[labels]


def _is_cropped(body: Bools) -> bool:
    """The picture was cut out of a larger one: much of its sides is body."""
    sides = [body[:, 0], body[:, -1], body[:, :, 0], body[:, :, -1]]
    return sum(float(side.mean()) > 0.2 for side in sides) >= 2


def _cavities(body: Bools, closed: Bools, hu: NDArray[np.int16], *, cropped: bool) -> Bools:
    """A plane's cavities: what is enclosed once narrow openings are closed, with the openings themselves."""
    outside, enclosed = holes(closed)
    if cropped:
        for label in np.flatnonzero(~enclosed)[1:]:
            enclosed[label] = float(np.median(hu[outside == label])) >= LUNG_LIKE
    if not enclosed.any():
        return np.zeros_like(body)
    within = enclosed[outside]
    near: Any = ndimage.label(~body & (closed | within))
    held = np.zeros(near[1] + 1, dtype=np.bool_)
    held[near[0][within]] = True
    held[0] = False
    return held[near[0]]
