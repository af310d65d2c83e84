"""`recontour nightly`, `status` and `sample`: all patients, what became of them, and one to try it on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from patient.errors import InputError
from pipelines.commands.terminal import (
    DONE,
    NEEDS_REVIEW,
    SOME_FAILED,
    Json,
    check_all,
    must_be_folder,
    people,
    progress,
    published,
    show_lines,
)


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
    from pipelines.night.run import run_night

    check_all(lambda: must_be_folder(inbox, "INBOX"), lambda: load_configuration(config))
    said = {"workers": workers, "settle_minutes": settle_minutes}
    configuration = load_configuration(config).model_copy(update={k: v for k, v in said.items() if v is not None})
    with progress("Night") as update:
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
        show_lines([(c.case, c.state, (*([f"log in {c.log}"] if c.log else []), *c.reasons)) for c in record.cases])
        people.print(f"{record.unchanged} unchanged. Summary report: {out / 'index.html'}")
    states = {case.state for case in record.cases}
    return SOME_FAILED if states & {"refused", "failed"} else NEEDS_REVIEW if "review" in states else DONE


def status(
    outbox: Annotated[Path, typer.Argument(metavar="OUTBOX", help="Of a night.")],
    check: Annotated[
        bool, typer.Option("--check", help="Look over the ledger's file and compare it with the cases.")
    ] = False,
    restore: Annotated[
        bool, typer.Option("--restore", help="Put the ledger's backup in the place of a damaged one.")
    ] = False,
    retry: Annotated[list[str] | None, typer.Option(metavar="CASE", help="Try a failed case again the next night.")] = None,
    close: Annotated[
        list[str] | None, typer.Option(metavar="CASE", help="Take note of a failed case: told no more.")
    ] = None,
    as_json: Json = False,
) -> int:
    """What the nights did: every case with its state and reasons; and what a person does about what failed."""
    from pipelines.outbox.ledger import Ledger
    from pipelines.outbox.ledger_file import BACKUP, LEDGER
    from pipelines.outbox.maintenance import check_outbox, close_cases, restore_ledger, retry_cases
    from pipelines.records.night import ImageLabel, labels

    if not any((outbox / name).is_file() for name in (LEDGER, BACKUP)):
        raise InputError("No ledger there", where=outbox.name, remedy="Give the outbox of a night")
    if restore:
        people.print(f"The backup is the ledger now; the damaged one is kept as {restore_ledger(outbox)}.")
    if check:
        remarks = check_outbox(outbox)
        for remark in remarks or ("The ledger is whole, and every case in it is there.",):
            people.print(remark, markup=False)
        return NEEDS_REVIEW if remarks else DONE
    retry_cases(outbox, retry or ())
    close_cases(outbox, close or ())
    with Ledger(outbox / LEDGER, read_only=True) as ledger:
        jobs = [(job, ledger.last_output(job.image)[0]) for job in ledger.jobs()]
    told = labels(outbox)
    if as_json:
        print(
            json.dumps(
                [
                    {
                        "case": job.case,
                        "label": told.get(job.case, ImageLabel()).model_dump(),
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
        show_lines([(f"{job.case}\n{told.get(job.case, ImageLabel()).words}", job.state, job.reasons) for job, _ in jobs])
    return DONE


def sample(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to make; must not exist or be empty.")] = Path("sample"),
    fractions: Annotated[int, typer.Option(help="Fraction images, one a day.", min=0, max=99)] = 3,
    slices: Annotated[int, typer.Option(help="Slices of the planning CT.", min=40)] = 266,
    size: Annotated[int, typer.Option(help="Rows and columns of a slice.", min=64)] = 256,
    seed: Annotated[int, typer.Option(help="Of texture, noise, setup errors and daily bends.")] = 0,
) -> int:
    """The sample course: a synthetic patient's plan and fractions, with the truth beside them."""
    from data_samples.course import write_course

    with published(out) as made, progress("Making the sample course") as update:
        write_course(
            made, fractions=fractions, slices=slices, size=size, seed=seed, progress=lambda done: update(done, "images")
        )
    people.print(f"Planning CT of {slices} slices with structures, dose and plan, and {fractions} fractions in {out}")
    return DONE
