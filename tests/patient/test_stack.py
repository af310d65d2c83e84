"""Which planes make a regular stack: rounding is no gap, a missing slice is none of rounding's business."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from patient import errors
from patient.read.headers import Header
from patient.read.images import open_folder
from patient.read.planes import Plane
from patient.read.stack import stacked
from tests.making import phantom, write_ct

HU = phantom()


def planes(positions):
    """Planes as headers would give them, in that order."""
    axes = np.array([[0.0, 1, 0], [1.0, 0, 0]])
    made = []
    for n, position in enumerate(positions):
        dataset = Dataset()
        dataset.InstanceNumber = n + 1
        header = Header(Path(f"{n}.dcm"), dataset, ExplicitVRLittleEndian, None, 0, Dataset())
        made.append(Plane(header, None, np.asarray(position, float), axes, (1.0, 1.0), 8, 8, 1.0, 0.0))
    return made


def at(places):
    return [(0.0, 0.0, z) for z in places]


@settings(max_examples=200, deadline=None)
@given(
    step=st.floats(0.3, 6.0),
    start=st.floats(-900, 900),
    count=st.integers(2, 120),
    digits=st.sampled_from([0, 1, 2]),
)
@example(step=3.0078125, start=1.375, count=23, digits=0)
def test_a_regular_stack_is_regular_however_its_positions_were_rounded(step, start, count, digits):
    if 10.0**-digits > step / 3:
        return
    stack = stacked(planes(at(np.round(start + step * np.arange(count), digits))), "", "")
    assert stack.geometry.spacing[0] == pytest.approx(step, abs=10.0**-digits / max(1, count - 1) + 1e-6)


@settings(max_examples=200, deadline=None)
@given(
    step=st.floats(0.3, 6.0),
    start=st.floats(-900, 900),
    count=st.integers(4, 120),
    digits=st.sampled_from([0, 1, 2, 6]),
    where=st.floats(0, 1),
)
@example(step=2.0, start=0.0, count=4, digits=1, where=0.0)
def test_a_missing_slice_is_missing_however_its_positions_were_rounded(step, start, count, digits, where):
    gone = 1 + round(where * (count - 3))
    if 10.0**-digits > step / 8:
        return
    places = np.delete(np.round(start + step * np.arange(count), digits), gone)
    with pytest.raises(errors.IncompleteSeries, match="1 slice is missing"):
        stacked(planes(at(places)), "", "")


def test_positions_rounded_to_a_tenth_are_read_and_loops_go_to_where_the_slices_say(tmp_path):
    def change(k, d):
        d.ImagePositionPatient = [0, 0, f"{0.65 * k:.1f}"]

    image = open_folder(write_ct(tmp_path, HU, change))
    assert image.geometry.spacing[0] == pytest.approx(0.65, abs=0.01)
    assert (image.load().array == HU).all()
    assert any("jitter" in note for note in image.notes)


def test_every_gap_is_counted():
    places = [z for z in range(0, 60, 2) if z not in (10, 30, 32)]
    with pytest.raises(errors.IncompleteSeries, match=r"3 slices are missing in 2 places, the first a step of 4\.00 mm"):
        stacked(planes(at(places)), "", "")


def test_planes_aside_without_a_tilt_are_refused():
    aside = [(7.0 * (k % 2), 0.0, 2.0 * k) for k in range(12)]
    with pytest.raises(errors.UnsupportedGeometry, match="off any tilt"):
        stacked(planes(aside), "", "")
