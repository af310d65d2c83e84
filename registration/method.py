"""What registers two images: the protocol that every method keeps, and what each result comes with."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from patient.errors import Cancelled
from patient.volume import Mask, Volume
from registration.transforms import Affine, Points, Transform


def _silent(done: float, what: str) -> None: ...


@dataclass(frozen=True, eq=False)
class Matches:
    """Points of two images that are one and the same place in the patient.

    Args:
        fixed: `[n, 3]` LPS mm in the fixed image.
        moving: `[n, 3]` LPS mm in the moving image.
        score: `[n]`, 0 to 1: likeness of the two descriptors.
    """

    fixed: Points
    moving: Points
    score: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.fixed)

    def where(self, kept: NDArray[np.bool_]) -> Matches:
        """Some of them: those at which `kept` `[n]` is True."""
        return Matches(self.fixed[kept], self.moving[kept], self.score[kept])


@dataclass(frozen=True)
class RegistrationContext:
    """What a method may know besides the two images.

    Args:
        fixed_mask: where the fixed image is to be believed and looked at (a body without couch, lungs, the valid field of
            view of a CBCT), on its own grid or a crop of it; None for everywhere.
        moving_mask: the same of the moving image.
        weight: a region of the fixed image that counts most (bone, a target); None for none.
        rigid: structures of the fixed image that turn and shift rather than bend (bone); None for none.
        landmarks: points of which it is known from elsewhere that they meet (`registration.features.find_matches`, or a
            person's); deformable methods draw toward them and weigh them against the images. None for none.
        start: `moving_from_fixed` to begin with; None where nothing is known.
        seed: the same seed gives the same result.
        device: "cpu" or "cuda:0".
        cancelled: set from outside; methods look between steps and raise Cancelled.
        progress: called with a fraction 0-1 and a word.
    """

    fixed_mask: Mask | None = None
    moving_mask: Mask | None = None
    weight: Mask | None = None
    rigid: Mask | None = None
    landmarks: Matches | None = None
    start: Affine | None = None
    seed: int = 0
    device: str = "cpu"
    cancelled: threading.Event = field(default_factory=threading.Event)
    progress: Callable[[float, str], None] = _silent

    def check_cancelled(self) -> None:
        """Raises Cancelled where the caller has asked to stop."""
        if self.cancelled.is_set():
            raise Cancelled("The registration was cancelled")


@dataclass(frozen=True)
class Evidence:
    """What a method itself saw of its fit; None where it does not apply.

    Args:
        matches: pairs of points that were matched.
        inliers: of them, how many agree with the result.
        residual: mm, root mean square of the inliers.
        notes: what a person should know, in words.
    """

    matches: int | None = None
    inliers: int | None = None
    residual: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Fit:
    """A method's answer, before anybody judged it (`registration.quality` does).

    Args:
        moving_from_fixed: takes points of the fixed image to where they are in the moving one.
        evidence: what the method saw.
    """

    moving_from_fixed: Transform
    evidence: Evidence = Evidence()


@runtime_checkable
class Method(Protocol):
    """Something that registers. Registered under the entry point group `recontour.registrations`."""

    name: str
    version: str

    def fit(self, fixed: Volume[Any], moving: Volume[Any], context: RegistrationContext) -> Fit:
        """Where the points of the fixed image lie in the moving one.

        Args:
            fixed: `[z, y, x]`, HU or any modality's numbers, on a grid turned in any way.
            moving: the same.
            context: masks, start, seed.

        Raises:
            NotTrusted: nothing that could be called an answer was found.
            InputError: an image is constant or holds no numbers.
            Cancelled: asked to stop.
        """
        ...
