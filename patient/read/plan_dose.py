"""The dose of a plan among several RTDOSE: its own, or the sum of its beams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from patient.dose import Dose
from patient.errors import (
    FrameMismatch,
    InputError,
    ReferenceError,  # noqa: A004
)
from patient.plan import Plan
from patient.volume import Volume


def plan_dose(doses: Sequence[Dose], plan: Plan | None = None) -> Dose:
    """The dose of one whole plan among its RTDOSE: the PLAN dose, or the sum of its beams where only these were exported.

    Passed over: doses of Dose Type ERROR, and what this software accumulated, which is no plan's dose whatever it says of
    itself. A BEAM dose is taken as that of all the plan's fractions, as systems export it.

    Args:
        doses: as `read_dose` gives them, in any order.
        plan: whose dose is wanted. Without it beams are not summed: nobody could tell whether one is missing.

    Raises:
        ReferenceError: doses of several plans or of another plan than this, several PLAN doses, a beam missing or there
            twice, or nothing that is a plan's dose.
        InputError: physical and effective dose side by side.
        FrameMismatch: beams on different grids or frames of reference.
    """
    doses = [dose for dose in doses if dose.kind != "ERROR" and not dose.made_here]
    if not doses:
        raise ReferenceError("There is no planning system's dose among the given objects")
    plans = {*(dose.plan_uid for dose in doses), *([plan.sop_instance_uid] if plan is not None else [])}
    if len(plans) > 1:
        raise ReferenceError(
            f"Doses and plan name {len(plans)} different plans",
            where=", ".join(sorted(dose.sop_instance_uid for dose in doses)),
            why="Doses of different plans must not be taken for one",
            remedy="Give the doses of one plan, and that plan",
        )
    if len({dose.kind for dose in doses}) > 1:
        raise InputError(
            "Physical and effective doses are given side by side",
            where=", ".join(sorted(dose.sop_instance_uid for dose in doses)),
            why="They are different quantities and must not be added or exchanged",
            remedy="Give the doses of one kind",
        )
    whole = [dose for dose in doses if dose.summation == "PLAN"]
    if len({dose.sop_instance_uid or id(dose) for dose in whole}) > 1:
        raise ReferenceError(
            f"There are {len(whole)} PLAN doses of one plan",
            where=", ".join(sorted(dose.sop_instance_uid for dose in whole)),
            why="Nobody can tell which is meant",
            remedy="Give the one that was approved",
        )
    return whole[0] if whole else _sum_of_beams([d for d in doses if d.summation == "BEAM"], plan)


def _sum_of_beams(beams: list[Dose], plan: Plan | None) -> Dose:
    remedy = "Export the dose of the whole plan (Dose Summation Type PLAN)"
    if not beams or plan is None or not plan.beams:
        known = (
            "only beam doses, and no plan that says which beams there are" if beams else "neither a PLAN dose nor BEAM doses"
        )
        raise ReferenceError(f"There are {known}", remedy=remedy)
    numbers = sorted(dose.beam for dose in beams if dose.beam is not None)
    if len(numbers) < len(beams) or numbers != sorted(plan.beams):
        raise ReferenceError(
            f"There are {len(beams)} beam doses, of beams {numbers}; the plan has {list(plan.beams)}",
            where=plan.sop_instance_uid,
            why="Their sum would not be the plan's dose",
            remedy=remedy,
        )
    grid = beams[0].volume.geometry
    for dose in beams[1:]:
        if not dose.volume.geometry.same_grid(grid):
            raise FrameMismatch(
                "Beam doses lie on different grids or in different frames of reference",
                where=dose.sop_instance_uid,
                why="They cannot be added voxel by voxel",
                remedy=remedy,
            )
    total = np.zeros(grid.shape, dtype=np.float32)
    for dose in beams:
        total += dose.volume.array
    return replace(
        beams[0],
        volume=Volume(total, grid),
        summation="PLAN",
        beam=None,
        sop_instance_uid="",
        header=None,
        notes=(*beams[0].notes, f"Sum of the doses of all {len(beams)} beams; each taken as that of all fractions"),
    )
