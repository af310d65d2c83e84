"""The report of a fraction: what is recommended and why, the slices with the largest differences today, doses, and every
figure with its unit."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from adaptive.change.dose_metrics import ACCUMULATED, StructureDose
from adaptive.change.structures import Change
from adaptive.dose.dvh import Dvh
from adaptive.dose.histogram import BIN
from adaptive.fraction import Fraction
from adaptive.propagation.propagated import Propagated
from patient.reorientation import Reorientation
from patient.structures import Structure
from pipelines.records.decision import MeasurementRecord
from pipelines.records.fraction import FractionResult, FractionStructureRecord
from pipelines.report.page import page_style, page_templates
from pipelines.report.pictures import layers, three_planes

WORST = 4
"""Planes that are shown, of as many structures."""
DRAWN = 10
"""Structures in the plot of DVHs."""
PLANNED = (255, 255, 255)
"""Colour of a planned contour."""
TARGETS = ("GTV", "CTV", "PTV")
WORDS = {"continue": "Continue", "review": "Requires clinical review", "replan": "Consider a new plan"}
ORDER = ("tripped", "near", "not evaluated", "not tripped")


@dataclass(frozen=True)
class Picture:
    """A PNG as the page takes it."""

    data: str
    alt: str
    caption: str


@dataclass(frozen=True)
class Row:
    """A structure's line: its record and its figures by quantity."""

    structure: FractionStructureRecord
    figures: dict[str, MeasurementRecord]


def write_fraction_report(folder: Path, result: FractionResult, made: Fraction) -> None:
    """Write report.html and figures/*.png.

    Args:
        folder: of the case.
        result: what is said.
        made: contours, surfaces and DVHs.
    """
    figures = folder / "figures"
    figures.mkdir(exist_ok=True)
    pictures = []
    for png, alt, caption in (*_planes(made), *_dvhs(made)):
        (figures / f"{len(pictures) + 1:02d}.png").write_bytes(png)
        pictures.append(Picture(base64.b64encode(png).decode("ascii"), alt, caption))
    rules = sorted(result.decision.rules, key=lambda rule: ORDER.index(rule.state))
    page = page_templates().get_template("fraction.html")
    text = page.render(
        result=result,
        pictures=pictures,
        words=WORDS,
        rules=rules,
        rows=_rows(result),
        dose=[m for m in result.measurements if m.unit in ("Gy", "%") and not m.quantity.endswith(ACCUMULATED)],
        summed={(m.structure, m.quantity.removesuffix(ACCUMULATED)): m for m in _summed(result)},
        patient=[m for m in result.measurements if not m.structure or m.quantity.startswith("separation")],
        style=page_style(),
    )
    (folder / "report.html").write_text(text, encoding="utf-8")


def _summed(result: FractionResult) -> Iterator[MeasurementRecord]:
    return (m for m in result.measurements if m.quantity.endswith(ACCUMULATED))


def _rows(result: FractionResult) -> list[Row]:
    by_name: dict[str, dict[str, MeasurementRecord]] = {}
    for m in result.measurements:
        by_name.setdefault(m.structure, {})[m.quantity] = m
    return [Row(structure, by_name.get(structure.name, {})) for structure in result.structures]


def _planes(made: Fraction) -> Iterator[tuple[bytes, str, str]]:
    """Through the place where a surface moved most, of the structures that moved most, targets first."""
    image = made.today
    upright = Reorientation.of(image.geometry).upright(image).geometry
    by_name = {one.name: one for one in made.structures}
    today = layers([_today(one) for one in made.structures if one.field is not None], image)
    for change in _worst_first(made.changes, by_name)[:WORST]:
        one, moved = by_name[change.structure], change.map
        assert moved is not None
        worst = int(np.argmax(np.abs(moved.outward)))
        index = np.rint(upright.indices(moved.points[worst]))
        k, j, i = (int(v) for v in np.clip(index, 0, np.asarray(upright.shape) - 1))
        shown = [*today, *layers([_planned(one)], image)]
        png = three_planes(image, shown, (k, j, i), f"{one.name}: white as planned, coloured as today")
        far = abs(float(moved.outward[worst]))
        caption = f"{one.name} where it differs most: {far:.1f} mm {'outside' if moved.outward[worst] > 0 else 'inside'}"
        said = f"{caption} the planned surface. White: as planned, placed rigidly. Coloured: today ({one.basis})."
        yield png, f"{one.name}: axial, coronal and sagittal plane with contours", said


