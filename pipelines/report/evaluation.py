"""The report of an evaluation: verdict and limits, tables with intervals, box plots, and the worst cases in three planes."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from patient.geometry import Geometry
from patient.names import lookup
from patient.reorientation import Reorientation
from patient.structures import Structure
from patient.volume import Field, Mask, Volume
from pipelines.records.evaluation import EvaluationResult
from pipelines.report.box_plots import Row, box_plot
from pipelines.report.page import page_style, page_templates
from pipelines.report.pictures import layers, three_planes
from pipelines.report.shown_structure import GREY, Shown

MOST_PICTURES = 12
MOST_REASONS = 12
WHITE = (255, 255, 255)
_TITLES = {"evaluate": "Evaluation", "commission": "Commissioning"}
_WORDS = {
    "passed": "All limits are kept",
    "failed": "A limit is not kept",
    "not judged": "Evaluated without acceptance criteria",
}
_CLASSES = {"passed": "publish", "failed": "refuse", "not judged": "wait"}
_MEASURES = {
    "dice": "Dice",
    "surface_dice": "Surface Dice",
    "hd95": "HD95 (mm)",
    "mean_surface_distance": "Mean surface distance (mm)",
    "volume_bias_percent": "Volume bias (%), amount",
    "missed": "Cases missed",
}
_PLOTS: tuple[tuple[str, str, str, tuple[float, float] | None], ...] = (
    ("dice", "Dice", "", (0.0, 1.0)),
    ("surface_dice", "Surface Dice", "", (0.0, 1.0)),
    ("hd95", "HD95", "mm", (0.0, 1.0)),
    ("mean_surface_distance", "Mean surface distance", "mm", (0.0, 1.0)),
    ("volume_bias_percent", "Volume bias", "%", (-5.0, 5.0)),
    ("added_path", "Added path length", "mm", (0.0, 1.0)),
)


@dataclass(frozen=True)
class _Picture:
    data: str
    alt: str
    caption: str


def write_evaluation_report(folder: Path, result: EvaluationResult, shown: Sequence[Shown]) -> None:
    """Write report.html and figures/*.png.

    Args:
        folder: where to.
        result: what is said.
        shown: the worst cases of each structure, cut out.
    """
    figures = folder / "figures"
    figures.mkdir(exist_ok=True)
    colors = {s.structure: s.color for s in result.structures}
    colors |= {j.structure: entry.color for j in result.judgements if (entry := lookup(j.structure)) is not None}
    pictures: list[_Picture] = []
    for one in _worst_first(shown):
        png = _picture(one, colors.get(one.structure, GREY))
        (figures / f"{len(pictures) + 1:02d}.png").write_bytes(png)
        caption = f"{one.structure}, {one.case}: Dice {one.dice:.3f}"
        alt = f"{caption}; axial, coronal and sagittal plane with predicted and reference contour"
        pictures.append(_Picture(base64.b64encode(png).decode("ascii"), alt, caption))
    page = (
        page_templates()
        .get_template("evaluation.html")
        .render(
            result=result,
            title=_TITLES[result.kind],
            words=_WORDS,
            classes=_CLASSES,
            measures=_MEASURES,
            colors=colors,
            grey=GREY,
            most=MOST_REASONS,
            compared=sum(bool(case.structures) for case in result.cases),
            plots=_plots(result),
            pictures=pictures,
            odd=[
                (case.case, structure, remark)
                for case in result.cases
                for structure, remarks in [("", case.notes), *((r.structure, r.remarks) for r in case.structures)]
                for remark in remarks
            ],
            unmatched=[c for c in result.cases if c.predicted_only or c.reference_only or c.remarks],
            style=page_style(),
        )
    )
    (folder / "report.html").write_text(page, encoding="utf-8")


def _worst_first(shown: Sequence[Shown]) -> list[Shown]:
    """The worst case of every structure, lowest first; then the second ones, as many as there is room for."""
    firsts: dict[str, Shown] = {}
    for one in shown:
        firsts.setdefault(one.structure, one)
    others = [one for one in shown if one is not firsts[one.structure]]
    ordered = [sorted(group, key=lambda one: one.dice) for group in (firsts.values(), others)]
    return [*ordered[0], *ordered[1]][:MOST_PICTURES]


def _plots(result: EvaluationResult) -> list[tuple[str, Any]]:
    limits = {(j.structure, j.measure): j.limit for j in result.judgements}
    plots: list[tuple[str, Any]] = []
    for measure, heading, unit, ends in _PLOTS:
        rows = [
            Row(
                s.structure,
                s.color,
                tuple(
                    float(getattr(r, measure))
                    for case in result.cases
                    for r in case.structures
                    if r.structure == s.structure and r.state == "compared"
                ),
                limits.get((s.structure, measure)),
            )
            for s in result.structures
        ]
        if any(row.values for row in rows):
            title = f"{heading} of each structure over cases{f', {unit}' if unit else ''}"
            plots.append((f"{heading}{f' ({unit})' if unit else ''}", box_plot(rows, title, unit, ends)))
    return plots


def _picture(one: Shown, color: tuple[int, int, int]) -> bytes:
    """Both contours through the middle of what differs."""
    image = one.image if one.image is not None else _blank(one)
    held = [
        Structure(name, color=c, field=_with_room(mask))
        for name, c, mask in (("reference", WHITE, one.reference), ("predicted", color, one.predicted))
        if mask.array.any()
    ]
    said = f"Dice {one.dice:.3f}" if one.dice is not None else "missed"
    return three_planes(
        image, layers(held, image), _middle_of_difference(one, image), f"{one.structure}, {one.case}: {said}"
    )


def _with_room(mask: Mask) -> Field:
    """A voxel of nothing around, so that its outline closes inside the picture."""
    grid = mask.geometry
    box = grid.box
    larger = grid.cropped(type(box)(tuple(v - 1 for v in box.start), tuple(v + 1 for v in box.stop)))  # type: ignore[arg-type]
    return Field.of_mask(mask.placed_in(larger))


def _blank(one: Shown) -> Volume[np.int16]:
    """Black, where no image was given."""
    grid = one.reference.geometry
    box = grid.box.union(grid.box_of(one.predicted.geometry))
    start, stop = (tuple(v + by for v in side) for side, by in ((box.start, -8), (box.stop, 8)))
    whole: Geometry = grid.cropped(type(box)(start, stop))  # type: ignore[arg-type]
    return Volume(np.full(whole.shape, -1000, np.int16), whole)


def _middle_of_difference(one: Shown, image: Volume[Any]) -> tuple[int, int, int]:
    """(k, j, i) of the upright image, where most differs along each axis."""
    grid = image.geometry
    differs = one.predicted.placed_in(grid).array ^ one.reference.placed_in(grid).array
    if not differs.any():
        differs = one.reference.placed_in(grid).array
    upright = Reorientation.of(grid).upright(Volume(differs, grid)).array
    k, j, i = (int(np.argmax(upright.sum(axis=tuple(a for a in range(3) if a != axis)))) for axis in range(3))
    return k, j, i
