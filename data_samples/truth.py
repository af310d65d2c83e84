"""What is known of a fraction of the sample course: measured on the made field, written beside the image, read back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 - as everybody writes it
from pydantic import TypeAdapter
from scipy.spatial.transform import Rotation

from data_samples.motion import BONE, Change, setup
from data_samples.planned import REACH, STRUCTURES, Planned, noiseless
from patient.geometry import Box, Geometry
from patient.volume import Mask
from registration.couch import CouchCorrection, couch_correction
from registration.transforms import Displacement, Rigid, Space, Transform, placed, sampled

HELP = {
    "displacement.mha": "plan point = fraction point + vector: mm, LPS, linear between nodes, unknown beyond them",
    "setup": "how the patient as a whole lay: matrix plan_from_fraction, and the couch's move that inverts it",
    "bones": "the rigid map nearest to the field at the bones in view, neck bent or not: what matching bone should find",
    "change": "what was asked for, see data_samples/motion.py",
}


@dataclass(frozen=True, eq=False)
class Alignment:
    """One rigid map and the couch's move that inverts it, about the plan's isocentre.

    Args:
        plan_from_fraction: where points of the fraction's image lie in the plan's.
        couch: IEC 61217 deltas.
    """

    plan_from_fraction: Rigid
    couch: CouchCorrection


@dataclass(frozen=True, eq=False)
class FractionTruth:
    """What is known of one fraction.

    Args:
        number: from 1.
        change: what was done to the patient.
        plan_from_fraction: where every point of the fraction's image lies in the plan's, setup error and all; exact on the
            nodes and, by definition, linear between them.
        setup: how the patient as a whole lay.
        bones: the rigid map nearest to the field at the bones in view: what a registration of bone should find.
        volumes_cc: structure -> its volume today.
        planned_cc: structure -> its volume in the plan.
    """

    number: int
    change: Change
    plan_from_fraction: Displacement
    setup: Alignment
    bones: Alignment
    volumes_cc: Mapping[str, float]
    planned_cc: Mapping[str, float]


def known(
    patient: Planned, number: int, change: Change, truth: Displacement, view: Mask, planned_cc: Mapping[str, float]
) -> FractionTruth:
    """Measure what follows from the field.

    Args:
        patient: on the day of planning.
        number: of the fraction.
        change: that the field was made from.
        truth: `plan_from_fraction`.
        view: what the fraction's image shows.
        planned_cc: from `volume_cc` with the plan's own image.
    """
    centre = patient.isocentre
    whole = _alignment(setup(change, centre, truth.source, truth.target), centre)
    volumes = {name: volume_cc(patient, name, truth) for name in STRUCTURES}
    return FractionTruth(
        number, change, truth, whole, _alignment(_at_bones(patient, truth, view), centre), volumes, planned_cc
    )


def _alignment(plan_from_fraction: Rigid, centre: tuple[float, float, float]) -> Alignment:
    back = plan_from_fraction.inverse()
    rigid = Rigid(back.matrix, back.source, back.target)
    return Alignment(plan_from_fraction, couch_correction(rigid, "HFS", centre))


def _at_bones(patient: Planned, truth: Displacement, view: Mask) -> Rigid:
    """Least squares over the bone in view (Kabsch 1976, Acta Cryst A32:922)."""
    sparse = tuple(max(1, round(4.0 / s)) for s in view.geometry.spacing)
    box = tuple(slice(None, None, step) for step in sparse)
    seen = view.array[box]
    spacing = tuple(s * step for s, step in zip(view.geometry.spacing, sparse, strict=True))
    grid = replace(view.geometry, shape=seen.shape, spacing=spacing)  # type: ignore[arg-type]
    here = grid.points(np.argwhere(seen & (noiseless(patient, truth, grid) > BONE)))
    there = here + sampled(truth.vectors, truth.grid, here)
    a, b = here.mean(axis=0), there.mean(axis=0)
    turn = Rotation.align_vectors(there - b, here - a)[0].as_matrix()
    return Rigid.of(turn, b - turn @ a, truth.source, truth.target)


def volume_cc(patient: Planned, name: str, plan_from_image: Transform, voxel: float = 1.5) -> float:
    """A structure's volume in an image, from its surface's passage through voxels, to a few parts in a thousand.

    Args:
        patient: on the day of planning.
        name: one of `STRUCTURES`.
        plan_from_image: from the image in which it is measured.
        voxel: mm; External is measured on twice as many.
    """
    surface, inside = patient.surfaces[name], Box.of(patient.surfaces[name].array < 0)
    pad = int(np.ceil(REACH / surface.geometry.spacing[0]))
    start, stop = (tuple(n + side * pad for n in end) for side, end in ((-1, inside.start), (1, inside.stop)))
    around = surface.geometry.cropped(Box(start, stop))  # type: ignore[arg-type]
    voxel, space = voxel if name != "External" else 2 * voxel, plan_from_image.source
    k, j, i = (round(n * around.spacing[0] / voxel) for n in around.shape)
    fine = replace(
        around,
        shape=(k, j, i),
        spacing=(voxel, voxel, voxel),
        image=space.image,
        frame_of_reference=space.frame_of_reference,
    )
    part = patient.structure(name, plan_from_image, fine).volume.array
    return float(np.clip(0.5 - part / voxel, 0, 1).sum()) * voxel**3 / 1000


def write_truth(folder: Path, truth: FractionTruth) -> None:
    """Write `displacement.mha` and `truth.json` below a course's folder."""
    place = _place(folder, truth.number)
    place.mkdir(parents=True, exist_ok=True)
    field = truth.plan_from_fraction
    image = placed(sitk.GetImageFromArray(field.vectors, isVector=True), field.grid)
    sitk.WriteImage(image, str(place / "displacement.mha"), useCompression=True, compressionLevel=1)
    said = {
        "fraction": truth.number,
        "help": HELP,
        "fraction_image": asdict(field.source),
        "plan_image": asdict(field.target),
        "change": asdict(truth.change),
        **{name: _said(one) for name, one in (("setup", truth.setup), ("bones", truth.bones))},
        "structures": {
            name: {"planned_cc": round(truth.planned_cc[name], 3), "today_cc": round(truth.volumes_cc[name], 3)}
            for name in STRUCTURES
        },
    }
    (place / "truth.json").write_text(json.dumps(said, indent=1) + "\n")


