"""The sample course: a planning CT with structures, dose and plan, fraction images, and the truth about each of them.

    FOLDER/plan/CT/*.dcm  plan/rtstruct.dcm  plan/rtdose.dcm  plan/rtplan.dcm
    FOLDER/fraction_01/*.dcm ...
    FOLDER/truth/fraction_01/displacement.mha  truth.json ...

The patient is the mean of many (`population.py`) with a made-up tumour: nobody was measured for him, and he is right for
testing software, not for learning anatomy or treating anybody. The same seed and sizes give the same files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 - as everybody writes it
from pydantic import TypeAdapter
from scipy import ndimage

from data_samples.cone_beam import Beam, as_cone_beam
from data_samples.dicom import Identity, write_ct, write_dose, write_plan, write_structures
from data_samples.motion import Change, course_of_changes, plan_from_fraction, setup
from data_samples.planned import AIR, HIGH, LOW, REACH, STRUCTURES, Floats, Planned, plan_patient
from patient.geometry import Box, Geometry
from patient.names import lookup
from patient.structures import Structure
from patient.volume import Field, Mask, Volume
from registration.couch import CouchCorrection, couch_correction
from registration.transforms import Displacement, Rigid, Space, Transform, placed

FIELD_OF_VIEW = 500.0
"""mm, of the planning CT."""
BEAM = Beam(radius=(130.0, 130.0), length=(200.0, 200.0), noise=(30.0, 45.0), shading=(20.0, 45.0))
"""The fraction images' looks and their cylinder of view."""
NOISE = 12.0
"""HU, standard deviation in the planning CT."""
TABLE = (3.0, 60.0)
"""mm thick and HU: the couch's shell."""
PLANNED_ON, FIRST_FRACTION = date(2026, 1, 5), date(2026, 1, 19)


@dataclass(frozen=True, eq=False)
class FractionTruth:
    """What is known of one fraction.

    Args:
        number: from 1.
        change: what was done to the patient.
        plan_from_fraction: where every point of the fraction's image lies in the plan's, setup error and all; exact on the
            nodes and, by definition, linear between them.
        couch: the move that undoes the setup error, about the plan's isocentre.
        volumes_cc: structure -> its volume today.
        planned_cc: structure -> its volume in the plan.
    """

    number: int
    change: Change
    plan_from_fraction: Displacement
    couch: CouchCorrection
    volumes_cc: Mapping[str, float]
    planned_cc: Mapping[str, float]


def write_course(
    folder: Path,
    *,
    fractions: int = 3,
    seed: int = 0,
    slices: int = 266,
    size: int = 256,
    planned: int = 35,
    nodes: float = 3.0,
    progress: Callable[[float], None] = lambda done: None,
) -> None:
    """Write the sample course.

    Args:
        folder: made where it is not there.
        fractions: images, on consecutive days; everything that changes steadily has changed wholly on the last of them.
        seed: of texture, noise, setup errors and daily bends.
        slices: planes of the planning CT over the length of the patient; fraction images have planes a third further apart.
        size: rows and columns of every plane.
        planned: fractions that the plan asks for.
        nodes: mm between the nodes of the written truth.
        progress: called with the part that is done.
    """
    patient = plan_patient(seed)
    entropy = ("course", str(seed), str(slices), str(size))
    plan = _write_planned(folder / "plan", patient, Identity(entropy, f"{PLANNED_ON:%Y%m%d}"), slices, size, planned, seed)
    progress(1 / (fractions + 1))
    before = {name: volume_cc(patient, name, Rigid.identity(plan, plan)) for name in STRUCTURES}
    for n, change in enumerate(course_of_changes(fractions, seed), 1):
        day = FIRST_FRACTION + timedelta(days=n - 1)
        words = f"Synthetic cone beam CT, fraction {n}"
        identity = Identity((*entropy, f"fraction {n}"), f"{day:%Y%m%d}", words, n + 1)
        space = Space(str(identity.series), str(identity.frame))
        truth = plan_from_fraction(patient, change, _truth_grid(patient, space, nodes), plan, (seed, n))
        image = fraction_image(patient, truth, (slices, size), np.random.default_rng([seed, 5, n]))
        write_ct(folder / f"fraction_{n:02d}", image, identity)
        after = {name: volume_cc(patient, name, truth) for name in STRUCTURES}
        _write_truth(folder / "truth" / f"fraction_{n:02d}", n, change, truth, patient.isocentre, before, after)
        progress((n + 1) / (fractions + 1))


# ---- the plan ---------------------------------------------------------------------------------------------------------


