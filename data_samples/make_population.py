"""Makes `population.npz`, the mean head and neck of many patients, by groupwise registration.

    python -m data_samples.make_population OPENKBP_TRAIN_FOLDER [-o population.npz]

Every patient is brought onto the mean of all, first by a similarity of organ centres, then by displacements that follow
image and contours together; the mean displacement is taken away after each round, so that the mean lies in the middle of
the patients and resembles none of them more than another (Guimond 2000, CVIU 77:192). About twenty minutes on one
core. The folders are those of the OpenKBP challenge as NIfTI: `ct.nii.gz` in HU, `structures.nii.gz` with one bit each.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
TARGETS = 0b1110000000
"""Bits of the planning target volumes."""
LENGTH = 300.0
"""mm of body that a patient must show."""
LOW, HIGH = np.array([-246.0, -135.0, -285.0]), np.array([246.0, 129.0, 96.0])
"""mm (x, y, z) of the mean's box, from the middle of the brainstem."""
WORKING, FINE = 6.0, 3.0
"""mm, voxels of the registration and of the result."""
ROUNDS = ((36.0, 25), (18.0, 25), (12.0, 30), (12.0, 25))
"""Control spacing in mm, steps of descent; a new mean after each."""
STIFFNESS = 0.02
LEAST = 15
"""Patients that must show a voxel for it to be part of the mean."""
SKULL = 80.0
"""mm, radius of the sphere that closes the head above the planes that enough patients show."""
BEHIND = 7
"""Rows of air behind the box: where it cuts the back, the back is flat as on a couch."""
STEP = 0.25
"""mm, unit of the stored distances."""
PROVENANCE = (
    "Mean of {count} head-and-neck CTs of the OpenKBP challenge (MIT licence; Babier et al., Med Phys 48 (2021) 5549) "
    "by groupwise registration and averaging (data_samples/make_population.py). A voxel is the mean of the middle half of "
    "at least {least} patients, with grey values stretched to the patients' common histogram; structures are the mean of "
    "clinical contours, PTV the region that was a target in most; the vertex is made up. No voxel, contour or shape of a "
    "single patient is in it."
)


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
        mean = (mean - mean[0]) * (1, 1, 1)
    middle = mean * (1, 0, 0)
    tilt = middle[1:3, 0].mean()
    return [(m, t + m @ (tilt, 0.0, 0.0)) for m, t in found]


def nodes(spacing: float) -> NDArray[np.float64]:
    """mm `[z, y, x, 3]` (x, y, z) of the mean's box at a spacing."""
    axes = [np.arange(low, high + spacing / 2, spacing) for low, high in zip(LOW, HIGH, strict=True)]
    z, y, x = np.meshgrid(axes[2], axes[1], axes[0], indexing="ij")
    return np.stack([x, y, z], axis=-1)


