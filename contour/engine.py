"""What answers a template: the protocol that every contouring engine keeps, ours and a clinic's own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np

from patient.geometry import Box
from patient.volume import Field, Volume


@dataclass(frozen=True)
class Flag:
    """Something a person should know of a structure.

    `code` is a word that scripts can match (missing, cut_by_field_of_view, implausible_volume, wrong_side, fragments,
    touches_crop, abrupt_end, uneven_pair, dense_lung, low_confidence, shifted_hounsfield, suggestion, cleaned,
    without_barrier, synonym, small_contours, small_left_out, simplified); `detail` a sentence with the values.
    """

    code: str
    detail: str


@dataclass(frozen=True)
class Offer:
    """How an engine makes a structure: method in words, licence of whatever it stands on, its known limits."""

    method: str
    licence: str = "Apache-2.0"
    limits: str = ""


@dataclass(frozen=True, eq=False)
class Finding:
    """A structure that was found.

    Args:
        name: TG-263, one of the engine's offers.
        field: its surface, cropped to its own box on the image's grid (float32, a voxel of margin where there is room).
        confidence: 0 to 1, or None where the engine does not know.
        flags: what the engine itself noticed (cut by the field of view, ...).
    """

    name: str
    field: Field
    confidence: float | None = None
    flags: tuple[Flag, ...] = ()


@dataclass(frozen=True)
class Absent:
    """No contour of a structure, and why: said rather than invented. Its type says what kind of reason it is."""

    name: str
    reason: str


class NotInImage(Absent):
    """The image's field of view does not show it."""


class NoModel(Absent):
    """The engine does not know this part of the body or this kind of image: the structure may well be in it."""


class NotConfident(Absent):
    """The engine knows the part of the body, and is not sure enough of what it sees to draw it."""


def _silent(done: float, what: str) -> None: ...


@dataclass(frozen=True)
class Context:
    """What an engine may know besides pixels.

    Args:
        patient_position: HFS, FFP, ...; empty if unknown. Geometry already places voxels without it.
        body: box of the body in the image's grid, where somebody has found it already.
        device: "cpu" or "cuda:0".
        seed: the same seed gives the same contours.
        cancelled: set from outside; engines look between structures and raise Cancelled.
        progress: called with a fraction 0-1 and a word.
    """

    patient_position: str = ""
    body: Box | None = None
    device: str = "cpu"
    seed: int = 0
    cancelled: threading.Event = field(default_factory=threading.Event)
    progress: Callable[[float, str], None] = _silent


@runtime_checkable
class Engine(Protocol):
    """Something that contours. Registered under the entry point group `recontour.engines` as a callable without arguments.

    `name` and `version` go into the RTSTRUCT and result.json. An engine never sees DICOM: images are Volumes in HU,
    arrays `[z, y, x]` whose geometry may be turned in any way (feet first, prone, oblique); an engine that assumes an
    orientation must turn the array itself by `image.geometry`.
    """

    name: str
    version: str

    def offers(self) -> Mapping[str, Offer]:
        """TG-263 name to how it is made. Constant; cheap to ask."""
        ...

    def contour(self, image: Volume[np.generic], wanted: Sequence[str], context: Context) -> Iterator[Finding | Absent]:
        """One answer for each wanted name, one at a time, each cropped to its own box.

        Raises:
            ValueError: a name that is not offered.
            Cancelled: asked to stop.
        """
        ...
