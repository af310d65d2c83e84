"""The sample course's patient on the day of planning: image without noise, structures as surfaces, dose.

All of it lies on the population's grid (3 mm) and in its coordinates, LPS mm from the middle of the brainstem; whoever
wants it elsewhere resamples it there. The tumour is made up: an oropharyngeal primary on the right and a node below it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk  # noqa: N813 - as everybody writes it
from numpy.typing import NDArray
from scipy import ndimage

from data_samples.population import ORGANS, Population, population
from patient.geometry import Box, Geometry, Triple
from patient.volume import Field, Level, Volume
from registration.resampling import resampled_field
from registration.transforms import Transform, placed

Floats = NDArray[np.float32]
AIR = -1000.0
TUMOURS = {"GTVp": ((-17.0, -42.0, -52.0), (15.0, 16.0, 19.0)), "GTVn": ((-42.0, -16.0, -72.0), (11.0, 12.0, 15.0))}
"""Middle and half axes, mm (x, y, z)."""
MICROSCOPIC, SETUP, SKIN = 6.0, 5.0, 3.0
"""mm: GTV to CTV, CTV to PTV, and how far targets stay below the skin."""
STRUCTURES = ("External", *ORGANS, "GTVp", "GTVn", "CTV_7000", "PTV_7000", "CTV_5600", "PTV_5600")
HIGH, LOW = 70.0, 56.0
"""Gy prescribed to the two levels."""
FALL_OFF = np.array(
    [(-30, 1.02), (-6, 1.015), (0, 0.985), (3, 0.91), (6, 0.8), (10, 0.66), (15, 0.53), (25, 0.39), (31, 0.33)]
)
"""mm from a target's surface and the part of its dose that is found there."""
REACH = 30.0
"""mm; no point moves further."""
SPARED = {"Parotid_L": 0.6, "Parotid_R": 0.5, "SpinalCord": 0.2, "Brainstem": 0.2}
"""Part of the dose taken away inside, outside of targets."""
GRAIN = 16.0
"""HU, standard deviation of what makes muscle and fat look uneven; bone has three times as much."""


@dataclass(frozen=True, eq=False)
class Planned:
    """The patient whom the plan was made for.

    Args:
        hu: `[z, y, x]`, without noise and couch.
        surfaces: of `STRUCTURES`, signed distances in mm, negative inside.
        dose: Gy.
        isocentre: LPS mm, in the middle of the high-dose target.
        couch_top: y in mm of the table under the patient.
    """

    hu: Volume[np.float32]
    surfaces: Mapping[str, Volume[np.float32]]
    dose: Volume[np.float32]
    isocentre: tuple[float, float, float]
    couch_top: float

    def structure(self, name: str, plan_from_image: Transform, onto: Geometry) -> Field:
        """A structure's surface in another image, cropped to its own box.

        Args:
            name: one of `STRUCTURES`.
            plan_from_image: from that image to this patient.
            onto: a grid of that image.
        """
        surface = self._named(name, plan_from_image)
        near = _around(surface, onto)
        resampled = resampled_field(plan_from_image, Field(surface, Level.DISTANCE), onto.cropped(near))
        box = Box.of(resampled.volume.array < 0).padded(2, near.shape)
        part = resampled.volume.cropped(box)
        return Field(Volume(part.array.copy(), part.geometry), Level.DISTANCE)

    def _named(self, name: str, plan_from_image: Transform) -> Volume[np.float32]:
        surface, space = self.surfaces[name], plan_from_image.target
        grid = replace(surface.geometry, image=space.image, frame_of_reference=space.frame_of_reference)
        return Volume(surface.array, grid)


def _around(surface: Volume[np.float32], onto: Geometry) -> Box:
    """The part of a grid where a surface may lie, however the day moved it."""
    inside = Box.of(surface.array < 0)
    ends = np.array([surface.geometry.points(inside.start) - REACH, surface.geometry.points(inside.stop) + REACH])
    at = np.sort(onto.indices(ends), axis=0)
    start, stop = np.clip(np.floor(at[0]), 0, onto.shape), np.clip(np.ceil(at[1]) + 1, 0, onto.shape)
    return Box(tuple(int(v) for v in start), tuple(int(v) for v in stop))  # type: ignore[arg-type]


def plan_patient(seed: int) -> Planned:
    """The mean patient with a tumour, uneven tissue and a dose; the seed is the unevenness'."""
    mean = population()
    surfaces = _with_targets(mean)
    hu = _tissue(mean, surfaces, np.random.default_rng([seed, 1]))
    grid = mean.hu.geometry
    inside = np.argwhere(surfaces["PTV_7000"] < 0)
    x, y, z = (round(float(v)) for v in grid.points(inside.mean(axis=0)))
    back = np.flatnonzero((surfaces["External"] < 0).any(axis=(0, 2)))[-1]
    return Planned(
        Volume(hu, grid),
        {name: Volume(surfaces[name], grid) for name in STRUCTURES},
        Volume(_dose(surfaces, grid, np.random.default_rng([seed, 2])), grid),
        (float(x), float(y), float(z)),
        float(grid.points((0, back, 0))[1]) + 3.0,
    )


