"""The anatomy engine: what Hounsfield units and anatomy alone give with certainty, on any part of the body."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from contour.anatomy.body import THRESHOLD, Body, coarse, find_body, skin_levels
from contour.anatomy.bones import DENSE, find_bones
from contour.anatomy.canal import Spine, canal_field, find_spine
from contour.anatomy.gas import GAS, find_gas
from contour.anatomy.lungs import Chest, find_chest
from contour.anatomy.pleura import wall_cc, without_recess
from contour.anatomy.surface import Edge, refined
from contour.engine import Absent, Context, Finding, Flag, NotConfident, NotInImage, Offer
from contour.hounsfield import no_hounsfield
from patient.errors import Cancelled
from patient.reorientation import Reorientation
from patient.volume import Field, Volume

_LUNG_LIMITS = "consolidated lung and tumour are left out; so is what is thinner than 5 mm at the base"
_OFFERS = {
    "External": Offer(
        "HU threshold, thin sheets removed by opening, cavities filled",
        limits="a cushion or bolus that touches the skin and is as dense as fat is taken for body",
    ),
    "Lung_L": Offer("air inside the body, vessels closed in", limits=_LUNG_LIMITS),
    "Lung_R": Offer("air inside the body, vessels closed in", limits=_LUNG_LIMITS),
    "Trachea": Offer("round dark spot followed from slice to slice", limits="lumen only; bronchi end arbitrarily"),
    "Bones": Offer("HU threshold, parts with a cortical rim", limits="dense contrast beside bone and metal are included"),
    "zAir": Offer(
        "HU threshold inside the body, without lungs",
        limits="not within 4 mm of the skin; too little lung to be told as such is taken for air",
    ),
    "SpinalCanal": Offer("path of best enclosure by bone, wall by rays", limits="wall interpolated where arches are open"),
}
_COARSE_MM = 1.5
LUNG_EDGE = -250.0
"""Where a lung's surface is drawn in a lung window: nearer to soft tissue than to air."""

DENSE_LUNG = -500.0
DENSE_SHARE = 0.15
"""Of a lung's voxels: vessels make up 0.06 to 0.12, a pneumonia 0.17."""

BESIDE_CC = 5.0
"""Between a lung and its ribs, farther apart than a healthy wall is thick: healthy lungs measure 0 to 0.5, a ball of tumour
of 30 mm at the wall 7, fluid in the lowest fifth 50."""


class AnatomyEngine:
    """External, Lung_L, Lung_R, Trachea, Bones, SpinalCanal, zAir; or that they are not in this image."""

    name = "anatomy"
    version = "1.0"

    def offers(self) -> Mapping[str, Offer]:
        """What it finds, how, and its limits."""
        return _OFFERS

    def contour(self, image: Volume[np.generic], wanted: Sequence[str], context: Context) -> Iterator[Finding | Absent]:
        """Each wanted structure in turn, on the image's own grid.

        Raises:
            ValueError: a name that is not offered.
            Cancelled: asked to stop.
        """
        if unknown := [name for name in wanted if name not in _OFFERS]:
            raise ValueError(f"not offered: {', '.join(unknown)}")
        reorientation = Reorientation.of(image.geometry)
        scene = _Scene(reorientation.upright(image))
        for done, name in enumerate(wanted):
            if context.cancelled.is_set():
                raise Cancelled("Contouring was cancelled")
            context.progress(done / len(wanted), name)
            answer = scene.answer(name)
            if isinstance(answer, Absent):
                yield answer
            elif isinstance(answer, str):
                yield NotInImage(name, answer)
            else:
                yield Finding(name, Field(reorientation.back(answer.volume), answer.level), flags=scene.flags(name, answer))


