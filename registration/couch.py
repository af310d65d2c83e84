"""What a couch with six degrees of freedom would have to do, so that a rigid result can be held against the room's own log.

Axes and signs are IEC 61217's, of the fixed and table top systems at zero: seen from a viewer who faces the gantry, X to the
right (lateral), Y toward the gantry (longitudinal), Z up (vertical). Pitch turns about X, roll about Y, yaw about Z, each
counter-clockwise seen from the axis' tip. The rows of `AXES` follow from DICOM PS3.17 FFF.1.2.2. These are deltas; readouts
in a vendor's own scale differ in sign and origin.

**Formulas.** Let `p -> R p + t` (LPS mm) take points of the plan's image to where the fraction's image, lying in the room,
shows them; A the matrix of the patient's position (LPS vector -> IEC vector); c the point of rotation (the isocentre) in the
plan's image. With Q = A R A^T and d = R c + t - c, the patient is at

    q = Q (p' - c') + c' + A d        (p', c' in IEC axes)

and must be moved back, p' again, by turning about the *room's* isocentre c' after the shift:

    correction:  q -> C (q - c' + s) + c',     s = -A d,     C = Q^T = Rz(yaw) Ry(roll) Rx(pitch)

So the shift comes first (the planned point found at p + d moves by -A d, along the axes of the room), then the turns about
axes fixed in the room through the isocentre: pitch first, then roll, then yaw. Rotations do not commute, and another centre
gives other shifts: both go wherever the six numbers go.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from patient.errors import InputError
from registration.transforms import Rigid, Space

AXES: dict[str, tuple[str, str, str]] = {
    "HFS": ("+x", "+z", "-y"),
    "HFP": ("-x", "+z", "+y"),
    "FFS": ("-x", "-z", "-y"),
    "FFP": ("+x", "-z", "+y"),
    "HFDR": ("+y", "+z", "+x"),
    "HFDL": ("-y", "+z", "-x"),
    "FFDR": ("-y", "-z", "+x"),
    "FFDL": ("+y", "-z", "-x"),
}
"""Patient Position (0018,5100) -> which LPS direction IEC X, Y and Z are."""


@dataclass(frozen=True)
class CouchCorrection:
    """How the table must move, shift first, then pitch, roll and yaw about the centre: IEC 61217 deltas.

    Args:
        lateral: mm along IEC X, to the right of a viewer who faces the gantry.
        longitudinal: mm along IEC Y, toward the gantry.
        vertical: mm along IEC Z, up.
        pitch: degrees about IEC X.
        roll: degrees about IEC Y.
        yaw: degrees about IEC Z.
        centre: LPS mm (x, y, z) in the plan's image: the point that the turns leave in place, usually the isocentre.
    """

    lateral: float
    longitudinal: float
    vertical: float
    pitch: float
    roll: float
    yaw: float
    centre: tuple[float, float, float]


def couch_correction(moving_from_fixed: Rigid, patient_position: str, centre: ArrayLike) -> CouchCorrection:
    """The couch's move that inverts a setup error; the formulas are at the top of this module.

    Args:
        moving_from_fixed: from the plan's image to the fraction's, whose axes are the room's.
        patient_position: DICOM's (0018,5100), as `HFS`, one of eight.
        centre: the point of rotation, LPS mm (x, y, z) in the plan's image.

    Raises:
        InputError: the position is none of the eight.
    """
    axes = iec_from_lps(patient_position)
    point = np.asarray(centre, dtype=np.float64)
    shift = -axes @ (moving_from_fixed.rotation @ point + moving_from_fixed.translation - point)
    turn = axes @ moving_from_fixed.rotation.T @ axes.T
    pitch, roll, yaw = (float(np.degrees(angle)) for angle in _angles(turn))
    lateral, longitudinal, vertical = (float(v) for v in shift)
    x, y, z = (float(v) for v in point)
    return CouchCorrection(lateral, longitudinal, vertical, pitch, roll, yaw, (x, y, z))


def setup_error(correction: CouchCorrection, patient_position: str, source: Space, target: Space) -> Rigid:
    """`moving_from_fixed`, the setup error that a couch's move inverts: the inverse of `couch_correction`.

    Args:
        correction: the couch's move.
        patient_position: as there.
        source: the plan's image.
        target: the fraction's.

    Raises:
        InputError: the position is none of the eight.
    """
    axes = iec_from_lps(patient_position)
    point = np.asarray(correction.centre)
    turn = _turn(*np.radians((correction.pitch, correction.roll, correction.yaw)))
    rotation = axes.T @ turn.T @ axes
    found = -axes.T @ (correction.lateral, correction.longitudinal, correction.vertical)
    return Rigid.of(rotation, point + found - rotation @ point, source, target)


def iec_from_lps(patient_position: str) -> NDArray[np.float64]:
    """`[3, 3]`: an LPS vector times this (from the left) is the same vector along IEC X, Y, Z.

    Raises:
        InputError: the position is none of the eight.
    """
    rows = AXES.get(patient_position.strip().upper())
    if rows is None:
        raise InputError(
            f"The patient position is none of {', '.join(AXES)}",
            why="Which way the couch would have to go cannot be told",
            remedy="Correct (0018,5100) in the image",
        )
    return np.array([[(1.0 if row[0] == "+" else -1.0) * (axis == row[1]) for axis in "xyz"] for row in rows])


def _turn(pitch: float, roll: float, yaw: float) -> NDArray[np.float64]:
    """Rz(yaw) Ry(roll) Rx(pitch), angles in rad."""
    a, b, c = np.cos((pitch, roll, yaw))
    u, v, w = np.sin((pitch, roll, yaw))
    about_x = np.array([[1, 0, 0], [0, a, -u], [0, u, a]])
    about_y = np.array([[b, 0, v], [0, 1, 0], [-v, 0, b]])
    about_z = np.array([[c, -w, 0], [w, c, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def _angles(turn: NDArray[np.float64]) -> tuple[float, float, float]:
    """Pitch, roll, yaw in rad of Rz Ry Rx; roll within 90 degrees, and yaw 0 where roll is 90 (they are one turn there)."""
    roll = float(np.arctan2(-turn[2, 0], np.hypot(turn[0, 0], turn[1, 0])))
    if np.hypot(turn[0, 0], turn[1, 0]) < 1e-9:
        return float(np.arctan2(np.sign(roll) * turn[0, 1], turn[1, 1])), roll, 0.0
    return float(np.arctan2(turn[2, 1], turn[2, 2])), roll, float(np.arctan2(turn[1, 0], turn[0, 0]))