def _worst_first(changes: Sequence[Change], by_name: dict[str, Propagated]) -> list[Change]:
    def far(change: Change) -> float:
        hd95 = next((m.figure.judged[0].value for m in change.measurements if m.quantity == "hd95"), 0.0)
        kind = by_name[change.structure].structure.interpreted_type
        return hd95 * (1.5 if kind in TARGETS else 0.5 if kind == "EXTERNAL" else 1.0)

    shown = [change for change in changes if change.map is not None and change.structure in by_name]
    return sorted(shown, key=far, reverse=True)


def _today(one: Propagated) -> Structure:
    return Structure(
        "External" if one.structure.interpreted_type == "EXTERNAL" else one.name, color=one.structure.color, field=one.field
    )


def _planned(one: Propagated) -> Structure:
    return replace(_today(one), name=f"{one.name} as planned", color=PLANNED, field=one.as_planned)


def _dvhs(made: Fraction) -> Iterator[tuple[bytes, str, str]]:
    if made.dose is None:
        return
    kinds = {one.name: one.structure for one in made.structures}
    drawn = sorted(made.dose.figures, key=lambda one: kinds[one.name].interpreted_type not in TARGETS)[:DRAWN]
    if not drawn:
        return
    figure = Figure(figsize=(12.0, 5.2), dpi=80)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.06, 0.11, 0.72, 0.85))
    for one in drawn:
        colour = [c / 255 for c in kinds[one.name].color or (90, 90, 90)]
        _draw(axes, one, colour)
    axes.set_xlabel("Dose (Gy), of the whole plan")
    axes.set_ylabel("Volume (%)")
    axes.set_ylim(0, 102)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=8, frameon=False)
    out = io.BytesIO()
    figure.savefig(out, format="png")
    caption = (
        f"Dashed: as planned. Full: today's structures in today's dose ({made.dose.today.basis}), as if every fraction were "
        "like today's; shaded: where they may lie for the registration's error (95 %). Dotted: not trusted. "
        f"Counted: {_ends(made)}."
    )
    yield out.getvalue(), "Dose-volume histograms as planned and today", caption


def _ends(made: Fraction) -> str:
    """What DVHs take to lie beyond the end contours."""
    figures = made.dose.figures if made.dose is not None else ()
    return "; ".join(dict.fromkeys(str(one.planned.end) for one in figures if one.planned is not None)) or "no structure"


def _draw(axes: Any, one: StructureDose, colour: list[float]) -> None:
    if one.planned is None or one.today is None:
        return
    today, trust = one.today.judged
    axes.plot(*_curve(one.planned), color=colour, linestyle="--", linewidth=1.0)
    label, line = (one.name, "-") if trust else (f"{one.name}, not trusted", ":")
    axes.plot(*_curve(today.nominal), color=colour, linewidth=1.6, linestyle=line, label=label)
    low, high = (_curve(dvh) for dvh in (today.low, today.high))
    at = np.linspace(0, max(low[0][-1], high[0][-1]), 300)
    between = [np.interp(at, *curve, right=0.0) for curve in (low, high)]
    axes.fill_between(at, *between, color=colour, alpha=0.15, linewidth=0)


def _curve(dvh: Dvh) -> tuple[np.ndarray, np.ndarray]:
    """Gy, and percent of the covered volume that gets as much or more."""
    left = np.concatenate([np.cumsum(dvh.cc[::-1])[::-1], [0.0]])
    step = max(1, len(left) // 400)
    gray = np.arange(len(left)) * BIN
    return gray[::step], 100 * left[::step] / max(dvh.covered_cc, 1e-9)
