"""A patient's course from the folders of its fraction cases: course.json, report.html, figures. No pixel is read."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from adaptive.course.course import course_of
from adaptive.course.fraction import CoursePlan, Fraction
from patient.errors import InputError, MixedSeries
from pipelines.course.numbering import rising
from pipelines.course.record import course_result
from pipelines.outbox.publish import CASES, COURSES, written_beside
from pipelines.records.course import COURSE_SCHEMA, Colours, CourseResult
from pipelines.records.fraction import FractionResult
from pipelines.report.course import write_course_report


def fraction_cases(folders: Sequence[Path]) -> list[Path]:
    """Those of the folders that hold a fraction's result, whoever it is of, in the order in which they were made."""
    found = [folder for folder in folders if _is_fraction(folder / "result.json")]
    return sorted(found, key=lambda folder: ((folder / "result.json").stat().st_mtime_ns, _again(folder.name)))


def find_cases(place: Path, case: str = "") -> list[Path]:
    """The fraction cases of one patient.

    Args:
        place: an outbox, or a folder that holds case folders.
        case: name of any case of the patient; needed where several patients are there.

    Raises:
        InputError: no such folder, no fraction there, or several patients and no case given.
    """
    if not place.is_dir():
        raise InputError("No such folder", where=place.name)
    inside = place / CASES if (place / CASES).is_dir() else place
    found = fraction_cases([folder for folder in sorted(inside.iterdir()) if folder.is_dir()])
    patients = {folder: read_fraction(folder).image.patient_hash for folder in found}
    if case:
        if (whose := next((who for folder, who in patients.items() if folder.name == case), None)) is None:
            raise InputError(
                "There is no such fraction case", where=case, remedy="Give the name of a fraction's case folder"
            )
        return [folder for folder, who in patients.items() if who == whose]
    if not found:
        raise InputError("Holds no fraction case", where=place.name, remedy="Give the outbox of a night, or case folders")
    if len(set(patients.values())) > 1:
        raise InputError(
            f"Holds fractions of {len(set(patients.values()))} patients",
            where=place.name,
            remedy="Say which by --case, the name of any of the patient's cases",
        )
    return found


def read_fraction(folder: Path) -> FractionResult:
    """A fraction's result.

    Raises:
        InputError: it is not what its schema asks for.
    """
    try:
        return FractionResult.model_validate_json((folder / "result.json").read_bytes())
    except (OSError, ValidationError) as error:
        raise InputError("The result of the fraction cannot be read", where=f"{folder.name}/result.json") from error


def course_folder(outbox: Path, cases: Sequence[Path]) -> Path:
    """Where an outbox keeps the course of these cases: day of the first fraction and a hash; always the same one."""
    results = [read_fraction(case) for case in cases]
    ending = results[0].image.patient_hash[:10]
    there = sorted((outbox / COURSES).glob(f"*-{ending}"))
    first = min((r.image.acquired for r in results if re.fullmatch(r"\d{8}", r.image.acquired)), default="00000000")
    return there[0] if there else outbox / COURSES / f"{first}-{ending}"


def is_written(folder: Path, cases: Sequence[Path]) -> bool:
    """Whether a course folder is whole and stands on just these cases."""
    try:
        said = json.loads((folder / "course.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return said.get("cases") == sorted(case.name for case in cases) and said.get("schema") == COURSE_SCHEMA


def write_course_of(cases: Sequence[Path], folder: Path, *, formerly: str = "") -> CourseResult:
    """Write a course's folder, whole or not at all; files of an earlier telling are replaced.

    Args:
        cases: fraction case folders of one patient, in the order in which they were made.
        folder: made where it is not there.
        formerly: hash that the patient had in results from before hashes were keyed; empty for none.

    Raises:
        InputError: a result that cannot be read, or no case.
        MixedSeries: cases of several patients.
    """
    if not cases:
        raise InputError("A course needs a fraction")
    results = [read_fraction(case) for case in cases]
    if len({result.image.patient_hash for result in results} - {formerly}) > 1:
        raise MixedSeries("The cases are of several patients", where=folder.name, why="Their fractions make no course")
    course = course_of(
        [_fraction(case, result, made) for made, (case, result) in enumerate(zip(cases, _renumbered(results), strict=True))]
    )
    named = {case.name: _Read(case, result) for case, result in zip(cases, results, strict=True)}
    newest = named[course.today.case]
    said = course_result(course, folder.name, newest.result.image.patient, _colours(results, newest.result))
    with written_beside(folder) as made:
        (made / "figures").mkdir()
        pictures = _pictures(newest.folder, made / "figures")
        write_course_report(made, said, pictures, {name: read.folder for name, read in named.items()})
        (made / "course.json").write_text(said.model_dump_json(indent=1), encoding="utf-8")
    return said


@dataclass(frozen=True)
class _Read:
    folder: Path
    result: FractionResult


def _renumbered(results: Sequence[FractionResult]) -> list[FractionResult]:
    """Under each plan numbers rise from day to day, also where some were given before an image of an earlier day came.

    Args:
        results: in the order in which they were made; of several of one image the last one's number is the one that holds.
    """
    newest = {(r.plan.plan_uid or r.plan.structure_set_uid, r.image.series_uid): n for n, r in enumerate(results)}
    plans: dict[str, list[int]] = {}
    for (plan, _), place in newest.items():
        plans.setdefault(plan, []).append(place)
    found = list(results)
    for places in plans.values():
        numbers = rising([(results[n].image.acquired, results[n].number) for n in places])
        for place, number in zip(places, numbers, strict=True):
            found[place] = results[place].model_copy(update={"number": number})
    return found


def _is_fraction(path: Path) -> bool:
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("kind") == "fraction"
    except (OSError, ValueError, AttributeError):
        return False


def _again(name: str) -> int:
    """`-3` behind a case's name: the third making."""
    found = re.fullmatch(r".+?-[0-9a-f]{10}-(\d+)", name)
    return int(found[1]) if found else 1


def _fraction(case: Path, result: FractionResult, made: int) -> Fraction:
    plan = result.plan
    return Fraction(
        case=case.name,
        image=result.image.series_uid,
        acquired=result.image.acquired,
        plan=CoursePlan(plan.plan_uid or plan.structure_set_uid, plan.label, plan.fractions),
        measured=result.measured(),
        decision=result.decision.decision(result.number),
        counted=result.dose.counted if result.dose else None,
        accounting=result.dose.accounting if result.dose else (),
        made=made,
    )


def _colours(results: Sequence[FractionResult], newest: FractionResult) -> Colours:
    """One colour a structure, the newest fraction's where it has one: the same in every picture, table and plot."""
    return {s.name: s.color for result in (*results, newest) for s in result.structures if s.color is not None}


def _pictures(case: Path, figures: Path) -> list[Path]:
    """Today's pictures, the slices with the largest differences first as the case has them."""
    made = []
    for number, picture in enumerate(sorted((case / "figures").glob("*.png")), start=1):
        made.append(figures / f"today-{number:02d}.png")
        shutil.copyfile(picture, made[-1])
    return made
