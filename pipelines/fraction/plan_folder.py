"""What a plan's folder holds, and a fraction's: read, and refused by name where it does not belong together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from patient.dose import Dose
from patient.errors import InputError, ReferenceError  # noqa: A004
from patient.geometry import Triple
from patient.made_here import made_here
from patient.plan import Plan
from patient.read.images import open_image
from patient.read.index import Index, SeriesEntry
from patient.read.plan_dose import plan_dose
from patient.read.rtdose import read_dose
from patient.read.rtplan import read_plan
from patient.read.rtstruct import read_structure_set
from patient.read.scan import scan
from patient.series import ImageSeries
from patient.structures import StructureSet

TARGETS = ("PTV", "CTV", "GTV")
"""Whose middle stands in for an isocentre, in this order."""


@dataclass(frozen=True, eq=False)
class PlanFolder:
    """A plan as its files say it.

    Args:
        image: the planning CT.
        structures: drawn on it.
        plan: None where there is no RTPLAN.
        dose: of the whole plan; None where there is no RTDOSE.
        isocentre: LPS mm.
        isocentre_from: where that comes from, in words.
        files: every file that was used.
        notes: what was odd and tolerated.
    """

    image: ImageSeries
    structures: StructureSet
    plan: Plan | None
    dose: Dose | None
    isocentre: Triple
    isocentre_from: str
    files: tuple[Path, ...]
    notes: tuple[str, ...]

    def prescriptions(self) -> dict[str, float]:
        """Gy by the structure's name; the highest where the plan says several."""
        names = {structure.number: structure.name for structure in self.structures.structures}
        found: dict[str, float] = {}
        for one in self.plan.prescriptions if self.plan is not None else ():
            if one.structure_number in names:
                name = names[one.structure_number]
                found[name] = max(one.dose, found.get(name, 0.0))
        return found


def read_plan_folder(folder: Path, plan: str = "") -> PlanFolder:
    """A planning CT, its RTSTRUCT, and RTPLAN and RTDOSE where they are there.

    Args:
        folder: with one plan, or several of which `plan` names one.
        plan: SOP Instance UID or RT Plan Label of the one that is meant.

    Raises:
        InputError: no CT or RTSTRUCT; several plans, structure sets or CTs and no choice; objects that name others than
            these; a dose in another frame or in no Gy.
    """
    index = scan(folder)
    chosen, plan_file = _plan(index, plan, folder)
    structures, structure_file = _structures(index, chosen, folder)
    entry = _ct(index, structures, folder)
    image = open_image(entry, drawn_on=structures.image_uids)
    structures = _admitted(structures, image, structure_file)
    dose, dose_files, passed_over = _dose(index, chosen)
    if dose is not None:
        dose = dose.on(image.geometry)
    isocentre, said = _isocentre(chosen, structures, image)
    files = (*entry.paths, structure_file, *([plan_file] if plan_file else []), *dose_files)
    notes = [f"Plan's image: {note}" for note in image.notes] + [f"Structure set: {note}" for note in structures.notes]
    for structure in structures.structures:
        notes += [f"Structure set: {structure.name}: {said}" for said in structure.remarks(image.geometry)]
    notes += [f"RTPLAN: {note}" for note in chosen.notes] if chosen is not None else ["The plan's folder has no RTPLAN"]
    notes += [f"RTDOSE: {note}" for note in dose.notes] if dose is not None else ["The plan's folder has no RTDOSE"]
    notes += [f"{passed_over} RTDOSE that this software accumulated passed over: no plan's dose"] if passed_over else []
    return PlanFolder(image, structures, chosen, dose, isocentre, said, files, tuple(notes))


def read_fraction_folder(folder: Path, plan: PlanFolder) -> tuple[ImageSeries, tuple[Path, ...]]:
    """The one CT (or cone beam CT) of a fraction of this plan's patient.

    Raises:
        InputError: none or several, another patient's, the planning CT itself, or acquired before it.
    """
    index = scan(folder)
    others = replace(index, series=tuple(e for e in index.series if e.uid != plan.image.series_uid))
    if not others.of("CT") and index.of("CT"):
        raise InputError("The fraction's image is the planning CT itself", where=folder.name)
    if not others.of("CT") and (other := sorted({entry.modality for entry in others.of("MR", "PT")})):
        raise InputError(f"No CT found; {', '.join(other)} is not read as a fraction", where=folder.name)
    entry = others.one("CT", where=folder.name)
    image = open_image(entry)
    if image.patient_id != plan.image.patient_id:
        raise InputError(
            "The fraction is of another patient than the plan: Patient ID differs",
            where=folder.name,
            why="Contours and dose of one patient would be mapped to another",
            remedy="Give a plan and a fraction of one patient",
        )
    before, now = acquired(plan.image), acquired(image)
    if now and before and now < before[: len(now)]:
        raise InputError(
            f"The fraction was acquired before the plan's CT ({now} and {before})",
            where=folder.name,
            why="A plan is not treated before it is made",
            remedy="Give a fraction of this plan, or the plan of that time",
        )
    return image, entry.paths


