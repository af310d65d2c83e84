"""The command line. What it prints is for people, on stderr; with --json one document on stdout and nothing else there."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from patient.errors import (
    Cancelled,
    InputError,
    ModelError,
    NightBusy,
    OutputRefused,
    RecontourError,
)
from pipelines.models import models

DONE, OUR_FAULT, WRONG_CALL, LOOK, SOME_FAILED, BUSY, CANCELLED = 0, 1, 2, 3, 4, 5, 130
app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Radiotherapy contours by night: planning CTs in, checked structure sets out.",
)
app.add_typer(models, name="models")
people = Console(stderr=True, highlight=False)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


def main() -> NoReturn:
    """Entry point: every error becomes an exit code and a sentence."""
    try:
        sys.exit(app(standalone_mode=False) or DONE)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except (KeyboardInterrupt, Cancelled, typer.Abort):
        people.print("Cancelled; nothing half-written is left.")
        sys.exit(CANCELLED)
    except NightBusy as error:
        _explain(error)
        sys.exit(BUSY)
    except OutputRefused as error:
        _explain(error)
        sys.exit(SOME_FAILED)
    except (InputError, ModelError) as error:
        _explain(error)
        sys.exit(WRONG_CALL)
    except RecontourError as error:
        _explain(error)
        sys.exit(OUR_FAULT)
    except Exception as error:
        if hasattr(error, "exit_code") and hasattr(error, "format_message"):
            people.print(f"{error.format_message()}", style="bold red")  # type: ignore[attr-defined]
            sys.exit(WRONG_CALL)
        people.print(traceback.format_exc(), markup=False)
        people.print("This is our fault. The lines above say where.", style="bold red")
        sys.exit(OUR_FAULT)


def _explain(error: RecontourError) -> None:
    people.print(f"{type(error).__name__}: {error.what}", style="bold red", markup=False)
    for name, text in (("where", error.where), ("why it matters", error.why), ("what to do", error.remedy)):
        if text:
            people.print(f"  {name}: {text}", markup=False)


@contextmanager
def _progress(what: str) -> Iterator[Any]:
    """A bar with time left, on stderr; `update(fraction, word)`."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=people, transient=True) as bar:
        task = bar.add_task(what, total=1.0)
        yield lambda fraction, word: bar.update(task, completed=fraction, description=f"{what}: {word}")


@app.command(epilog="Example: recontour contour CT -o OUT --template thorax")
def contour(
    image: Annotated[
        Path, typer.Argument(metavar="CT", help="Folder with one planning CT, or a NIfTI, NRRD or MHA file in HU.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to make; must not exist or be empty.")],
    template: Annotated[str, typer.Option(help="Site template: a name, or a TOML file of your own.")] = "head_neck",
    existing: Annotated[Path | None, typer.Option(help="RTSTRUCT on this CT whose structures are kept as they are.")] = None,
    profile: Annotated[str, typer.Option(help="Planning system whose limits the gate applies.")] = "standard",
    as_json: Json = False,
) -> int:
    """Contour one patient, now."""
    from pipelines.case import CaseRequest, contour_case
    from pipelines.publish import disk_watched, publish

    if not image.exists():
        raise InputError("No such file or folder", where=image.name)
    _must_be_free(out)
    made = _beside(out)
    try:
        with disk_watched(made.parent), _progress("Contouring") as update:
            if image.is_file() and image.name.endswith((".nii", ".nii.gz", ".nrrd", ".mha", ".mhd")):
                from pipelines.array_case import contour_array

                result = contour_array(image, made, template, update)
            else:
                entry = _one_series(image)
                result = contour_case(
                    CaseRequest(
                        case=out.resolve().name,
                        files=tuple(str(p) for p in entry.paths),
                        series_uid=entry.uid,
                        folder=str(made),
                        template=template,
                        existing=str(existing) if existing else "",
                        profile=profile,
                    ),
                    update,
                )
        if out.exists():
            out.rmdir()
        publish(made, out)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    if as_json:
        print(result.model_dump_json())
    else:
        _show_case(result, out)
    return LOOK if result.verdict == "review" else DONE


