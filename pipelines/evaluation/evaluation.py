"""Predicted contours against references: which belong together, each pair measured in its turn, and what all of them say."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from patient.errors import Cancelled, InputError, ModelError, RecontourError
from patient.read.index import SeriesEntry
from patient.read.scan import scan
from pipelines.evaluation.agreement import Rules, Worst, compare_case
from pipelines.evaluation.drawings import Drawing, Drawn, Found, find_drawings, said_of
from pipelines.evaluation.summary import judgements, limits_record, reasons, summaries, verdict, with_counted_absences
from pipelines.records.clock import Clock
from pipelines.records.evaluation import CaseComparison, EvaluationResult, JudgementRecord, MakerRecord
from pipelines.report.shown_structure import Shown

Progress = Callable[[float, str], None]


@dataclass(frozen=True, eq=False)
class Pair:
    """A case to be compared; opened when its turn comes."""

    case: str
    open: Callable[[], tuple[Drawn, Drawn]]
    """Predicted and reference, on one grid."""


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
        ModelError: the engine's weights cannot be used.
        Cancelled: asked to stop.
    """
    clock, worst = Clock(), Worst()
    cases: list[CaseComparison] = []
    for number, pair in enumerate(pairs):
        if cancelled is not None and cancelled.is_set():
            raise Cancelled("Asked to stop")
        progress(number / max(1, total), pair.case)
        try:
            with clock.step("open"):
                predicted, reference = pair.open()
            with clock.step("measure"):
                cases.append(compare_case(pair.case, predicted, reference, rules, worst))
        except (Cancelled, ModelError):
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
    cases = with_counted_absences(cases, rules)
    structures = summaries(cases, rules)
    judged = judgements(structures, rules)
    said = tuple(left_out)
    result = EvaluationResult(
        kind=kind,
        verdict=verdict(judged),
        reasons=reasons(judged, cases, said),
        maker=maker,
        limits=limits_record(rules.limits),
        judgements=tuple(JudgementRecord.model_validate(vars(one)) for one in judged),
        structures=structures,
        cases=tuple(cases),
        left_out=said,
        seed=rules.seed,
        timing=clock.timing(),
    )
    return result, worst.shown()


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
