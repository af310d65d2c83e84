"""The anatomy engine on real patients: lungs, canal, body, and that nothing is invented."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import cc3d
import numpy as np
import SimpleITK as sitk  # noqa: N813 - as everybody writes it

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.lungs import as_imaged
from benchmarks.record import DATA, RESULTS, main, record
from contour.anatomy import AnatomyEngine
from contour.anatomy import engine as engine_module
from contour.checks import cut_sides
from contour.engine import Absent, Context, Finding
from patient.geometry import Geometry
from patient.rasterisation import mask_of_united_loops
from patient.read.headers import read_header
from patient.read.images import open_folder
from patient.read.pixels import read_pixels
from patient.read.planes import planes_of
from patient.read.rtstruct import read_structure_set
from patient.structures import Structure
from patient.volume import Volume
from pipelines.report.pictures import layers, three_planes

CTS = (
    "lung-nsclc-001/CT",
    "headneck-planning-90/CT",
    "abdomen-ffs-41/CT",
    "dicom-zoo/jpeg2000-ct-20-slices",
    "lung-gtv-60/CT",
    "sarcoma-ct-mr/CT",
)
COLORS = {
    "External": (0, 255, 0),
    "Bones": (245, 222, 179),
    "SpinalCanal": (240, 230, 140),
    "Lung_L": (70, 130, 180),
    "Lung_R": (100, 149, 237),
    "Trachea": (95, 158, 160),
    "zAir": (0, 191, 255),
}


def _answers(image: Volume[Any], names: tuple[str, ...] = ()) -> dict[str, Finding | Absent]:
    engine = AnatomyEngine()
    return {a.name: a for a in engine.contour(image, names or tuple(engine.offers()), Context())}


def _mask(answer: Finding | Absent, grid: Geometry) -> np.ndarray:
    return answer.field.mask().placed_in(grid).array if isinstance(answer, Finding) else np.zeros(grid.shape, bool)


def _dice(a: np.ndarray, b: np.ndarray) -> float:
    return round(2 * float((a & b).sum()) / max(1.0, float(a.sum() + b.sum())), 4)


def _headneck() -> Iterator[tuple[str, Volume[Any], np.ndarray]]:
    for folder in sorted((DATA / "headneck" / "validation").iterdir()):
        if folder.is_dir():
            ct = sitk.ReadImage(str(folder / "ct.nii.gz"))
            dx, dy, dz = ct.GetSpacing()
            bits = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "structures.nii.gz")))
            array = sitk.GetArrayFromImage(ct)
            yield folder.name, Volume(array, Geometry(array.shape, (dz, dy, dx))), (bits >> 1 & 1).astype(bool)


def canal() -> dict[str, Any]:
    """The clinic's cord inside our canal on the slices where it was drawn; also where the CT shows anything there."""
    shares, ratios, shown, nothing = [], [], [], []
    image = open_folder(DATA / "lung-nsclc-001" / "CT")
    clinic = read_structure_set(next((DATA / "lung-nsclc-001" / "RTSTRUCT").iterdir()))
    cord = clinic["Spinal-Cord"].mask(image.geometry).placed_in(image.geometry).array
    states: dict[str, int] = {}
    for name, volume, truth in [("lung-nsclc-001", image.load(), cord), *_headneck()]:
        found = _answers(volume, ("External", "Bones", "SpinalCanal"))
        for structure, answer in found.items():
            key = f"{structure}: {'found' if isinstance(answer, Finding) else 'not in image'}"
            states[key] = states.get(key, 0) + 1
        ours, drawn = _mask(found["SpinalCanal"], volume.geometry), truth.any(axis=(1, 2))
        shares.append(float((truth & ours).sum() / truth.sum()))
        ratios.append(float(ours[drawn].sum() / truth.sum()))
        imaged = np.array([float((plane > -500).mean()) > 0.03 for plane in volume.array])
        if (truth & imaged[:, None, None]).any():
            shown.append(float((truth & ours)[imaged].sum() / truth[imaged].sum()))
        if isinstance(found["SpinalCanal"], Absent):
            nothing.append(name)
    return {
        "patients": len(shares),
        "median_share_of_cord_inside": round(median(shares), 4),
        "median_where_the_ct_shows_more_than_the_cord": round(median(shown), 4),
        "median_canal_to_cord_volume": round(median(ratios), 2),
        "patients_without_canal": nothing,
        "states": states,
        "reach": "0.95 and at most 4",
    }