def _beside(out: Path) -> Path:
    """A work folder on the output's own filesystem.

    Raises:
        InputError: nothing can be written there.
    """
    try:
        out.resolve().parent.mkdir(parents=True, exist_ok=True)
        made = out.resolve().parent / f".recontour-{os.getpid()}-{time.time_ns()}"
        made.mkdir()
        return made
    except OSError as error:
        raise InputError(f"The output cannot be written: {error.strerror}", where=out.name) from error


def _one_series(folder: Path) -> Any:
    """The one CT series of a folder."""
    from patient.errors import MixedSeries
    from patient.read.index import scan

    index = scan(folder)
    entries = index.of("CT")
    if len(entries) > 1:
        raise MixedSeries(
            f"{len(entries)} CT series where one is asked for", where=folder.name, remedy="Give the folder of one of them"
        )
    if not entries:
        more = f"; unreadable: {len(index.problems)} files, as {index.problems[0].error}" if index.problems else ""
        raise InputError(f"No CT found{more}", where=folder.name)
    return entries[0]


def _show_case(result: Any, out: Path) -> None:
    table = Table(box=None)
    for heading, side in (("structure", "left"), ("state", "left"), ("cc", "right"), ("remarks", "left")):
        table.add_column(heading, justify=side)  # type: ignore[arg-type]
    for s in result.structures:
        volume = f"{s.volume_cc:.1f}" if s.volume_cc is not None else ""
        table.add_row(s.name, s.state.replace("_", " "), volume, s.reason or "; ".join(f.detail for f in s.flags))
    people.print(table)
    people.print(f"{'Look before you import' if result.reasons else 'Nothing to review'}: {out / 'report.html'}")


@app.command(epilog="Example: recontour register PLAN_CT FRACTION_CT -o OUT")
def register(
    fixed: Annotated[Path, typer.Argument(metavar="FIXED", help="DICOM folder, or MHA, NIfTI or NRRD file.")],
    moving: Annotated[Path, typer.Argument(metavar="MOVING", help="The same; it is brought onto the fixed image.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to make; must not exist or be empty.")],
    rigid: Annotated[bool, typer.Option("--rigid", help="Rigid by intensity only.")] = False,
    features: Annotated[bool, typer.Option("--features", help="Rigid by matched points only.")] = False,
    deformable: Annotated[bool, typer.Option("--deformable", help="Rigid, then deformable (as without a choice).")] = False,
    fixed_mask: Annotated[Path | None, typer.Option(help="Where the fixed image is looked at (image file).")] = None,
    moving_mask: Annotated[Path | None, typer.Option(help="The same of the moving image.")] = None,
    points: Annotated[Path | None, typer.Option(help="Points of the fixed image; points.txt says where they went.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same result.")] = 0,
    as_json: Json = False,
) -> int:
    """Where the points of one image lie in another, and how sure that is."""
    from pipelines.publish import disk_watched, publish
    from pipelines.registration_case import Kind, open_either, read_mask, read_points, register_case

    if rigid + features + deformable > 1:
        raise InputError("Only one of --rigid, --features and --deformable can be asked for")
    kind = Kind.RIGID if rigid else Kind.FEATURES if features else Kind.DEFORMABLE
    _must_be_free(out)
    wanted = read_points(points) if points else None
    with _progress("Registering") as update:
        here, there = open_either(fixed), open_either(moving)
        masks = [
            read_mask(path, image, name) if path else None
            for path, image, name in ((fixed_mask, here, "fixed"), (moving_mask, there, "moving"))
        ]
        made = _beside(out)
        try:
            with disk_watched(made.parent):
                result = register_case(
                    here,
                    there,
                    made,
                    kind,
                    fixed_mask=masks[0],
                    moving_mask=masks[1],
                    points=wanted,
                    seed=seed,
                    progress=update,
                )
                if out.exists():
                    out.rmdir()
                publish(made, out)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    if as_json:
        print(result.model_dump_json())
    for reason in result.reasons:
        people.print(f"not trusted: {reason}", markup=False)
    people.print(f"{'Within the limits of trust' if result.trusted else 'Look before you use it'}: {out / 'report.html'}")
    return DONE if result.trusted else LOOK


