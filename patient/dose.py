"""Dose on its own grid, and what it may be taken for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from dataclasses import field as attribute

import numpy as np
from pydicom.dataset import Dataset

from patient.errors import FrameMismatch
from patient.geometry import Geometry
from patient.volume import Volume


@dataclass(frozen=True, eq=False)
class Dose:
    """Absorbed dose in Gy.

    Args:
        volume: `[z, y, x]` float32, Gy, on the dose's own grid; frames in the order in which z of the array grows.
        summation: Dose Summation Type (PS3.3 C.8.8.3): PLAN, FRACTION, BEAM, PLAN_OVERVIEW, ...
        kind: Dose Type: PHYSICAL, EFFECTIVE or ERROR.
        transformed: Spatial Transform of Dose: NONE, RIGID or NON_RIGID.
        comment: Dose Comment; what a person should know.
        sop_instance_uid: of the RTDOSE it was read from; empty for a new one.
        plan_uid: SOP Instance UID of the RTPLAN it refers to; empty where none.
        beam: Referenced Beam Number where it is one beam's dose; None otherwise.
        fractions: Number of Fractions Included, of a PLAN_OVERVIEW of one plan; None otherwise.
        structure_set_uid: of the RTSTRUCT it refers to; empty where none.
        study_uid: Study Instance UID.
        made_here: this software wrote the RTDOSE it was read from: it is no planning system's.
        header: the attributes of the RTDOSE it was read from without its pixels; None for a new one.
        notes: what was odd and tolerated in reading, in words.
    """

    volume: Volume[np.float32]
    summation: str = "PLAN"
    kind: str = "PHYSICAL"
    transformed: str = "NONE"
    comment: str = ""
    sop_instance_uid: str = ""
    plan_uid: str = ""
    beam: int | None = None
    fractions: int | None = None
    structure_set_uid: str = ""
    study_uid: str = ""
    made_here: bool = False
    header: Dataset | None = attribute(default=None, repr=False)
    notes: tuple[str, ...] = ()

    def on(self, image: Geometry) -> Dose:
        """The same dose, its grid said to belong to an image: an RTDOSE names a frame of reference, transforms join images.

        Raises:
            FrameMismatch: the image is of another frame of reference.
        """
        grid = self.volume.geometry
        if grid.frame_of_reference != image.frame_of_reference:
            raise FrameMismatch(
                f"The dose is in frame of reference {grid.frame_of_reference!r}, the image in {image.frame_of_reference!r}",
                where=self.sop_instance_uid,
                why="It would be mapped to the wrong place",
                remedy="Give the image that the dose was computed on",
            )
        return replace(self, volume=Volume(self.volume.array, replace(grid, image=image.image)))