class _Scene:
    """An upright image and what was found in it so far."""

    def __init__(self, image: Volume[np.generic]) -> None:
        self._hu, self._geometry = _numbers(image.array), image.geometry
        _, dy, dx = image.geometry.spacing
        self._step = 2 if max(dy, dx) < _COARSE_MM and min(image.geometry.shape[1:]) >= 64 else 1

    def answer(self, name: str) -> Field | Absent | str:
        """The field of a structure, or why the image shows none; `Absent` where it may show one."""
        if isinstance(self._body, str):
            return self._body
        if name == "External":
            return self._refined(self._body.solid, Edge(skin_levels(self._small, self._body, THRESHOLD), 1))
        if name == "SpinalCanal":
            if self._spine is None:
                return "no run of slices shows soft tissue enclosed by vertebrae"
            return canal_field(self._hu, self._geometry, self._spine)
        if name == "Bones":
            bones = find_bones(self._small, self._body)
            return self._refined(bones, Edge(DENSE, 1)) if bones is not None else "no bone of a cubic centimetre"
        if name == "zAir":
            gas = find_gas(self._small, self._body, self._chest.lungs)
            return self._refined(gas, Edge(GAS, -1)) if gas is not None else "no air inside the body"
        found = {"Lung_L": self._chest.left, "Lung_R": self._chest.right, "Trachea": self._chest.trachea}[name]
        if found is not None:
            edge = self._refined(found, Edge(LUNG_EDGE, -1))
            return edge if name == "Trachea" else without_recess(edge)
        if name == "Trachea":
            return "no round air-filled passage goes on for 30 mm"
        return NotConfident(name, self._chest.reason) if self._chest.doubtful else self._chest.reason

    def flags(self, name: str, found: Field) -> tuple[Flag, ...]:
        """Of a lung of which much is as dense as tissue, or that does not reach its ribs: a part of it may be left out."""
        if name not in ("Lung_L", "Lung_R"):
            return ()
        mask = found.mask()
        inside = self._hu[self._geometry.box_of(mask.geometry).slices][mask.array]
        share = float((inside > DENSE_LUNG).mean())
        said = []
        if share > DENSE_SHARE:
            dense = f"{100 * share:.0f} % of it is denser than {DENSE_LUNG:.0f} HU"
            said.append(f"{dense}: consolidated lung or fluid may be left out")
        lung, side = (self._chest.left, 1) if name == "Lung_L" else (self._chest.right, -1)
        assert lung is not None
        beside = wall_cc(lung, self._small, self._spacing, side)
        if beside > BESIDE_CC:
            said.append(f"{beside:.0f} cc of tissue between it and the ribs: fluid, collapse or tumour may be left out")
        return (Flag("dense_lung", "; ".join(said)),) if said else ()

    def _refined(self, mask: NDArray[np.bool_], edge: Edge) -> Field:
        return refined(self._hu, self._geometry, mask, self._small, self._step, edge)

    @cached_property
    def _small(self) -> NDArray[np.int16]:
        return coarse(self._hu, self._step)

    @property
    def _spacing(self) -> tuple[float, float, float]:
        dz, dy, dx = self._geometry.spacing
        return dz, dy * self._step, dx * self._step

    @cached_property
    def _body(self) -> Body | str:
        if (why := no_hounsfield(self._small)) is not None:
            return why
        body = find_body(self._small, self._spacing, self._step, THRESHOLD)
        return body if body is not None else "nothing in the image is as dense as a body"

    @cached_property
    def _spine(self) -> Spine | None:
        assert isinstance(self._body, Body)
        (_, j0, i0), (_, j1, i1) = self._body.box.start, self._body.box.stop
        return find_spine(self._hu, self._geometry, (i0, i1), (j0, j1))

    @cached_property
    def _chest(self) -> Chest:
        assert isinstance(self._body, Body)
        spine = self._spine
        path = None if spine is None else np.column_stack([spine.planes.astype(np.float64), spine.middle / self._step])
        return find_chest(self._small, self._body, path)


def _numbers(array: NDArray[np.generic]) -> NDArray[np.int16]:
    """HU as int16; what is no number is air."""
    if array.dtype == np.int16:
        return array  # type: ignore[return-value]
    values = np.nan_to_num(array.astype(np.float32), nan=-1024.0, posinf=3071.0, neginf=-1024.0)
    return np.clip(np.rint(values), -1024, 32767).astype(np.int16)