@app.command(epilog="Example: recontour adapt PLAN FRACTION -o OUT --policy head_neck")
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
    from pipelines.fraction_case import FractionRequest, adapt_case
    from pipelines.publish import disk_watched, publish

    for folder in (plan, fraction):
        if not folder.is_dir():
            raise InputError("No such folder", where=folder.name)
    _must_be_free(out)
    made = _beside(out)
    try:
        with disk_watched(made.parent), _progress("Adapting") as update:
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
        if out.exists():
            out.rmdir()
        publish(made, out)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    if as_json:
        print(result.model_dump_json())
    else:
        people.print(f"recommended: {result.decision.verdict}")
    for reason in result.reasons:
        people.print(f"  {reason}", markup=False)
    people.print(f"{'Look before you import' if result.reasons else 'Nothing to review'}: {out / 'report.html'}")
    return LOOK if result.verdict == "review" else DONE


def _must_be_free(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError("The output folder is not empty", where=out.name, remedy="Give a new one")


@app.command(epilog="Example: recontour nightly /data/inbox -o /data/outbox --workers 2")
def nightly(
    inbox: Annotated[Path, typer.Argument(metavar="INBOX", help="Folder tree with anything in it; it is only read.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="OUTBOX", help="Where everything goes.")],
    workers: Annotated[int | None, typer.Option(help="Worker processes on this machine.", min=1)] = None,
    scheduler: Annotated[str | None, typer.Option(help="Address of a Dask scheduler, for workers elsewhere.")] = None,
    config: Annotated[Path | None, typer.Option(help="The site's settings (TOML).")] = None,
    settle_minutes: Annotated[float | None, typer.Option(help="A series is whole when quiet for so long.", min=0.0)] = None,
    as_json: Json = False,
) -> int:
    """All patients of an inbox, tonight."""
    from pipelines.configuration import load_configuration
    from pipelines.night import run_night

    said = {"workers": workers, "settle_minutes": settle_minutes}
    configuration = load_configuration(config).model_copy(update={k: v for k, v in said.items() if v is not None})
    with _progress("Night") as update:
        record = run_night(
            inbox,
            out,
            configuration,
            scheduler=scheduler,
            progress=lambda done, total, what: update(done / total, f"{done} of {total}, {what}"),
        )
    if as_json:
        print(record.model_dump_json())
    else:
        _show_lines([(c.case, c.state, (*c.reasons[:4], *([f"log in {c.log}"] if c.log else []))) for c in record.cases])
        people.print(f"{record.unchanged} unchanged. The morning's page: {out / 'index.html'}")
    states = {case.state for case in record.cases}
    return SOME_FAILED if states & {"refused", "failed"} else LOOK if "review" in states else DONE


def _show_lines(lines: list[tuple[str, str, tuple[str, ...]]]) -> None:
    table = Table(box=None)
    for heading in ("case", "state", "why"):
        table.add_column(heading)
    for case, state, reasons in lines:
        table.add_row(case, state, "\n".join(reasons[:5]))
    people.print(table)


@app.command(epilog="Example: recontour course /data/outbox --case 20260119-0123456789 -o OUT")
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

    from pipelines.course_case import course_folder, find_cases, write_course_of
    from pipelines.publish import disk_watched, locked

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
        people.print(f"  {said}", markup=False)
    people.print(f"{len(result.fractions)} fractions: {folder / 'report.html'}")
    return DONE if result.verdict == "continue" else LOOK


@app.command(epilog="Example: recontour status /data/outbox --json")
def status(
    outbox: Annotated[Path, typer.Argument(metavar="OUTBOX", help="Of a night.")],
    as_json: Json = False,
) -> int:
    """What the nights did: every case with its state and reasons."""
    from pipelines.ledger import Ledger

    if not (outbox / "ledger.sqlite").is_file():
        raise InputError("No ledger there", where=outbox.name, remedy="Give the outbox of a night")
    with Ledger(outbox / "ledger.sqlite", read_only=True) as ledger:
        jobs = [(job, ledger.last_output(job.image)[0]) for job in ledger.jobs()]
    if as_json:
        print(
            json.dumps(
                [
                    {
                        "case": job.case,
                        "state": job.state,
                        "reasons": job.reasons,
                        "attempts": job.attempts,
                        "folder": f"cases/{folder}" if folder else "",
                    }
                    for job, folder in jobs
                ]
            )
        )
    else:
        _show_lines([(job.case, job.state, job.reasons) for job, _ in jobs])
    return DONE


@app.command(epilog="Example: recontour check rtstruct.dcm --ct CT --profile eclipse")
def check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="RTSTRUCT files.")],
    ct: Annotated[
        Path | None, typer.Option(help="Folder of the CT they were drawn on: planes and references are compared.")
    ] = None,
    profile: Annotated[
        str, typer.Option(help="Planning system: standard, eclipse, raystation, monaco, pinnacle.")
    ] = "standard",
    deep: Annotated[
        bool, typer.Option("--deep", help="Also read the masks with rt-utils and compare (needs --ct).")
    ] = False,
    as_json: Json = False,
) -> int:
    """May this be imported? 0: nothing to remark, 3: warnings, 4: errors."""
    from patient.conformance.check import check_file
    from patient.conformance.second_opinion import second_opinions
    from patient.read.images import open_folder

    if deep and ct is None:
        raise InputError("--deep compares masks on the CT", remedy="Give --ct")
    image = open_folder(ct) if ct is not None else None
    found: list[dict[str, Any]] = []
    for path in files:
        report = check_file(path, image=image, profile=profile)
        opinions = second_opinions(path, ct, image) if deep and ct is not None and image is not None else []
        warnings = [*report.warnings, *(o.remark for o in opinions if o.remark is not None)]
        found.append(
            {
                "file": path.name,
                "errors": [vars(r) for r in report.errors],
                "warnings": [vars(r) for r in warnings],
                **({"rt_utils_dice": {o.name: round(o.dice, 4) for o in opinions if o.dice is not None}} if deep else {}),
            }
        )
    if as_json:
        print(json.dumps(found))
    else:
        for one in found:
            words = "may be imported" if not one["errors"] else "must not be imported"
            people.print(f"{one['file']}: {words}", markup=False)
            for kind in ("errors", "warnings"):
                for remark in one[kind]:
                    people.print(f"  {kind[:-1]}: {remark['where']}: {remark['what']}", markup=False)
            for name, value in one.get("rt_utils_dice", {}).items():
                people.print(f"  rt-utils reads {name} with Dice {value:.4f} to ours", markup=False)
    if any(one["errors"] for one in found):
        return SOME_FAILED
    return LOOK if any(one["warnings"] for one in found) else DONE