def read_today_dose(path: Path) -> Dose:
    """An RTDOSE file that was computed on today's image. Raises as `read_dose`."""
    if not path.is_file():
        raise InputError("No such file", where=path.name)
    return read_dose(path)


def acquired(image: ImageSeries) -> str:
    """When an image was taken: YYYYMMDD, with HHMMSS where its own time is known; empty where nobody says."""
    for kind in ("Acquisition", "Content", "Series", "Study"):
        date = str(image.header.get(f"{kind}Date") or "")
        if date:
            return date + str(image.header.get(f"{kind}Time") or "").partition(".")[0]
    return ""


def _plan(index: Index, wanted: str, folder: Path) -> tuple[Plan | None, Path | None]:
    plans = [(read_plan(path), path) for entry in index.of("RTPLAN") for path in entry.paths]
    if wanted:
        plans = [(plan, path) for plan, path in plans if wanted in (plan.sop_instance_uid, plan.label)]
        if not plans:
            raise ReferenceError("No RTPLAN with that UID or label", where=f"{wanted} in {folder.name}")
    if len(plans) > 1:
        labels = ", ".join(sorted(plan.label or plan.sop_instance_uid for plan, _ in plans))
        raise ReferenceError(
            f"There are {len(plans)} plans",
            where=f"{folder.name}: {labels}",
            why="Nobody can tell which one is treated",
            remedy="Name one by its label or UID (--plan), or give a folder with one",
        )
    return plans[0] if plans else (None, None)


def _structures(index: Index, plan: Plan | None, folder: Path) -> tuple[StructureSet, Path]:
    sets = {header.text("SOPInstanceUID"): header.path for entry in index.of("RTSTRUCT") for header in entry.headers}
    if plan is not None and plan.structure_set_uid:
        if plan.structure_set_uid not in sets:
            raise ReferenceError(
                "The plan was made on a structure set that is not there",
                where=folder.name,
                why="Another set's contours are not those that the plan was made for",
                remedy="Export the plan together with its structure set",
            )
        path = sets[plan.structure_set_uid]
    elif len(sets) == 1:
        path = next(iter(sets.values()))
    else:
        raise ReferenceError(
            f"{len(sets) or 'No'} RTSTRUCT where one is asked for",
            where=folder.name,
            remedy="Give a folder with one, or with the RTPLAN that names it",
        )
    return read_structure_set(path), path


def _ct(index: Index, structures: StructureSet, folder: Path) -> SeriesEntry:
    entries = index.of("CT")
    if structures.series_uid:
        planes = structures.image_uids
        named = [e for e in entries if e.uid == structures.series_uid or not planes.isdisjoint(e.sop_instance_uids)]
        if not named and entries:
            raise ReferenceError(
                "The structure set was drawn on a CT that is not there",
                where=folder.name,
                why="Its contours would land elsewhere in the patient",
                remedy="Export the structure set together with its CT",
            )
        index = replace(index, series=tuple(named))
    return index.one("CT", where=folder.name)


def _admitted(structures: StructureSet, image: ImageSeries, path: Path) -> StructureSet:
    """What of the set lies in the planning CT's frame of reference."""
    if not image.geometry.frame_of_reference:
        raise InputError("The planning CT has no Frame of Reference UID", where=path.name, why="Nothing can refer to it")
    if not any(structure.drawn for structure in structures.structures):
        raise InputError("The structure set has no contours", where=path.name)
    return structures.on(image.geometry, path.name)


def _dose(index: Index, plan: Plan | None) -> tuple[Dose | None, tuple[Path, ...], int]:
    """The plan's dose, its files, and how many of this software's own were passed over."""
    headers = [header for entry in index.of("RTDOSE") for header in entry.headers]
    found = [(read_dose(header.path), header.path) for header in headers if not made_here(header.dataset)]
    ours = len(headers) - len(found)
    if plan is not None:
        own = [(dose, path) for dose, path in found if dose.plan_uid == plan.sop_instance_uid]
        found = own or found
    if not found:
        return None, (), ours
    return plan_dose([dose for dose, _ in found], plan), tuple(path for _, path in found), ours


def _isocentre(plan: Plan | None, structures: StructureSet, image: ImageSeries) -> tuple[Triple, str]:
    if plan is not None and plan.isocentre is not None:
        return plan.isocentre, "RTPLAN"
    for kind in TARGETS:
        points = _points([s.loops for s in structures.structures if s.interpreted_type == kind])
        if points is not None:
            middle = (points.min(axis=0) + points.max(axis=0)) / 2
            return _triple(middle), f"the plan names none: middle of what is typed {kind}"
    shape = np.asarray(image.geometry.shape)
    return _triple(image.geometry.points((shape - 1) / 2)), "the plan names none and has no target: middle of its image"


def _points(loops: Sequence[Sequence]) -> np.ndarray | None:
    found = [loop.points for one in loops for loop in one]
    return np.concatenate(found) if found else None


def _triple(vector: np.ndarray) -> Triple:
    x, y, z = (float(v) for v in vector)
    return x, y, z
