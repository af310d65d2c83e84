"""Contours by a network: an image on the network's grid, seen in windows, and one structure at a time mapped back.

What is decided (is it there, in one piece, on its side, large enough) is decided on the network's grid; the surface is drawn
on the image's own planes from probabilities between the network's voxels. No map of the image's size is ever made but in a
structure's own box.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from contour.checks import Place, cut_sides, wrong_side
from contour.confidence import Features, predicted
from contour.engine import Absent, Context, Finding, Flag, NoModel, NotConfident, NotInImage, Offer
from contour.grid import Grid, ResampledImage
from contour.hounsfield import no_hounsfield, shifted
from contour.layout import candidates, placed
from contour.model import ModelCard, offers_of
from contour.windows import probabilities
from patient.errors import Cancelled, UnsupportedGeometry
from patient.geometry import Box, Geometry
from patient.volume import Field, Volume

__all__ = ["Grid", "LoadedModel", "NetworkEngine"]

Floats = NDArray[np.float32]
FAINT = 0.05
"""Probability below which nothing is mapped back around a structure."""
TOO_LITTLE = 0.35
"""Of the smallest usual volume: what is smaller, and not cut by the image, is no organ."""
LEAST_CC = 0.1
DOUBTFUL = 0.7
"""`-log` of the expected Dice from which on a landmark does not say which part of the body this is."""
BELIEVED = 0.5
"""Predicted Dice below which it does not either, where the card says how to predict one."""


@dataclass(frozen=True)
class LoadedModel:
    """A network in memory, of whatever kind it was.

    Args:
        card: what it is.
        grid: how an image is resampled for it.
        prepare: HU float32, axes as `grid` says, to input channels `[c, ...]`.
        forward: `[1, c, ...]` to probabilities `[1, structures, ...]` in the order of `card.structures`.
        whole: `prepare` looks at an image's own range or mean, and so needs all of it at once; else it is given windows.
    """

    card: ModelCard
    grid: Grid
    prepare: Callable[[Floats], Floats]
    forward: Callable[[Tensor], Tensor]
    whole: bool = False


class NetworkEngine:
    """An engine (`contour.engine.Engine`) that answers with what a network finds."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self.name, self.version = model.card.name, model.card.version

    def offers(self) -> Mapping[str, Offer]:
        """The model's structures."""
        return offers_of(self._model.card)

    def contour(self, image: Volume[np.generic], wanted: Sequence[str], context: Context) -> Iterator[Finding | Absent]:
        """One answer for each wanted name, one at a time, each on the image's voxels in its own box.

        For an image that is no CT, or none of the part of the body that the model knows, the answers are `NoModel`.

        Raises:
            ValueError: a name that is not offered.
            Cancelled: asked to stop.
        """
        if unknown := [name for name in wanted if name not in self.offers()]:
            raise ValueError(f"not offered: {', '.join(unknown)}")
        seen = self.look(image, wanted, context)
        for name in wanted:
            _go_on(context)
            yield NoModel(name, seen) if isinstance(seen, str) else seen.answer(name)

    def look(self, image: Volume[np.generic], wanted: Sequence[str], context: Context) -> Seen | str:
        """The network's whole say on an image, on its own grid; or why it has none."""
        card, grid, whole = self._model.card, self._model.grid, self._model.whole
        try:
            resampled = ResampledImage(image, grid)
        except UnsupportedGeometry as error:
            return error.what
        if (why := no_hounsfield(resampled.hu)) is not None:
            return why
        asked = {*wanted, *card.landmarks}
        channels = [n for n, name in enumerate(card.structures) if name in asked]

        def before_each(done: float) -> None:
            _go_on(context)
            context.progress(done, card.name)

        maps = probabilities(
            resampled.hu, grid, self._model.prepare, self._model.forward, channels, context.device, before_each, whole
        )
        named = {card.structures[n]: values for n, values in zip(channels, maps, strict=True)}
        return Seen(card, image.geometry, resampled, named)


def _go_on(context: Context) -> None:
    if context.cancelled.is_set():
        raise Cancelled("Contouring was cancelled")