@app.command(epilog="Example: recontour evaluate OUTBOX/cases CLINIC -o report --limits head_neck")
def evaluate(
    predicted: Annotated[
        Path,
        typer.Argument(metavar="PREDICTED", help="RTSTRUCT file, or folder of many cases: RTSTRUCT files or label files."),
    ],
    reference: Annotated[Path, typer.Argument(metavar="REFERENCE", help="The same, as a person drew it.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to make; must not exist or be empty.")],
    ct: Annotated[
        Path | None, typer.Option(help="Folder of the images, where they are not with the structure sets.")
    ] = None,
    limits: Annotated[str, typer.Option(help="Limits to judge by: a name, or a TOML file of your own.")] = "",
    tolerance: Annotated[
        float | None, typer.Option(help="Of surface Dice, mm, instead of the limits' own.", min=0.0)
    ] = None,
    names: Annotated[Path | None, typer.Option(help="TOML file of your own names for structures.")] = None,
    between_ends: Annotated[
        list[str] | None, typer.Option(help="Structure scored between its reference's ends only; may be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same intervals.")] = 0,
    as_json: Json = False,
) -> int:
    """How far predicted contours agree with references: measures, intervals, limits, worst cases."""
    from pipelines.evaluation import evaluate, pair_up

    rules = _rules(limits, tolerance, names, between_ends, seed)
    _must_be_free(out)
    with _progress("Evaluating") as update:
        pairs, left_out = pair_up(predicted, reference, ct)
        result, shown = evaluate(pairs, rules, total=len(pairs), left_out=left_out, progress=update)
    return _write_evaluation(out, result, shown, as_json)


