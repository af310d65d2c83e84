"""The command line. What it prints is for people, on stderr; with --json one document on stdout and nothing else there."""

from __future__ import annotations

import sys
import traceback
from typing import Annotated, NoReturn

import typer

from patient.errors import (
    Cancelled,
    InputError,
    ModelError,
    NightBusy,
    OutputRefused,
    RecontourError,
)
from pipelines.commands import fractions, learning, nights, planning, registering
from pipelines.commands.models import models
from pipelines.commands.terminal import BUSY, CANCELLED, DONE, INTERNAL_ERROR, INVALID_ARGUMENTS, SOME_FAILED, Faults, people
from pipelines.records.case import VERSION
from pipelines.stopping import cancel_when_terminated

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Radiotherapy contours by night: planning CTs in, checked structure sets out.",
)
app.add_typer(models, name="models")
COMMANDS = (
    (planning.contour, "Example: recontour contour CT -o OUT --template thorax"),
    (registering.register, "Example: recontour register PLAN_CT FRACTION_CT -o OUT"),
    (fractions.adapt, "Example: recontour adapt PLAN FRACTION -o OUT --policy head_neck"),
    (nights.nightly, "Example: recontour nightly /data/inbox -o /data/outbox --workers 2"),
    (fractions.course, "Example: recontour course /data/outbox --case 20260119-0123456789 -o OUT"),
    (nights.status, "Example: recontour status /data/outbox --json"),
    (planning.check, "Example: recontour check rtstruct.dcm --ct CT --profile eclipse"),
    (learning.evaluate, "Example: recontour evaluate OUTBOX/cases CLINIC -o report --limits head_neck"),
    (learning.commission, "Example: recontour commission MODEL ARCHIVE -o report --limits head_neck"),
    (learning.train, "Example: recontour train ARCHIVE -o MODEL --structures Parotid_L --structures Parotid_R"),
    (nights.sample, "Example: recontour sample -o sample --fractions 5"),
)
"""Each with the example that its help ends with, in the order of `recontour --help`."""


def _version(asked: bool) -> None:
    if asked:
        print(f"recontour {VERSION}")
        raise typer.Exit(DONE)


@app.callback()
def _every_command(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Radiotherapy contours by night: planning CTs in, checked structure sets out."""


for command, example in COMMANDS:
    app.command(epilog=example)(command)


def main() -> NoReturn:
    """Entry point: every error becomes an exit code and a sentence."""
    cancel_when_terminated()
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
        sys.exit(INVALID_ARGUMENTS)
    except RecontourError as error:
        _explain(error)
        sys.exit(INTERNAL_ERROR)
    except Exception as error:
        if hasattr(error, "exit_code") and hasattr(error, "format_message"):
            people.print(f"{error.format_message()}", style="bold red")  # type: ignore[attr-defined]
            sys.exit(INVALID_ARGUMENTS)
        people.print(traceback.format_exc())
        people.print("Internal error. The traceback above says where.", style="bold red")
        sys.exit(INTERNAL_ERROR)


def _explain(error: RecontourError) -> None:
    if isinstance(error, Faults):
        people.print(f"{error.what}:", style="bold red")
        for one in error.errors:
            _explain(one)
        return
    people.print(f"{type(error).__name__}: {error.what}", style="bold red")
    for name, text in (("where", error.where), ("why it matters", error.why), ("what to do", error.remedy)):
        if text:
            people.print(f"  {name}: {text}")


if __name__ == "__main__":
    main()
