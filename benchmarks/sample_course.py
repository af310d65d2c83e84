"""The sample course against its truth: propagated structures, their volumes, and the accumulated dose with its band.

Every fraction is treated as a night does it. What is true is mapped through the field that the course was made with: the
structures of the day from the patient's own surfaces, the dose of the day from the plan's dose as the couch correction
placed it, so that what is measured is the registration's doing alone. The rigid copy is the couch correction's.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from adaptive.change.structures import structure_change
from adaptive.decision.decision import Measured
from adaptive.decision.policy import load_policy
from adaptive.dose.accumulate import Accumulated, accumulated
from adaptive.dose.dvh import dvh, dvh_interval
from adaptive.dose.fraction_dose import FractionDose, mapped
from adaptive.fraction import Fraction, PlanSide, TodaySide, adapt
from adaptive.propagation.surface_distance import Ground
from benchmarks.record import record
from contour.template import load_template
from data_samples.course import write_course
from data_samples.planned import STRUCTURES, plan_patient
from data_samples.truth import FractionTruth, read_truth
from patient.trust import GIVEN
from patient.volume import Field
from pipelines.fraction.plan_folder import PlanFolder, read_fraction_folder, read_plan_folder
from pipelines.planning.engines import installed_engines
from registration.inverse import inverse_of

FRACTIONS = 4
WORK = Path(tempfile.gettempdir()) / "recontour-benchmark-sample"
LARGE = 5.0
"""cc from which on an organ counts as large."""
SHRINKING = ("Parotid_L", "Parotid_R", "GTVp", "GTVn")
WHOLE = 0.995
"""Part of a structure that today's image must show for it to count as whole."""
QUANTITIES = ("D95%", "D50%", "D2%", "Dmean")


@dataclass(frozen=True, eq=False)
class Day:
    """A fraction as it was treated, and the truth about it."""

    made: Fraction
    truth: FractionTruth
    true_day: FractionDose
    true_sum: Accumulated


def days(plan: PlanFolder) -> Iterator[Day]:
    """All fractions in order, each with those before it."""
    assert plan.plan is not None
    side = PlanSide(
        plan.image.load(), plan.structures.structures, plan.isocentre, plan.dose, plan.plan.fractions, plan.prescriptions()
    )
    assert side.dose is not None and side.fractions  # noqa: PT018
    own = side.dose.on(side.image.geometry)
    policy, template = load_policy("head_neck"), load_template("head_neck")
    past: list[Day] = []
    for number in range(1, FRACTIONS + 1):
        image, _ = read_fraction_folder(WORK / f"fraction_{number:02d}", plan)
        earlier = [Measured(n, day.made.measurements) for n, day in enumerate(past, 1)]
        doses = [day.made.dose.day for day in past if day.made.dose is not None]
        today = TodaySide(image.load(), number, image.patient_position, None, earlier, doses)
        made = adapt(side, today, policy, installed_engines(), template=template)
        assert made.dose is not None
        truth = read_truth(WORK, number)
        there = truth.plan_from_fraction
        alignment = replace(made.alignment, plan_from_today=there, today_from_plan=inverse_of(there), found_error=0.0)
        true = mapped(made.dose.today, own, alignment, number, side.fractions, made.seen)
        summed = accumulated([*(day.true_day for day in past), true], own, number, side.fractions)
        past.append(Day(made, truth, true, summed))
        yield past[-1]


def structures(day: Day) -> list[dict[str, Any]]:
    """Every structure by propagation and by a rigid copy, where both images show it."""
    patient, grid = plan_patient(0), day.made.today.geometry
    ground, rows = Ground(day.made.seen, "HFS", GIVEN), []
    for one in day.made.structures:
        if one.name not in STRUCTURES or one.whole is None or one.as_planned is None:
            continue
        true: Field = patient.structure(one.name, day.truth.plan_from_fraction, grid)
        for method, field in (("recontour", one.whole), ("rigid", one.as_planned)):
            values = {m.quantity: m.figure.judged[0] for m in structure_change(one.name, true, field, ground).measurements}
            if "mean_surface_distance" not in values:
                continue
            volume = values["volume"]
            assert volume.planned
            rows.append(
                {
                    "structure": one.name,
                    "fraction": day.truth.number,
                    "method": method,
                    "made": one.made.value,
                    "dice": round(values["dice"].value, 4),
                    "mm": round(values["mean_surface_distance"].value, 3),
                    "cc": round(volume.planned, 2),
                    "volume_error": round(volume.value / volume.planned - 1, 4),
                }
            )
    return rows


