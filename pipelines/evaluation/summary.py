"""All cases together: what is usual of each structure, which limits are kept, and what a person should look at first."""

from __future__ import annotations

from typing import Literal, cast

from contour.acceptance import Judgement, Limits, Measure, judge
from contour.summary import Summary, summarise
from patient.names import lookup
from patient.naming import understand
from pipelines.evaluation.agreement import Rules
from pipelines.records.evaluation import (
    MEASURES,
    CaseComparison,
    ComparisonRecord,
    LimitsRecord,
    StructureSummary,
    SummaryRecord,
)
from pipelines.report.shown_structure import GREY


def with_counted_absences(cases: list[CaseComparison], rules: Rules) -> list[CaseComparison]:
    """An unmatched reference structure is missed where it was predicted in other cases, or a limit asks for it."""
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


def summaries(cases: list[CaseComparison], rules: Rules) -> tuple[StructureSummary, ...]:
    by_name: dict[str, list[tuple[str, ComparisonRecord]]] = {}
    for case in cases:
        for record in case.structures:
            by_name.setdefault(record.structure, []).append((case.case, record))
    out: list[StructureSummary] = []
    for name, records in sorted(by_name.items()):
        measured = [(case, r) for case, r in records if r.state == "compared"]
        summaries: dict[str, SummaryRecord | None] = {}
        for measure in MEASURES:
            values = [value for _, r in measured if (value := getattr(r, measure)) is not None]
            summary = summarise(values, rules.seed)
            summaries[measure] = SummaryRecord.of(summary) if summary else None
        asked, listed = rules.of(name), lookup(name)
        out.append(
            StructureSummary(
                structure=name,
                color=listed.color if listed else GREY,
                tolerance=rules.tolerance_of(name),
                between_ends=asked.between_ends,
                compared=len(measured),
                missed=sum(r.state == "missed" for _, r in records),
                spurious=sum(r.state == "spurious" for _, r in records),
                worst=tuple(case for case, _ in sorted(measured, key=lambda m: m[1].dice or 0.0)[:3]),
                **summaries,
            )
        )
    return tuple(out)


def judgements(structures: tuple[StructureSummary, ...], rules: Rules) -> list[Judgement]:
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


def verdict(judgements: list[Judgement]) -> Literal["passed", "failed", "not judged"]:
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


def reasons(judgements: list[Judgement], cases: list[CaseComparison], left_out: tuple[str, ...]) -> tuple[str, ...]:
    """Limits that fail, then what could not be measured, cases that could not be compared, and oddly drawn ones."""
    failed = [
        f"{j.structure}: {_WORDS[j.measure]} {j.value:.3g}, limit {'at most' if j.rises else 'at least'} {j.limit:g}"
        + ("" if j.sure else " (not surely: the interval of so few reaches across the limit, or there is none)")
        for j in judgements
        if j.passed is False and j.value is not None
    ]
    unmeasured = sorted({j.structure for j in judgements if j.passed is None})
    missing = [f"{name}: no patient has it on both sides, so its limits are not judged" for name in unmeasured]
    problems = [f"{case.case} was not compared: {case.problem}" for case in cases if case.problem]
    return (*failed, *missing, *problems, *_oddly_drawn(cases), *left_out)


def _oddly_drawn(cases: list[CaseComparison]) -> list[str]:
    """A line a case of which contours were united or interpolated, or something was odd in reading."""
    said = []
    for case in cases:
        odd = [r.structure for r in case.structures if r.remarks]
        contours = [f"contours were united or interpolated before they were measured ({', '.join(odd)})"] if odd else []
        if contours or case.notes:
            said.append(f"{case.case}: {'; '.join([*contours, *case.notes])}")
    return said


def limits_record(limits: Limits | None) -> LimitsRecord | None:
    if limits is None:
        return None
    names = ("name", "description", "source", "statistic", "digest")
    return LimitsRecord(**{name: getattr(limits, name) for name in names})
