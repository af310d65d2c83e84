import numpy as np
import pytest

from contour.hounsfield import must_be_hounsfield, no_hounsfield, shifted, soft_tissue
from patient.errors import PixelDataError
from patient.geometry import Geometry
from patient.volume import Volume

RNG = np.random.default_rng(5)


def _body(fat=0.4, muscle=45.0):
    """Air, fat, muscle and bone with noise, as histograms of CTs show them."""
    parts = [
        np.full(40_000, -1000.0),
        RNG.normal(-100, 25, int(fat * 40_000)),
        RNG.normal(muscle, 25, int((1 - fat) * 40_000)),
        RNG.uniform(200, 1200, 4_000),
    ]
    return np.concatenate(parts).astype(np.float32)


@pytest.mark.parametrize("fat", [0.1, 0.5, 0.75])
@pytest.mark.parametrize("muscle", [15.0, 45.0, 105.0])
def test_the_densest_tissue_is_found_however_much_fat_there_is(fat, muscle):
    found = soft_tissue(_body(fat, muscle))
    assert found is not None
    assert abs(found - muscle) <= 10
    assert shifted(_body(fat, muscle)) is None


@pytest.mark.parametrize("shift", [-150.0, -80.0, 150.0, 250.0])
def test_a_shift_of_the_numbers_is_told_with_where_soft_tissue_lies(shift):
    said = shifted(_body() + np.float32(shift))
    assert said is not None
    assert "seem to be shifted" in said


def test_an_image_with_nothing_between_fat_and_bone_says_nothing():
    assert soft_tissue(np.full(5000, -1000.0, np.float32)) is None
    assert shifted(np.full(5000, -1000.0, np.float32)) is None


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.full(100, 7.0), "constant"),
        (np.linspace(0, 900, 1000), "no Hounsfield units"),
        (np.linspace(-1000, -400, 1000), "as dense as a body"),
    ],
)
def test_what_cannot_be_hounsfield_units_is_refused_with_its_numbers(image, said):
    why = no_hounsfield(image.astype(np.float32))
    assert why is not None
    assert said in why
    assert no_hounsfield(_body()) is None


def _in_circle(numbers, padding):
    """With a third of it outside the scanned circle, where the scanner wrote padding."""
    return np.concatenate([numbers, np.full(len(numbers) // 2, padding)]).astype(np.float32)


@pytest.mark.parametrize("shift", [1024.0, 1000.0, 800.0, 512.0, 450.0])
@pytest.mark.parametrize("padding", [None, -1024.0, -3024.0])
def test_a_missing_or_wrong_intercept_is_refused_whatever_padding_says(shift, padding):
    numbers = _body() + np.float32(shift)
    assert no_hounsfield(numbers if padding is None else _in_circle(numbers, padding)) is not None


def test_electron_densities_and_concentrations_are_refused():
    assert no_hounsfield(1 + _body() / 1000) is not None
    assert no_hounsfield(np.maximum(_body(), 0) / 50) is not None


@pytest.mark.parametrize("shift", [-150.0, 0.0, 200.0])
def test_a_cone_beam_that_drifts_is_not_refused(shift):
    assert no_hounsfield(_body() + np.float32(shift)) is None


def test_padding_alone_makes_no_air():
    muscle = _in_circle(RNG.normal(45, 20, 50_000), -1024.0)
    assert "neither air nor fat" in (no_hounsfield(muscle) or "")


def test_what_is_refused_is_refused_before_anything_is_made_of_it():
    grid = Geometry((20, 60, 70), (3.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    volume = Volume(np.resize(_body() + 1024, grid.shape).astype(np.int16), grid)
    with pytest.raises(PixelDataError, match="neither air nor fat"):
        must_be_hounsfield(volume)