def pulled(patient: Patient, points: NDArray[np.float64], values: Floats, order: int = 1) -> Floats:
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
        image = channels(pulled(patient, at, smooth))
        parts = [
            4 * pulled(patient, at, ndimage.gaussian_filter((patient.bits >> o & 1).astype(np.float32), 0.7))
            if np.isfinite(patient.centres[o, 0])
            else np.full(self.grid.shape[:3], np.nan, np.float32)
            for o in range(len(ORGANS))
        ]
        return torch.from_numpy(np.concatenate([image, np.stack(parts)]))[None]

    def warped(self, n: int, field: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of patient n pulled through a displacement in mm, and 1 where all around he was imaged."""
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
                loss = ((image - mean) * shown).square().sum() / mean[0, 0].numel() + STIFFNESS * _steepness(field)
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


def _steepness(field: torch.Tensor) -> torch.Tensor:
    """Mean square of the displacement's second differences, by mm."""
    total = torch.zeros(())
    for axis in (2, 3, 4):
        total = (
            total
            + (torch.diff(field, n=2, dim=axis) / WORKING).square().mean()
            + torch.diff(field, dim=axis).square().mean() / 400
        )
    return 100 * total


@dataclass(frozen=True)
class Mean:
    """What the patients have in common, on the fine grid.

    Args:
        hu: `[z, y, x]`, mean of the middle half.
        count: how many patients show a voxel.
        shares: structure -> the part of the patients in whom a voxel was of it.
    """

    hu: Floats
    count: NDArray[np.intp]
    shares: dict[str, Floats]


def averaged(registration: Registration) -> Mean:
    """The mean of the patients as registered."""
    grid = nodes(FINE)
    stack = np.empty((len(registration.patients), *grid.shape[:3]), np.float16)
    shares = {name: np.zeros(grid.shape[:3], np.float32) for name in (*ORGANS, "PTV")}
    known = {name: np.zeros(grid.shape[:3], np.float32) for name in shares}
    for n, patient in enumerate(registration.patients):
        at = registration.points(n, grid)
        stack[n] = pulled(patient, at, patient.hu.astype(np.float32))
        parts = {name: patient.bits >> o & 1 for o, name in enumerate(ORGANS) if np.isfinite(patient.centres[o, 0])}
        for name, part in {**parts, "PTV": (patient.bits & TARGETS) > 0}.items():
            share = pulled(patient, at, part.astype(np.float32))
            known[name] += np.isfinite(share)
            shares[name] += np.nan_to_num(share)
    count = np.isfinite(stack).sum(axis=0)
    mean = np.full(grid.shape[:3], -1000, np.float32)
    for k in range(len(mean)):
        ordered = np.sort(stack[:, k].astype(np.float32), axis=0)
        rank = np.arange(len(ordered))[:, None, None]
        inner = (rank >= count[k] * 0.25) & (rank < np.maximum(count[k] * 0.75, 1))
        mean[k] = np.where(inner, np.nan_to_num(ordered), 0).sum(axis=0) / np.maximum(inner.sum(axis=0), 1)
    return Mean(
        mean, count, {name: (share / np.maximum(known[name], 1)).astype(np.float32) for name, share in shares.items()}
    )


def sharpened(mean: Floats, inside: NDArray[np.bool_], patients: list[Patient]) -> Floats:
    """The mean with the histogram that bodies have: averaging makes bone too soft and air too dense."""
    shown = [p.hu[p.shown[0] : p.shown[1]] for p in patients]
    theirs = np.concatenate([hu[body(hu)][::17] for hu in shown])
    quantiles = np.linspace(0, 1, 2001)
    curve = ndimage.gaussian_filter1d(np.quantile(theirs, quantiles), 1.0)
    ours = np.quantile(mean[inside], quantiles) + np.arange(len(quantiles)) * 1e-6
    out = mean.copy()
    out[inside] = np.interp(np.interp(mean[inside], ours, quantiles), quantiles, curve)
    return out


def body(hu: NDArray[Any]) -> NDArray[np.bool_]:
    """The largest piece denser than -350 HU, each plane filled."""
    labels, _ = ndimage.label(ndimage.binary_opening(hu > -350, np.ones((1, 3, 3), bool)))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.stack([ndimage.binary_fill_holes(plane) for plane in labels == sizes.argmax()])


def closed(hu: Floats, inside: NDArray[np.bool_]) -> Floats:
    """The vertex, which few patients show, put on: the last plane's layers of skin, bone and brain over a sphere.

    With the last plane's outline as a circle of the sphere, depth is counted from the sphere's surface.
    """
    top = inside[-1]
    rim = float(np.sqrt(top.sum() / np.pi)) * FINE
    skull = max(SKULL, 1.05 * rim)
    start = float(np.sqrt(skull**2 - rim**2))
    away = ndimage.distance_transform_edt(~top) - ndimage.distance_transform_edt(top)
    middle = np.array(ndimage.center_of_mass(top))
    planes = int((skull - start) / FINE) + 4
    depths = skull - np.hypot((1 + away * FINE / rim) * rim, start)
    shells = {d: hu[-1][np.abs(depths - d) < FINE / 2] for d in np.arange(FINE, 40.0, FINE)}
    layers = np.array([(d, np.median(values)) for d, values in shells.items() if len(values)])
    cap = np.full((planes, *top.shape), -1000, np.float32)
    at = np.moveaxis(np.indices(top.shape, dtype=np.float64), 0, -1) - middle
    for n in range(planes):
        height = start + (n + 1) * FINE
        if height >= skull:
            break
        circle = np.sqrt(skull**2 - height**2)
        there = np.moveaxis(at * (rim / circle) + middle, -1, 0)
        q = 1 + ndimage.map_coordinates(away, there, order=1, mode="nearest") * FINE / rim
        depth = skull - np.hypot(np.maximum(q, 0) * circle, height)
        cover = np.clip(0.5 + depth / FINE, 0, 1)
        cap[n] += cover * (np.interp(depth, *layers.T) + 1000)
    return np.concatenate([hu, cap])


def distance(share: Floats, level: float) -> Floats:
    """mm to the surface at a level, negative inside, finer than the grid."""
    inside = ndimage.zoom(share, 2, order=1, grid_mode=True, mode="nearest") > level
    far = ndimage.distance_transform_edt(~inside) - ndimage.distance_transform_edt(inside)
    smooth = ndimage.gaussian_filter(far.astype(np.float32), 1.5) * (FINE / 2)
    z, y, x = share.shape
    return smooth.reshape(z, 2, y, 2, x, 2).mean(axis=(1, 3, 5))


def level_of(share: Floats, voxels: float) -> float:
    """The level that holds so many voxels: at one half a blurred organ would be too small."""
    return float(np.clip(np.sort(share, axis=None)[-max(1, round(voxels))], 0.2, 0.8))


def save(path: Path, registration: Registration) -> None:
    """Average, sharpen and store as plain arrays."""
    mean = averaged(registration)
    dense = mean.hu > -350
    enough = ((mean.count >= LEAST) & dense).sum(axis=(1, 2)) >= 0.998 * np.maximum(dense.sum(axis=(1, 2)), 1)
    shown = np.flatnonzero(enough & (dense.sum(axis=(1, 2)) > 500))
    part = slice(int(shown[0]), int(shown[-1]) + 1)
    hu = np.where(mean.count[part] >= LEAST, mean.hu[part], -1000)
    inside = body(hu)
    hu = closed(np.where(inside, sharpened(hu, inside, registration.patients), -1000).astype(np.float32), inside)
    hu = np.pad(hu, ((0, 0), (0, BEHIND), (0, 0)), constant_values=-1000)
    more = ((0, len(hu) - len(inside)), (0, BEHIND), (0, 0))
    fields = {}
    for name, share in mean.shares.items():
        level = level_of(share[part], _mean_volume(registration, name) / FINE**3) if name in ORGANS else 0.5
        fields[name] = distance(np.pad(share[part], more), level)
    fields["External"] = distance(body(hu).astype(np.float32), 0.5)
    np.savez_compressed(
        path,
        spacing=np.array(FINE),
        origin=LOW + (0, 0, shown[0] * FINE),
        step=np.array(STEP),
        provenance=np.array(PROVENANCE.format(count=len(registration.patients), least=LEAST)),
        hu=(np.clip(np.rint(hu / 8), -125, 300) * 8).astype(np.int16),
        **{name: np.clip(np.rint(field / STEP), -127, 127).astype(np.int8) for name, field in fields.items()},  # type: ignore[arg-type]
    )


def _mean_volume(registration: Registration, name: str) -> float:
    """mm3 of an organ at the mean's size, over those in whom it was contoured."""
    bit = ORGANS.index(name)
    found = [
        float((patient.bits >> bit & 1).sum()) * float(np.prod(patient.spacing)) / float(np.linalg.det(matrix))
        for patient, (matrix, _) in zip(registration.patients, registration.maps, strict=True)
    ]
    return float(np.mean([volume for volume in found if volume]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--out", type=Path, default=Path(__file__).with_name("population.npz"))
    arguments = parser.parse_args()
    found = [read_patient(folder) for folder in sorted(arguments.folder.iterdir()) if folder.is_dir()]
    registration = Registration([patient for patient in found if patient is not None])
    print(f"{len(registration.patients)} of {len(found)} patients", flush=True)
    for spacing, steps in ROUNDS:
        registration.round(spacing, steps)
        print(f"round at {spacing:g} mm done", flush=True)
    save(arguments.out, registration)


if __name__ == "__main__":
    main()
