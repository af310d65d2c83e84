"""report.html of a case and index.html of the nights: self-contained, without script."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from patient.structures import Structure
from patient.volume import Volume
from pipelines.outbox.publish import write_whole
from pipelines.records.case import WORDS, CaseResult
from pipelines.records.night import WORST_FIRST, NightRecord
from pipelines.report.pictures import Layer, layers, three_planes

MOST_PICTURES = 8
_WORDS = {"publish": "Conformance check passed", "review": "Review before import", "refuse": "Refused"}
_NAMES = {
    "failed": "failed",
    "refused": "refused",
    "review": "to review",
    "held": "held",
    "running": "running",
    "ready": "waiting",
    "done": "done",
}


@dataclass(frozen=True)
class _Picture:
    data: str
    alt: str
    caption: str


def write_report(folder: Path, result: CaseResult, image: Volume[Any], structures: Sequence[Structure]) -> None:
    """Write report.html and figures/*.png of a case: what was flagged first, then an overview.

    Args:
        folder: of the case.
        result: what is said.
        image: HU, as it was contoured.
        structures: what is shown, in their own colours.
    """
    drawn = layers(structures, image)
    figures = folder / "figures"
    figures.mkdir(exist_ok=True)
    pictures: list[_Picture] = []
    for name, at, caption in _planes(result, drawn):
        png = three_planes(image, drawn, at, name)
        (figures / f"{len(pictures) + 1:02d}.png").write_bytes(png)
        alt = f"{name}: axial, coronal and sagittal plane with contours"
        pictures.append(_Picture(base64.b64encode(png).decode("ascii"), alt, caption))
    page = (
        page_templates()
        .get_template("case.html")
        .render(result=result, pictures=pictures, words=_WORDS, states=WORDS, style=page_style())
    )
    (folder / "report.html").write_text(page, encoding="utf-8")


def _planes(result: CaseResult, drawn: Sequence[Layer]) -> list[tuple[str, tuple[int, int, int], str]]:
    """What to show: each flagged structure through its widest place, then the middle of the largest one."""
    by_name = {layer.name: layer for layer in drawn}
    shown = []
    for record in result.structures:
        about = "; ".join(flag.detail for flag in record.flags)
        mentioned = any(reason.startswith(f"{record.name}:") for reason in result.reasons)
        if mentioned and record.name in by_name:
            shown.append((record.name, by_name[record.name].middle, f"{record.name}: {about}"))
    if drawn:
        largest = max(drawn, key=lambda layer: layer.values.size)
        box = largest.box
        k, j, i = ((a + b) // 2 for a, b in zip(box.start, box.stop, strict=True))
        shown = [*shown[: MOST_PICTURES - 2], ("Overview", (k, j, i), "All structures through the middle of the body")]
        inner = [layer for layer in drawn if layer.name in ("SpinalCanal", "Lung_L", "Lung_R")]
        if inner and not any(name == inner[0].name for name, _, _ in shown):
            shown.append((inner[0].name, inner[0].middle, f"Through {inner[0].name}"))
    return shown


def write_index(outbox: Path, nights: Sequence[NightRecord]) -> None:
    """Write index.html, newest night first; whole or not at all."""
    ordered = sorted(nights, key=lambda night: night.started, reverse=True)
    sorted_nights = [
        n.model_copy(update={"cases": tuple(sorted(n.cases, key=lambda c: WORST_FIRST.index(c.state)))}) for n in ordered
    ]
    page = page_templates().get_template("index.html").render(nights=sorted_nights, names=_NAMES, style=page_style())
    write_whole(outbox / "index.html", page)


@cache
def page_templates() -> Environment:
    """Of all pages; each is compiled once a process."""
    return Environment(loader=PackageLoader("pipelines.report", "."), autoescape=True, undefined=StrictUndefined)


def page_style() -> str:
    """One look for all pages, put into each."""
    return Markup(files("pipelines.report").joinpath("style.css").read_text(encoding="utf-8"))
