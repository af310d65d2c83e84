"""The report of a course: what is recommended and why, today's slices with the largest differences, every figure over the
fractions."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from markupsafe import Markup

from pipelines.records.course import CourseResult, LimitRecord, TrackRecord
from pipelines.report.page import page_style, page_templates
from pipelines.report.trends import dose_plot, track_plot

MOST_PLOTS, MOST_PICTURES = 12, 3
WORDS = {
    "continue": "Continue as planned",
    "review": "Review before the next fraction",
    "replan": "Consider a new plan",
}
COMPARED = {"value": "", "change": "change since the plan", "relative": "change since the plan"}


@dataclass(frozen=True)
class _Shown:
    track: TrackRecord
    plot: Markup


def write_course_report(folder: Path, result: CourseResult, pictures: Sequence[Path], cases: Mapping[str, Path]) -> None:
    """Write report.html and figures/*.svg.

    Args:
        folder: of the course; `figures` is there.
        result: what is said.
        pictures: of today's fraction, the slices with the largest differences first.
        cases: folder of each case, for links to their reports.
    """
    part = result.parts[-1]
    shown = [_Shown(track, track_plot(track, part.plan.fractions)) for track in part.tracks[:MOST_PLOTS]]
    doses = [(track, dose_plot(track, part.plan.fractions)) for track in part.dose if track.quantity == "Dmean"][:MOST_PLOTS]
    _write_plots(folder / "figures", [("trend", [s.plot for s in shown]), ("dose", [plot for _, plot in doses])])
    today = next(f for f in result.fractions if f.case == result.today)
    page = (
        page_templates()
        .get_template("course.html")
        .render(
            result=result,
            part=part,
            today=today,
            shown=shown,
            doses=doses,
            untrusted=list(dict.fromkeys(doubt for track in part.dose for doubt in track.figures[-1].doubts)),
            pictures=[base64.b64encode(p.read_bytes()).decode("ascii") for p in pictures[:MOST_PICTURES]],
            words=WORDS,
            compared=COMPARED,
            soonest=soonest,
            day=day,
            todo=_to_do(result),
            links={name: _link(case / "report.html", folder) for name, case in cases.items()},
            style=page_style(),
        )
    )
    (folder / "report.html").write_text(page, encoding="utf-8")


def soonest(track: TrackRecord) -> LimitRecord | None:
    """The limit that needs a person first: exceeded, else the soonest to be expected, else the most probable."""
    order = {"tripped": 0, "near": 1}
    return min(
        track.limits,
        key=lambda li: (order.get(li.state or "", 2), li.forecast.fraction or 1000, -(li.forecast.probability or 0.0)),
        default=None,
    )


def day(acquired: str) -> str:
    """`2026-01-19`."""
    return f"{acquired[:4]}-{acquired[4:6]}-{acquired[6:8]}" if len(acquired) >= 8 else "unknown date"


def _to_do(result: CourseResult) -> str:
    """What a person does now, in a sentence."""
    where = f"the points below and today's contours in case {result.today}"
    if result.verdict == "replan":
        return f"Decide whether to make a new plan: look at {where}."
    if result.verdict == "review":
        return f"Before the next fraction, look at {where}."
    ahead = [li.forecast.earliest for t in result.parts[-1].tracks for li in t.limits if li.forecast.earliest is not None]
    look = f" A rule may be exceeded from fraction {min(ahead)} on." if ahead else ""
    return f"No rule on today's figures asks for anything: treat as planned.{look}"


def _link(report: Path, folder: Path) -> str:
    """From the course's page, relative; empty where there is nothing to lead to."""
    return Path(os.path.relpath(report.resolve(), folder.resolve())).as_posix() if report.is_file() else ""


def _write_plots(figures: Path, kinds: Sequence[tuple[str, Sequence[Markup]]]) -> None:
    """The plots as files that stand alone, with the page's style in each."""
    style = files("pipelines.report").joinpath("style.css").read_text(encoding="utf-8")
    for kind, plots in kinds:
        for number, plot in enumerate(plots, start=1):
            head, tail = str(plot).split(">", 1)
            (figures / f"{kind}-{number:02d}.svg").write_text(f"{head}><style>{style}</style>{tail}", encoding="utf-8")
