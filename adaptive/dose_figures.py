"""Dose in the plan's structures: as planned, today and accumulated, with bands; and the figures that rules ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adaptive.accumulate import Accumulated, TodayDose
from adaptive.dvh import Dvh, DvhBand, Metric, dvh, dvh_band
from adaptive.largest import largest_first
from adaptive.lattice import lattice
from adaptive.measurement import Measurement
from adaptive.propagate import Propagated
from adaptive.rules import Policy
from patient.dose import Dose
from patient.errors import InputError
from patient.geometry import Geometry
from patient.structures import Structure
from patient.volume import Volume

ALWAYS = ("Dmean", "D2%")
"""Of structures for which a policy asks nothing."""
KNOWN = 0.98
"""Part of a structure in which dose must be known for its figures to be trusted."""
ESTIMATED = 0.5
"""Part of a structure that today's image must show for its figures to be trusted: the rest is an estimate."""
ACCUMULATED = " accumulated"
"""Behind the quantity of a figure of the accumulated dose, which no rule looks at unless it says so."""


@dataclass(frozen=True, eq=False)
class StructureDose:
    """DVHs of one structure; None where they could not be made.

    Args:
        name: of the structure.
        planned: the plan's dose in the planned structure.
        today: today's dose, of the whole plan as if each fraction were today's, in today's structure.
        accumulated: the dose of the fractions so far in the planned structure.
    """

    name: str
    planned: Dvh | None
    today: DvhBand | None
    accumulated: DvhBand | None


@dataclass(frozen=True, eq=False)
class DoseFigures:
    """DVHs, figures, and what could not be had."""

    structures: tuple[StructureDose, ...]
    measurements: tuple[Measurement, ...]
    notes: tuple[str, ...]


def dose_figures(
    structures: Sequence[Propagated],
    plan: Dose,
    today: tuple[TodayDose, Volume[np.float32]],
    summed: Accumulated,
    grids: tuple[Geometry, Geometry],
    policy: Policy,
    *,
    trusted: bool,
) -> DoseFigures:
    """Every structure's DVHs and figures.

    Args:
        structures: of the fraction.
        plan: the plan's dose, of all fractions.
        today: today's dose and its half-width.
        summed: of the fractions so far.
        grids: of the plan's image and of today's.
        policy: which figures are wanted.
        trusted: whether the registration is.
    """
    here, there = grids
    at_plan = {"frame_of_reference": here.frame_of_reference, "plane_spacing": here.spacing[0]}
    at_today = {"frame_of_reference": there.frame_of_reference, "plane_spacing": there.spacing[0]}

    def dvhs(one: Propagated) -> StructureDose | str:
        try:
            cells = lattice(one.structure, plane_spacing=here.spacing[0])
            planned = dvh(one.structure, plan, **at_plan, cells=cells)
            band = dvh_band(Structure(one.name, drawn=one.loops), today[0].whole, today[1], **at_today)
            total = dvh_band(one.structure, summed.dose, summed.half_width, **at_plan, cells=cells)
        except InputError as error:
            return f"No DVH of {one.name}: {error.what}"
        return StructureDose(one.name, planned, band, total)

    made, figures, notes = [], [], []
    asked = [one for one in structures if one.structure.interpreted_type != "EXTERNAL" and one.whole is not None]
    for one, found in zip(asked, largest_first(dvhs, asked, lambda one: one.size), strict=True):
        if isinstance(found, str):
            notes.append(found)
            continue
        planned, band = found.planned, found.today
        assert planned is not None and band is not None  # noqa: PT018
        made.append(found)
        notes += [f"{one.name}: {note}" for note in band.nominal.notes]
        known = min(planned.covered, band.nominal.covered) >= KNOWN
        said = [today[0].basis]
        if not known:
            said.append(f"dose is known in {band.nominal.covered:.0%} of it today, {planned.covered:.0%} in the plan")
        shown = one.seen is None or one.seen >= ESTIMATED
        if not shown:
            said.append(f"{one.seen:.0%} of it is seen today, the rest an estimate")
        good = trusted and one.trusted and known and shown
        figures += _figures(one.name, made[-1], policy, good, "; ".join(said))
    return DoseFigures(tuple(made), tuple(figures), tuple(dict.fromkeys(notes)))


def wanted(name: str, policy: Policy) -> tuple[str, ...]:
    """Which figures of dose are made of a structure: what the policy and its rules want, and what is always wanted."""
    asked = policy.for_structure(name)
    return tuple(dict.fromkeys((*asked.metrics, *(("EUD",) if asked.eud is not None else ()), *ALWAYS)))


def _figures(name: str, of: StructureDose, policy: Policy, good: bool, basis: str) -> list[Measurement]:
    assert of.planned is not None and of.today is not None and of.accumulated is not None  # noqa: PT018
    exponent, found = policy.for_structure(name).eud, []
    for quantity in wanted(name, policy):
        planned, now, total = (d.metric(quantity, exponent) for d in (of.planned, of.today.nominal, of.accumulated.nominal))
        bands = [band.interval(quantity, exponent) for band in (of.today, of.accumulated)]
        unit = Metric.named(quantity).unit
        if now is not None:
            found.append(Measurement(name, quantity, unit, now, planned, bands[0], good, basis))
        if total is not None:
            said = "accumulated so far, in the planned structure; research, not delivered dose"
            found.append(Measurement(name, quantity + ACCUMULATED, unit, total, None, bands[1], good, said))
    return found
