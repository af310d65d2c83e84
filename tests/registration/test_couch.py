"""The couch's six numbers: signs by hand for every position, and back again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patient.errors import InputError
from registration.couch import AXES, CouchCorrection, couch_correction, iec_from_lps, setup_error
from registration.transforms import Rigid, Space

PLAN, FRACTION = Space("plan"), Space("fraction")
ISO = (12.0, -30.0, 250.0)
mm, degrees = st.floats(-80, 80), st.floats(-80, 80)
positions = st.sampled_from(sorted(AXES))
corrections = st.builds(
    CouchCorrection,
    mm,
    mm,
    mm,
    st.floats(-179, 179),
    degrees,
    st.floats(-179, 179),
    st.tuples(mm, mm, st.floats(-1000, 1000)),
)


def shifted(*by: float) -> Rigid:
    return Rigid.of(np.eye(3), by, PLAN, FRACTION)


@pytest.mark.parametrize(
    ("position", "left", "posterior", "head"),
    [  # where the couch must go (lateral, longitudinal, vertical) if the patient lies 1 mm too far to the ...
        ("HFS", (-1, 0, 0), (0, 0, 1), (0, -1, 0)),
        ("HFP", (1, 0, 0), (0, 0, -1), (0, -1, 0)),
        ("FFS", (1, 0, 0), (0, 0, 1), (0, 1, 0)),
        ("FFP", (-1, 0, 0), (0, 0, -1), (0, 1, 0)),
        ("HFDR", (0, 0, -1), (-1, 0, 0), (0, -1, 0)),
        ("HFDL", (0, 0, 1), (1, 0, 0), (0, -1, 0)),
        ("FFDR", (0, 0, -1), (1, 0, 0), (0, 1, 0)),
        ("FFDL", (0, 0, 1), (-1, 0, 0), (0, 1, 0)),
    ],
)
def test_shift_signs(position: str, left: tuple[int, ...], posterior: tuple[int, ...], head: tuple[int, ...]) -> None:
    for direction, wanted in zip(np.eye(3), (left, posterior, head), strict=True):
        got = couch_correction(shifted(*direction), position, ISO)
        assert (got.lateral, got.longitudinal, got.vertical) == pytest.approx(wanted)
        assert (got.pitch, got.roll, got.yaw) == pytest.approx((0, 0, 0))


@pytest.mark.parametrize("position", sorted(AXES))
def test_axes_are_right_handed(position: str) -> None:
    assert np.linalg.det(iec_from_lps(position)) == pytest.approx(1)


def test_supine_patient_who_nods() -> None:
    """Head first supine, the head raised by 2 degrees about the left-right axis: the couch pitches it down."""
    c, s = np.cos(np.radians(2)), np.sin(np.radians(2))
    raised = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    assert (raised @ (0, 0, 1))[1] < 0  # what was toward the head is now anterior of it, up in the room
    about_iso = Rigid.of(raised, np.asarray(ISO) - raised @ ISO, PLAN, FRACTION)
    got = couch_correction(about_iso, "HFS", ISO)
    assert (got.pitch, got.roll, got.yaw) == pytest.approx((-2, 0, 0))
    assert (got.lateral, got.longitudinal, got.vertical) == pytest.approx((0, 0, 0), abs=1e-9)


@given(corrections, positions, st.tuples(mm, mm, mm))
def test_correction_brings_every_point_back(correction: CouchCorrection, position: str, offset: tuple[float, ...]) -> None:
    """The couch's move, made step by step as the docstring says, inverts the setup error."""
    error = setup_error(correction, position, PLAN, FRACTION)
    axes, centre = iec_from_lps(position), np.asarray(correction.centre)
    planned = centre + offset
    at = axes @ (error.points(planned, PLAN) - centre) + (correction.lateral, correction.longitudinal, correction.vertical)
    for axis, angle in enumerate((correction.pitch, correction.roll, correction.yaw)):
        c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        u, v = (axis + 1) % 3, (axis + 2) % 3
        at[u], at[v] = c * at[u] - s * at[v], s * at[u] + c * at[v]
    np.testing.assert_allclose(axes.T @ at + centre, planned, atol=1e-6)


@given(corrections, positions)
def test_there_and_back(correction: CouchCorrection, position: str) -> None:
    got = couch_correction(setup_error(correction, position, PLAN, FRACTION), position, correction.centre)
    for name in ("lateral", "longitudinal", "vertical", "pitch", "roll", "yaw"):
        assert getattr(got, name) == pytest.approx(getattr(correction, name), abs=1e-6)


@settings(max_examples=30)
@given(st.sampled_from((-90.0, 90.0)), degrees, degrees, positions)
def test_gimbal_lock_keeps_the_matrix(roll: float, pitch: float, yaw: float, position: str) -> None:
    error = setup_error(CouchCorrection(1, 2, 3, pitch, roll, yaw, ISO), position, PLAN, FRACTION)
    again = setup_error(couch_correction(error, position, ISO), position, PLAN, FRACTION)
    np.testing.assert_allclose(again.matrix, error.matrix, atol=1e-6)


def test_another_centre_gives_other_shifts_of_the_same_move() -> None:
    error = setup_error(CouchCorrection(1, 2, 3, 4, 5, 6, ISO), "HFS", PLAN, FRACTION)
    elsewhere = couch_correction(error, "HFS", (0, 0, 0))
    assert elsewhere.lateral != pytest.approx(1)
    np.testing.assert_allclose(setup_error(elsewhere, "HFS", PLAN, FRACTION).matrix, error.matrix, atol=1e-9)


def test_unknown_position_is_refused() -> None:
    with pytest.raises(InputError, match="patient position is none of"):
        couch_correction(shifted(1, 2, 3), "SITTING", ISO)
