"""What a fraction's case is made from: the plan's folder, today's image and earlier fractions, read or refused."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adaptive.dose.fraction_dose import FractionDose
from adaptive.dose.lattice import End
from adaptive.fraction import PlanSide, TodaySide
from contour.hounsfield import must_be_hounsfield
from patient.conformance.gate import admit_names
from patient.conformance.profile import Profile
from patient.dose import Dose
from patient.errors import InputError
from patient.plan import Plan
from patient.read.scan import scan
from patient.series import ImageSeries
from patient.volume import Volume
from pipelines.course.numbering import rising
from pipelines.fraction.fraction_dose_file import read_fraction_dose
from pipelines.fraction.plan_folder import PlanFolder, read_fraction_folder, read_plan_folder, read_today_dose
from pipelines.fraction.record import EarlierFraction
from pipelines.outbox.job_key import Whose
from pipelines.records.fraction import FractionResult


@dataclass(frozen=True)
class FractionRequest:
    """What a worker needs to know of a fraction: paths and names, never pixels.

    Args:
        case: its name.
        plan: folder with CT, RTSTRUCT, and RTPLAN and RTDOSE where there are.
        fraction: folder with today's image.
        folder: an empty folder to write into.
        template: site; chooses the policy where none is named, and how what is re-segmented is postprocessed.
        policy: name or path; empty for the template's.
        dose: an RTDOSE that was computed on today's image; empty for the plan's, placed.
        plan_choice: label or UID of the plan that is meant where the folder has several.
        number: of the fraction in its course, from 1; None where nobody says: one after the latest of `earlier`.
        number_from: who says so, in words.
        fractions: planned, where the RTPLAN does not say it.
        earlier: folders of published fractions of this plan.
        earlier_numbers: what they are counted as, as a night knows it; empty for the numbers that they were given.
        kept: folder in which steps are kept for a next try; empty for none.
        predecessor: SOP Instance UID of the structure set that this one replaces; empty for none.
        profile: planning system whose limits the gate applies, and whose rule for a DVH's ends.
        seed: the same gives the same.
        patient: whose it is; None where there is no outbox to say it.
    """

    case: str
    plan: str
    fraction: str
    folder: str
    template: str = "head_neck"
    policy: str = ""
    dose: str = ""
    plan_choice: str = ""
    number: int | None = None
    number_from: str = "the command line"
    fractions: int | None = None
    earlier: tuple[str, ...] = ()
    earlier_numbers: tuple[int, ...] = ()
    kept: str = ""
    predecessor: str = ""
    profile: str = "standard"
    seed: int = 0
    patient: Whose | None = None


@dataclass(frozen=True, eq=False)
class FractionInputs:
    """Both sides of a fraction, read.

    Args:
        plan, image: what the files say of the plan and of today's image, with what their pixels showed.
        planned, today: both images in HU.
        today_dose: that was computed on today's image; None for the plan's, placed.
        earlier: published fractions of this plan.
        number, fractions: of today and planned, each with who says so.
        digest: SHA-256 over all files.
    """

    plan: PlanFolder
    image: ImageSeries
    planned: Volume[Any]
    today: Volume[Any]
    today_dose: Dose | None
    earlier: tuple[EarlierFraction, ...]
    number: tuple[int, str]
    fractions: tuple[int | None, str]
    digest: str

    @property
    def doubted(self) -> bool:
        """Whether one of the images may not be all that was scanned, or not as it was."""
        return bool(self.plan.image.doubts or self.image.doubts)

    def plan_side(self, profile: Profile) -> PlanSide:
        """What the plan knows; a DVH's ends as the profile's planning system has them."""
        return PlanSide(
            self.planned,
            self.plan.structures.structures,
            self.plan.isocentre,
            self.plan.dose,
            self.fractions[0],
            self.plan.prescriptions(),
            End(profile.dvh.beyond_slices, profile.dvh.at_most),
            self.plan.image.doubts,
        )

    def today_side(self) -> TodaySide:
        """What is known of today, with the fractions before it."""
        number, before = self.number[0], [e for e in self.earlier if e.number < self.number[0]]
        return TodaySide(
            self.today,
            number,
            self.image.patient_position,
            self.today_dose,
            [e.measured for e in before],
            [e.day for e in before if e.day is not None],
            self.image.doubts,
        )


def read_inputs(request: FractionRequest) -> FractionInputs:
    """Everything that a request names.

    Raises:
        InputError: something given cannot be used, or does not belong together.
        OutputRefused: a name of the plan's structures could not be written.
    """
    plan = _plan_folder(Path(request.plan), Path(request.fraction), request.plan_choice)
    admit_names(plan.structures.structures, request.profile)
    image, files = read_fraction_folder(Path(request.fraction), plan)
    planned, plan = _planning_ct(plan, request)
    today, image = image.loaded()
    earlier = _earlier(request, plan)
    given = [Path(request.dose)] if request.dose else []
    return FractionInputs(
        plan,
        image,
        planned,
        today,
        read_today_dose(given[0]) if given else None,
        earlier,
        _number(request, earlier),
        _fractions(request, plan.plan),
        _digest((*plan.files, *files, *given)),
    )


def _plan_folder(plan: Path, fraction: Path, choice: str) -> PlanFolder:
    try:
        return read_plan_folder(plan, choice)
    except InputError as error:
        if scan(plan).of("RTSTRUCT", "RTPLAN") or not scan(fraction).of("RTSTRUCT", "RTPLAN"):
            raise
        raise InputError(
            "The plan's folder holds no structure set, and the fraction's does: were the two exchanged?",
            where=plan.name,
            remedy="Give the plan's folder first, then the fraction's",
        ) from error


def _planning_ct(plan: PlanFolder, request: FractionRequest) -> tuple[Volume[Any], PlanFolder]:
    """The planning CT, and the plan with what its pixels showed."""
    volume, image = plan.image.loaded()
    must_be_hounsfield(volume, Path(request.plan).name)
    seen = [f"Plan's image: {note}" for note in image.notes if note not in plan.image.notes]
    return volume, replace(plan, image=image, notes=(*plan.notes, *seen))


def _earlier(request: FractionRequest, plan: PlanFolder) -> tuple[EarlierFraction, ...]:
    """Published fractions of this very plan.

    Raises:
        InputError: a folder that holds none, or one of another plan; one image twice.
    """
    found: list[EarlierFraction] = []
    for name in request.earlier:
        folder = Path(name)
        try:
            result = FractionResult.model_validate_json((folder / "result.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError("No result of a fraction", where=folder.name) from error
        if result.plan.structure_set_uid != plan.structures.sop_instance_uid:
            raise InputError(
                f"Fraction {result.number} stands on another plan's structures",
                where=folder.name,
                why="Changes and dose are counted from one plan",
                remedy="Give fractions of this plan",
            )
        day: FractionDose | None = None
        if result.dose is not None and plan.dose is not None:
            day = read_fraction_dose(folder, plan.dose.sop_instance_uid)
        found.append(EarlierFraction(result, day))
    images = [one.result.image.series_uid for one in found]
    if len(set(images)) < len(images):
        raise InputError("The image of one fraction is given twice", why="It would count twice", remedy="Give each once")
    if request.earlier_numbers:
        numbers = list(request.earlier_numbers)
    else:
        numbers = rising([(one.result.image.acquired, one.number) for one in found])
    last = {n: one.counted_as(n) for n, one in sorted(zip(numbers, found, strict=True), key=lambda both: both[0])}
    return tuple(last.values())


def _number(request: FractionRequest, earlier: tuple[EarlierFraction, ...]) -> tuple[int, str]:
    if request.number is not None:
        if any(one.number == request.number for one in earlier):
            raise InputError(f"Fraction {request.number} is among the earlier ones", remedy="Give another --number")
        return request.number, request.number_from
    if earlier:
        return earlier[-1].number + 1, "one after the latest that was given; nobody said it"
    return 1, "taken as the first: nobody said it"


def _fractions(request: FractionRequest, plan: Plan | None) -> tuple[int | None, str]:
    if plan is not None and plan.fractions:
        return plan.fractions, "RTPLAN"
    return (request.fractions, "call") if request.fractions else (None, "")


def _digest(files: tuple[Path, ...]) -> str:
    """SHA-256 over the digests of all files."""
    whole = hashlib.sha256()
    for one in sorted(hashlib.sha256(path.read_bytes()).digest() for path in files):
        whole.update(one)
    return whole.hexdigest()
