"""`recontour train`: from a clinic's archive to a model folder. Each step leaves its result; a killed run goes on there."""

from __future__ import annotations

import logging
import math
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from contour.cases import TrainingCase, labelled, read_cases, write_case
from contour.grid import ResampledImage
from contour.model import OURS, ModelCard, Population, Score, Shape, write_card, write_model
from contour.network import NetworkEngine
from contour.patches import OpenEnd, Patches
from contour.planning import Plan
from contour.training import Schedule, Training
from contour.unet import Architecture
from contour.unet_model import load
from patient.errors import Cancelled, InputError
from patient.naming import Naming
from pipelines.evaluation.commission import commission_drawings
from pipelines.evaluation.drawings import Drawing, Found, find_drawings
from pipelines.evaluation.evaluation import Rules
from pipelines.outbox.publish import write_whole
from pipelines.records.evaluation import EvaluationResult
from pipelines.records.training import PlanRecord, PreparedCase, TrainingRecord
from pipelines.report.evaluation import write_evaluation_report
from pipelines.training.archive import archive_key, survey

Progress = Callable[[float, str], None]
LIMITS = "Trained on one clinic's own contours. Not for patients unlike those. A person has to look at every contour."


@dataclass(frozen=True)
class TrainingRequest:
    """What is asked for.

    Args:
        archive: folder tree of images with an RTSTRUCT each, or of label files.
        work: folder that is gone on from; it holds images of patients, and is removed when the model is there.
        folder: an empty folder to write the model into.
        name, version, licence: of the model.
        structures: TG-263; empty for all that enough patients have.
        steps: patches.
        bf16: bfloat16 where the processor has it: twice as fast, and other weights from run to run.
    """

    archive: Path
    work: Path
    folder: Path
    name: str
    version: str = "1"
    licence: str = "LicenseRef-clinic"
    structures: tuple[str, ...] = ()
    naming: Naming = field(default_factory=Naming)
    steps: int = 8000
    rate: float = 2e-3
    seed: int = 0
    device: str = "cpu"
    bf16: bool = False


def train(
    request: TrainingRequest, progress: Progress = lambda done, what: None, cancelled: threading.Event | None = None
) -> tuple[TrainingRecord, EvaluationResult | None]:
    """Look through the archive, plan, prepare, train, measure on the patients held back, and write the model folder.

    Returns:
        What it was made from, and what it is worth; None for the second where no patient could be held back.

    Raises:
        InputError: nothing to learn, or the work folder is of another archive or request.
        Cancelled: asked to stop; what was done is gone on from.
    """
    stop = cancelled or threading.Event()
    found = find_drawings(request.archive)
    record = _surveyed(request, found, progress)
    by_case = {drawing.case: drawing for drawing in found.drawings}
    _prepare(request.work, record, by_case, lambda done, what: progress(0.1 + 0.1 * done, what), stop)
    training, loss = _trained(request, record, lambda done, what: progress(0.2 + 0.7 * done, what), stop)
    record = record.model_copy(update={"steps": request.steps, "seed": request.seed, "loss": loss})
    card = _card(request, record)
    card = write_model(request.folder, card, training.trained().state_dict())
    progress(0.9, "measuring")
    held = [by_case[case.case] for case in record.cases if case.part == "validation"]
    result = _measured(request, record, held, stop)
    if result is not None:
        write_card(request.folder, card.model_copy(update={"scores": _scores(result)}))
    (request.folder / "training.json").write_text(record.model_dump_json(indent=1), encoding="utf-8")
    log = request.work / "run" / "training.log"
    if log.is_file():
        shutil.copyfile(log, request.folder / "training.log")
    return record, result


def _surveyed(request: TrainingRequest, found: Found, progress: Progress) -> TrainingRecord:
    """The survey that the work folder holds, or a new one."""
    if not found.drawings:
        raise InputError("No case with structures found", where=request.archive.name, why="; ".join(found.left_out[:3]))
    key = archive_key(found, request.structures, request.naming)
    path = request.work / "survey.json"
    if path.is_file():
        record = TrainingRecord.model_validate_json(path.read_text(encoding="utf-8"))
        if record.key != key:
            raise InputError(
                "The work folder is of another archive, or other structures were asked for",
                where=request.work.name,
                why="Going on would mix two sets of patients in one model",
                remedy="Give another work folder, or remove this one",
            )
        return record
    record = survey(found, request.structures, request.naming, key, lambda done, what: progress(0.1 * done, what))
    request.work.mkdir(parents=True, exist_ok=True)
    write_whole(path, record.model_dump_json(indent=1))
    return record


def _prepare(
    work: Path, record: TrainingRecord, drawings: dict[str, Drawing], progress: Progress, stop: threading.Event
) -> None:
    """Every case that is trained on, on the network's grid; those that are there already stay."""
    to_do = [case for case in record.cases if case.part == "train" and not (work / "train" / f"{case.case}.npz").is_file()]
    for number, case in enumerate(to_do):
        if stop.is_set():
            raise Cancelled("Asked to stop")
        progress(number / len(to_do), case.case)
        write_case(prepared(case, drawings[case.case], record), work / "train")


