"""`recontour adapt` and `course`: a fraction, and all of a patient's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from patient.errors import InputError
from pipelines.commands.terminal import (
    DONE,
    NEEDS_REVIEW,
    Json,
    check_all,
    must_be_folder,
    must_be_free,
    must_exist,
    people,
    progress,
    published,
)


def adapt(
    plan: Annotated[
        Path,
        typer.Argument(metavar="PLAN", help="Folder with a planning CT and RTSTRUCT; RTPLAN and RTDOSE where there are."),
    ],
    fraction: Annotated[Path, typer.Argument(metavar="FRACTION", help="Folder with one image of a fraction: CT or CBCT.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to make; must not exist or be empty.")],
    template: Annotated[str, typer.Option(help="Site template: a name, or a TOML file of your own.")] = "head_neck",
    policy: Annotated[str, typer.Option(help="Policy: a name, or a TOML file of your own. Else the template's.")] = "",
    dose: Annotated[Path | None, typer.Option(help="RTDOSE computed on the fraction's image, if there is one.")] = None,
    choice: Annotated[str, typer.Option("--plan", help="Label or UID of the RTPLAN that is meant, of several.")] = "",
    number: Annotated[int | None, typer.Option(help="Of the fraction in its course.", min=1)] = None,
    fractions: Annotated[int | None, typer.Option(help="Planned, where the RTPLAN does not say it.", min=1)] = None,
    earlier: Annotated[list[Path] | None, typer.Option(help="Output of an earlier fraction; may be repeated.")] = None,
    profile: Annotated[str, typer.Option(help="Planning system whose limits the gate applies.")] = "standard",
    seed: Annotated[int, typer.Option(help="The same seed gives the same result.")] = 0,
    as_json: Json = False,
) -> int:
    """Today's contours, what changed since the plan, what that means for dose, and a recommendation."""
    from contour.template import load_template
    from patient.conformance.profile import load_profile
    from pipelines.fraction.case import adapt_case, policy_for
    from pipelines.fraction.inputs import FractionRequest

    check_all(
        lambda: must_be_folder(plan, "PLAN"),
        lambda: must_be_folder(fraction, "FRACTION"),
        lambda: must_be_free(out),
        lambda: policy_for(policy, load_template(template)),
        lambda: must_exist(dose, "--dose"),
        *(lambda folder=folder: must_be_folder(folder, "--earlier") for folder in earlier or ()),
        lambda: load_profile(profile),
    )
    with published(out) as made, progress("Adapting") as update:
        request = FractionRequest(
            case=out.resolve().name,
            plan=str(plan),
            fraction=str(fraction),
            folder=str(made),
            template=template,
            policy=policy,
            dose=str(dose) if dose else "",
            plan_choice=choice,
            number=number,
            fractions=fractions,
            earlier=tuple(str(one) for one in earlier or ()),
            profile=profile,
            seed=seed,
        )
        result = adapt_case(request, update)
    if as_json:
        print(result.model_dump_json())
    else:
        people.print(f"recommended: {result.decision.verdict}")
    for reason in result.reasons:
        people.print(f"  {reason}")
    people.print(f"{'Review before import' if result.reasons else 'Nothing to review'}: {out / 'report.html'}")
    return NEEDS_REVIEW if result.verdict == "review" else DONE


def course(
    place: Annotated[
        Path, typer.Argument(metavar="PATIENT_OUT", help="Outbox of nights, or a folder that holds fractions' case folders.")
    ],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder to write; else the course's own, in PATIENT_OUT/courses.")
    ] = None,
    case: Annotated[str, typer.Option(help="Any case of the patient, where several patients are there.")] = "",
    as_json: Json = False,
) -> int:
    """A patient's fractions in order: trends, forecasts, accumulated dose, one report."""
    from contextlib import nullcontext

    from pipelines.course.case import course_folder, find_cases, write_course_of
    from pipelines.outbox.publish import disk_watched, locked

    cases = find_cases(place, case)
    folder = out if out is not None else course_folder(place, cases)
    held = locked(place) if out is None and (place / "ledger.sqlite").is_file() else nullcontext()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with held, disk_watched(folder.parent):
            result = write_course_of(cases, folder)
    except OSError as error:
        raise InputError(f"The output cannot be written: {error.strerror}", where=folder.name) from error
    if as_json:
        print(result.model_dump_json())
    else:
        people.print(f"recommended: {result.verdict}")
    for said in (*result.reasons, *result.outlook, *result.notes):
        people.print(f"  {said}")
    people.print(f"{len(result.fractions)} fractions: {folder / 'report.html'}")
    return DONE if result.verdict == "continue" else NEEDS_REVIEW
