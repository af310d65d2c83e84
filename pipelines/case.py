"""One planning image from files to a checked case folder: read, contour, derive, check, write, gate, report.

One structure at a time goes through memory. What leaves is written into a work folder; publishing it is not done here.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np

from contour.checks import centroid, check, sure_enough
from contour.clean import clean
from contour.derive import derive
from contour.ends import Extent, abrupt_ends, uneven_pairs
from contour.engine import Absent, Context, Engine, Flag, NoModel, NotConfident
from contour.hounsfield import must_be_hounsfield
from contour.recipe import Recipe, ingredients, needs
from contour.store import Store
from contour.stored import stored_engines
from contour.template import EXISTING, Template, Wanted, load_template
from patient.conformance.check import check_file
from patient.errors import InputError, NotDicom, OutputRefused
from patient.geometry import Geometry
from patient.read.images import open_image
from patient.read.index import Problem, SeriesEntry, scan
from patient.read.rtstruct import read_structure_set
from patient.series import ImageSeries
from patient.structures import Loop, Structure, StructureSet
from patient.volume import Field, Volume
from patient.write.rtstruct import write_structure_set
from pipelines.clock import Clock
from pipelines.given import given
from pipelines.report.page import write_report
from pipelines.result import (
    MADE,
    VERSION,
    WORDS,
    CaseResult,
    FlagRecord,
    ImageRecord,
    Provenance,
    State,
    StructureRecord,
    Verdict,
)

SAME_SLICE_MM = 0.1
Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class CaseRequest:
    """What a worker needs to know of a case: paths and names, never pixels.

    Args:
        case: its name, made of a date and a hash.
        files: the image's files, and those that may be of it and could not be read.
        series_uid: which series of them.
        phase: which of several images of that series (a 4D CT); empty where it holds one, or `existing` tells it.
        existing: an RTSTRUCT on the same image whose structures are kept; empty for none.
        predecessor: SOP Instance UID of the structure set that this one replaces; empty for none.
        template: name or path.
        profile: planning system whose limits the gate applies.
        folder: an empty folder to write into.
        seed: for engines that draw numbers.
    """

    case: str
    files: tuple[str, ...]
    series_uid: str
    folder: str
    template: str = "head_neck"
    existing: str = ""
    predecessor: str = ""
    profile: str = "standard"
    seed: int = 0
    phase: str = ""


def installed_engines() -> dict[str, Engine]:
    """Every engine that is installed, and every model in the store, by name; a wrong one is refused here rather than later.

    Raises:
        InputError: an entry point gives no engine, or a model has the name of one.
        ModelError: a model's record cannot be read.
    """
    engines: dict[str, Engine] = {}
    for point in entry_points(group="recontour.engines"):
        engine = point.load()()
        if not isinstance(engine, Engine):
            raise InputError(
                f"Entry point {point.name!r} of recontour.engines gives no engine",
                why="It lacks name, version, offers or contour",
            )
        engines[engine.name] = engine
    for stored in stored_engines(Store()):
        if stored.name in engines:
            raise InputError(
                f"The model {stored.name!r} in the store has the name of an installed engine",
                why="A template could mean either",
                remedy="Move it out of the store and add it again with another --name",
            )
        engines[stored.name] = stored
    return engines


def contour_case(
    request: CaseRequest, progress: Progress = lambda done, what: None, cancelled: threading.Event | None = None
) -> CaseResult:
    """Contour one planning image and write its case folder.

    Writes rtstruct.dcm, result.json, report.html and figures/ into `request.folder`.

    Raises:
        InputError: the image, template or existing structure set cannot be used.
        OutputRefused: our own gate found an error in what was made.
        Cancelled: asked to stop.
    """
    clock, folder = Clock(), Path(request.folder)
    template = load_template(request.template)
    with clock.step("read"):
        progress(0.02, "reading")
        existing = read_structure_set(Path(request.existing)) if request.existing else None
        drawn_on = existing.image_uids if existing is not None else frozenset[str]()
        image = open_image(_entry(request), phase=request.phase, drawn_on=drawn_on)
        if image.modality != "CT":
            raise InputError(f"The series is {image.modality}, and contours are made on CT")
        existing = existing.on(image.geometry, Path(request.existing).name) if existing is not None else None
        volume, image = image.loaded()
        must_be_hounsfield(volume)
    context = Context(
        patient_position=image.patient_position,
        seed=request.seed,
        cancelled=cancelled or threading.Event(),
        progress=lambda d, w: progress(0.1 + 0.6 * d, w),
    )
    made = _Made(image, volume, template, existing)
    with clock.step("contour"):
        made.contour(installed_engines(), context)
    with clock.step("derive"):
        progress(0.75, "deriving")
        made.derive()
        made.compare_pairs()
    made.put_in_order()
    if not made.shown:
        raise InputError(
            "Nothing that the template asks for is in the image",
            why="; ".join(f"{record.name}: {record.reason}" for record in made.records[:4]),
            remedy="Look at the image, or give another template",
        )
    result_set = made.structure_set()
    path = folder / "rtstruct.dcm"
    with clock.step("write"):
        progress(0.85, "writing")
        before = [uid for uid in (existing.sop_instance_uid if existing else "", request.predecessor) if uid]
        uid = write_structure_set(path, result_set, image, version=VERSION, predecessors=before)
    with clock.step("gate"):
        report = check_file(path, image=image, profile=request.profile)
        if report.errors:
            raise OutputRefused(
                "; ".join(str(remark) for remark in report.errors[:5]),
                why="The structure set would not import safely",
                remedy="Nothing was published",
            )
    reasons = (*image.doubts, *reasons_of(made.records, existing.notes if existing else ()))
    result = CaseResult(
        case=request.case,
        verdict=Verdict.REVIEW if reasons else Verdict.PUBLISH,
        reasons=reasons,
        image=image_record(image),
        structures=tuple(made.records),
        rtstruct_uid=uid,
        gate=tuple(str(remark) for remark in report.warnings),
        provenance=_provenance(request, template, made.engines, existing),
        timing=clock.timing(),
    )
    with clock.step("report"):
        progress(0.92, "drawing")
        write_report(folder, result, volume, made.shown)
    result = result.model_copy(update={"timing": clock.timing()})
    (folder / "result.json").write_text(result.model_dump_json(indent=1), encoding="utf-8")
    (folder / "log.txt").write_text(_log(result, clock), encoding="utf-8")
    progress(1.0, "done")
    return result


def _log(result: CaseResult, clock: Clock) -> str:
    """What was done when and why, without a word of who the patient is."""
    steps = [f"{step:8s} {seconds:8.2f} s" for step, seconds in clock.steps.items()]
    states = [f"{r.name}: {r.state}{f', {r.reason}' if r.reason else ''}" for r in result.structures]
    return "\n".join([f"recontour {VERSION}", f"case {result.case}: {result.verdict}", *steps, *states, *result.reasons, ""])


def _entry(request: CaseRequest) -> SeriesEntry:
    """The series among the request's files, and those of them that cannot be read."""
    read = [scan(Path(path)) for path in request.files]
    headers = [h for index in read for e in index.series for h in e.headers]
    unreadable = tuple(
        Problem(Path(path), NotDicom("Not readable as DICOM", where=Path(path).name), request.series_uid)
        for path, index in zip(request.files, read, strict=True)
        if not index.series
    )
    wanted = [h for h in headers if h.text("SeriesInstanceUID") in (request.series_uid, "")]
    if not wanted:
        raise InputError("The series' files are no longer there")
    return SeriesEntry(request.series_uid, wanted[0].text("Modality"), tuple(wanted), unreadable=unreadable)


