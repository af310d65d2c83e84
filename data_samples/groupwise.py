"""Groupwise registration: many patients registered to their own mean, which lies in the middle of them all.

First a similarity of organ centres, then displacements that follow image and contours together; the mean displacement is
taken away after each round, so that the mean resembles none of the patients more than another (Guimond 2000, CVIU 77:192).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 - as everybody writes it
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional

Floats = NDArray[np.float32]
ORGANS = ("Brainstem", "SpinalCord", "Parotid_L", "Parotid_R", "Esophagus", "Larynx", "Bone_Mandible")
LANDMARKS = (0, 2, 3, 5, 6)
"""Organs whose centres give the similarity: those that clinics contour whole."""
NEEDED = (0, 1, 2, 3, 5)
"""Organs without which a patient is left out."""
LENGTH = 300.0
"""mm of body that a patient must show."""
LOW, HIGH = np.array([-246.0, -135.0, -285.0]), np.array([246.0, 129.0, 96.0])
"""mm (x, y, z) of the mean's box, from the middle of the brainstem."""
WORKING = 6.0
"""mm, voxels on which patients are compared."""
STIFFNESS = 0.02
"""What a displacement's slope costs against a difference of images."""


@dataclass(frozen=True)
class Patient:
    """One CT with its contours, and the similarity that brings it to the others.

    Args:
        hu: `[z, y, x]`.
        bits: `[z, y, x]`, one bit a structure.
        spacing: mm (x, y, z).
        shown: first and last plane that was released.
        centres: `[7, 3]` mm of the organs' centres, NaN where not contoured.
    """

    hu: NDArray[np.int16]
    bits: NDArray[np.uint16]
    spacing: NDArray[np.float64]
    shown: tuple[int, int]
    centres: NDArray[np.float64]


def read_patient(folder: Path) -> Patient | None:
    """A patient who shows enough of himself; None for the others."""
    ct = sitk.ReadImage(str(folder / "ct.nii.gz"))
    hu = sitk.GetArrayFromImage(ct).astype(np.int16)
    bits = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "structures.nii.gz")))
    spacing = np.array(ct.GetSpacing())
    planes = np.flatnonzero((hu > -500).sum(axis=(1, 2)) * spacing[0] * spacing[1] > 3000)
    if not len(planes) or len(planes) * spacing[2] < LENGTH or not all((bits >> n & 1).any() for n in NEEDED):
        return None
    centres = np.full((len(ORGANS), 3), np.nan)
    for n in range(len(ORGANS)):
        if (bits >> n & 1).any():
            centres[n] = np.array(ndimage.center_of_mass(bits >> n & 1))[::-1] * spacing
    return Patient(hu, bits, spacing, (int(planes[0]), int(planes[-1])), centres)


def similarities(patients: list[Patient]) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """`patient_from_mean` of each as matrix and shift, by Procrustes analysis of the centres (Umeyama 1991, PAMI 13:376)."""
    points = np.stack([p.centres[list(LANDMARKS)] for p in patients])
    mean = points[0]
    found: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
    for _ in range(10):
        found = []
        for own in points:
            both = np.isfinite(own).all(axis=1) & np.isfinite(mean).all(axis=1)
            a, b = mean[both] - mean[both].mean(axis=0), own[both] - own[both].mean(axis=0)
            u, s, vt = np.linalg.svd(b.T @ a)
            sign = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
            matrix = u @ sign @ vt * (float(s @ np.diag(sign)) / float((a**2).sum()))
            found.append((matrix, own[both].mean(axis=0) - matrix @ mean[both].mean(axis=0)))
        scale = np.exp(np.mean([np.log(np.linalg.det(m)) / 3 for m, _ in found]))
        turned = [(own - t) @ np.linalg.inv(m).T * scale for own, (m, t) in zip(points, found, strict=True)]
        mean = np.nanmean(turned, axis=0)
        mean -= mean[0]
    between_parotids = float(mean[1:3, 0].mean())
    return [(m, t + m @ (between_parotids, 0.0, 0.0)) for m, t in found]


def nodes(spacing: float) -> NDArray[np.float64]:
    """mm `[z, y, x, 3]` (x, y, z) of the mean's box at a spacing."""
    axes = [np.arange(low, high + spacing / 2, spacing) for low, high in zip(LOW, HIGH, strict=True)]
    z, y, x = np.meshgrid(axes[2], axes[1], axes[0], indexing="ij")
    return np.stack([x, y, z], axis=-1)


def warped(patient: Patient, points: NDArray[np.float64], values: Floats, order: int = 1) -> Floats:
    """A patient's values at points (mm of his own grid); NaN where he was not imaged."""
    at = np.moveaxis(points / patient.spacing, -1, 0)[::-1]
    out = ndimage.map_coordinates(values, at, order=order, mode="nearest", output=np.float32)
    top = np.array(values.shape)[1:] - 1
    seen = (at[0] >= patient.shown[0]) & (at[0] <= patient.shown[1])
    seen &= (at[1:] >= 0).all(axis=0) & (at[1] <= top[0]) & (at[2] <= top[1])
    out[~seen] = np.nan
    return out


