"""A structure of an evaluation that is shown in pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from patient.volume import Mask, Volume

GREY = (128, 128, 128)
"""Of what has no colour of its own."""


@dataclass(frozen=True, eq=False)
class Shown:
    """A structure of a case, cut out to be shown: both masks and the image around them (None where there is none)."""

    case: str
    structure: str
    dice: float
    predicted: Mask
    reference: Mask
    image: Volume[Any] | None