@dataclass
class _Made:
    """What came of each wanted structure so far."""

    image: ImageSeries
    volume: Volume[Any]
    template: Template
    existing: StructureSet | None
    records: list[StructureRecord] = field(default_factory=list)
    shown: list[Structure] = field(default_factory=list)
    engines: dict[str, str] = field(default_factory=dict)
    _fields: dict[str, Field] = field(default_factory=dict)
    _centres: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    _extents: dict[str, Extent] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for structure in self.existing.structures if self.existing else ():
            loops = structure.drawn or ()
            self.shown.append(structure)
            self.records.append(
                StructureRecord(
                    name=structure.name,
                    state="kept",
                    interpreted_type=structure.interpreted_type,
                    color=structure.color,
                    engine="as read",
                    loops=len(loops),
                    planes=_slices(loops, self.image.geometry),
                )
            )

    def contour(self, engines: dict[str, Engine], context: Context) -> None:
        """Ask each engine for what the template wants of it."""
        plan: dict[str, list[Wanted]] = {}
        for wanted in self.template.structures:
            if wanted.engine == EXISTING:
                self._take(wanted)
                continue
            if wanted.recipe is not None or self._kept(wanted):
                continue
            able = [e for e in engines.values() if wanted.engine in (e.name, "any") and wanted.name in e.offers()]
            if able:
                plan.setdefault(able[0].name, []).append(wanted)
            else:
                self._absent(wanted, "no_model", f"no installed engine offers it ({wanted.engine})")
        for name, asked in plan.items():
            engine, by_name = engines[name], {wanted.name: wanted for wanted in asked}
            self.engines[name] = engine.version
            for answer in engine.contour(self.volume, list(by_name), context):
                wanted = by_name[answer.name]
                if isinstance(answer, Absent):
                    self._absent(wanted, state_of(answer), answer.reason)
                elif isinstance(flags := sure_enough(wanted, answer), str):
                    self._absent(wanted, "not_confident", flags)
                else:
                    self._add(wanted, answer.field, f"{name} {engine.version}", flags, answer.confidence)

    def derive(self) -> None:
        """Make what the template derives, in its order."""
        for wanted in self.template.structures:
            if wanted.recipe is None or self._kept(wanted):
                continue
            made = derive(wanted.recipe, self._fields, self.image.geometry)
            if isinstance(made, str):
                self._absent(wanted, self._state_without(wanted.recipe), made)
            else:
                without = dict.fromkeys(name for name in ingredients(wanted.recipe) if name not in self._fields)
                said = f"made without {', '.join(without)}, which is not there: nothing was cropped by it"
                flags = (Flag("without_barrier", said),) if without else ()
                self._add(wanted, made, wanted.recipe_text, flags, None)

    def compare_pairs(self) -> None:
        """Flag the one of a pair that ends short of its twin or is much smaller."""
        at = {record.name: n for n, record in enumerate(self.records)}
        for name, flag in uneven_pairs(self._extents):
            record = self.records[at[name]]
            said = FlagRecord(code=flag.code, detail=flag.detail)
            self.records[at[name]] = record.model_copy(update={"flags": (*record.flags, said)})

    def _state_without(self, recipe: Recipe) -> State:
        """Of what cannot be derived: the state of the first ingredient that is not there."""
        states: dict[str, State] = {record.name: record.state for record in self.records}
        missing: list[State] = [states.get(name, "not_in_image") for name in needs(recipe) if name not in self._fields]
        return "not_drawn" if not missing or missing[0] in MADE else missing[0]

    def put_in_order(self) -> None:
        """What was there already first, as it came; then the template's order, whoever made what when."""
        places = {wanted.name: place for place, wanted in enumerate(self.template.structures)}
        kept = len(self.existing.structures) if self.existing else 0
        self.records[kept:] = sorted(self.records[kept:], key=lambda record: places[record.name])
        self.shown[kept:] = sorted(self.shown[kept:], key=lambda structure: places[structure.name])

    def structure_set(self) -> StructureSet:
        """All of them, the existing ones first and as they came."""
        label = "recontour"
        if self.existing is not None:
            return replace(self.existing, structures=tuple(self.shown), label=label)
        return StructureSet(structures=tuple(self.shown), label=label)

    def _kept(self, wanted: Wanted) -> bool:
        """Already in the existing set: by name, or as its one EXTERNAL."""
        for structure in self.existing.structures if self.existing else ():
            same = structure.name.casefold() == wanted.name.casefold()
            if same or (wanted.interpreted_type == structure.interpreted_type == "EXTERNAL"):
                if structure.drawn:
                    mask = structure.mask(self.image.geometry)
                    if mask.array.any():
                        self._fields[wanted.name] = Field.of_mask(mask)
                if not same:
                    self._absent(wanted, "withheld", f"the existing set has {structure.name} as EXTERNAL")
                return True
        return False

    def _take(self, wanted: Wanted) -> None:
        """What only a person draws becomes an ingredient, as finely as it was drawn."""
        found = given(wanted, self.existing, self.image.geometry)
        if isinstance(found, str):
            self._absent(wanted, "not_drawn", found)
            return
        if found.field is not None:
            self._fields[wanted.name] = found.field
        if found.name.casefold() != wanted.name.casefold():
            self._absent(wanted, "withheld", f"the existing set has {found.name}, which is taken for it")
        at = next(n for n, record in enumerate(self.records) if record.name == found.name)
        flags = tuple(FlagRecord(code=flag.code, detail=flag.detail) for flag in found.flags)
        self.records[at] = self.records[at].model_copy(update={"flags": (*self.records[at].flags, *flags)})

    def _absent(self, wanted: Wanted, state: State, reason: str) -> None:
        if all(r.name != wanted.name for r in self.records):
            required = wanted.required and state != "withheld"
            self.records.append(
                StructureRecord(
                    name=wanted.name,
                    state=state,
                    required=required,
                    reason=reason,
                    source=wanted.source,
                    interpreted_type=wanted.interpreted_type,
                    color=wanted.color,
                )
            )

    def _add(self, wanted: Wanted, found: Field, engine: str, flags: tuple[Flag, ...], confidence: float | None) -> None:
        if wanted.clean is not None:
            cleaned = clean(found, wanted.clean)
            if isinstance(cleaned, str):
                self._absent(wanted, "not_in_image", cleaned)
                return
            found, flags = cleaned.field, (*flags, *cleaned.flags)
        self._fields[wanted.name] = found
        self._centres[wanted.name] = centre = centroid(found)
        if wanted.recipe is None and not wanted.is_target and (extent := Extent.of(found, self.image.geometry)) is not None:
            self._extents[wanted.name] = extent
            flags = (*flags, *abrupt_ends(wanted.name, extent))
        said = {flag.code for flag in flags}
        flags = (*flags, *(f for f in check(wanted, found, self.image.geometry, self._centres) if f.code not in said))
        structure = Structure(
            name=wanted.name,
            interpreted_type=wanted.interpreted_type,
            color=wanted.color,
            algorithm="AUTOMATIC",
            description=f"recontour {VERSION} {engine}"[:64],
            remark=_plain(f"{engine}; {wanted.source}") if wanted.source else "",
            code=wanted.code,
            field=found,
        )
        self.shown.append(structure)
        mask = found.mask().array
        self.records.append(
            StructureRecord(
                name=wanted.name,
                state="derived" if wanted.recipe is not None else "contoured",
                interpreted_type=wanted.interpreted_type,
                color=wanted.color,
                required=wanted.required,
                engine=engine,
                source=wanted.source,
                volume_cc=round(float(mask.sum()) * self.image.geometry.voxel_cc, 2),
                centroid_mm=(round(centre[0], 1), round(centre[1], 1), round(centre[2], 1)),
                planes=_slices(structure.loops, self.image.geometry),
                loops=len(structure.loops),
                confidence=confidence,
                flags=tuple(FlagRecord(code=flag.code, detail=flag.detail) for flag in flags),
            )
        )


