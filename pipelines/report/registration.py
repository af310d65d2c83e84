"""The report of a registration: both images as a checkerboard and their difference in three planes, and every measure."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from patient.reorientation import Reorientation
from patient.volume import Volume
from pipelines.records.registration import RegistrationResult
from pipelines.report.page import page_style, page_templates
from pipelines.report.pictures import LETTERS
from registration.resampling import resampled
from registration.transforms import Rigid, Transform
from registration.working import foreground_box

TILE = 32.0
"""mm of a checkerboard's field."""
PLACES = (0.3, 0.5, 0.7)
"""Of the body's extent: where planes are shown."""


def write_registration_report(
    folder: Path,
    result: RegistrationResult,
    fixed: Volume[Any],
    moving: Volume[Any],
    transform: Transform,
    warped: Volume[np.float32],
) -> None:
    """Write report.html and figures/*.png.

    Args:
        folder: where to.
        result: what is said.
        fixed, moving: the two images.
        transform: `moving_from_fixed`.
        warped: the moving image on the fixed one's grid.
    """
    header = Rigid.identity(transform.source, transform.target)
    before = resampled(header, moving, fixed.geometry, float(np.nanmin(moving.array)))
    box = foreground_box(fixed)
    reorientation = Reorientation.of(fixed.geometry)
    still, first, last = (reorientation.upright(v.cropped(box)) for v in (fixed, before, warped))
    figures = folder / "figures"
    figures.mkdir(exist_ok=True)
    pictures: list[tuple[str, str]] = []
    for number, place in enumerate(PLACES, start=1):
        png = _picture(still, first, last, place)
        (figures / f"{number:02d}.png").write_bytes(png)
        caption = f"At {100 * place:.0f} % of the body's extent. Above: as the headers place them; below: registered."
        pictures.append((base64.b64encode(png).decode("ascii"), caption))
    page = page_templates().get_template("registration.html").render(result=result, pictures=pictures, style=page_style())
    (folder / "report.html").write_text(page, encoding="utf-8")


def _picture(still: Volume[Any], before: Volume[Any], after: Volume[Any], place: float) -> bytes:
    """Two rows (before, after) of three checkerboards and three differences."""
    figure = Figure(figsize=(12.0, 4.4), dpi=80, facecolor="black")
    FigureCanvasAgg(figure)
    spacing = still.geometry.spacing
    for row, other in enumerate((before, after)):
        for axis in range(3):
            index = int(place * (still.array.shape[axis] - 1))
            a, b = (_windowed(np.take(v.array, index, axis=axis)) for v in (still, other))
            steps = [s for n, s in enumerate(spacing) if n != axis]
            if axis:
                a, b = a[::-1], b[::-1]
            for column, shown, colours in ((axis, _checkered(a, b, steps), "gray"), (axis + 3, a - b, "RdBu")):
                axes = figure.add_axes((column / 6 + 0.002, 0.5 - 0.5 * row + 0.005, 1 / 6 - 0.004, 0.49))
                low = 0.0 if colours == "gray" else -1.0
                axes.imshow(shown, cmap=colours, vmin=low, vmax=1.0, aspect=steps[0] / steps[1], interpolation="bilinear")
                axes.set_axis_off()
                for text, (x, y) in zip(LETTERS[axis][:2], ((0.03, 0.5), (0.97, 0.5)), strict=True):
                    axes.text(x, y, text, transform=axes.transAxes, color="orange", ha="center", va="center", fontsize=8)
    out = io.BytesIO()
    figure.savefig(out, format="png", facecolor="black")
    return out.getvalue()


def _windowed(plane: NDArray[Any]) -> NDArray[np.float32]:
    """0 to 1 between the plane's own 2nd and 98th percentile, or a soft-tissue window for HU."""
    values = np.nan_to_num(plane.astype(np.float32))
    low, high = (-160.0, 240.0) if values.min() < -700 else np.percentile(values, (2, 98))
    return np.clip((values - low) / max(high - low, 1e-3), 0.0, 1.0).astype(np.float32)


def _checkered(a: NDArray[np.float32], b: NDArray[np.float32], steps: list[float]) -> NDArray[np.float32]:
    j, i = np.ogrid[: a.shape[0], : a.shape[1]]
    return np.where(((j * steps[0] // TILE) + (i * steps[1] // TILE)) % 2 == 0, a, b)
