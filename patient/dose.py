"""Dose on its own grid, and what it may be taken for."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import field as attribute

import numpy as np
from pydicom.dataset import Dataset

from patient.volume import Volume


@dataclass(frozen=True, eq=False)
class Dose:
    """Absorbed dose in Gy.

    Args:
        volume: `[z, y, x]` float32, Gy, on the dose's own grid; frames in the order in which z of the array grows.
        summation: Dose Summation Type (PS3.3 C.8.8.3): PLAN, FRACTION, BEAM, ...
        kind: Dose Type: PHYSICAL, EFFECTIVE or ERROR.
        transformed: Spatial Transform of Dose: NONE, RIGID or NON_RIGID.
        comment: Dose Comment; what a person should know.
        sop_instance_uid: of the RTDOSE it was read from; empty for a new one.
        plan_uid: SOP Instance UID of the RTPLAN it refers to; empty where none.
        beam: Referenced Beam Number where it is one beam's dose; None otherwise.
        structure_set_uid: of the RTSTRUCT it refers to; empty where none.
        study_uid: Study Instance UID.
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
    structure_set_uid: str = ""
    study_uid: str = ""
    header: Dataset | None = attribute(default=None, repr=False)
    notes: tuple[str, ...] = ()