def channels(hu: Floats) -> Floats:
    """What of an image is compared `[3, z, y, x]`: body against air, fat against muscle, bone."""
    parts = [np.clip((hu + 1000) / 900, 0, 1), np.clip((hu + 140) / 220, 0, 1), 2 * np.clip((hu - 120) / 500, 0, 1)]
    return np.stack(parts).astype(np.float32)


class Registration:
    """The patients on the working grid, and the displacements that bring them onto their mean."""

    def __init__(self, patients: list[Patient]) -> None:
        self.patients, self.maps = patients, similarities(patients)
        self.grid = nodes(WORKING)
        known = [self._features(n) for n in range(len(patients))]
        self.features = [torch.nan_to_num(one) for one in known]
        self.shown = [torch.isfinite(one).float() for one in known]
        self.fields = [torch.zeros(1, 3, *self.grid.shape[:3]) for _ in patients]
        self.base = torch.from_numpy(2 * (self.grid - LOW) / (self.grid[-1, -1, -1] - LOW) - 1).float()[None]
        self.half = torch.from_numpy((self.grid[-1, -1, -1] - LOW) / 2).float()

    def _features(self, n: int) -> torch.Tensor:
        patient, (matrix, shift) = self.patients[n], self.maps[n]
        at = self.grid @ matrix.T + shift
        smooth = ndimage.gaussian_filter(patient.hu.astype(np.float32), 0.5)
        image = channels(warped(patient, at, smooth))
        parts = [
            4 * warped(patient, at, ndimage.gaussian_filter((patient.bits >> o & 1).astype(np.float32), 0.7))
            if np.isfinite(patient.centres[o, 0])
            else np.full(self.grid.shape[:3], np.nan, np.float32)
            for o in range(len(ORGANS))
        ]
        return torch.from_numpy(np.concatenate([image, np.stack(parts)]))[None]

    def warped(self, n: int, field: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of patient n warped by a displacement in mm, and 1 where all around he was imaged."""
        grid = self.base + torch.movedim(field, 1, -1) / self.half
        image = functional.grid_sample(self.features[n], grid, padding_mode="border", align_corners=True)
        with torch.no_grad():
            shown = functional.grid_sample(self.shown[n], grid, padding_mode="border", align_corners=True) > 0.999
        return image, shown

    def mean(self) -> torch.Tensor:
        """Of the patients who show a voxel, in the middle of all displacements."""
        total, count = torch.zeros_like(self.features[0]), torch.zeros_like(self.features[0])
        for n, field in enumerate(self.fields):
            image, shown = self.warped(n, field)
            total += image * shown
            count += shown
        return total / count.clamp(min=1)

    def round(self, spacing: float, steps: int) -> None:
        """Bring every patient nearer to the mean, then the mean into their middle."""
        mean = self.mean()
        shape = [int((h - low) / spacing) + 2 for low, h in zip(LOW[::-1], HIGH[::-1], strict=True)]
        for n, start in enumerate(self.fields):
            control = torch.zeros(1, 3, *shape, requires_grad=True)
            descent = torch.optim.Adam([control], lr=1.0)
            field = start
            for _ in range(steps):
                descent.zero_grad()
                field = start + functional.interpolate(control, start.shape[2:], mode="trilinear", align_corners=True)
                image, shown = self.warped(n, field)
                loss = ((image - mean) * shown).square().sum() / mean[0, 0].numel() + STIFFNESS * _gradient(field)
                loss.backward()
                descent.step()
            self.fields[n] = field.detach()
        middle = torch.stack(self.fields).mean(dim=0)
        self.fields = [field - middle for field in self.fields]

    def points(self, n: int, grid: NDArray[np.float64]) -> NDArray[np.float64]:
        """Where points of the mean lie in patient n, mm of his own grid."""
        matrix, shift = self.maps[n]
        at = np.moveaxis((grid - LOW) / WORKING, -1, 0)[::-1]
        field = self.fields[n][0].numpy()
        moved = np.stack([ndimage.map_coordinates(part, at, order=1, mode="nearest") for part in field], axis=-1)
        return (grid + moved) @ matrix.T + shift


def _gradient(field: torch.Tensor) -> torch.Tensor:
    """Mean square of the displacement's second differences, by mm."""
    total = torch.zeros(())
    for axis in (2, 3, 4):
        total = (
            total
            + (torch.diff(field, n=2, dim=axis) / WORKING).square().mean()
            + torch.diff(field, dim=axis).square().mean() / 400
        )
    return 100 * total