def plan_grid(patient: Planned, space: Space, slices: int, size: int) -> Geometry:
    """The planning CT's grid: the whole length of the patient, 500 mm wide."""
    whole, pixel = patient.hu.geometry, FIELD_OF_VIEW / size
    step = round(whole.shape[0] * whole.spacing[0] / slices, 4)
    first = -FIELD_OF_VIEW / 2 + pixel / 2
    origin = (first, first, whole.origin[2] - whole.spacing[0] / 2 + step / 2)
    return Geometry(
        (slices, size, size), (step, pixel, pixel), origin, frame_of_reference=space.frame_of_reference, image=space.image
    )


def noiseless(patient: Planned, plan_from_image: Transform, onto: Geometry) -> Floats:
    """HU `[z, y, x]` of the patient on a grid of an image, cubic between the population's voxels; no couch, no noise."""
    source = placed(sitk.GetImageFromArray(patient.hu.array), patient.hu.geometry)
    i, j, k = onto.shape[::-1]
    like = placed(sitk.Image([i, j, k], sitk.sitkUInt8), onto)
    out = sitk.Resample(source, like, plan_from_image.itk(), sitk.sitkBSpline3, AIR, sitk.sitkFloat32)
    return np.clip(sitk.GetArrayFromImage(out), AIR, 3071)


def _write_planned(
    folder: Path, patient: Planned, identity: Identity, slices: int, size: int, planned: int, seed: int
) -> Space:
    space = Space(str(identity.series), str(identity.frame))
    grid, same = plan_grid(patient, space, slices, size), Rigid.identity(space, space)
    hu = _with_table(noiseless(patient, same, grid), grid, patient.couch_top)
    write_ct(folder / "CT", Volume(_noisy(hu, np.random.default_rng([seed, 6])), grid), identity)
    structures = [_structure(name, number, patient.structure(name, same, grid)) for number, name in enumerate(STRUCTURES, 1)]
    drawn = write_structures(folder / "rtstruct.dcm", folder / "CT", structures, identity)
    prescribed = {STRUCTURES.index(name) + 1: (name, gray) for name, gray in (("PTV_7000", HIGH), ("PTV_5600", LOW))}
    asked = write_plan(folder / "rtplan.dcm", identity, drawn, patient.isocentre, planned, prescribed)
    part = patient.dose.cropped(Box.of(patient.dose.array > 0.3).padded(1, patient.dose.geometry.shape))
    write_dose(folder / "rtdose.dcm", part, identity, asked)
    return space


def _structure(name: str, number: int, field: Field) -> Structure:
    known = lookup(name) or lookup(name.split("_")[0])
    kind, color = (known.interpreted_type, known.color) if known else ("ORGAN", (128, 128, 128))
    return Structure(
        name, number, kind, color, description="synthetic, exact", code=known.code if known else None, field=field
    )


def _with_table(hu: Floats, grid: Geometry, top: float) -> Floats:
    """The couch's shell where there is air."""
    y = grid.origin[1] + grid.spacing[1] * np.arange(grid.shape[1])
    cover = np.clip((TABLE[0] + grid.spacing[1]) / 2 - np.abs(y - top - TABLE[0] / 2), 0, grid.spacing[1]) / grid.spacing[1]
    rows = np.flatnonzero(cover)
    if rows.size:
        part = slice(int(rows[0]), int(rows[-1]) + 1)
        shell = AIR + cover[part, None] * (TABLE[1] - AIR)
        hu[:, part] = np.maximum(hu[:, part], shell)
    return hu


def _noisy(hu: Floats, rng: np.random.Generator) -> np.ndarray:
    out = np.empty(hu.shape, np.int16)
    for plane, result in zip(hu, out, strict=True):
        grain = ndimage.gaussian_filter(rng.standard_normal(plane.shape, dtype=np.float32), 0.7)
        result[:] = np.rint(np.clip(plane + grain * (NOISE / float(grain.std())), -1024, 3071))
    return out


# ---- a fraction -------------------------------------------------------------------------------------------------------


def fraction_image(
    patient: Planned, truth: Displacement, planes: tuple[int, int], rng: np.random.Generator
) -> Volume[np.int16]:
    """The patient as the cone beam shows him that day.

    Args:
        patient: on the day of planning.
        truth: `plan_from_fraction`.
        planes: slices and size of the planning CT that goes with it.
        rng: of noise and shading.
    """
    view = field_of_view(patient, truth.source, planes)
    hu = _with_table(noiseless(patient, truth, view.geometry), view.geometry, patient.couch_top)
    return as_cone_beam(rng, hu, view, BEAM)


