"""What a structure set is called: the fraction always whole, within what a planning system takes."""

from pathlib import Path

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patient import conformance
from patient.conformance.check import check_file
from patient.read.images import open_folder
from patient.structures import StructureSet
from patient.write.rtstruct import write_structure_set
from patient.write.series_number import Kind, series_number
from pipelines.planning.set_label import fraction_label, planning_label
from tests.making import phantom, write_ct


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    def change(k, d):
        d.AcquisitionDate, d.SeriesNumber = "20261129", 3

    return open_folder(write_ct(tmp_path_factory.mktemp("ct"), phantom(), change))


@pytest.mark.parametrize(
    ("template", "fraction", "label"),
    [
        ("head_neck", None, "HN 20261129"),
        ("head_neck", 12, "HN 20261129 F12"),
        ("head_neck_ptv", None, "HN PTV 20261129"),
        ("thorax", None, "THORAX 20261129"),
        ("thorax", 12, "THO 20261129 F12"),
        ("thorax", 123, "TH 20261129 F123"),
        ("our-own.v2", 1, "OUR 20261129 F1"),
        ("подбородок", 1, "SITE 20261129 F1"),
    ],
)
def test_a_label_names_site_day_and_fraction(image, template, fraction, label):
    made = planning_label(template, image) if fraction is None else fraction_label(template, image, fraction, "P")
    assert made.label == label


@given(template=st.text(max_size=40), fraction=st.integers(1, 999), plan=st.text(max_size=70), length=st.integers(4, 16))
def test_a_label_fits_and_keeps_the_fraction_whole(image, template, fraction, plan, length):
    made = fraction_label(template, image, fraction, plan, length)
    assert len(made.label) <= length
    assert made.label.endswith(f"F{fraction}")
    assert len(made.name) <= 37
    assert made.name.isascii()
    assert "\\" not in made.name + made.description
    assert 0 < len(planning_label(template, image, length).label) <= length


def test_an_image_without_a_day_gives_a_label_without_one(tmp_path):
    def change(k, d):
        d.AcquisitionDate = d.SeriesDate = d.StudyDate = ""

    image = open_folder(write_ct(tmp_path, phantom(), change))
    assert fraction_label("pelvis", image, 4, "P").label == "PELVIS F4"


def test_a_label_that_a_planning_system_cuts_is_an_error_of_its_profile(tmp_path, image):
    profile = tmp_path / "short.toml"
    shipped = Path(conformance.__file__).parent / "profiles" / "standard.toml"
    profile.write_text(shipped.read_text(encoding="utf-8").replace("label_length = 16", "label_length = 10"))
    write_structure_set(tmp_path / "rs.dcm", StructureSet((), label="HN 20261129"), image, version="0")
    errors = check_file(tmp_path / "rs.dcm", profile=str(profile)).errors
    assert "StructureSetLabel: has 11 characters of at most 10" in map(str, errors)
    assert not [e for e in check_file(tmp_path / "rs.dcm").errors if e.code == "too_long"]


@pytest.mark.parametrize("own", ["3", "0", "99999", "100000", "10000001", "10010012", "2147483647", "-1", None])
def test_series_numbers_differ_by_fraction_and_kind_and_are_never_the_images(tmp_path, own):
    image = open_folder(write_ct(tmp_path, phantom(), lambda k, d: setattr(d, "SeriesNumber", own)))
    made = [series_number(image, kind, fraction) for kind in Kind for fraction in (None, *range(1, 1000))]
    assert len(set(made)) == len(made)
    assert min(made) >= 10_000_000
    assert max(made) < 2**31
    assert own is None or int(own) not in made


def test_the_number_says_image_fraction_and_kind(tmp_path, image):
    assert series_number(image, Kind.STRUCTURES, 12) == 10030121
    write_structure_set(tmp_path / "rs.dcm", StructureSet((), label="x"), image, version="0", fraction=12)
    assert pydicom.dcmread(tmp_path / "rs.dcm").SeriesNumber == 10030121