def noiseless(patient: Planned, plan_from_image: Transform, onto: Geometry) -> Floats:
    """HU `[z, y, x]` of the patient on a grid of an image, cubic between the population's voxels; no couch, no noise."""
    source = placed(sitk.GetImageFromArray(patient.hu.array), patient.hu.geometry)
    i, j, k = onto.shape[::-1]
    like = placed(sitk.Image([i, j, k], sitk.sitkUInt8), onto)
    out = sitk.Resample(source, like, plan_from_image.itk(), sitk.sitkBSpline3, AIR, sitk.sitkFloat32)
    return np.clip(sitk.GetArrayFromImage(out), AIR, 3071)


def _with_targets(mean: Population) -> dict[str, Floats]:
    found = {name: surface.array for name, surface in mean.surfaces.items()}
    grid = mean.hu.geometry
    for name, (middle, half) in TUMOURS.items():
        found[name] = _ellipsoid(grid, middle, half)
    gross = np.minimum(found["GTVp"], found["GTVn"])
    skin = found["External"]
    found["CTV_7000"] = np.maximum(gross - MICROSCOPIC, skin + SKIN + SETUP)
    found["PTV_7000"] = np.maximum(gross - MICROSCOPIC - SETUP, skin + SKIN)
    elective = np.minimum(found["PTV"] + SETUP, found["CTV_7000"])
    found["CTV_5600"] = np.maximum(elective, skin + SKIN + SETUP)
    found["PTV_5600"] = np.maximum(elective - SETUP, skin + SKIN)
    return found


def _ellipsoid(grid: Geometry, middle: Triple, half: Triple) -> Floats:
    """Signed distance to first order (Taubin 1991, PAMI 13:1115), negative inside."""
    axes = np.ogrid[tuple(slice(0, n) for n in grid.shape)]
    ends = zip(axes, grid.origin[::-1], grid.spacing, middle[::-1], half[::-1], strict=True)
    away = [((start + step * n - centre) / size, size) for n, start, step, centre, size in ends]
    q = np.sqrt(sum(part**2 for part, _ in away))
    slope = np.sqrt(sum((part / size) ** 2 for part, size in away))
    return np.where(q > 1e-6, (q - 1) * q / np.maximum(slope, 1e-9), -min(half)).astype(np.float32)


def _tissue(mean: Population, surfaces: Mapping[str, Floats], rng: np.random.Generator) -> Floats:
    """The mean with the tumour in it, and with the grain that averaging took away."""
    hu = mean.hu.array.astype(np.float32)
    for name in TUMOURS:
        part = np.clip(0.5 - surfaces[name] / 3.0, 0, 1)
        hu += part * (62.0 - hu)
    inside = np.clip(-surfaces["External"] / 4.0, 0, 1) * np.clip((hu + 400) / 300, 0, 1)
    grain = sum(_noise(rng, hu.shape, sigma) * part for sigma, part in ((0.8, 0.8), (2.0, 0.6)))
    return np.maximum(hu + inside * (GRAIN + 2 * GRAIN * np.clip((hu - 150) / 300, 0, 1)) * grain, AIR).astype(np.float32)


def _noise(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> Floats:
    smooth = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), sigma)
    return smooth / smooth.std()


def _dose(surfaces: Mapping[str, Floats], grid: Geometry, rng: np.random.Generator) -> Floats:
    """A conformal dose as planners aim at: steep around the targets, hollow at the parotids and before the cord."""
    reach, part = FALL_OFF.T
    dose = np.maximum(
        HIGH * np.interp(surfaces["PTV_7000"], reach, part), LOW * np.interp(surfaces["PTV_5600"], reach, part)
    )
    target = np.minimum(surfaces["PTV_7000"], surfaces["PTV_5600"])
    beyond = np.clip(target / 6.0, 0, 1)
    for name, spared in SPARED.items():
        dose *= 1 - spared * beyond * np.clip((4.0 - surfaces[name]) / 8.0, 0, 1)
    dose *= _along(target, grid)
    dose *= 1 + 0.012 * _noise(rng, dose.shape, 3.0)
    dose = ndimage.gaussian_filter(dose, 0.8)
    dose *= np.clip(0.5 - surfaces["External"] / 6.0, 0, 1)
    covered = dose[surfaces["PTV_7000"] < 0]
    return (dose * (HIGH / np.percentile(covered, 50) * 1.005)).astype(np.float32)


def _along(target: Floats, grid: Geometry) -> Floats:
    """Coplanar beams: above and below the targets' planes there is hardly any dose."""
    planes = np.flatnonzero((target < 0).any(axis=(1, 2)))
    z = np.arange(grid.shape[0])
    beyond = np.maximum(np.maximum(planes[0] - z, z - planes[-1]), 0) * grid.spacing[0]
    return np.maximum(np.exp(-((beyond / 14.0) ** 2)), 0.01)[:, None, None].astype(np.float32)
