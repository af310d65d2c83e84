"""The looks of a cone beam: noise, shading, cupping, a drifting scale and blur, inside a cylinder of view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from patient.volume import Mask, Volume

AIR = -1000.0


@dataclass(frozen=True)
class Beam:
    """What a cone beam does to an image; every figure is drawn between its two ends.

    Args:
        radius: mm, of the cylinder of view.
        length: mm, of the cylinder.
        noise: HU, standard deviation.
        shading: HU, largest, of what varies slowly.
        cupping: HU, how much darker the middle of the patient is.
        scale: what (HU + 1000) is multiplied with.
        offset: HU.
        blur: mm.
    """

    radius: tuple[float, float] = (120, 140)
    length: tuple[float, float] = (200, 240)
    noise: tuple[float, float] = (40, 60)
    shading: tuple[float, float] = (30, 60)
    cupping: tuple[float, float] = (0, 60)
    scale: tuple[float, float] = (0.93, 1.07)
    offset: tuple[float, float] = (-40, 40)
    blur: tuple[float, float] = (0.5, 1.2)


HEAD = Beam()
CHEST = Beam(radius=(225, 240), length=(230, 250))


def as_cone_beam(rng: np.random.Generator, array: NDArray[Any], view: Mask, beam: Beam) -> Volume[np.int16]:
    """An image with a cone beam's looks; -1000 outside its view."""
    grid = view.geometry
    spacing = np.array(grid.spacing)
    image = ndimage.gaussian_filter(array.astype(np.float32), rng.uniform(*beam.blur) / spacing)
    density = np.clip((image - AIR) / 1000, 0, 1.2)
    slow = ndimage.gaussian_filter(rng.normal(size=[max(2, int(n)) for n in np.array(grid.shape) * spacing / 10]), 4)
    slow = ndimage.zoom(slow, np.array(grid.shape) / slow.shape, order=1, grid_mode=True, mode="nearest")
    slow *= rng.uniform(*beam.shading) / max(float(np.abs(slow[view.array]).max()), 1e-9)
    j, i = (np.linspace(-1, 1, n) for n in grid.shape[1:])
    cup = rng.uniform(*beam.cupping) * (np.clip(j[:, None] ** 2 + i**2, 0, 1) - 0.5)
    image = (image - AIR) * rng.uniform(*beam.scale) + AIR + (rng.uniform(*beam.offset) + slow + cup) * density
    grain = ndimage.gaussian_filter(rng.normal(size=grid.shape).astype(np.float32), 0.5)
    image += grain * (rng.uniform(*beam.noise) / float(grain.std()))
    image = np.where(view.array, np.clip(image, AIR, 3000), AIR)
    return Volume(np.rint(image).astype(np.int16), grid)
