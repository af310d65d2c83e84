import numpy as np
import pytest
from scipy import ndimage

from adaptive.alignment.intensity import corrected, field_of_view, part_seen, seen_by_both
from patient.geometry import Geometry
from patient.volume import Volume
from registration.transforms import Rigid, Space

GRID = Geometry((20, 80, 80), (3.0, 2.0, 2.0), (-79.0, -79.0, -30.0), frame_of_reference="1.2.4", image="today")
PLAN = Geometry((30, 90, 90), (3.0, 2.0, 2.0), (-89.0, -89.0, -30.0), frame_of_reference="1.2.3", image="plan")
SAME = Rigid.identity(Space.of(GRID), Space.of(PLAN))


def head(grid: Geometry, seed: int = 0) -> np.ndarray:
    """Air with noise, and a head of soft tissue with bone in it."""
    x, y, _ = np.moveaxis(grid.points(np.moveaxis(np.indices(grid.shape), 0, -1)), -1, 0)
    hu = np.where((x / 55) ** 2 + (y / 65) ** 2 < 1, 40.0, -1000.0)
    hu[np.hypot(x, y - 30) < 12] = 800.0
    return hu + np.random.default_rng(seed).normal(0, 10, grid.shape)


def cylinder(hu: np.ndarray, radius: float = 78.0, padding: float = -1024.0) -> np.ndarray:
    x, y, _ = np.moveaxis(GRID.points(np.moveaxis(np.indices(GRID.shape), 0, -1)), -1, 0)
    return np.where(np.hypot(x, y) < radius, hu, padding)


def whole(hu: np.ndarray, grid: Geometry) -> Volume[np.int16]:
    return Volume(np.rint(hu).astype(np.int16), grid)


@pytest.mark.parametrize("padding", [-1024.0, -1000.0, 0.0])
def test_a_cylinder_of_view_is_found_whatever_number_stands_around_it(padding):
    view = field_of_view(whole(cylinder(head(GRID), padding=padding), GRID)).array
    x, y, _ = np.moveaxis(GRID.points(np.moveaxis(np.indices(GRID.shape), 0, -1)), -1, 0)
    assert (view == (np.hypot(x, y) < 78.0)).mean() > 0.995


def test_a_body_in_air_that_was_clipped_to_one_number_is_no_field_of_view():
    hu = np.where(head(GRID) > -500, head(GRID), -1024.0)
    assert field_of_view(whole(hu, GRID)).array.all()


def test_an_image_that_was_measured_everywhere_is_seen_everywhere():
    assert field_of_view(whole(head(GRID), GRID)).array.all()


def test_only_what_both_images_hold_is_seen():
    far = Rigid.of(np.eye(3), (0.0, 0.0, -30.0), Space.of(GRID), Space.of(PLAN))
    seen = seen_by_both(whole(head(GRID), GRID), whole(head(PLAN), PLAN), far).array
    assert not seen[:9].any()
    assert seen[11:].all()


def test_shading_and_drift_go_and_what_really_changed_stays():
    x, y, z = np.moveaxis(GRID.points(np.moveaxis(np.indices(GRID.shape), 0, -1)), -1, 0)
    true = head(GRID, seed=1)
    swelling = np.sqrt((x + 25) ** 2 + (y + 20) ** 2 + z**2) < 8
    true[swelling] -= 90
    shaded = true + np.where(true > -500, -60 + 50 * (x**2 + y**2) / 60**2, 0)
    raw = whole(cylinder(shaded), GRID)
    seen = field_of_view(raw)
    before = raw.array.copy()
    out = corrected(raw, whole(head(PLAN), PLAN), SAME, seen).array
    soft = ndimage.binary_erosion((true > -50) & (true < 90) & ~swelling & seen.array, iterations=3)
    assert np.abs((raw.array - true)[soft]).mean() > 20
    assert np.abs((out - true)[soft]).mean() < 10
    inner = ndimage.binary_erosion(swelling, iterations=1)
    assert (out - true)[inner].mean() == pytest.approx(0, abs=20)
    assert (raw.array == before).all()
    assert (out[~seen.array] == raw.array[~seen.array]).all()


def test_the_part_of_a_mask_that_is_seen_counts_what_lies_outside_the_image_as_not_seen():
    seen = Volume(np.ones(GRID.shape, dtype=bool), GRID)
    beside = Geometry((4, 10, 10), GRID.spacing, GRID.points((18, 20, 20)), frame_of_reference="1.2.4", image="today")
    assert part_seen(Volume(np.ones((4, 10, 10), dtype=bool), beside), seen) == pytest.approx(0.5)
