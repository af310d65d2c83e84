"""A fraction of a night: its own files and its plan's, wherever they lie, as the two folders of `recontour adapt`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from patient.errors import ReferenceError  # noqa: A004

if TYPE_CHECKING:
    from pipelines.records.fraction import FractionResult
from pipelines.outbox.job_key import Whose


@dataclass(frozen=True)
class PlanFiles:
    """A plan as files.

    Args:
        image: the planning CT's.
        structure_set: RTSTRUCT on it.
        plan: RTPLAN.
        plan_uid: its SOP Instance UID.
        doses: every RTDOSE that belongs to the plan.
    """

    image: tuple[str, ...]
    structure_set: str
    plan: str
    plan_uid: str
    doses: tuple[str, ...] = ()


@dataclass(frozen=True)
class FractionFiles:
    """What a worker needs to know of a fraction: paths and names, never pixels.

    Args:
        case: its name, made of a date and a hash.
        files: today's image.
        series_uid: of it.
        folder: an empty folder to write into.
        plan: that it was given by.
        number: of the fraction under that plan, from 1.
        number_from: who says so, in words.
        earlier: published case folders of earlier fractions under the same plan, in order.
        earlier_numbers: theirs, as they are now: an image that came late moves those after it.
        recomputed: RTDOSE that a planning system computed on today's image.
        template: name or path; for what is re-segmented.
        policy: name or path.
        profile: planning system whose limits the gate applies.
        kept: folder in which steps are kept for a next try; empty for none.
        predecessor: SOP Instance UID of the structure set that this one replaces; empty for none.
        seed: for what draws numbers.
        patient: whose it is; None where there is no outbox to say it.
    """

    case: str
    files: tuple[str, ...]
    series_uid: str
    folder: str
    plan: PlanFiles
    number: int
    number_from: str = ""
    earlier: tuple[str, ...] = ()
    earlier_numbers: tuple[int, ...] = ()
    recomputed: tuple[str, ...] = ()
    template: str = "head_neck"
    policy: str = "head_neck"
    profile: str = "standard"
    kept: str = ""
    predecessor: str = ""
    seed: int = 0
    patient: Whose | None = None


def adapt_files(request: FractionFiles) -> FractionResult:
    """A fraction's case, as `recontour adapt` makes it. Nothing is copied: folders of links are made beside the case's own.

    Raises:
        ReferenceError: several doses are said to be today's.
        InputError, OutputRefused, Cancelled: as `adapt_case`.
    """
    from pipelines.fraction.case import adapt_case  # what computes is imported by workers alone
    from pipelines.fraction.inputs import FractionRequest

    if len(request.recomputed) > 1:
        raise ReferenceError(
            f"There are {len(request.recomputed)} doses on this image",
            why="Nobody can tell which is today's",
            remedy="Leave the one in the inbox that is meant",
        )
    plan = request.plan
    with TemporaryDirectory(prefix=".in-", dir=Path(request.folder).parent) as place:
        planned, today = Path(place, "plan"), Path(place, "fraction")
        _linked(planned, (*plan.image, plan.structure_set, plan.plan, *plan.doses))
        _linked(today, request.files)
        if request.kept:
            Path(request.kept).mkdir(exist_ok=True)
        return adapt_case(
            FractionRequest(
                case=request.case,
                plan=str(planned),
                fraction=str(today),
                folder=request.folder,
                template=request.template,
                policy=request.policy,
                dose=next(iter(request.recomputed), ""),
                plan_choice=plan.plan_uid,
                number=request.number,
                number_from=request.number_from,
                earlier=request.earlier,
                earlier_numbers=request.earlier_numbers,
                kept=request.kept,
                predecessor=request.predecessor,
                profile=request.profile,
                seed=request.seed,
                patient=request.patient,
            )
        )


def _linked(folder: Path, files: Sequence[str]) -> None:
    """Links to files under their own names, a folder for each that they lie in: errors then name what is in the inbox."""
    places: dict[Path, Path] = {}
    folder.mkdir()
    for file in map(Path, files):
        place = places.setdefault(file.parent, folder / str(len(places)))
        place.mkdir(exist_ok=True)
        (place / file.name).symlink_to(file)
