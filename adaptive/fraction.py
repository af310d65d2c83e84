"""One fraction, from two images and a plan to a recommendation: on arrays and structures, without files.

    rigid by intensity, rigid by features (independent check) -> deformable -> quality -> propagate -> re-segment ->
         reconcile -> derive -> change -> dose -> decide

A step that is not trusted stops nothing: what stands on it is marked, and the verdict is clinical review.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from adaptive.alignment.alignment import Alignment, aligned
from adaptive.alignment.intensity import corrected, in_pixels, seen_by_both
from adaptive.change.compare import Compared, compared, couch_of, drift_of, residual_of, setup_of
from adaptive.change.dose_metrics import DoseMetrics, StructureDose, dose_metrics
from adaptive.change.structures import Change
from adaptive.decision.decision import Decision, PlannedStructure, decide
from adaptive.decision.measurement import Measured, Measurement
from adaptive.decision.rules import Policy
from adaptive.dose.accumulate import Accumulated, accumulated
from adaptive.dose.fraction_dose import FractionDose, TodayDose, mapped, placed, recomputed, today_half_width
from adaptive.dose.lattice import HALF_SLICE, End
from adaptive.propagation.propagated import Propagated, Stage
from adaptive.propagation.structures import propagated_structures, resegmented_by_engines
from contour.engine import Context, Engine
from contour.template import Template
from patient.dose import Dose
from patient.geometry import Geometry, Triple
from patient.structures import Structure
from patient.trust import Trust
from patient.volume import Mask, Volume
from registration.couch import CouchCorrection
from registration.method import RegistrationContext


@dataclass(frozen=True, eq=False)
class PlanSide:
    """What the plan knows.

    Args:
        image: the planning CT, HU.
        structures: drawn on it.
        isocentre: LPS mm.
        dose: of all fractions, on a grid of this image; None where there is none.
        fractions: planned; needed with a dose.
        prescriptions: Gy by the structure's name.
        end: what its planning system takes to lie beyond a structure's end contours.
        doubts: why its image may not be all that was scanned, or not as it was.
    """

    image: Volume[Any]
    structures: Sequence[Structure]
    isocentre: Triple
    dose: Dose | None = None
    fractions: int | None = None
    prescriptions: Mapping[str, float] = field(default_factory=dict)
    end: End = HALF_SLICE
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class TodaySide:
    """What is known of today.

    Args:
        image: HU, as it was reconstructed.
        number: of the fraction in its course, from 1.
        patient_position: HFS, ...; empty where unknown.
        dose: that a planning system computed on this image; None for the plan's, placed.
        earlier: figures of earlier fractions.
        earlier_doses: their doses on the plan's grid.
        doubts: why the image may not be all that was scanned, or not as it was.
    """

    image: Volume[Any]
    number: int = 1
    patient_position: str = ""
    dose: Dose | None = None
    earlier: Sequence[Measured] = ()
    earlier_doses: Sequence[FractionDose] = ()
    doubts: tuple[str, ...] = ()


class Alignments(Protocol):
    """Where an alignment is kept between two tries of one case."""

    def load(self) -> Alignment | None:
        """The one that was kept; None where there is none of these images."""
        ...

    def keep(self, alignment: Alignment) -> None:
        """Keep it."""
        ...


@dataclass(frozen=True, eq=False)
class DoseSide:
    """What came of dose: today's, on the plan's grid, summed, and in structures."""

    today: TodayDose
    day: FractionDose
    summed: Accumulated
    figures: tuple[StructureDose, ...]


@dataclass(frozen=True, eq=False)
class Fraction:
    """What came of a fraction.

    Args:
        alignment: of the two images.
        couch: the correction about the isocentre; None where nobody knows how the patient lay.
        today: today's image as everything below was made on it: in pixels no smaller than about 1 mm.
        seen: where both images show the patient, on that grid.
        corrected: today's image, its shading and drift taken off.
        structures: the plan's, today, in the plan's order.
        changes: by structure, with maps of their surfaces.
        dose: None where the plan has none, or nobody says how many fractions it is for.
        measurements: all figures.
        decision: by the policy.
        engines: names and versions of those that re-segmented.
        notes: what could not be had and why.
        plan_fractions: planned; None where nobody says.
    """

    alignment: Alignment
    couch: CouchCorrection | None
    today: Volume[Any]
    seen: Mask
    corrected: Volume[Any]
    structures: tuple[Propagated, ...]
    changes: tuple[Change, ...]
    dose: DoseSide | None
    measurements: tuple[Measurement, ...]
    decision: Decision
    engines: Mapping[str, str]
    notes: tuple[str, ...]
    plan_fractions: int | None = None


def adapt(
    plan: PlanSide,
    today: TodaySide,
    policy: Policy,
    engines: Mapping[str, Engine],
    *,
    seed: int = 0,
    context: RegistrationContext | None = None,
    template: Template | None = None,
    alignments: Alignments | None = None,
    step: Callable[[str], None] = lambda name: None,
) -> Fraction:
    """A whole fraction.

    Args:
        plan: what it is compared with.
        today: the fraction.
        policy: how structures are made and judged.
        engines: for what is re-segmented, the first that offers a structure.
        seed: the same gives the same.
        context: device, cancel, masks of the registration.
        template: how what is re-segmented is postprocessed; None for as it was found.
        alignments: where the registration is kept; None for nowhere.
        step: called with the name of each step as it begins.

    Raises:
        InputError: an image cannot be registered, or a structure lies on no plane of the plan's image.
        Cancelled: asked to stop.
    """
    context = context or RegistrationContext()
    alignment = _alignment(plan, today, seed, context, alignments, step)
    step("field of view")
    raw, seen = in_pixels(today.image, seen_by_both(today.image, plan.image, alignment.plan_from_today))
    image = corrected(raw, plan.image, alignment.plan_from_today, seen)
    stage = Stage((image, plan.image), alignment, seen, today.patient_position)
    step("re-segment")
    asking = Context(today.patient_position, device=context.device, seed=seed, cancelled=context.cancelled)
    fresh, used = resegmented_by_engines(plan.structures, policy, engines, image, asking, template)
    step("propagate")
    structures = propagated_structures(plan.structures, plan.image.geometry, policy, stage, fresh)
    step("change")
    couch = couch_of(alignment, plan.isocentre, today.patient_position)
    change: Compared = compared(
        structures,
        (image, plan.image),
        alignment,
        seen,
        policy,
        isocentre=plan.isocentre,
        patient_position=today.patient_position,
    )
    step("dose")
    images = trust_in_images(plan, today)
    dose, figures, more = _dose(plan, today, raw.geometry, alignment, seen, structures, policy, images)
    measurements = (*_setup(plan, today, alignment, couch), *change.measurements, *figures)
    step("decide")
    planned = [PlannedStructure(s.name, plan.prescriptions.get(s.name)) for s in plan.structures]
    measured = Measured(today.number, measurements)
    decision = decide(policy, planned, measured, today.earlier, registration=alignment.trust).of_images(images.doubts)
    return Fraction(
        alignment,
        couch,
        raw,
        seen,
        image,
        structures,
        change.changes,
        dose,
        measurements,
        decision,
        used,
        (*change.notes, *more),
        plan.fractions,
    )


def _alignment(
    plan: PlanSide,
    today: TodaySide,
    seed: int,
    context: RegistrationContext,
    alignments: Alignments | None,
    step: Callable[[str], None],
) -> Alignment:
    """The one that was kept; else made, and kept."""
    kept = alignments.load() if alignments is not None else None
    if kept is not None:
        return kept
    made = aligned(today.image, plan.image, plan.isocentre, seed=seed, context=context, step=step)
    if alignments is not None:
        alignments.keep(made)
    return made


def _setup(plan: PlanSide, today: TodaySide, alignment: Alignment, couch: CouchCorrection | None) -> tuple[Measurement, ...]:
    """How the patient lay: the correction, what it leaves, and how it drifts over fractions."""
    setup = setup_of(couch, alignment)
    setup += residual_of(couch, alignment, plan.isocentre, plan.structures)
    return setup + drift_of(setup, today.number, today.earlier)


def trust_in_images(plan: PlanSide, today: TodaySide) -> Trust:
    """Given where both images are all that was scanned, and as it was."""
    return Trust(plan.doubts).about("Plan's image") & Trust(today.doubts).about("Today's image")


def _dose(
    plan: PlanSide,
    today: TodaySide,
    grid: Geometry,
    alignment: Alignment,
    seen: Mask,
    structures: Sequence[Propagated],
    policy: Policy,
    images: Trust,
) -> tuple[DoseSide | None, tuple[Measurement, ...], tuple[str, ...]]:
    if plan.dose is None or not plan.fractions:
        missing = "no dose" if plan.dose is None else "no number of fractions"
        return None, (), (f"The plan has {missing}: nothing is said of dose",)
    own = plan.dose.on(plan.image.geometry)
    grids = plan.image.geometry, grid
    if today.dose is not None:
        here = recomputed(today.dose, grids[1], plan.fractions)
    else:
        here = placed(own, alignment.rigid)
    day = mapped(here, own, alignment, today.number, plan.fractions, seen)
    day = replace(day, dose=day.dose.given(images))
    summed = accumulated((*today.earlier_doses, day), own, today.number, plan.fractions)
    half_width = today_half_width(here, alignment)
    figures: DoseMetrics = dose_metrics(
        structures,
        own,
        (here, half_width),
        summed,
        grids,
        policy,
        registration=alignment.trust & images,
        end=plan.end,
    )
    return DoseSide(here, day, summed, figures.structures), figures.measurements, figures.notes