@app.command(epilog="Example: recontour commission MODEL ARCHIVE -o report --limits head_neck")
def commission(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model folder, or name of an installed engine.")],
    cases: Annotated[Path, typer.Argument(metavar="CASES", help="Folder tree of CTs with an RTSTRUCT each.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to make; must not exist or be empty.")],
    limits: Annotated[str, typer.Option(help="Limits to judge by: a name, or a TOML file of your own.")] = "",
    tolerance: Annotated[
        float | None, typer.Option(help="Of surface Dice, mm, instead of the limits' own.", min=0.0)
    ] = None,
    names: Annotated[Path | None, typer.Option(help="TOML file of your own names for structures.")] = None,
    between_ends: Annotated[
        list[str] | None, typer.Option(help="Structure scored between its reference's ends only; may be repeated.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda:0.")] = "cpu",
    seed: Annotated[int, typer.Option(help="The same seed gives the same result.")] = 0,
    as_json: Json = False,
) -> int:
    """Contour cases that a clinic has drawn, and measure how far both agree."""
    from pipelines.commission import commission, find_engine

    rules = _rules(limits, tolerance, names, between_ends, seed)
    engine = find_engine(model)
    _must_be_free(out)
    with _progress("Commissioning") as update:
        result, shown = commission(engine, cases, rules, device=device, progress=update)
    return _write_evaluation(out, result, shown, as_json)


