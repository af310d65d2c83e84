"""One case on a worker: whatever happens to it becomes an `Outcome` that travels back."""

from __future__ import annotations

import importlib
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from patient.errors import Cancelled, InputError, ModelError, OutOfResources, OutputRefused, RecontourError
from pipelines.fraction.files import FractionFiles
from pipelines.outbox.job import State
from pipelines.outbox.publish import is_full
from pipelines.planning.case import CaseRequest
from pipelines.records.case import CaseResult, Verdict

if TYPE_CHECKING:  # What a fraction's result stands on is large: a worker that has none to make does without.
    from pipelines.records.fraction import FractionResult

Request = CaseRequest | FractionFiles
FUNCTIONS = {CaseRequest: "pipelines.planning.case:contour_case", FractionFiles: "pipelines.fraction.files:adapt_files"}
"""What makes a case, by what asks for it: "module:name"."""


@dataclass(frozen=True)
class Outcome:
    """What came of one attempt, as it travels from the worker."""

    case: str
    state: State
    reasons: tuple[str, ...]
    rtstruct_uid: str = ""
    decision: str = ""
    """Of a fraction: continue, review or replan."""
    detail: str = ""
    """Where an unexpected error was raised; without its words."""
    private: str = ""
    """What an error said in full."""
    wall_s: float = 0.0


def run_case(request: Request, function: str = "") -> Outcome:
    """On a worker: make one case in its work folder; every error becomes an outcome.

    Args:
        request: of the case.
        function: "module:name" of what makes a result of a request; empty for `FUNCTIONS`.
    """
    started = time.monotonic()
    folder = Path(request.folder)
    try:
        folder.mkdir(exist_ok=True)  # No parents: where the outbox has gone, none is made.
        module, _, name = (function or FUNCTIONS[type(request)]).partition(":")
        result: CaseResult | FractionResult = getattr(importlib.import_module(module), name)(request)
    except Cancelled:
        raise
    except Exception as error:
        return _failed(request.case, error, time.monotonic() - started)
    state = {Verdict.PUBLISH: State.DONE, Verdict.REVIEW: State.REVIEW, Verdict.REFUSE: State.REFUSED}[result.verdict]
    wall = time.monotonic() - started
    if isinstance(result, CaseResult):
        return Outcome(request.case, state, result.reasons, result.rtstruct_uid, wall_s=wall)
    drawn = next((o.sop_instance_uid for o in result.outputs if o.file == "rtstruct.dcm"), "")
    return Outcome(request.case, state, result.reasons, drawn, result.decision.verdict, wall_s=wall)


def _failed(case: str, error: Exception, wall: float) -> Outcome:
    """What an error comes to. What it says of the outside goes into the private log alone."""
    private = traceback.format_exc()
    if isinstance(error, (InputError, OutputRefused)):
        return Outcome(case, State.REFUSED, (f"{type(error).__name__}: {error.public}",), private=private, wall_s=wall)
    if isinstance(error, (OutOfResources, ModelError, MemoryError, OSError)):
        said = "The disk is full" if is_full(error) else f"{type(error).__name__}: {getattr(error, 'strerror', '')}"
        said = error.public if isinstance(error, RecontourError) else said
    else:
        said = f"unexpected {type(error).__name__}; see log.txt"
    return Outcome(case, State.FAILED, (said,), detail=_where(error), private=private, wall_s=wall)


def _where(error: BaseException | None) -> str:
    """A traceback without what the errors say: values of headers and names of files stand in that."""
    if error is None:
        return ""
    before = _where(error.__cause__ or error.__context__)
    frames = (f"{frame.filename}:{frame.lineno} in {frame.name}\n" for frame in traceback.extract_tb(error.__traceback__))
    return f"{before}{''.join(frames)}{type(error).__name__}\n"
