"""Makes `population.npz`, the mean head and neck of many patients.

    python -m data_samples.make_population OPENKBP_TRAIN_FOLDER [-o population.npz]

The folders are those of the OpenKBP challenge as NIfTI: `ct.nii.gz` in HU, `structures.nii.gz` with one bit each. Patients
are registered onto each other (`groupwise.py`) and averaged; about twenty minutes on one core.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data_samples.groupwise import LOW, ORGANS, Floats, Patient, Registration, nodes, read_patient, warped

TARGETS = 0b1110000000
"""Bits of the planning target volumes."""
ROUNDS = ((36.0, 25), (18.0, 25), (12.0, 30), (12.0, 25))
"""Control spacing in mm, steps of descent; a new mean after each."""
FINE = 3.0
"""mm, voxels of the mean."""
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
        stack[n] = warped(patient, at, patient.hu.astype(np.float32))
        parts = {name: patient.bits >> o & 1 for o, name in enumerate(ORGANS) if np.isfinite(patient.centres[o, 0])}
        for name, part in {**parts, "PTV": (patient.bits & TARGETS) > 0}.items():
            share = warped(patient, at, part.astype(np.float32))
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
