"""Several images in one series: told apart, named, and never mixed."""

import json

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from patient import errors
from patient.read.completeness import UNTOLD
from patient.read.images import open_folder
from patient.structures import Structure, StructureSet
from patient.volume import Field, Volume
from patient.write.rtstruct import write_structure_set
from tests.commands import recontour
from tests.making import phantom, write_ct

HU = phantom()


def phases(folder, tag="TemporalPositionIdentifier", values=(1, 2, 3), moved=0.0, **more):
    """One series with an image for each value, at the same places or each so many mm further along."""
    for n, value in enumerate(values):

        def change(k, d, n=n, value=value):
            if value is not None:
                setattr(d, tag, value)
            for keyword, of in more.items():
                setattr(d, keyword, of[n])
            d.SOPInstanceUID = d.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["phase", str(n), str(k)])
            d.ImagePositionPatient = [*d.ImagePositionPatient[:2], float(d.ImagePositionPatient[2]) + n * moved]
            d.PixelData = (HU[k].astype(np.int32) + 1024 + n).astype("<u2").tobytes()

        write_ct(folder / f"part{n}", HU, change)
    return folder


@pytest.mark.parametrize(
    ("tag", "values"),
    [
        ("TemporalPositionIdentifier", (1, 2, 3)),
        ("TriggerTime", ("0", "333.5", "1000")),
        ("AcquisitionNumber", (3, 7, 11)),
        ("AcquisitionTime", ("080000", "080100.5", "080200")),
    ],
)
def test_phases_of_one_series_are_named_and_each_can_be_read_alone(tmp_path, tag, values):
    folder = phases(tmp_path, tag, values)
    with pytest.raises(errors.MixedSeries, match=r"3 images of one region") as caught:
        open_folder(folder)
    for value in values:
        assert f"{float(value):g} (12 slices)" in str(caught.value).replace("080", "80")
    name = str(values[1])
    image = open_folder(folder, phase=name)
    assert len(image.instances) == 12
    assert (image.load().array == HU + 1).all()
    assert any(
        f"One of 3 images of the series: {' '.join(caught.value.what.split(': ')[1].split()[:2])}" in n for n in image.notes
    )


def test_a_phase_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    with pytest.raises(errors.MixedSeries, match=r"has no phase 9: Temporal Position Identifier 1 \(12 slices\), 2"):
        open_folder(phases(tmp_path), phase="9")


def test_a_structure_set_tells_the_phase_it_was_drawn_on(tmp_path):
    folder = phases(tmp_path)
    image = open_folder(folder, phase="3")
    drawn_on = frozenset(i.sop_instance_uid for i in image.instances[3:6])
    assert open_folder(folder, drawn_on=drawn_on).instances == image.instances


def test_two_images_that_nothing_tells_apart_stay_refused(tmp_path):
    with pytest.raises(errors.DuplicateSlices):
        open_folder(phases(tmp_path, values=(None, None)))


def test_free_text_never_names_a_phase(tmp_path):
    with pytest.raises(errors.DuplicateSlices) as caught:
        open_folder(phases(tmp_path, "ImageComments", ("Smith 10%", "Smith 50%")))
    assert "Smith" not in str(caught.value)


def test_acquisitions_that_alternate_along_the_stack_are_refused_by_name_and_read_one_by_one(tmp_path):
    folder = phases(tmp_path, "AcquisitionNumber", (1, 2), moved=1.25)
    with pytest.raises(errors.MixedSeries, match=r"Acquisition Number 1 \(12 slices\), 2 \(12 slices\)"):
        open_folder(folder)
    image = open_folder(folder, phase="2")
    assert image.geometry.spacing[0] == pytest.approx(2.5)
    assert (image.load().array == HU + 1).all()


def test_acquisitions_that_overlap_in_part_are_refused(tmp_path):
    folder = phases(tmp_path, "AcquisitionNumber", (1, 2), moved=2.5 * 8 + 1.25)
    with pytest.raises(errors.MixedSeries, match="2 acquisitions alternate along the series"):
        open_folder(folder)


def test_one_acquisition_behind_the_other_is_read_and_the_join_is_noted(tmp_path):
    image = open_folder(phases(tmp_path, "AcquisitionNumber", (1, 2), moved=2.5 * 12))
    assert len(image.instances) == 24
    assert any("Joined from 2 acquisitions" in note for note in image.notes)


def test_a_number_for_every_slice_is_no_join(tmp_path):
    image = open_folder(write_ct(tmp_path, HU, lambda k, d: setattr(d, "AcquisitionNumber", k)))
    assert image.notes == (UNTOLD,)


def test_contouring_a_series_of_phases_asks_for_one_and_contours_that_one_alone(tmp_path):
    folder = phases(tmp_path / "ct")
    call = ["contour", str(folder), "-o", str(tmp_path / "out"), "--template", "abdomen", "--json"]
    asked = recontour(*call)
    assert asked.returncode == 2
    assert "1 (12 slices), 2 (12 slices), 3 (12 slices)" in " ".join(asked.stderr.split())
    assert "--phase" in asked.stderr
    made = recontour(*call, "--phase", "2")
    assert made.returncode in (0, 3), made.stderr
    assert any("Temporal Position Identifier 2" in note for note in json.loads(made.stdout)["image"]["notes"])
    listed = dcmread(tmp_path / "out" / "rtstruct.dcm").ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    uids = {i.ReferencedSOPInstanceUID for i in listed.RTReferencedSeriesSequence[0].ContourImageSequence}
    assert uids == {i.sop_instance_uid for i in open_folder(folder, phase="2").instances}
    checked = recontour("check", tmp_path / "out" / "rtstruct.dcm", "--ct", folder)
    assert checked.returncode in (0, 3), checked.stderr


def test_what_exists_on_a_phase_chooses_it(tmp_path):
    folder = phases(tmp_path / "ct")
    image = open_folder(folder, phase="3")
    drawn = Structure("Lesion", field=Field.of_mask(Volume(HU == 900, image.geometry)))
    write_structure_set(tmp_path / "rs.dcm", StructureSet((drawn,)), image, version="0")
    call = ["contour", str(folder), "-o", str(tmp_path / "out"), "--template", "abdomen", "--json"]
    made = recontour(*call, "--existing", tmp_path / "rs.dcm")
    assert made.returncode in (0, 3), made.stderr
    assert any("Temporal Position Identifier 3" in note for note in json.loads(made.stdout)["image"]["notes"])
