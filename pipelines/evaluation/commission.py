"""`recontour commission`: an engine contours every case of an archive, and is measured against what the clinic drew."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contour.engine import Absent, Context, Engine
from patient.errors import InputError
from patient.volume import Mask, Volume
from pipelines.evaluation.drawings import Drawing, Drawn, find_drawings
from pipelines.evaluation.evaluation import Pair, Rules, Shown, evaluate
from pipelines.planning.engines import installed_engines
from pipelines.records.evaluation import EvaluationResult, MakerRecord

Progress = Callable[[float, str], None]


def find_engine(name_or_folder: str) -> Engine:
    """An installed engine by name, or the engine of a model folder.

    Raises:
        InputError: neither an installed engine nor a folder.
        ModelError: the folder's weights are missing, changed or of another kind.
    """
    installed = installed_engines()
    if name_or_folder in installed:
        return installed[name_or_folder]
    if not Path(name_or_folder).is_dir():
        there = ", ".join(sorted(installed))
        raise InputError(f"No model folder and no engine {name_or_folder!r}", remedy=f"Give a folder, or one of {there}")
    from contour.network import NetworkEngine
    from contour.unet_model import load

    return NetworkEngine(load(Path(name_or_folder)))


def commission(
    engine: Engine,
    cases: Path,
    rules: Rules,
    *,
    device: str = "cpu",
    progress: Progress = lambda done, what: None,
    cancelled: threading.Event | None = None,
) -> tuple[EvaluationResult, tuple[Shown, ...]]:
    """Contour all cases with an engine and compare.

    Args:
        cases: folder tree of images with an RTSTRUCT each, or of label files with `ct.*` beside them.

    Raises:
        InputError: no cases, or nothing that could be compared.
        Cancelled: asked to stop.
    """
    found = find_drawings(cases)
    if not found.drawings:
        raise InputError("No case with structures found", where=cases.name, why="; ".join(found.left_out[:3]))
    return commission_drawings(
        engine, found.drawings, rules, left_out=found.left_out, device=device, progress=progress, cancelled=cancelled
    )


def commission_drawings(
    engine: Engine,
    drawings: Sequence[Drawing],
    rules: Rules,
    *,
    left_out: Sequence[str] = (),
    device: str = "cpu",
    progress: Progress = lambda done, what: None,
    cancelled: threading.Event | None = None,
) -> tuple[EvaluationResult, tuple[Shown, ...]]:
    """As `commission`, of drawings that were found already."""
    run = _Run(engine, Context(device=device, seed=rules.seed, cancelled=cancelled or threading.Event()))
    pairs = [Pair(drawing.case, lambda drawing=drawing: run.on(drawing)) for drawing in drawings]
    result, shown = evaluate(
        pairs,
        rules,
        total=len(pairs),
        kind="commission",
        left_out=left_out,
        maker=MakerRecord(name=engine.name, version=engine.version),
        progress=progress,
        cancelled=cancelled,
    )
    each = round(sum(run.seconds) / len(run.seconds), 3) if run.seconds else None
    maker = MakerRecord(name=engine.name, version=engine.version, seconds_per_case=each)
    return result.model_copy(update={"maker": maker}), shown


@dataclass
class _Run:
    engine: Engine
    context: Context
    seconds: list[float] = field(default_factory=list)

    def on(self, drawing: Drawing) -> tuple[Drawn, Drawn]:
        """What the engine draws on an image, and what is drawn there."""
        reference = drawing.open()
        image = reference.image
        if image is None:
            raise InputError("There is no image to contour", why="Only label files were found, without ct.* beside them")
        began = time.monotonic()
        drawn = self._drawn(image, reference)
        self.seconds.append(time.monotonic() - began)
        return drawn, reference

    def _drawn(self, image: Volume[Any], reference: Drawn) -> Drawn:
        wanted = list(self.engine.offers())
        masks: dict[str, Mask] = {}
        absent: dict[str, str] = {}
        confidence: dict[str, float] = {}
        for answer in self.engine.contour(image, wanted, self.context):
            if isinstance(answer, Absent):
                absent[answer.name] = answer.reason
            else:
                masks[answer.name] = answer.field.mask()
                if answer.confidence is not None:
                    confidence[answer.name] = answer.confidence
        return Drawn(
            grid=reference.grid,
            names=tuple(masks),
            mask=masks.__getitem__,
            load=lambda: image,
            confidence=confidence,
            absent=absent,
        )