def _slices(loops: Sequence[Loop], grid: Geometry) -> int:
    """How many slices of the image loops lie on."""
    heights = np.array([loop.points[0] for loop in loops if len(loop.points)]).reshape(-1, 3) @ np.asarray(grid.axes[0])
    return len(np.unique(np.rint(heights / SAME_SLICE_MM)))


def _plain(text: str) -> str:
    """ASCII without a backslash: the image's character set need not hold anything else."""
    return re.sub(r"[^ -\[\]-~]", "?", " ".join(text.split()))


def reasons_of(records: Sequence[StructureRecord], notes: Sequence[str] = ()) -> tuple[str, ...]:
    """Why a person should look, worst first.

    Args:
        records: of the template's structures.
        notes: of the existing structure set.
    """
    missing = [
        f"{r.name} is required and not there ({WORDS[r.state]}): {r.reason}"
        for r in records
        if r.required and r.state not in MADE
    ]
    doubted = [
        f"{r.name} is not there ({WORDS[r.state]}): {r.reason}"
        for r in records
        if r.state == "not_confident" and not r.required
    ]
    flagged = [f"{r.name}: {flag.detail}" for r in records for flag in r.flags if not _expected(r.name, flag)]
    odd = [f"Existing structure set: {note}" for note in notes]
    return (*missing, *odd, *doubted, *flagged)