def prepared(case: PreparedCase, drawing: Drawing, record: TrainingRecord) -> TrainingCase:
    """A case on the network's grid: as an image will be resampled for the network that learns from it.

    Raises:
        InputError: the image or the structure set cannot be read.
    """
    drawn = drawing.open()
    if (image := drawn.image) is None:
        raise InputError("There is no image to learn from", where=case.case)
    resampled = ResampledImage(image, plan_of(record).grid)
    names = [s.structure for s in record.structures]
    masks = {name: resampled.along(drawn.mask(written)) > 0.5 for name, written in case.names.items()}
    hu = np.rint(np.clip(resampled.hu, -1024, 3071)).astype(np.int16)
    return TrainingCase(case.case, hu, labelled(masks, names), tuple(masks), resampled.geometry.spacing)


def plan_of(record: TrainingRecord) -> Plan:
    """The plan that a record holds."""
    held: PlanRecord = record.plan
    structures = tuple(s.structure for s in record.structures)
    ends = tuple(OpenEnd(name, 1e4, 1e4) for name in held.open_ends)
    return Plan(Architecture(structures, held.spacing, held.patch, held.filters), held.finest, held.coarsest, ends)


def _trained(
    request: TrainingRequest, record: TrainingRecord, progress: Progress, stop: threading.Event
) -> tuple[Training, float | None]:
    planned = plan_of(record)
    names = planned.architecture.structures
    patches = Patches(read_cases(request.work / "train"), names, planned.architecture, planned.open_ends)
    schedule = Schedule(request.steps, request.rate, warm_up=min(200, request.steps // 10 + 1), seed=request.seed)
    try:
        folder = request.work / "run"
        training = Training(patches, planned.architecture, schedule, folder, device=request.device, exact=not request.bf16)
    except ValueError as error:
        raise InputError(
            "The work folder holds a run with other settings",
            where=request.work.name,
            why=str(error).partition(": ")[2],
            remedy="Give the same steps, rate and seed, or another work folder",
        ) from error
    last: deque[float] = deque(maxlen=100)
    with _logged(request.work / "run"):
        for value in training.run():
            if math.isfinite(value):
                last.append(value)
            progress(training.step / request.steps, f"step {training.step}, loss {sum(last) / max(1, len(last)):.3f}")
            if stop.is_set():
                training.save()
                raise Cancelled("Asked to stop")
    return training, round(sum(last) / len(last), 5) if last else None


@contextmanager
def _logged(folder: Path) -> Iterator[None]:
    """What the training says, in training.log of its folder; a run that goes on goes on in the same file."""
    folder.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(folder / "training.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    said = logging.getLogger("contour.training")
    level = said.level
    said.addHandler(handler)
    said.setLevel(logging.INFO)
    try:
        yield
    finally:
        said.setLevel(level)
        said.removeHandler(handler)
        handler.close()


def _card(request: TrainingRequest, record: TrainingRecord) -> ModelCard:
    planned = plan_of(record)
    shape = planned.architecture
    counts = {part: len([c for c in record.cases if c.part == part]) for part in ("train", "validation")}
    return ModelCard(
        name=request.name,
        version=request.version,
        kind=OURS,
        structures=shape.structures,
        sha256="0" * 64,
        licence=request.licence,
        data=f"{len(record.cases)} images with clinical contours of one archive ({record.key[:12]})",
        split=f"{record.split}: {counts['train']} images trained on, {counts['validation']} measured on",
        limits=LIMITS,
        architecture=Shape(
            spacing=shape.spacing,
            finest=planned.finest,
            coarsest=planned.coarsest,
            patch=shape.patch,
            filters=shape.filters,
            windows=shape.windows,
        ),
        population=population(read_cases(request.work / "train"), shape.structures, shape.structures),
    )


def population(cases: Iterable[TrainingCase], names: Sequence[str], structures: Sequence[str]) -> dict[str, Population]:
    """Volumes of the patients whose image does not cut the structure off; of ten and more.

    Args:
        cases: trained on.
        names: what the bits of their labels stand for, in order.
        structures: of them that are counted.
    """
    volumes: dict[str, list[float]] = {name: [] for name in structures}
    for case in cases:
        for name in set(case.known) & set(structures):
            mask = case.mask(name, names)
            if mask.any() and not (mask[0].any() or mask[-1].any()):
                volumes[name].append(float(mask.sum() * np.prod(case.spacing)) / 1000)
    found: dict[str, Population] = {}
    for name, cc in volumes.items():
        if len(cc) >= 10:
            low, median, high = (round(float(v), 2) for v in np.percentile(cc, (2.5, 50, 97.5)))
            found[name] = Population(low_cc=low, median_cc=median, high_cc=high, patients=len(cc))
    return found


def _measured(
    request: TrainingRequest, record: TrainingRecord, held: Sequence[Drawing], stop: threading.Event
) -> EvaluationResult | None:
    """What the written model is worth on the patients held back: evaluation.json and report.html in its folder."""
    if not held:
        return None
    rules = Rules(naming=request.naming, seed=request.seed, between_ends=frozenset(record.plan.open_ends))
    engine = NetworkEngine(load(request.folder))
    try:
        result, shown = commission_drawings(engine, held, rules, device=request.device, cancelled=stop)
    except InputError:
        return None
    (request.folder / "evaluation.json").write_text(result.model_dump_json(indent=1), encoding="utf-8")
    write_evaluation_report(request.folder, result, shown)
    return result


def _scores(result: EvaluationResult) -> dict[str, Score]:
    return {
        s.structure: Score(
            dice=round(s.dice.mean, 4),
            surface_dice=round(s.surface_dice.mean, 4),
            tolerance=s.tolerance,
            hd95=round(s.hd95.mean, 2),
            patients=s.compared,
        )
        for s in result.structures
        if s.dice is not None and s.surface_dice is not None and s.hd95 is not None
    }