def _said(alignment: Alignment) -> dict[str, object]:
    couch = {n: v if n == "centre" else round(v, 4) + 0.0 for n, v in asdict(alignment.couch).items()}
    return {"plan_from_fraction": alignment.plan_from_fraction.matrix.round(9).tolist(), "couch": couch}


def read_truth(folder: Path, number: int) -> FractionTruth:
    """The truth of a course's fraction.

    Args:
        folder: that `write_course` wrote.
        number: of the fraction, from 1.
    """
    place = _place(folder, number)
    said = json.loads((place / "truth.json").read_text(encoding="utf-8"))
    source, target = Space(**said["fraction_image"]), Space(**said["plan_image"])
    image = sitk.ReadImage(str(place / "displacement.mha"))
    i, j, k = image.GetSize()
    dx, dy, dz = image.GetSpacing()
    x, y, z = image.GetOrigin()
    grid = Geometry((k, j, i), (dz, dy, dx), (x, y, z), frame_of_reference=source.frame_of_reference, image=source.image)

    def alignment(name: str) -> Alignment:
        matrix = np.array(said[name]["plan_from_fraction"])
        return Alignment(Rigid(matrix, source, target), TypeAdapter(CouchCorrection).validate_python(said[name]["couch"]))

    volumes = said["structures"]
    return FractionTruth(
        number,
        TypeAdapter(Change).validate_python(said["change"]),
        Displacement(sitk.GetArrayFromImage(image), grid, source, target),
        alignment("setup"),
        alignment("bones"),
        {name: one["today_cc"] for name, one in volumes.items()},
        {name: one["planned_cc"] for name, one in volumes.items()},
    )


def _place(folder: Path, number: int) -> Path:
    return folder / "truth" / f"fraction_{number:02d}"