def state_of(absent: Absent) -> State:
    """The record's word for an engine's kind of reason."""
    if isinstance(absent, NoModel):
        return "no_model"
    return "not_confident" if isinstance(absent, NotConfident) else "not_in_image"


_LONG = ("External", "Bones", "SpinalCanal", "SpinalCord", "Skin", "Trachea", "Esophagus")


def _expected(name: str, flag: FlagRecord) -> bool:
    """No reason for review: what runs through the whole patient is cut at the image's head and foot ends."""
    sides = ("front", "back", "side")
    return flag.code == "cut_by_field_of_view" and name in _LONG and not any(side in flag.detail for side in sides)


def image_record(image: ImageSeries) -> ImageRecord:
    """What a result says of an image."""
    dz, dy, dx = (round(v, 4) for v in image.geometry.spacing)
    return ImageRecord(
        patient_id=image.patient_id,
        study_uid=image.study_uid,
        series_uid=image.series_uid,
        frame_of_reference_uid=image.geometry.frame_of_reference,
        modality=image.modality,
        acquired=next((str(v) for k in ("AcquisitionDate", "SeriesDate", "StudyDate") if (v := image.header.get(k))), ""),
        patient_position=image.patient_position,
        shape=image.geometry.shape,
        spacing_mm=(dz, dy, dx),
        notes=image.notes,
    )


def _provenance(
    request: CaseRequest, template: Template, engines: dict[str, str], existing: StructureSet | None
) -> Provenance:
    digest = hashlib.sha256()
    for path in sorted(request.files):
        digest.update(hashlib.sha256(Path(path).read_bytes()).digest())
    return Provenance(
        version=VERSION,
        template=template.name,
        template_digest=template.digest,
        engines=engines,
        input_digest=digest.hexdigest(),
        sources=(existing.sop_instance_uid,) if existing else (),
        predecessor_uid=request.predecessor,
        seed=request.seed,
    )
