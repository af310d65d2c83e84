"""The band of accumulated dose where fractions had no image: how often it holds the truth, and how wide it is.

The sample course's four images stand for fractions 1, 7, 13 and 20 of 35, between which the true dose of a fraction is taken
to change evenly. The first and the last are registered; what is summed is 20 fractions known by the first image alone, by
the last alone, by both, or by the last with a registration that is said not to be trusted. Truth is mapped through the field
that the course was made with. Beside each stands the band of the registrations alone, in which a fraction without an image
counts as if it had none of its own error.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from adaptive.alignment.alignment import Alignment, aligned
from adaptive.alignment.intensity import seen_by_both
from adaptive.dose.accumulate import Accumulated, Summed, accumulated
from adaptive.dose.dvh import dvh, dvh_interval
from adaptive.dose.fraction_dose import FractionDose, mapped, placed
from benchmarks.record import record
from benchmarks.sample_course import QUANTITIES, WORK
from data_samples.course import write_course
from data_samples.planned import STRUCTURES
from data_samples.truth import read_truth
from patient.dose import Dose
from patient.geometry import Geometry
from patient.volume import Volume
from pipelines.fraction.plan_folder import PlanFolder, read_fraction_folder, read_plan_folder
from registration.inverse import inverse_of

NUMBERS = {1: 1, 2: 7, 3: 13, 4: 20}
"""Image of the course -> the fraction that it stands for."""
UNTIL, REGISTERED = 20, (1, 4)


def true_day(image: int, own: Dose, like: Alignment, fractions: int) -> FractionDose:
    """The dose of a fraction where the true field takes it, placed by the couch as bones ask for."""
    truth = read_truth(WORK, image)
    exact = replace(
        like,
        rigid=truth.bones.plan_from_fraction,
        plan_from_today=truth.plan_from_fraction,
        today_from_plan=inverse_of(truth.plan_from_fraction),
        found_error=0.0,
        reasons=(),
    )
    there = truth.plan_from_fraction.grid
    seen = Volume(np.ones(there.shape, dtype=bool), there)
    return mapped(placed(own, exact.rigid), own, exact, NUMBERS[image], fractions, seen)


def true_sum(days: Sequence[FractionDose], own: Dose) -> Dose:
    """Of all fractions, each between its neighbours with an image."""
    numbers = [day.number for day in days]
    gray = np.stack([day.dose.judged[0].gray.array for day in days])
    total = np.zeros_like(gray[0])
    for number in range(1, UNTIL + 1):
        after = min(max(1, int(np.searchsorted(numbers, number))), len(days) - 1)
        share = np.float32((number - numbers[after - 1]) / (numbers[after] - numbers[after - 1]))
        total += (1 - share) * gray[after - 1] + share * gray[after]
    return replace(own, volume=Volume(total, own.volume.geometry))


def registrations_alone(days: Sequence[FractionDose], summed: Accumulated) -> Volume[np.float32]:
    """The half-width where only images have errors: nothing for fractions before the first, and no drift."""
    ends = [*(day.number for day in days[1:]), UNTIL + 1]
    widths = [d.dose.judged[0].half_width.array * np.float32(e - d.number) for d, e in zip(days, ends, strict=True)]
    half = np.sqrt(0.5 * np.square(sum(widths)) + 0.5 * sum(np.square(w) for w in widths))
    return Volume(half.astype(np.float32), summed.dose.judged[0].half_width.geometry)


def figures(plan: PlanFolder, here: Geometry, true: Dose, summed: Summed, half: Volume[np.float32]) -> dict[str, Any]:
    """How often the band of a structure's figure holds the true one, and its median half-width."""
    at = {"frame_of_reference": here.frame_of_reference, "plane_spacing": here.spacing[0]}
    held, wide = [], []
    for structure in plan.structures.structures:
        if structure.name not in STRUCTURES or structure.name == "External":
            continue
        exact, bounds = dvh(structure, true, **at), dvh_interval(structure, summed.dose, half, **at)
        for quantity in QUANTITIES:
            right, between = exact.metric(quantity), bounds.interval(quantity)
            if right is not None and between is not None:
                held.append(between[0] - 1e-3 <= right <= between[1] + 1e-3)
                wide.append((between[1] - between[0]) / 2)
    inside = summed.dose.volume.array > 0.1 * summed.dose.volume.array.max()
    return {
        "figures": len(held),
        "band_holds_the_truth": round(mean(held), 3),
        "half_width_gy_median_of_figures": round(float(np.median(wide)), 2),
        "half_width_gy_median_of_voxels": round(float(np.median(half.array[inside])), 2),
    }


def main() -> None:
    """The whole."""
    if not (WORK / "truth").is_dir():
        shutil.rmtree(WORK, ignore_errors=True)
        write_course(WORK, fractions=len(NUMBERS))
    plan = read_plan_folder(WORK / "plan", "")
    assert plan.dose is not None and plan.plan is not None and plan.plan.fractions  # noqa: PT018
    image, fractions = plan.image.load(), plan.plan.fractions
    own = plan.dose.on(image.geometry)
    days: dict[int, FractionDose] = {}
    doubted: FractionDose | None = None
    alignment: Alignment | None = None
    for number in REGISTERED:
        today = read_fraction_folder(WORK / f"fraction_{number:02d}", plan)[0].load()
        alignment = aligned(today, image, plan.isocentre)
        seen = seen_by_both(today, image, alignment.plan_from_today)
        here = placed(own, alignment.rigid)
        days[number] = mapped(here, own, alignment, NUMBERS[number], fractions, seen)
        said = replace(alignment, reasons=("said so",))
        doubted = mapped(here, own, said, NUMBERS[number], fractions, seen)
        print(f"fraction {NUMBERS[number]} registered, trusted: {bool(alignment.trust)}", file=sys.stderr, flush=True)
    assert alignment is not None and doubted is not None  # noqa: PT018
    true = true_sum([true_day(number, own, alignment, fractions) for number in NUMBERS], own)
    cases: Mapping[str, Sequence[FractionDose]] = {
        "only fraction 1": [days[1]],
        "only fraction 20": [days[4]],
        "fractions 1 and 20": [days[1], days[4]],
        "only fraction 20, not trusted": [doubted],
    }
    table = {}
    for name, given in cases.items():
        summed = accumulated(given, own, UNTIL, fractions)
        total, trust = summed.dose.judged
        table[name] = {
            "trusted": bool(trust),
            "band": figures(plan, image.geometry, true, total, total.half_width),
            "registrations_alone": figures(plan, image.geometry, true, total, registrations_alone(given, summed)),
        }
    record("unseen_fractions", {"fractions": UNTIL, "of": fractions, "images_with": table})


if __name__ == "__main__":
    main()
