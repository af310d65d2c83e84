"""What stored numbers mean: units, padding, bits."""

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import RLELossless

from patient.errors import PixelDataError
from patient.read.images import open_folder
from tests.making import phantom, write_ct

HU = phantom()


@pytest.mark.parametrize("unit", ["EDW", "MGML", "Z_EFF", "ED", "PCT", "OD"])
def test_a_ct_in_another_unit_is_refused_by_its_name(tmp_path, unit):
    image = open_folder(write_ct(tmp_path / "ct", HU, lambda k, d: setattr(d, "RescaleType", unit)))
    with pytest.raises(PixelDataError, match=f"Rescale Type is {unit} "):
        image.load()


def test_a_ct_in_a_unit_of_its_own_is_refused_without_a_word_of_its_header(tmp_path):
    image = open_folder(write_ct(tmp_path / "ct", HU, lambda k, d: setattr(d, "RescaleType", "XU LI")))
    with pytest.raises(PixelDataError, match="Rescale Type is a unit of its own, not HU") as caught:
        image.load()
    assert "XU" not in str(caught.value)


@pytest.mark.parametrize("unit", ["HU", "US", "HU_MOD", ""])
def test_a_ct_in_hu_or_without_a_word_of_its_unit_is_read(tmp_path, unit):
    assert (
        open_folder(write_ct(tmp_path / "ct", HU, lambda k, d: setattr(d, "RescaleType", unit))).load().array == HU
    ).all()


def _drop(keyword, planes):
    def change(k, dataset):
        if k in planes:
            delattr(dataset, keyword)

    return change


def test_unsigned_pixels_without_an_intercept_are_no_hounsfield_units(tmp_path):
    image = open_folder(write_ct(tmp_path / "ct", HU, _drop("RescaleIntercept", range(12))))
    with pytest.raises(PixelDataError, match="Rescale Intercept is missing and pixels are unsigned"):
        image.load()


@pytest.mark.parametrize("keyword", ["RescaleIntercept", "RescaleSlope"])
def test_a_rescale_that_some_slices_lack_is_refused(tmp_path, keyword):
    def change(k, dataset):
        dataset.PixelRepresentation = 1
        _drop(keyword, (7,))(k, dataset)

    image = open_folder(write_ct(tmp_path / "ct", HU, change))
    with pytest.raises(PixelDataError, match="is missing in 1 of 12 slices"):
        image.load()


@pytest.mark.parametrize("slope", [0, -1])
def test_a_slope_that_gives_no_hounsfield_units_is_refused(tmp_path, slope):
    image = open_folder(write_ct(tmp_path / "ct", HU, lambda k, d: setattr(d, "RescaleSlope", slope)))
    with pytest.raises(PixelDataError, match="Rescale Slope"):
        image.load()


def _padded(hu, padding, outside):
    """Signed pixels without rescale, padding's number outside a circle, in a few voxels of the body too."""
    hu = hu.copy()
    hu[:, outside] = padding
    hu[3, 20, 22:24] = padding

    def change(k, dataset):
        dataset.PixelRepresentation, dataset.RescaleIntercept = 1, 0
        dataset.PixelData = hu[k].astype("<i2").tobytes()
        dataset.add_new(0x00280120, "SS", padding)

    return hu, change


def test_padding_is_air_where_it_reaches_the_edge_and_a_tissue_within(tmp_path):
    y, x = np.mgrid[:40, :48]
    outside = ((y - 19.5) / 20) ** 2 + ((x - 23.5) / 24) ** 2 > 1
    hu, change = _padded(HU, 0, outside)
    volume, image = open_folder(write_ct(tmp_path / "ct", HU, change)).loaded()
    assert (volume.array[:, outside] == -1024).all()
    assert (volume.array[3, 20, 22:24] == 0).all()
    rest = ~outside & (hu != 0)
    assert (volume.array[rest] == hu[rest]).all()
    assert "2 voxels inside the picture have the number of padding and were kept" in image.notes


def _metal(signed):
    hu = HU.copy()
    hu[4, 20, 20:23] = 4976

    def change(k, dataset):
        dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 12, 11, int(signed)
        dataset.RescaleIntercept = 0 if signed else -1024
        dataset.PixelData = (hu[k].astype(int) + (0 if signed else 1024)).astype("<i2" if signed else "<u2").tobytes()

    return change


@pytest.mark.parametrize("signed", [False, True])
def test_numbers_beyond_bits_stored_are_counted_and_ask_for_a_person(tmp_path, signed):
    _, image = open_folder(write_ct(tmp_path / "ct", HU, _metal(signed))).loaded()
    (doubt,) = image.doubts
    assert doubt.startswith("3 voxels hold numbers beyond Bits Stored")


def test_numbers_beyond_bits_stored_are_counted_in_compressed_pixels_too(tmp_path):
    folder = write_ct(tmp_path / "ct", HU, _metal(False))
    for path in folder.iterdir():
        dataset = dcmread(path)
        dataset.BitsStored, dataset.HighBit = 16, 15
        dataset.compress(RLELossless, generate_instance_uid=False)
        dataset.BitsStored, dataset.HighBit = 12, 11
        dataset.save_as(path)
    assert open_folder(folder).loaded()[1].doubts


def test_an_overlay_in_unused_bits_is_left_out_without_a_word(tmp_path):
    def change(k, dataset):
        dataset.BitsStored, dataset.HighBit = 12, 11
        stored = (HU[k].astype(int) + 1024).astype("<u2")
        stored[5:8] |= 1 << 12
        dataset.PixelData = stored.tobytes()
        dataset.add_new(0x60000102, "US", 12)

    volume, image = open_folder(write_ct(tmp_path / "ct", HU, change)).loaded()
    assert (volume.array == HU).all()
    assert not image.doubts


@pytest.mark.parametrize("extended", [True, False])
def test_a_signed_number_is_one_number_whether_its_sign_is_repeated_or_not(tmp_path, extended):
    def change(k, dataset):
        dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation, dataset.RescaleIntercept = 12, 11, 1, 0
        stored = HU[k].astype("<i2")
        dataset.PixelData = (stored if extended else stored & 0x0FFF).astype("<i2").tobytes()

    volume, image = open_folder(write_ct(tmp_path / "ct", HU, change)).loaded()
    assert (volume.array == HU).all()
    assert not image.doubts