class Seen:
    """What a network says of one image, structure by structure."""

    def __init__(self, card: ModelCard, whole: Geometry, resampled: ResampledImage, maps: Mapping[str, Floats]) -> None:
        self._card, self._whole, self._resampled, self._maps = card, whole, resampled, maps
        found = {name: candidates(values > 0.5, resampled.geometry) for name, values in maps.items()}
        chosen = {name: of[0] if of else None for name, of in found.items()}
        self._rejected: set[str] = set()
        if card.layout:
            fitting = placed({name: found[name] for name in card.landmarks if name in found}, card.layout)
            self._rejected = {name for name, candidate in fitting.items() if candidate is None and found[name]}
            chosen |= {name: candidate for name, candidate in fitting.items() if candidate is not None}
        self._chosen = {name: candidate for name, candidate in chosen.items() if candidate is not None}
        self._centres: dict[str, Place] = {name: c.centre for name, c in self._chosen.items()}
        self._elsewhere = self._another_part_of_the_body()
        self._shifted = shifted(resampled.hu)

    def answer(self, name: str) -> Finding | Absent:
        """One structure on the image's voxels, or why it is not there."""
        if self._elsewhere:
            return NoModel(name, self._elsewhere)
        values = self._maps[name]
        if name not in self._chosen:
            most = float(values.max())
            kind = NotInImage if most < FAINT else NotConfident
            return kind(name, f"the network is nowhere sure of it (at most {100 * most:.0f} %)")
        if name in self._rejected:
            side = wrong_side(name, self._centres)
            where = f"; {side}" if side else ""
            return NotConfident(name, f"what the network sees lies where no other organ that it sees puts it{where}")
        field = Field(self._resampled.back(_alone(values, self._chosen[name].kept)))
        if not field.mask().array.any():
            return NotConfident(name, "what the network sees of it lies between the image's voxels")
        cut = cut_sides(field, self._whole)
        if (why := self._too_little(name, cut=bool(cut))) is not None:
            return NotConfident(name, why)
        confidence = self._confidence(name, cut=bool(cut))
        return Finding(name, field, confidence, tuple(self._flags(name, cut, confidence)))

    def _flags(self, name: str, cut: Sequence[str], confidence: float | None) -> Iterator[Flag]:
        if cut:
            yield Flag("cut_by_field_of_view", f"truncated by the image at {', '.join(cut)}")
        calibration = self._card.confidence
        if confidence is not None and calibration is not None and confidence < calibration.review_below:
            yield Flag(
                "low_confidence",
                f"predicted Dice {confidence:.2f}; below {calibration.review_below:.2f} clinical review is required",
            )
        if self._shifted is not None:
            yield Flag("shifted_hounsfield", self._shifted)
        if side := wrong_side(name, self._centres):
            yield Flag("wrong_side", side)
        if self._card.suggestion:
            yield Flag(
                "suggestion", f"draft auto-contour ({self._card.name} {self._card.version}): requires clinical review"
            )

    def _too_little(self, name: str, *, cut: bool) -> str | None:
        volume, usual = self._chosen[name].volume_cc, self._card.population.get(name)
        least = LEAST_CC if usual is None or cut else TOO_LITTLE * usual.low_cc
        if volume >= least:
            return None
        said = f"; {usual.low_cc:.1f} to {usual.high_cc:.1f} cc are usual" if usual is not None else ""
        return f"what the network sees is too little to be one ({volume:.1f} cc{said})"

    def _another_part_of_the_body(self) -> str:
        """Why nothing is to be believed here; empty where enough of the model's landmarks are there."""
        landmarks = [name for name in self._card.landmarks if name in self._maps]
        likely = [name for name in landmarks if name in self._chosen and name not in self._rejected]
        large = [name for name in likely if self._too_little(name, cut=False) is None]
        sure = [name for name in large if self.features(name, cut=False).doubt < DOUBTFUL]
        said = {name: self._confidence(name, cut=False) for name in sure}
        there = [name for name, confidence in said.items() if confidence is None or confidence >= BELIEVED]
        if len(there) >= self._card.landmarks_needed:
            return ""
        seen = f"only {', '.join(there)} was detected" if there else "none was detected"
        return f"outside the model's field of view: of its landmarks {', '.join(landmarks)} {seen}"

    def _confidence(self, name: str, *, cut: bool) -> float | None:
        if self._card.confidence is None:
            return None
        return predicted(self.features(name, cut=cut), name, self._card.confidence)

    def features(self, name: str, *, cut: bool) -> Features:
        """Of a structure that is there."""
        return Features.of(
            self._maps[name],
            self._chosen[name].kept,
            self._resampled.geometry.voxel_cc,
            self._card.population.get(name),
            cut=cut,
        )


def _alone(values: Floats, kept: NDArray[np.bool_]) -> Floats:
    """The probabilities of the pieces that are kept and around them; zero elsewhere."""
    box = Box.of(kept).padded(2, values.shape)
    alone = np.zeros_like(values)
    part = values[box.slices]
    stays = (part > FAINT) & (kept[box.slices] | (part <= 0.5))
    alone[box.slices] = np.where(stays, part, np.float32(0.0))
    return alone
