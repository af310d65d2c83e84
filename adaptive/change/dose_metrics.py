"""Dose in the plan's structures: as planned, today and accumulated, with bands; and the figures that rules ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from adaptive.decision.measurement import Figure, Measurement
from adaptive.decision.rules import Policy
from adaptive.dose.accumulate import Accumulated
from adaptive.dose.dvh import Dvh, DvhInterval, Metric, dvh, dvh_interval
from adaptive.dose.fraction_dose import TodayDose
from adaptive.dose.lattice import HALF_SLICE, End, lattice
from adaptive.propagation.propagated import Propagated
from adaptive.scheduling import largest_first
from patient.dose import Dose
from patient.errors import InputError
from patient.geometry import Geometry
from patient.structures import Structure
from patient.trust import Estimated, Trust
from patient.volume import Volume

ALWAYS = ("Dmean", "D2%")
"""Of structures for which a policy asks nothing."""
KNOWN = 0.98
"""Part of a structure in which dose must be known for its figures to be trusted."""
ESTIMATED = 0.5
"""Part of a structure that today's image must show for its figures to be trusted, and of an accumulated dose the part, over
all its fractions, that must stand on images that show it: the rest is an estimate."""
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
        basis: what today's stands on, in words.
    """

    name: str
    planned: Dvh | None
    today: Estimated[DvhInterval] | None
    accumulated: Estimated[DvhInterval] | None
    basis: str = ""


@dataclass(frozen=True, eq=False)
class DoseMetrics:
    """DVHs, figures, and what could not be had."""

    structures: tuple[StructureDose, ...]
    measurements: tuple[Measurement, ...]
    notes: tuple[str, ...]


def dose_metrics(
    structures: Sequence[Propagated],
    plan: Dose,
    today: tuple[TodayDose, Volume[np.float32]],
    summed: Accumulated,
    grids: tuple[Geometry, Geometry],
    policy: Policy,
    *,
    registration: Trust,
    end: End = HALF_SLICE,
) -> DoseMetrics:
    """Every structure's DVHs and figures.

    Args:
        structures: of the fraction.
        plan: the plan's dose, of all fractions.
        today: today's dose and its half-width.
        summed: of the fractions so far.
        grids: of the plan's image and of today's.
        policy: which figures are wanted.
        registration: trust in today's.
        end: what lies beyond a structure's end contours.
    """
    here, there = grids
    at_plan = {
        "frame_of_reference": here.frame_of_reference,
        "plane_spacing": here.spacing[0],
        "slices": here.slices,
        "end": end,
    }
    at_today = {"frame_of_reference": there.frame_of_reference, "plane_spacing": there.spacing[0], "end": end}

    total, days = summed.dose.judged
    share = replace(total.dose, volume=total.shown)

    def dvhs(one: Propagated) -> StructureDose | str:
        try:
            cells = lattice(one.structure, plane_spacing=here.spacing[0], slices=here.slices, end=end)
            planned = dvh(one.structure, plan, **at_plan, cells=cells)
            bounds = dvh_interval(Structure(one.name, drawn=one.loops), today[0].whole, today[1], **at_today)
            so_far = dvh_interval(one.structure, total.dose, total.half_width, **at_plan, cells=cells)
            shown = dvh(one.structure, share, **at_plan, cells=cells).mean or 0.0
        except InputError as error:
            return f"No DVH of {one.name}: {error.what}"
        known = _known("dose today", bounds.nominal.covered) & _known("the plan's dose", planned.covered)
        seen = Trust.given_if(one.seen is None or one.seen >= ESTIMATED, _partly(one.seen or 0.0, "is seen today"))
        imaged = Trust.given_if(shown >= ESTIMATED, _partly(shown, "of all fractions stands on images that show it"))
        now = Estimated(bounds, registration & one.trust & known & seen)
        so_far = Estimated(so_far, days & _known("the plan's dose", planned.covered) & imaged)
        basis = "; ".join((today[0].basis, *known.doubts, *seen.doubts))
        return StructureDose(one.name, planned, now, so_far, basis)

    made, figures, notes = [], [], []
    asked = [one for one in structures if one.structure.interpreted_type != "EXTERNAL" and one.whole is not None]
    for one, found in zip(asked, largest_first(dvhs, asked, lambda one: one.size), strict=True):
        if isinstance(found, str):
            notes.append(found)
            continue
        made.append(found)
        if found.today is not None:
            notes += [f"{one.name}: {note}" for note in found.today.judged[0].nominal.notes]
        figures += _figures(found, policy)
    return DoseMetrics(tuple(made), tuple(figures), tuple(dict.fromkeys(notes)))


def _known(what: str, covered: float) -> Trust:
    return Trust.given_if(covered >= KNOWN, f"{what} is known in {covered:.0%} of it")


def _partly(part: float, how: str) -> str:
    return f"{part:.0%} of it {how}, the rest is an estimate"


def wanted(name: str, policy: Policy) -> tuple[str, ...]:
    """Which figures of dose are made of a structure: what the policy and its rules want, and what is always wanted."""
    asked = policy.for_structure(name)
    return tuple(dict.fromkeys((*asked.metrics, *(("EUD",) if asked.eud is not None else ()), *ALWAYS)))


def _figures(of: StructureDose, policy: Policy) -> list[Measurement]:
    assert of.planned is not None and of.today is not None and of.accumulated is not None  # noqa: PT018
    exponent, found = policy.for_structure(of.name).eud, []
    for quantity in wanted(of.name, policy):
        planned, unit = of.planned.metric(quantity, exponent), Metric.named(quantity).unit
        said = "accumulated so far, in the planned structure; research, not delivered dose"
        both = (quantity, of.today, planned, of.basis), (quantity + ACCUMULATED, of.accumulated, None, said)
        for name, dose, before, basis in both:
            figure = _figure(dose, quantity, exponent, before)
            if figure is not None:
                found.append(Measurement(of.name, name, unit, figure, basis))
    return found


def _figure(
    dose: Estimated[DvhInterval], quantity: str, exponent: float | None, planned: float | None
) -> Estimated[Figure] | None:
    """One figure of a DVH; None where it is not defined."""
    bounds, trust = dose.judged
    value = bounds.nominal.metric(quantity, exponent)
    return None if value is None else Estimated(Figure(value, planned, bounds.interval(quantity, exponent)), trust)
