"""Case functions for nights of which the contours do not matter: they succeed, fail, hang, eat memory, or die."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import numpy as np
from pydicom import dcmread

from patient.errors import IncompleteSeries
from pipelines.fraction.files import FractionFiles
from pipelines.planning.case import CaseRequest, contour_case
from pipelines.records.case import CaseResult, Verdict


def succeed(request: CaseRequest) -> CaseResult:
    (Path(request.folder) / "report.html").write_text("fine")
    return CaseResult(case=request.case, verdict=Verdict.PUBLISH, rtstruct_uid=f"1.2.{time.time_ns()}")


def large(request: CaseRequest) -> CaseResult:
    for n in range(4):
        (Path(request.folder) / f"{n}.bin").write_bytes(os.urandom(100_000))
    return succeed(request)


def slow(request: CaseRequest) -> CaseResult:
    time.sleep(0.15)
    return succeed(request)


def waits(request: FractionFiles | CaseRequest) -> CaseResult:
    """Hangs until it is stopped, and says that it does."""
    (Path(request.folder) / "hangs").touch()
    while True:
        time.sleep(1)


def die(request: CaseRequest) -> CaseResult:
    os._exit(9)


def by_rows(request: CaseRequest) -> CaseResult:
    """What happens depends on the image's folder: its name says."""
    what = Path(request.files[0]).parent.name
    if what == "raise":
        raise RuntimeError("of Secret^Name")
    if what == "refuse":
        raise IncompleteSeries("two planes are missing", where="x.dcm")
    if what == "hang":
        waits(request)
    if what == "die":
        os._exit(9)
    if what == "eat":
        hoard = []
        while True:
            hoard.append(np.ones(16 << 20, np.uint8))
            time.sleep(0.02)
    return succeed(request)


def real_or_raise(request: CaseRequest) -> CaseResult:
    """A case as it is, but for the one whose folder says otherwise."""
    return by_rows(request) if Path(request.files[0]).parent.name == "raise" else contour_case(request)


def fraction(request: FractionFiles | CaseRequest) -> object:
    """A fraction's case by formula, judged with the earlier ones it was given; a planning CT succeeds."""
    if isinstance(request, CaseRequest):
        return succeed(request)
    from pipelines.course.case import read_fraction
    from tests.fractions import fraction_result, write_case

    if os.environ.get("TRIVIAL_HANGS_AT") == str(request.number):
        waits(request)
    earlier = [read_fraction(Path(folder)) for folder in request.earlier]
    result = fraction_result(
        request.case,
        request.number,
        series=request.series_uid,
        acquired=request.case[:8],
        plan=request.plan.plan_uid,
        patient=str(dcmread(request.files[0], stop_before_pixels=True).PatientID),
        patient_hash=request.patient.hash if request.patient is not None else "",
        earlier=tuple(e.measured() for e in earlier),
    )
    told = result.provenance.model_copy(update={"earlier": tuple(Path(e).name for e in request.earlier)})
    result = result.model_copy(update={"provenance": told})
    write_case(Path(request.folder), result)
    return result


def told(request: FractionFiles | CaseRequest) -> object:
    """A planning CT's case or a fraction's, which says what it stands on: bytes, number, earlier cases."""
    files = [hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in sorted(request.files)]
    said: dict[str, object] = {"files": files}
    if isinstance(request, FractionFiles):
        said |= {"number": request.number, "earlier": [Path(folder).name for folder in request.earlier]}
    result = fraction(request)
    (Path(request.folder) / "told.json").write_text(json.dumps(said))
    return result
