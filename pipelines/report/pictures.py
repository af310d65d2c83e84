"""Overlays of contours on the image in three planes, as a radiologist holds them: the patient's right at the left."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from patient.geometry import Box, Geometry
from patient.reorientation import Reorientation
from patient.structures import Structure
from patient.volume import Level, Volume

WINDOW = (-160.0, 240.0)
"""HU from black to white: soft tissue."""
LUNG_WINDOW = (-1000.0, 200.0)
LETTERS = (("R", "L", "A", "P"), ("R", "L", "S", "I"), ("A", "P", "S", "I"))
"""Left, right, top and bottom of the axial, coronal and sagittal picture."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A structure ready to be drawn: an upright field cropped to its box, positive inside."""

    name: str
    color: tuple[float, float, float]
    values: NDArray[np.float32]
    box: Box

    @property
    def middle(self) -> tuple[int, int, int]:
        """Where it is widest along each axis, in the upright image."""
        inside = self.values > 0
        sums = [inside.sum(axis=tuple(a for a in range(3) if a != axis)) for axis in range(3)]
        k, j, i = (int(np.argmax(s)) + start for s, start in zip(sums, self.box.start, strict=True))
        return k, j, i


def layers(structures: Sequence[Structure], image: Volume[Any]) -> list[Layer]:
    """All structures that have something to show, upright."""
    reorientation = Reorientation.of(image.geometry)
    whole = reorientation.upright(image).geometry
    return [layer for s in structures if (layer := _layer(s, image.geometry, reorientation, whole)) is not None]


def _layer(structure: Structure, grid: Geometry, reorientation: Reorientation, whole: Geometry) -> Layer | None:
    if structure.field is not None:
        values, level = structure.field.volume.array, np.float32(structure.field.level.value)
        inside = values - level if structure.field.level is Level.PROBABILITY else level - values
        volume = Volume(inside.astype(np.float32, copy=False), structure.field.geometry)
    else:
        mask = structure.mask(grid)
        volume = Volume(mask.array.astype(np.float32) - np.float32(0.5), mask.geometry)
    if not (volume.array > 0).any():
        return None
    upright = reorientation.upright(volume)
    red, green, blue = structure.color or (255, 255, 0)
    return Layer(structure.name, (red / 255, green / 255, blue / 255), upright.array, whole.box_of(upright.geometry))


def three_planes(image: Volume[Any], drawn: Sequence[Layer], at: tuple[int, int, int], title: str) -> bytes:
    """Axial, coronal and sagittal picture through a voxel of the upright image, as PNG.

    Args:
        image: as it came; HU.
        drawn: from `layers`.
        at: (k, j, i) of the upright image.
        title: under which it stands.
    """
    upright = Reorientation.of(image.geometry).upright(image)
    figure = Figure(figsize=(12.0, 4.3), dpi=80, facecolor="black")
    FigureCanvasAgg(figure)
    body = _extent(drawn, upright.geometry)
    window = LUNG_WINDOW if title.startswith(("Lung", "Trachea")) else WINDOW
    for axis in range(3):
        axes = figure.add_axes((axis / 3 + 0.003, 0.01, 1 / 3 - 0.006, 0.92))
        _draw(axes, upright, drawn, axis, at[axis], body, window)
    figure.text(0.006, 0.955, title, color="white", fontsize=10, family="sans-serif")
    out = io.BytesIO()
    figure.savefig(out, format="png", facecolor="black", pil_kwargs={"optimize": False})
    return out.getvalue()


def _extent(drawn: Sequence[Layer], geometry: Geometry) -> Box:
    """What is worth showing: the body with some air."""
    for layer in drawn:
        if layer.name.casefold() in ("external", "body"):
            return layer.box.padded([int(15 / s) for s in geometry.spacing], geometry.shape)
    return geometry.box


def _draw(
    axes: Axes, image: Volume[Any], drawn: Sequence[Layer], axis: int, index: int, body: Box, window: tuple[float, float]
) -> None:
    spacing = [s for a, s in enumerate(image.geometry.spacing) if a != axis]
    extent = [(a, b) for n, (a, b) in enumerate(zip(body.start, body.stop, strict=True)) if n != axis]
    plane = np.take(image.array, index, axis=axis)
    axes.imshow(plane, cmap="gray", vmin=window[0], vmax=window[1], aspect=spacing[0] / spacing[1], interpolation="bilinear")
    for layer in drawn:
        inside = index - layer.box.start[axis]
        if 0 <= inside < layer.values.shape[axis]:
            values = np.take(layer.values, inside, axis=axis)
            if (values > 0).any() and min(values.shape) > 1:
                (j0, i0) = (s for a, s in enumerate(layer.box.start) if a != axis)
                x, y = np.arange(values.shape[1]) + i0, np.arange(values.shape[0]) + j0
                axes.contour(x, y, values, levels=[0.0], colors=[layer.color], linewidths=1.1)
    (top, bottom), (left, right) = extent
    axes.set_xlim(left - 0.5, right - 0.5)
    # Rows count to the back in axial planes and to the head in the others.
    axes.set_ylim((bottom - 0.5, top - 0.5) if axis == 0 else (top - 0.5, bottom - 0.5))
    axes.set_axis_off()
    for text, (x, y) in zip(LETTERS[axis], ((0.02, 0.5), (0.98, 0.5), (0.5, 0.97), (0.5, 0.03)), strict=True):
        axes.text(x, y, text, transform=axes.transAxes, color="white", ha="center", va="center", fontsize=9, alpha=0.9)
    _scale_bar(axes, spacing[1])


def _scale_bar(axes: Axes, mm: float) -> None:
    """50 mm, at the lower left."""
    left, right = axes.get_xlim()
    low, high = axes.get_ylim()
    x, y = left + 0.05 * (right - left), low + 0.06 * (high - low)
    axes.plot([x, x + 50 / mm], [y, y], color="white", linewidth=1.5)
    axes.text(x, y + 0.015 * (high - low), "50 mm", color="white", fontsize=7, va="bottom")