def doses(day: Day, plan: PlanFolder) -> list[dict[str, Any]]:
    """The accumulated dose in the planned structures: figures, truth, band."""
    here = plan.image.load().geometry
    at = {"frame_of_reference": here.frame_of_reference, "plane_spacing": here.spacing[0]}
    assert day.made.dose is not None
    ours, right = (sum_.dose.judged[0] for sum_ in (day.made.dose.summed, day.true_sum))
    seen = {one.name: one.seen or 0.0 for one in day.made.structures}
    rows = []
    for structure in plan.structures.structures:
        if structure.name not in STRUCTURES or structure.name == "External":
            continue
        true = dvh(structure, right.dose, **at)
        bounds = dvh_interval(structure, ours.dose, ours.half_width, **at)
        for quantity in QUANTITIES:
            exact, found, interval = true.metric(quantity), bounds.nominal.metric(quantity), bounds.interval(quantity)
            if exact is None or found is None or interval is None:
                continue
            rows.append(
                {
                    "structure": structure.name,
                    "fraction": day.truth.number,
                    "seen": round(seen[structure.name], 3),
                    "quantity": quantity,
                    "true": round(exact, 3),
                    "ours": round(found, 3),
                    "low": round(interval[0], 3),
                    "high": round(interval[1], 3),
                }
            )
    return rows


def table(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """By method: Dice and mm by size, each structure, and the shrinking ones' volumes."""
    out: dict[str, Any] = {}
    for method in ("recontour", "rigid"):
        mine = [row for row in rows if row["method"] == method]
        sizes = {"large": [r for r in mine if r["cc"] > LARGE], "small": [r for r in mine if r["cc"] <= LARGE]}
        shrunk = [abs(r["volume_error"]) for r in mine if r["structure"] in SHRINKING]
        out[method] = {size: _means(chosen) for size, chosen in sizes.items() if chosen} | {
            "structures": {name: _means([r for r in mine if r["structure"] == name]) for name in _names(mine)},
            "shrunk_volume_error_mean": round(mean(shrunk), 4),
            "shrunk_volume_error_largest": round(max(shrunk), 4),
        }
    return out


def _means(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {"dice": round(mean(r["dice"] for r in rows), 4), "mm": round(mean(r["mm"] for r in rows), 3), "of": len(rows)}


def dose_table(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How far D95 % and Dmean of the accumulated dose are from the true field's, and how often the band holds the truth.

    Structures that the image of the day cuts stand by themselves: where the rest of them went nobody can know.
    """
    parts = {"whole_in_view": [r for r in rows if r["seen"] >= WHOLE], "cut": [r for r in rows if r["seen"] < WHOLE]}
    return {name: _dose_part(part) for name, part in parts.items() if part}


def _dose_part(rows: list[dict[str, Any]]) -> dict[str, Any]:
    judged = [r for r in rows if r["quantity"] in ("D95%", "Dmean")]
    off = [abs(r["ours"] - r["true"]) / max(r["true"], 1e-3) for r in judged]
    by_structure = {n: max(o for r, o in zip(judged, off, strict=True) if r["structure"] == n) for n in _names(judged)}
    return {
        "figures": len(judged),
        "within_1_percent": round(mean(v <= 0.01 for v in off), 3),
        "difference_median": round(median(off), 4),
        "difference_largest_by_structure": {name: round(v, 4) for name, v in by_structure.items()},
        "difference_largest_gy": round(max(abs(r["ours"] - r["true"]) for r in judged), 3),
        "band_figures": len(rows),
        "band_holds_the_truth": round(mean(r["low"] - 1e-3 <= r["true"] <= r["high"] + 1e-3 for r in rows), 3),
    }


def _names(rows: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(r["structure"] for r in rows))


def main() -> None:
    """The whole."""
    if not (WORK / "truth").is_dir():
        shutil.rmtree(WORK, ignore_errors=True)
        write_course(WORK, fractions=FRACTIONS)
    plan = read_plan_folder(WORK / "plan", "")
    rows, figures, widths, trusted = [], [], [], []
    for day in days(plan):
        rows += structures(day)
        figures += doses(day, plan)
        trusted.append(bool(day.made.alignment.trust))
        assert day.made.dose is not None and plan.plan is not None  # noqa: PT018
        summed = day.made.dose.summed.dose.judged[0]
        inside = summed.dose.volume.array > 0.1 * summed.dose.volume.array.max()
        # as of the whole plan, so that fractions can be compared
        scale = (plan.plan.fractions or 1) / day.truth.number
        widths.append(float(np.median(summed.half_width.array[inside])) * scale)
        print(json.dumps(table(rows)["recontour"]), file=sys.stderr, flush=True)
    record(
        "sample_course",
        {
            "fractions": FRACTIONS,
            "trusted": trusted,
            "methods": table(rows),
            "dose": dose_table(figures)
            | {"half_width_gy_median_of_whole_plan": [round(w, 2) for w in widths], "unit": "Gy where dose is over a tenth"},
            "rows": rows,
            "dose_rows": figures,
        },
    )


if __name__ == "__main__":
    main()