def field_of_view(patient: Planned, space: Space, planes: tuple[int, int]) -> Mask:
    """The cylinder that the cone beam shows, about the plan's isocentre as the couch puts it."""
    slices, size = planes
    radius, length = BEAM.radius[0], BEAM.length[0]
    whole = patient.hu.geometry
    step = round(whole.shape[0] * whole.spacing[0] / slices * 4 / 3, 4)
    pixel = round(2 * radius / size, 6)
    shape = (int(length / step), size, size)
    half = (np.array(shape) - 1) / 2 * (step, pixel, pixel)
    x, y, z = (round(float(v), 4) for v in np.array(patient.isocentre) - half[::-1])
    grid = Geometry(shape, (step, pixel, pixel), (x, y, z), frame_of_reference=space.frame_of_reference, image=space.image)
    j, i = (np.arange(n) - (n - 1) / 2 for n in shape[1:])
    return Volume(np.broadcast_to(np.hypot(j[:, None], i) * pixel <= radius, shape).copy(), grid)


def volume_cc(patient: Planned, name: str, plan_from_image: Transform, voxel: float = 1.5) -> float:
    """A structure's volume in an image, from its surface's passage through voxels, to a few parts in a thousand."""
    surface, inside = patient.surfaces[name], Box.of(patient.surfaces[name].array < 0)
    pad = int(np.ceil(REACH / surface.geometry.spacing[0]))
    start, stop = (tuple(n + side * pad for n in end) for side, end in ((-1, inside.start), (1, inside.stop)))
    around = surface.geometry.cropped(Box(start, stop))  # type: ignore[arg-type]
    voxel, space = voxel if name != "External" else 2 * voxel, plan_from_image.source
    shape = tuple(round(n * around.spacing[0] / voxel) for n in around.shape)
    fine = replace(
        around,
        shape=shape,
        spacing=(voxel,) * 3,
        image=space.image,
        frame_of_reference=space.frame_of_reference,
    )
    part = patient.structure(name, plan_from_image, fine).volume.array
    return float(np.clip(0.5 - part / voxel, 0, 1).sum()) * voxel**3 / 1000


# ---- the truth --------------------------------------------------------------------------------------------------------


def _truth_grid(patient: Planned, space: Space, nodes: float) -> Geometry:
    """Around the whole patient, with room for setup errors."""
    whole, room = patient.hu.geometry, 24.0
    shape = tuple(int(np.ceil((n * whole.spacing[0] + 2 * room) / nodes)) for n in whole.shape)
    x, y, z = (v - room for v in whole.origin)
    return Geometry(shape, (nodes,) * 3, (x, y, z), frame_of_reference=space.frame_of_reference, image=space.image)  # type: ignore[arg-type]


def _write_truth(
    folder: Path,
    number: int,
    change: Change,
    truth: Displacement,
    isocentre: tuple[float, float, float],
    before: Mapping[str, float],
    after: Mapping[str, float],
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    image = placed(sitk.GetImageFromArray(truth.vectors, isVector=True), truth.grid)
    sitk.WriteImage(image, str(folder / "displacement.mha"), useCompression=True, compressionLevel=1)
    rigid = setup(change, isocentre, truth.source, truth.target)
    couch = couch_correction(rigid.inverse(), "HFS", isocentre)  # type: ignore[arg-type]
    said = {
        "fraction": number,
        "displacement": "displacement.mha: plan point = fraction point + vector, mm, LPS, linear between nodes",
        "fraction_image": asdict(truth.source),
        "plan_image": asdict(truth.target),
        "change": asdict(change),
        "setup_plan_from_fraction": rigid.matrix.round(9).tolist(),
        "couch": asdict(couch),
        "structures": {n: {"planned_cc": round(before[n], 3), "today_cc": round(after[n], 3)} for n in STRUCTURES},
    }
    (folder / "truth.json").write_text(json.dumps(said, indent=1) + "\n")


def read_truth(folder: Path, number: int) -> FractionTruth:
    """The truth of a course's fraction.

    Args:
        folder: that `write_course` wrote.
        number: of the fraction, from 1.
    """
    place = folder / "truth" / f"fraction_{number:02d}"
    said = json.loads((place / "truth.json").read_text())
    source, target = Space(**said["fraction_image"]), Space(**said["plan_image"])
    image = sitk.ReadImage(str(place / "displacement.mha"))
    i, j, k = image.GetSize()
    dx, dy, dz = image.GetSpacing()
    grid = Geometry(
        (k, j, i), (dz, dy, dx), image.GetOrigin(), frame_of_reference=source.frame_of_reference, image=source.image
    )
    change = TypeAdapter(Change).validate_python(said["change"])
    couch = TypeAdapter(CouchCorrection).validate_python(said["couch"])
    volumes = said["structures"]
    return FractionTruth(
        number,
        change,
        Displacement(sitk.GetArrayFromImage(image), grid, source, target),
        couch,
        {name: one["today_cc"] for name, one in volumes.items()},
        {name: one["planned_cc"] for name, one in volumes.items()},
    )
