"""The sample course: a planning CT with structures, dose and plan, fraction images, and the truth about each of them.

    FOLDER/plan/CT/*.dcm  plan/rtstruct.dcm  plan/rtdose.dcm  plan/rtplan.dcm
    FOLDER/fraction_01/*.dcm ...
    FOLDER/truth/fraction_01/displacement.mha  truth.json ...

The patient is the mean of many (`population.py`) with a made-up tumour: nobody was measured for him, and he is right for
testing software, not for learning anatomy or treating anybody. The same seed and sizes give the same files.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import numpy as np
from scipy import ndimage

from data_samples.cone_beam import Beam, as_cone_beam
from data_samples.dicom import Identity, write_ct, write_dose, write_plan, write_structures
from data_samples.motion import course_of_changes, plan_from_fraction
from data_samples.planned import AIR, HIGH, LOW, ORGANS, STRUCTURES, Floats, Planned, noiseless, plan_patient
from data_samples.truth import known, volume_cc, write_truth
from patient.geometry import Box, Geometry
from patient.names import lookup
from patient.structures import Structure
from patient.volume import Field, Mask, Volume
from registration.transforms import Displacement, Rigid, Space

FIELD_OF_VIEW = 500.0
"""mm, of the planning CT."""
BEAM = Beam(radius=(130.0, 130.0), length=(200.0, 200.0), noise=(30.0, 45.0), shading=(20.0, 45.0))
"""The fraction images' looks and their cylinder of view."""
NOISE = 12.0
"""HU, standard deviation in the planning CT."""
TABLE = (3.0, 60.0)
"""mm thick and HU: the couch's shell."""
PLANNED_ON, FIRST_FRACTION = date(2026, 1, 5), date(2026, 1, 19)


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
        truth = plan_from_fraction(patient, change, truth_grid(patient, space, nodes), plan, (seed, n))
        view = field_of_view(patient, space, (slices, size))
        image = fraction_image(patient, truth, view, np.random.default_rng([seed, 5, n]))
        write_ct(folder / f"fraction_{n:02d}", image, identity)
        write_truth(folder, known(patient, n, change, truth, view, before))
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


def planning_image(patient: Planned, space: Space, slices: int, size: int, seed: int) -> Volume[np.int16]:
    """The planning CT, HU, on its couch.

    Args:
        patient: on the day of planning.
        space: of the image.
        slices, size: planes, and their rows and columns.
        seed: of the noise.
    """
    grid = plan_grid(patient, space, slices, size)
    hu = _with_table(noiseless(patient, Rigid.identity(space, space), grid), grid, patient.couch_top)
    return Volume(_noisy(hu, np.random.default_rng([seed, 6])), grid)


def _write_planned(
    folder: Path, patient: Planned, identity: Identity, slices: int, size: int, planned: int, seed: int
) -> Space:
    space = Space(str(identity.series), str(identity.frame))
    image = planning_image(patient, space, slices, size, seed)
    write_ct(folder / "CT", image, identity)
    grid, same = image.geometry, Rigid.identity(space, space)
    structures = [structure(name, number, patient.structure(name, same, grid)) for number, name in enumerate(STRUCTURES, 1)]
    drawn = write_structures(folder / "rtstruct.dcm", folder / "CT", structures, identity)
    prescribed = {STRUCTURES.index(name) + 1: (name, gray) for name, gray in (("PTV_7000", HIGH), ("PTV_5600", LOW))}
    asked = write_plan(folder / "rtplan.dcm", identity, drawn, patient.isocentre, planned, prescribed)
    write_dose(folder / "rtdose.dcm", dose_grid(patient), identity, asked)
    return space


def dose_grid(patient: Planned) -> Volume[np.float32]:
    """The dose where there is any, and wherever an organ lies: as a planner would choose its grid."""
    box = Box.of(patient.dose.array > 0.3)
    for name in ORGANS:
        box = box.union(Box.of(patient.surfaces[name].array < 0))
    return patient.dose.cropped(box.padded(1, patient.dose.geometry.shape))


def structure(name: str, number: int, field: Field) -> Structure:
    """A structure of the course's structure set, with its TG-263 type and colour."""
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


def fraction_image(patient: Planned, truth: Displacement, view: Mask, rng: np.random.Generator) -> Volume[np.int16]:
    """The patient as the cone beam shows him that day.

    Args:
        patient: on the day of planning.
        truth: `plan_from_fraction`.
        view: what the cone beam sees.
        rng: of noise and shading.
    """
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


def truth_grid(patient: Planned, space: Space, nodes: float) -> Geometry:
    """Around the whole patient, with room for setup errors."""
    whole, room = patient.hu.geometry, 24.0
    k, j, i = (int(np.ceil((n * whole.spacing[0] + 2 * room) / nodes)) for n in whole.shape)
    x, y, z = (v - room for v in whole.origin)
    return Geometry(
        (k, j, i), (nodes, nodes, nodes), (x, y, z), frame_of_reference=space.frame_of_reference, image=space.image
    )