@app.command(epilog="Example: recontour train ARCHIVE -o MODEL --structures Parotid_L --structures Parotid_R")
def train(
    archive: Annotated[Path, typer.Argument(metavar="ARCHIVE", help="Folder tree of CTs with an RTSTRUCT each.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Model folder to make; must not exist or be empty.")],
    structures: Annotated[
        list[str] | None, typer.Option(help="TG-263 name; may be repeated. Else all that three patients and more have.")
    ] = None,
    names: Annotated[Path | None, typer.Option(help="TOML file of your own names for structures.")] = None,
    work: Annotated[
        Path | None,
        typer.Option(help="Folder that a killed run goes on from; else MODEL.training. It holds patients' images."),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep that folder when the model is there.")] = False,
    steps: Annotated[int, typer.Option(help="Patches to learn from.", min=1)] = 8000,
    name: Annotated[str, typer.Option(help="Of the model; else the folder's.")] = "",
    licence: Annotated[str, typer.Option(help="Of the weights (SPDX).")] = "LicenseRef-clinic",
    device: Annotated[str, typer.Option(help="cpu or cuda:0.")] = "cpu",
    bf16: Annotated[
        bool, typer.Option("--bf16", help="Twice as fast where the processor has it; not to be repeated.")
    ] = False,
    seed: Annotated[int, typer.Option(help="The same seed gives the same model.")] = 0,
    as_json: Json = False,
) -> int:
    """A model of your own from your own archive, measured on patients that were held back."""
    from patient.naming import Naming, read_naming
    from pipelines.publish import disk_watched, publish
    from pipelines.train import TrainingRequest
    from pipelines.train import train as run

    _must_be_free(out)
    held = work or out.resolve().with_name(f"{out.resolve().name}.training")
    made = _beside(out)
    try:
        with disk_watched(made.parent), _progress("Training") as update:
            request = TrainingRequest(
                archive=archive,
                work=held,
                folder=made,
                name=name or out.resolve().name,
                licence=licence,
                structures=tuple(structures or ()),
                naming=read_naming(names) if names else Naming(),
                steps=steps,
                seed=seed,
                device=device,
                bf16=bf16,
            )
            record, result = run(request, update)
            if out.exists():
                out.rmdir()
            publish(made, out)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    if not keep:
        shutil.rmtree(held, ignore_errors=True)
    if as_json:
        print(record.model_dump_json())
    elif result is not None:
        _show_evaluation(result)
    said = [*record.left_out, *record.not_learnt, *record.remarks]
    said += [f"{len(record.unknown)} names mean nothing known: {', '.join(u.name for u in record.unknown[:8])}"] * bool(
        record.unknown
    )
    said += [f"without a contour: {line}" for line in record.empty]
    said += ["nothing was measured: no patient could be held back, or none has the structures"] * (result is None)
    for line in said[:20]:
        people.print(f"  {line}", markup=False)
    people.print(f"The model: {out}")
    return LOOK if record.left_out or record.remarks or result is None or result.reasons else DONE


def _rules(limits: str, tolerance: float | None, names: Path | None, between_ends: list[str] | None, seed: int) -> Any:
    from contour.limit import load_limits
    from patient.naming import Naming, read_naming
    from pipelines.evaluation import Rules

    asked, naming = load_limits(limits) if limits else None, read_naming(names) if names else Naming()
    return Rules(asked, tolerance, naming, seed, frozenset(between_ends or ()))


def _write_evaluation(out: Path, result: Any, shown: Any, as_json: bool) -> int:
    """The report's folder, whole or not at all, and what to say."""
    from pipelines.publish import disk_watched, publish
    from pipelines.report.evaluation import write_evaluation_report

    made = _beside(out)
    try:
        with disk_watched(made.parent):
            (made / "evaluation.json").write_text(result.model_dump_json(indent=1), encoding="utf-8")
            write_evaluation_report(made, result, shown)
            if out.exists():
                out.rmdir()
            publish(made, out)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    if as_json:
        print(result.model_dump_json())
    else:
        _show_evaluation(result)
    for reason in result.reasons[:12]:
        people.print(f"  {reason}", markup=False)
    people.print(f"{result.verdict.capitalize()}: {out / 'report.html'}")
    return LOOK if result.reasons else DONE


def _show_evaluation(result: Any) -> None:
    table = Table(box=None)
    for heading, side in (
        ("structure", "left"),
        *((h, "right") for h in ("cases", "missed", "Dice", "surface Dice", "HD95 mm")),
    ):
        table.add_column(heading, justify=side)  # type: ignore[arg-type]
    for s in result.structures:
        figures = [f"{m.mean:.{d}f}" if m else "" for m, d in ((s.dice, 3), (s.surface_dice, 3), (s.hd95, 1))]
        table.add_row(s.structure, str(s.compared), str(s.missed or ""), *figures)
    people.print(table)


@app.command(epilog="Example: recontour sample -o sample --fractions 5")
def sample(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to write into.")] = Path("sample"),
    fractions: Annotated[int, typer.Option(help="Fraction images, one a day.", min=0, max=99)] = 3,
    slices: Annotated[int, typer.Option(help="Planes of the planning CT.", min=40)] = 266,
    size: Annotated[int, typer.Option(help="Rows and columns of a plane.", min=64)] = 256,
    seed: Annotated[int, typer.Option(help="Of texture, noise, setup errors and daily bends.")] = 0,
) -> int:
    """The sample course: a synthetic patient's plan and fractions, with the truth beside them."""
    from data_samples.course import write_course

    with _progress("Making the sample course") as update:
        write_course(
            out, fractions=fractions, slices=slices, size=size, seed=seed, progress=lambda done: update(done, "images")
        )
    people.print(f"Planning CT of {slices} planes with structures, dose and plan, and {fractions} fractions in {out}")
    return DONE


if __name__ == "__main__":
    main()