def body() -> dict[str, Any]:
    """External against the clinic's BODY on the one slice that came with it, contoured as an array."""
    folder = DATA / "dicom-zoo" / "rtstruct-breast-one-empty-roi"
    planes = list(planes_of(read_header(folder / "ct.0.dcm")))
    plane = planes[0]
    grid = Geometry(
        (1, plane.rows, plane.columns),
        (2.5, *plane.spacing),
        tuple(plane.position),
        (tuple(plane.normal), tuple(plane.axes[0]), tuple(plane.axes[1])),
    )
    volume = Volume(read_pixels(planes, is_ct=True).array, grid)
    here = [
        loop
        for loop in read_structure_set(folder / "rtss.dcm")["BODY"].loops
        if abs(float((loop.points[0] - plane.position) @ plane.normal)) < 0.2
    ]
    truth = mask_of_united_loops(here, grid).placed_in(grid).array
    found = _answers(volume, ("External",))["External"]
    return {"dice": _dice(_mask(found, grid), truth), "reach": 0.985}


def external() -> dict[str, Any]:
    """Pieces, stability and what is cut, on every CT; a picture of each."""
    figures: dict[str, Any] = {}
    for name in CTS:
        image = open_folder(DATA / name)
        volume = image.load()
        found = _answers(volume)
        mask = _mask(found["External"], volume.geometry)
        noisy = volume.array + np.random.default_rng(0).normal(0, 30, volume.array.shape).astype(np.int16)
        changes = {
            "noise_30": _mask(_answers(Volume(noisy, volume.geometry), ("External",))["External"], volume.geometry).sum()
        }
        usual = engine_module.THRESHOLD
        for shift in (-50.0, 50.0):
            engine_module.THRESHOLD = usual + shift
            changes[f"threshold_{shift:+.0f}"] = _mask(_answers(volume, ("External",))["External"], volume.geometry).sum()
        engine_module.THRESHOLD = usual
        pieces = np.bincount(cc3d.connected_components(mask).ravel())[1:] * volume.geometry.voxel_cc
        figures[name] = {
            "volume_cc": round(float(mask.sum()) * volume.geometry.voxel_cc),
            "pieces_cc": [round(float(p), 1) for p in sorted(pieces)[::-1]][:5],
            "change_percent": {k: round(100 * float(v / mask.sum() - 1), 3) for k, v in changes.items()},
            "found": {n: cut_sides(a.field, volume.geometry) for n, a in found.items() if isinstance(a, Finding)},
            "not_in_image": {n: a.reason for n, a in found.items() if isinstance(a, Absent)},
        }
        drawn = [Structure(n, color=COLORS[n], field=a.field) for n, a in found.items() if isinstance(a, Finding)]
        shown = layers(drawn, volume)
        middle = next(layer for layer in shown if layer.name == "External").box
        at = tuple((a + b) // 2 for a, b in zip(middle.start, middle.stop, strict=True))
        png = three_planes(volume, shown, at, name.split("/")[0])
        _small(png, RESULTS / f"anatomy-{name.split('/')[0] if 'zoo' not in name else 'jpeg2000-ct-20-slices'}.png")
    return {**figures, "reach": "one body, volume within 0.5 % for noise of 30 HU and thresholds 50 HU up and down"}


def _small(png: bytes, path: Path) -> None:
    """Few colours: a picture for the repository."""
    import io

    from PIL import Image

    Image.open(io.BytesIO(png)).convert("P", palette=Image.Palette.ADAPTIVE, colors=96).save(path, optimize=True)


def whole() -> None:
    record("anatomy", {"lungs": as_imaged(), "canal": canal(), "body_slice": body(), "external": external()})


if __name__ == "__main__":
    main(whole, {"lungs": as_imaged, "canal": canal, "body": body, "external": external})
