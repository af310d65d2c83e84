"""Predicted contours against references, case by case: matched by name, measured, summarised, judged, and the worst ones kept to be shown."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from contour.evaluate import Absence, NotCompared, between_ends, compare
from contour.limit import DEFAULT_TOLERANCE, Judgement, Limits, Measure, StructureLimits, judge
from contour.summary import Summary, summarise
from patient.errors import Cancelled, FrameMismatch, InputError, RecontourError
from patient.geometry import Box, Geometry
from patient.names import lookup
from patient.naming import Naming, Understood, understand
from patient.read.index import SeriesEntry, scan
from patient.volume import Mask, Volume
from pipelines.clock import Clock
from pipelines.drawings import Drawing, Drawn, Found, find_drawings, said_of
from pipelines.evaluation_result import (
    MEASURES,
    CaseComparison,
    ComparisonRecord,
    EvaluationResult,
    JudgementRecord,
    LimitsRecord,
    MakerRecord,
    StructureSummary,
    SummaryRecord,
)

AROUND = 25.0
"""mm of image that is shown around a structure."""
SHOWN = 2
"""Cases of each structure that are kept to be shown."""
GREY = (128, 128, 128)
Progress = Callable[[float, str], None]
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


@dataclass(frozen=True, eq=False)
class Pair:
    """A case to be compared; opened when its turn comes."""

    case: str
    open: Callable[[], tuple[Drawn, Drawn]]
    """Predicted and reference, on one grid."""


@dataclass(frozen=True, eq=False)
class Shown:
    """A structure of a case, cut out to be shown: both masks and the image around them (None where there is none)."""

    case: str
    structure: str
    dice: float | None
    predicted: Mask
    reference: Mask
    image: Volume[Any] | None


def evaluate(
    pairs: Iterable[Pair],
    rules: Rules,
    *,
    total: int,
    kind: Literal["evaluate", "commission"] = "evaluate",
    left_out: Iterable[str] = (),
    maker: MakerRecord | None = None,
    progress: Progress = lambda done, what: None,
    cancelled: threading.Event | None = None,
) -> tuple[EvaluationResult, tuple[Shown, ...]]:
    """Compare all pairs, one at a time in memory.

    A case that cannot be compared is a problem of that case, and is said.

    Raises:
        InputError: not one case could be compared.
        Cancelled: asked to stop.
    """
    clock, cases, worst = Clock(), [], _Worst()
    for number, pair in enumerate(pairs):
        if cancelled is not None and cancelled.is_set():
            raise Cancelled("Asked to stop")
        progress(number / max(1, total), pair.case)
        try:
            with clock.step("open"):
                predicted, reference = pair.open()
            with clock.step("measure"):
                cases.append(_compared(pair.case, predicted, reference, rules, worst))
        except Cancelled:
            raise
        except RecontourError as error:
            cases.append(CaseComparison(case=pair.case, problem=said_of(error)))
    if not any(case.structures for case in cases):
        why = next((case.problem for case in cases if case.problem), "") or "; ".join([*left_out][:3])
        raise InputError(
            "Nothing could be compared",
            why=why or "No structure is on both sides",
            remedy="Give two sides that were drawn on the same images, with names that mean the same",
        )
    cases = _with_counted_absences(cases, rules)
    structures = _summaries(cases, rules)
    judgements = _judgements(structures, rules)
    left_out = tuple(left_out)
    return (
        EvaluationResult(
            kind=kind,
            verdict=_verdict(judgements),
            reasons=_reasons(judgements, cases, left_out),
            maker=maker,
            limits=_limits_record(rules.limits),
            judgements=tuple(JudgementRecord.model_validate(vars(one)) for one in judgements),
            structures=structures,
            cases=tuple(cases),
            left_out=left_out,
            seed=rules.seed,
            timing=clock.timing(),
        ),
        worst.shown(),
    )


def pair_up(predicted: Path, reference: Path, ct: Path | None = None) -> tuple[list[Pair], tuple[str, ...]]:
    """Which predicted structures belong to which reference: by the image that both were drawn on, or by the folder's name.

    One case on either side is a pair whatever it is called.

    Returns:
        The pairs, and what was left out, each in a sentence.

    Raises:
        InputError: no such path, or not one pair.
    """
    images: tuple[SeriesEntry, ...] = scan(ct).of("CT", "MR", "PT") if ct is not None else ()
    truth = find_drawings(reference, images)
    made = find_drawings(predicted, (*images, *truth.images))
    if made.images:
        truth = find_drawings(reference, made.images) if any(d.image is None for d in truth.drawings) else truth
    pairs = _paired(made, truth)
    lone = [d.case for d in truth.drawings if d.key not in {t.key for _, t in pairs}]
    lone_made = [d.case for d in made.drawings if d.key not in {p.key for p, _ in pairs}]
    left_out = (
        *(f"predicted: {said}" for said in made.left_out),
        *(f"reference: {said}" for said in truth.left_out),
        *(f"{case} has a reference and nothing predicted" for case in lone),
        *(f"{case} was predicted and has no reference" for case in lone_made),
    )
    if not pairs:
        raise InputError(
            f"Of {len(made.drawings)} predicted and {len(truth.drawings)} reference cases no two belong together",
            why="; ".join(left_out[:3]),
            remedy="Give structure sets that were drawn on the same images, or folders of one name",
        )
    return [Pair(one.case, lambda one=one, other=other: _opened(one, other)) for other, one in pairs], left_out


def _opened(reference: Drawing, predicted: Drawing) -> tuple[Drawn, Drawn]:
    drawn = reference.open()
    return predicted.open(drawn), drawn


def _paired(made: Found, truth: Found) -> list[tuple[Drawing, Drawing]]:
    by_key = {drawing.key: drawing for drawing in made.drawings}
    pairs = [(by_key[drawing.key], drawing) for drawing in truth.drawings if drawing.key in by_key]
    if not pairs and len(made.drawings) == len(truth.drawings) == 1:
        return [(made.drawings[0], truth.drawings[0])]
    return pairs


def _compared(case: str, predicted: Drawn, reference: Drawn, rules: Rules, worst: _Worst) -> CaseComparison:
    ours, theirs = (understand(drawn.names, rules.naming) for drawn in (predicted, reference))
    both = _both(ours, theirs)
    records: list[ComparisonRecord] = []
    for structure, (written, wanted) in sorted(both.items()):
        asked = rules.of(structure)
        try:
            mask, truth = predicted.mask(written), reference.mask(wanted)
        except FrameMismatch as error:
            remark = f"{structure}: {said_of(error)}"
            raise FrameMismatch(remark, where=error.where) from error
        if asked.between_ends:
            mask = between_ends(mask, truth)
        found = compare(mask, truth, cast(float, asked.tolerance))
        names = {"structure": structure, "predicted_name": written, "reference_name": wanted}
        if isinstance(found, NotCompared):
            records.append(
                ComparisonRecord(
                    **names,
                    state=_STATES[found.absence],
                    reason=found.reason,
                    predicted_cc=round(found.predicted_cc, 3),
                    reference_cc=round(found.reference_cc, 3),
                )
            )
        else:
            measures = {k: v for k, v in vars(found).items() if k != "tolerance"}
            measures |= {"volume_bias_cc": found.volume_bias_cc, "volume_bias_percent": found.volume_bias_percent}
            records.append(
                ComparisonRecord(
                    **names,
                    state="compared",
                    confidence=predicted.confidence.get(written),
                    **{name: round(value, 5) for name, value in measures.items()},
                )
            )
        if not isinstance(found, NotCompared) or found.absence is Absence.MISSED:
            dice = None if isinstance(found, NotCompared) else found.dice
            worst.offer(case, structure, dice, mask, truth, predicted if predicted.load is not None else reference)
    for meaning, reason in predicted.absent.items():
        wanted = theirs.meant.get(meaning)
        if wanted is not None and meaning not in both:
            truth = reference.mask(wanted)
            cc = float(truth.array.sum()) * truth.geometry.voxel_cc
            if cc:
                records.append(
                    ComparisonRecord(
                        structure=meaning, state="missed", reason=reason, reference_name=wanted, reference_cc=round(cc, 3)
                    )
                )
    taken = [r.predicted_name for r in records], [r.reference_name for r in records]
    return CaseComparison(
        case=case,
        structures=tuple(records),
        predicted_only=tuple(sorted(name for name in set(predicted.names) if name not in taken[0])),
        reference_only=tuple(sorted(name for name in set(reference.names) if name not in taken[1])),
        remarks=tuple(
            f"{side} has {len(written)} structures that mean {name}: {', '.join(written)}; none was taken"
            for side, understood in (("predicted", ours), ("reference", theirs))
            for name, written in understood.ambiguous.items()
        ),
    )


def _both(ours: Understood, theirs: Understood) -> dict[str, tuple[str, str]]:
    """Structure to its written name on either side: by meaning, and where neither is understood by the same spelling."""
    both = {name: (written, theirs.meant[name]) for name, written in ours.meant.items() if name in theirs.meant}
    spelled = {name.strip().casefold(): name for name in ours.unknown}
    for name in theirs.unknown:
        if (same := spelled.get(name.strip().casefold())) is not None:
            both.setdefault(name.strip(), (same, name))
    return both


def _with_counted_absences(cases: list[CaseComparison], rules: Rules) -> list[CaseComparison]:
    """A reference structure without counterpart is a miss where it was predicted in other cases, or where a limit asks for it."""
    predicted = {r.structure for case in cases for r in case.structures}
    asked = set(rules.limits.structures) if rules.limits else set()
    out: list[CaseComparison] = []
    for case in cases:
        understood = understand(case.reference_only, rules.naming)
        missed = {name: written for name, written in understood.meant.items() if name in predicted | asked}
        more = [
            ComparisonRecord(
                structure=name, state="missed", reason="no predicted structure means it", reference_name=written
            )
            for name, written in missed.items()
            if all(r.structure != name for r in case.structures)
        ]
        left = tuple(name for name in case.reference_only if name not in {r.reference_name for r in more})
        out.append(case.model_copy(update={"structures": (*case.structures, *more), "reference_only": left}))
    return out


def _summaries(cases: list[CaseComparison], rules: Rules) -> tuple[StructureSummary, ...]:
    by_name: dict[str, list[tuple[str, ComparisonRecord]]] = {}
    for case in cases:
        for record in case.structures:
            by_name.setdefault(record.structure, []).append((case.case, record))
    out: list[StructureSummary] = []
    for name, records in sorted(by_name.items()):
        measured = [(case, r) for case, r in records if r.state == "compared"]
        summaries: dict[str, SummaryRecord | None] = {}
        for measure in MEASURES:
            summary = summarise([getattr(r, measure) for _, r in measured], rules.seed)
            summaries[measure] = SummaryRecord.of(summary) if summary else None
        asked, listed = rules.of(name), lookup(name)
        out.append(
            StructureSummary(
                structure=name,
                color=listed.color if listed else GREY,
                tolerance=cast(float, asked.tolerance),
                between_ends=asked.between_ends,
                compared=len(measured),
                missed=sum(r.state == "missed" for _, r in records),
                spurious=sum(r.state == "spurious" for _, r in records),
                worst=tuple(case for case, _ in sorted(measured, key=lambda m: m[1].dice or 0.0)[:3]),
                **summaries,
            )
        )
    return tuple(out)


def _judgements(structures: tuple[StructureSummary, ...], rules: Rules) -> list[Judgement]:
    if rules.limits is None:
        return []
    there = {s.structure: s for s in structures}
    judged: list[Judgement] = []
    for name in rules.limits.structures:
        one = there.get(name)
        summaries: dict[Measure, Summary | None] = {}
        for measure in MEASURES if one is not None else ():
            record: SummaryRecord | None = getattr(one, measure)
            summaries[cast(Measure, measure)] = Summary(**record.model_dump()) if record else None
        judged += judge(rules.limits, name, summaries, one.missed if one is not None else 0)
    return judged


def _verdict(judgements: list[Judgement]) -> Literal["passed", "failed", "not judged"]:
    if not judgements:
        return "not judged"
    return "passed" if all(one.passed for one in judgements) else "failed"


_WORDS = {
    "dice": "Dice",
    "surface_dice": "surface Dice",
    "hd95": "HD95 (mm)",
    "mean_surface_distance": "mean surface distance (mm)",
    "volume_bias_percent": "volume bias (%)",
    "missed": "patients missed",
}


def _reasons(judgements: list[Judgement], cases: list[CaseComparison], left_out: tuple[str, ...]) -> tuple[str, ...]:
    """Limits that fail, then what could not be measured, then cases that could not be compared."""
    failed = [
        f"{j.structure}: {_WORDS[j.measure]} {j.value:.3g}, limit {'at most' if j.rises else 'at least'} {j.limit:g}"
        + ("" if j.sure else " (its interval reaches across the limit)")
        for j in judgements
        if j.passed is False and j.value is not None
    ]
    unmeasured = sorted({j.structure for j in judgements if j.passed is None})
    missing = [f"{name}: no patient has it on both sides, so its limits are not judged" for name in unmeasured]
    problems = [f"{case.case} was not compared: {case.problem}" for case in cases if case.problem]
    return (*failed, *missing, *problems, *left_out)


def _limits_record(limits: Limits | None) -> LimitsRecord | None:
    if limits is None:
        return None
    names = ("name", "description", "source", "statistic", "digest")
    return LimitsRecord(**{name: getattr(limits, name) for name in names})


@dataclass
class _Worst:
    """The cases with the lowest Dice of each structure, cut out, so that no image has to stay or be read again."""

    _held: dict[str, list[Shown]] = field(default_factory=dict)

    def offer(self, case: str, structure: str, dice: float | None, predicted: Mask, reference: Mask, drawn: Drawn) -> None:
        held = self._held.setdefault(structure, [])
        if len(held) == SHOWN and (dice or 0.0) >= (held[-1].dice or 0.0):
            return
        cut = None
        if (image := drawn.image) is not None:
            box = _around(image.geometry, predicted, reference)
            part = image.cropped(box)
            cut = Volume(part.array.copy(), part.geometry)
        held.append(Shown(case, structure, dice, predicted, reference, cut))
        held.sort(key=lambda shown: shown.dice or 0.0)
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
