"""A phantom of simple shapes as a planning CT in DICOM, lower chest to vertex: made by code, the same for the same seed.

What is where is known exactly, lungs and spinal canal too; the sample course has the likeness to a patient instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import astuple
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data_samples.anatomy import FIELD_OF_VIEW, LENGTH, Plane, Truth, grow_vessels, paint
from data_samples.dicom import Identity, ct_plane
from patient.geometry import Geometry

NOISE = 14.0
"""HU, standard deviation after the reconstruction's smoothing."""


def sample_geometry(slices: int = 220, size: int = 256) -> Geometry:
    """The grid of the phantom: 500 mm of field of view, 550 mm of patient, whatever the numbers."""
    pixel, step = FIELD_OF_VIEW / size, LENGTH / slices
    origin = (-FIELD_OF_VIEW / 2 + pixel / 2, -FIELD_OF_VIEW / 2 + pixel / 2, -300.0)
    return Geometry((slices, size, size), (round(step, 6), pixel, pixel), origin)


def planes(slices: int = 220, size: int = 256, seed: int = 0) -> Iterator[tuple[NDArray[np.int16], Truth]]:
    """HU `[y, x]` and truth of each plane, from the feet up."""
    geometry = sample_geometry(slices, size)
    at = (np.arange(size, dtype=np.float32) + 0.5) * np.float32(geometry.spacing[1]) - np.float32(FIELD_OF_VIEW / 2)
    y, x = np.meshgrid(at, at, indexing="ij")
    rng, vessels = np.random.default_rng(seed), grow_vessels(seed)
    for k in range(slices):
        plane = Plane(
            np.full((size, size), -1000.0, dtype=np.float32), x, y, (k + 0.5) * LENGTH / slices, geometry.spacing[1]
        )
        truth = paint(plane, vessels)
        noise = ndimage.gaussian_filter(rng.standard_normal((size, size), dtype=np.float32), 0.7)
        hu = plane.hu + noise * np.float32(NOISE / max(float(noise.std()), 1e-6))
        yield np.clip(np.rint(hu), -1024, 3071).astype(np.int16), truth


def truth_masks(slices: int = 220, size: int = 256) -> dict[str, NDArray[np.bool_]]:
    """Masks `[z, y, x]` of what is known: External, Lung_L, Lung_R, SpinalCanal, Trachea."""
    names = ("External", "Lung_L", "Lung_R", "SpinalCanal", "Trachea")
    masks = {name: np.zeros((slices, size, size), dtype=bool) for name in names}
    for k, (_, truth) in enumerate(planes(slices, size)):
        for name, inside in zip(names, astuple(truth), strict=True):
            masks[name][k] = inside > 0
    return masks


def write_sample(
    folder: Path, *, slices: int = 220, size: int = 256, seed: int = 0, progress: Callable[[float], None] = lambda done: None
) -> None:
    """Write the phantom's CT, one file a plane.

    Args:
        folder: made where it is not there.
        slices: planes over the 550 mm of the patient.
        size: rows and columns of a plane, over 500 mm.
        seed: of noise and vessels.
        progress: called with the part that is done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    geometry = sample_geometry(slices, size)
    identity = Identity((str(slices), str(size), str(seed)))
    for k, (hu, _) in enumerate(planes(slices, size, seed)):
        ct_plane(hu, geometry, k, identity).save_as(folder / f"CT{k:04d}.dcm", enforce_file_format=True)
        progress((k + 1) / slices)
