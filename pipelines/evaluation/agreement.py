"""One case: predicted structures matched with the reference's by name, measured; and the worst of all cases to be shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from contour.acceptance import DEFAULT_TOLERANCE, Limits, StructureLimits
from contour.evaluate import Absence, Agreement, NotCompared, Slices, between_ends, by_slice, compare
from patient.geometry import Box, Geometry
from patient.naming import Naming, Understood, understand
from patient.volume import Mask, Volume
from pipelines.evaluation.drawings import Drawn
from pipelines.records.evaluation import CaseComparison, ComparisonRecord
from pipelines.report.shown_structure import Shown

AROUND = 25.0
"""mm of image that is shown around a structure."""
SHOWN = 2
"""Cases of each structure that are kept to be shown."""
_STATES: Mapping[Absence, Literal["missed", "spurious", "empty"]] = {
    Absence.MISSED: "missed",
    Absence.SPURIOUS: "spurious",
    Absence.NEITHER: "empty",
}


@dataclass(frozen=True)
class Rules:
    """How it is measured.

    Args:
        limits: what must be reached; None for nothing.
        tolerance: mm of the surface Dice; None for the limits', or `DEFAULT_TOLERANCE`.
        naming: how names are read.
        seed: of the bootstrap.
        between_ends: structures scored between the ends of the reference, besides those of the limits.
    """

    limits: Limits | None = None
    tolerance: float | None = None
    naming: Naming = field(default_factory=Naming)
    seed: int = 0
    between_ends: frozenset[str] = frozenset()

    def of(self, structure: str) -> StructureLimits:
        """What holds for a structure, its tolerance filled in."""
        asked = (self.limits.of(structure) if self.limits else None) or StructureLimits(missed=None)
        usual = self.limits.tolerance if self.limits else DEFAULT_TOLERANCE
        ends = asked.between_ends or structure in self.between_ends
        return asked.model_copy(update={"tolerance": self.tolerance or asked.tolerance or usual, "between_ends": ends})

    def tolerance_of(self, structure: str) -> float:
        """mm of its surface Dice."""
        return self.of(structure).tolerance or DEFAULT_TOLERANCE


def compare_case(case: str, predicted: Drawn, reference: Drawn, rules: Rules, worst: Worst) -> CaseComparison:
    """Every structure that both sides have, and what is unmatched.

    Raises:
        FrameMismatch: a structure lies on other planes than the image's.
    """
    ours, theirs = (understand(drawn.names, rules.naming) for drawn in (predicted, reference))
    both = _both(ours, theirs)
    records: list[ComparisonRecord] = []
    for structure, (written, wanted) in sorted(both.items()):
        asked = rules.of(structure)
        mask, truth = predicted.mask(written), reference.mask(wanted)
        slices = by_slice(mask, truth)
        if asked.between_ends:
            mask = between_ends(mask, truth)
        found = compare(mask, truth, rules.tolerance_of(structure))
        named = ComparisonRecord(
            structure=structure,
            state="compared",
            predicted_name=written,
            reference_name=wanted,
            remarks=_of_sides(predicted.remarks(written), reference.remarks(wanted)),
        )
        if isinstance(found, NotCompared):
            records.append(_absent(named, found))
        else:
            records.append(_measured(named, found, slices, predicted.confidence.get(written)))
            worst.offer(case, structure, found.dice, mask, truth, predicted if predicted.load is not None else reference)
    records += _not_in_image(predicted, reference, theirs, set(both))
    taken = {r.predicted_name for r in records}, {r.reference_name for r in records}
    return CaseComparison(
        case=case,
        structures=tuple(records),
        predicted_only=tuple(sorted(set(predicted.names) - taken[0])),
        reference_only=tuple(sorted(set(reference.names) - taken[1])),
        remarks=tuple(
            f"{side} has {len(written)} structures that mean {name}: {', '.join(written)}; none was taken"
            for side, understood in (("predicted", ours), ("reference", theirs))
            for name, written in understood.ambiguous.items()
        ),
        notes=_of_sides(predicted.notes, reference.notes),
    )


def _of_sides(predicted: Sequence[str], reference: Sequence[str]) -> tuple[str, ...]:
    sides = (("predicted", predicted), ("reference", reference))
    return tuple(f"{side}: {said}" for side, sentences in sides for said in sentences)


def _absent(named: ComparisonRecord, found: NotCompared) -> ComparisonRecord:
    volumes = {"predicted_cc": round(found.predicted_cc, 3), "reference_cc": round(found.reference_cc, 3)}
    return named.model_copy(update={"state": _STATES[found.absence], "reason": found.reason, **volumes})


def _measured(named: ComparisonRecord, found: Agreement, slices: Slices, confidence: float | None) -> ComparisonRecord:
    measures = {name: value for name, value in vars(found).items() if name not in ("tolerance", "slices")}
    measures |= {"volume_bias_cc": found.volume_bias_cc, "volume_bias_percent": found.volume_bias_percent}
    rounded = {name: round(value, 5) for name, value in measures.items()}
    return named.model_copy(update={"confidence": confidence, **rounded, **_by_slice(slices)})


def _by_slice(slices: Slices) -> dict[str, int | float | None]:
    return {
        "missing_slices": slices.missing,
        "missing_superior": slices.missing_superior,
        "missing_inferior": slices.missing_inferior,
        "extra_slices": slices.extra,
        "extra_superior": slices.extra_superior,
        "extra_inferior": slices.extra_inferior,
        "worst_slice": None if slices.worst is None else round(slices.worst, 5),
        "worst_slice_at": None if slices.worst_at is None else round(slices.worst_at, 3),
    }


def _not_in_image(predicted: Drawn, reference: Drawn, theirs: Understood, both: set[str]) -> list[ComparisonRecord]:
    """What was asked for and not found, where the reference has it."""
    out: list[ComparisonRecord] = []
    for structure, reason in predicted.absent.items():
        if (wanted := theirs.meant.get(structure)) is None or structure in both:
            continue
        truth = reference.mask(wanted)
        if cc := float(truth.array.sum()) * truth.geometry.voxel_cc:
            named = ComparisonRecord(structure=structure, state="missed", reason=reason, reference_name=wanted)
            out.append(named.model_copy(update={"reference_cc": round(cc, 3)}))
    return out


def _both(ours: Understood, theirs: Understood) -> dict[str, tuple[str, str]]:
    """Structure to its written name on either side: by meaning, and where neither is understood by the same spelling."""
    both = {name: (written, theirs.meant[name]) for name, written in ours.meant.items() if name in theirs.meant}
    spelled = {name.strip().casefold(): name for name in ours.unknown}
    for name in theirs.unknown:
        if (same := spelled.get(name.strip().casefold())) is not None:
            both.setdefault(name.strip(), (same, name))
    return both


@dataclass
class Worst:
    """The cases with the lowest Dice of each structure, cut out, so that no image has to stay or be read again."""

    _held: dict[str, list[Shown]] = field(default_factory=dict)

    def offer(self, case: str, structure: str, dice: float, predicted: Mask, reference: Mask, drawn: Drawn) -> None:
        held = self._held.setdefault(structure, [])
        if len(held) == SHOWN and dice >= held[-1].dice:
            return
        cut = None
        if (image := drawn.image) is not None:
            box = _around(image.geometry, predicted, reference)
            part = image.cropped(box)
            cut = Volume(part.array.copy(), part.geometry)
        held.append(Shown(case, structure, dice, predicted, reference, cut))
        held.sort(key=lambda shown: shown.dice)
        del held[SHOWN:]

    def shown(self) -> tuple[Shown, ...]:
        """By structure, the worst first."""
        return tuple(one for _, held in sorted(self._held.items()) for one in held)


def _around(grid: Geometry, *masks: Mask) -> Box:
    box = Box((0, 0, 0), (0, 0, 0))
    for mask in masks:
        inside = Box.of(mask.array)
        if not inside.empty:
            box = box.union(grid.box_of(mask.geometry.cropped(inside)))
    return box.padded([max(2, round(AROUND / s)) for s in grid.spacing], grid.shape)
