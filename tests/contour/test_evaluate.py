"""Measures of agreement beside DeepMind's and MONAI's, on shapes whose answer is known, and where a side is empty."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import compute_hausdorff_distance
from monai.metrics.meandice import compute_dice
from monai.metrics.surface_dice import compute_surface_dice
from scipy import ndimage

from contour.evaluate import Absence, Agreement, NotCompared, added_path, between_ends, by_slice, compare
from contour.summary import FEWEST, summarise
from patient.errors import FrameMismatch
from patient.geometry import Box, Geometry
from patient.volume import Volume

surface_distance = pytest.importorskip("surface_distance", reason="DEEPMIND'S SURFACE-DISTANCE IS NOT INSTALLED")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:surface_distance", "ignore::FutureWarning:monai")
SPACINGS = [(1.0, 1.0, 1.0), (3.0, 1.2, 0.9), (2.5, 0.98, 0.98)]


def _blob(seed: int, shape=(18, 26, 24)) -> np.ndarray:
    """Ragged, with holes and parts, touching the border for some seeds."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2.0)
    return noise > np.quantile(noise, 0.8)


def _mask(array, spacing=(1.0, 1.0, 1.0)):
    return Volume(array, Geometry(array.shape, spacing))


def _compared(a, b, spacing, tolerance=2.0) -> Agreement:
    found = compare(_mask(a, spacing), _mask(b, spacing), tolerance)
    assert isinstance(found, Agreement)
    return found


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("seed", range(3))
def test_every_surface_measure_is_deepminds(spacing, seed):
    predicted, reference = _blob(seed), _blob(seed) ^ (_blob(seed + 10) & _blob(seed + 20))
    theirs = surface_distance.compute_surface_distances(reference, predicted, spacing)
    ours = _compared(predicted, reference, spacing)
    assert ours.surface_dice == pytest.approx(surface_distance.compute_surface_dice_at_tolerance(theirs, 2.0), abs=1e-6)
    assert ours.hd95 == pytest.approx(surface_distance.compute_robust_hausdorff(theirs, 95), abs=1e-4)
    to_predicted, to_reference = surface_distance.compute_average_surface_distance(theirs)
    assert (ours.to_predicted, ours.to_reference) == pytest.approx((to_predicted, to_reference), abs=1e-4)
    assert ours.mean_surface_distance == pytest.approx((to_predicted + to_reference) / 2, abs=1e-4)
    assert ours.dice == pytest.approx(surface_distance.compute_dice_coefficient(reference, predicted))


@pytest.mark.parametrize("spacing", SPACINGS)
def test_dice_and_surface_dice_are_monais_and_the_hausdorff_distance_is_within_a_voxel(spacing):
    predicted, reference = _blob(1), ndimage.binary_dilation(_blob(1)) & _blob(1, (18, 26, 24))[::-1] | _blob(1)
    a, b = (torch.from_numpy(m)[None, None] for m in (predicted, reference))
    ours = _compared(predicted, reference, spacing)
    assert ours.dice == pytest.approx(float(compute_dice(a, b)))
    theirs = compute_surface_dice(a, b, [2.0], include_background=True, spacing=spacing, use_subvoxels=True)
    assert ours.surface_dice == pytest.approx(float(theirs), abs=1e-5)
    hausdorff = compute_hausdorff_distance(a, b, include_background=True, percentile=95, spacing=spacing)
    assert abs(ours.hd95 - float(hausdorff)) <= math.hypot(*spacing)


def test_a_block_moved_by_three_millimetres_is_three_millimetres_away():
    one, other = np.zeros((20, 40, 40), bool), np.zeros((20, 40, 40), bool)
    one[4:16, 8:32, 8:32], other[4:16, 8:32, 11:35] = True, True
    found = _compared(one, other, (2.0, 1.0, 1.0), tolerance=3.0)
    assert found.centroid_distance == pytest.approx(3.0)
    assert found.hd95 == pytest.approx(3.0)
    assert found.surface_dice == pytest.approx(1.0)
    assert found.volume_bias_cc == pytest.approx(0.0)
    assert found.dice == pytest.approx(21 / 24)
    # Of 92 pixels of outline a plane, 21 on each of the two sides along the motion lie on the other's.
    assert found.added_path == pytest.approx(12 * (92 - 2 * 21))
    assert found.reference_path == pytest.approx(12 * (4 * 24 - 4))


def test_volume_bias_is_signed_and_relative_to_the_reference():
    small, large = np.zeros((12, 12, 12), bool), np.zeros((12, 12, 12), bool)
    small[2:7, 2:7, 2:7], large[2:7, 2:7, 2:12] = True, True
    less, more = _compared(small, large, (2.0, 1.0, 1.0)), _compared(large, small, (2.0, 1.0, 1.0))
    assert (less.volume_bias_cc, less.volume_bias_percent) == pytest.approx((-0.25, -50.0))
    assert (more.volume_bias_cc, more.volume_bias_percent) == pytest.approx((0.25, 100.0))


def test_the_added_path_is_what_the_reference_has_and_the_prediction_lacks():
    reference, nothing = np.zeros((3, 10, 10), bool), np.zeros((3, 10, 10), bool)
    reference[1, 2:8, 2:8] = True
    grid = Geometry(reference.shape, (3.0, 2.0, 2.0))
    assert added_path(reference, reference, grid) == 0
    assert added_path(nothing, reference, grid) == pytest.approx(20 * 2.0)
    assert added_path(reference, nothing, grid) == 0
    smaller = np.zeros_like(reference)
    smaller[1, 3:7, 3:7] = True
    assert added_path(smaller, reference, grid) == pytest.approx(20 * 2.0)
    assert added_path(smaller, reference, grid, tolerance=2.0) == pytest.approx(4 * 2.0), "corners are farther than an edge"


@pytest.mark.parametrize(
    ("predicted", "reference", "absence"),
    [(False, True, Absence.MISSED), (True, False, Absence.SPURIOUS), (False, False, Absence.NEITHER)],
)
def test_an_empty_side_is_said_and_gets_no_number(predicted, reference, absence):
    sides = [_mask(np.full((4, 5, 6), there)) for there in (predicted, reference)]
    found = compare(*sides, tolerance=1.0)
    assert isinstance(found, NotCompared)
    assert found.absence is absence
    assert found.reason
    assert (found.predicted_cc > 0, found.reference_cc > 0) == (predicted, reference)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 100), st.tuples(*[st.integers(0, 4)] * 3), st.sampled_from(SPACINGS))
def test_masks_cropped_anyhow_from_one_grid_give_the_same(seed, cut, spacing):
    a, b = _blob(seed, (12, 14, 13)), _blob(seed + 1, (12, 14, 13))
    grid = Geometry(a.shape, spacing, (-3.0, 5.0, 7.0))
    whole = compare(Volume(a, grid), Volume(b, grid), 1.5)
    box = Box(cut, grid.shape).union(Box.of(a))
    assert compare(Volume(a, grid).cropped(box), Volume(b, grid).cropped(Box.of(b)), 1.5) == whole


def test_masks_of_two_grids_are_refused():
    a = _blob(0)
    elsewhere = Geometry(a.shape, (1.0, 1.0, 1.0), (0.4, 0.0, 0.0))
    with pytest.raises(FrameMismatch):
        compare(Volume(a, elsewhere), _mask(a), 1.0)


def test_a_cord_is_scored_between_the_ends_that_were_drawn_in_any_orientation():
    array = np.zeros((10, 8, 8), bool)
    array[:, 3:5, 3:5] = True
    drawn = array.copy()
    drawn[:3], drawn[7:] = False, False
    grid = Geometry(array.shape, (3.0, 1.0, 1.0))
    assert (between_ends(Volume(array, grid), Volume(drawn, grid)).array == drawn).all()
    part = Volume(array, grid).cropped(Box((2, 2, 2), (9, 7, 7)))
    assert (between_ends(part, Volume(drawn, grid)).array == drawn[2:9, 2:7, 2:7]).all()
    sideways = Geometry((8, 8, 10), (1.0, 1.0, 3.0), axes=((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, -1.0)))
    turned = between_ends(Volume(array.T.copy(), sideways), Volume(drawn.T.copy(), sideways))
    assert (turned.array == drawn.T).all()


HEAD_FIRST = ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))
FEET_FIRST = ((0.0, 0.0, -1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))


@pytest.mark.parametrize("axes", [HEAD_FIRST, FEET_FIRST])
def test_an_end_that_stops_short_or_runs_on_is_counted_in_slices_on_its_side(axes):
    """A lung that ends 30 mm below the clinic's apex may well have a high Dice: the slices say it."""
    reference = np.zeros((60, 40, 40), bool)
    reference[4:50, 5:35, 5:35] = True
    predicted = reference.copy()
    predicted[40:50] = False
    predicted[2:4, 5:35, 5:35] = True
    predicted[20] = False
    predicted[30, 5:35, 30:35] = False
    turned = slice(None, None, 1 if axes is HEAD_FIRST else -1)
    grid = Geometry(reference.shape, (3.0, 1.0, 2.0), (0.0, 0.0, 100.0 if axes is HEAD_FIRST else 277.0), axes)
    a, b = (Volume(np.ascontiguousarray(m[turned]), grid) for m in (predicted, reference))
    found = by_slice(a, b)
    assert (found.missing, found.missing_superior, found.missing_inferior) == (11, 10, 0), "ten at the apex, one gap"
    assert (found.extra, found.extra_superior, found.extra_inferior) == (2, 0, 2)
    assert found.worst == pytest.approx(10.0), "five pixels of 2 mm"
    assert found.worst_at == pytest.approx(100 + 30 * 3)
    agreed = compare(a, b, 3.0)
    assert isinstance(agreed, Agreement)
    assert agreed.slices == found
    assert agreed.hd95 == pytest.approx(30.0)


def test_slices_of_masks_that_share_none_or_are_empty_are_counted_and_have_no_worst():
    low, high, nothing = np.zeros((9, 5, 5), bool), np.zeros((9, 5, 5), bool), np.zeros((9, 5, 5), bool)
    low[1:3, 2, 2], high[5:9, 2, 2] = True, True
    found = by_slice(_mask(low), _mask(high))
    assert (found.missing, found.missing_superior, found.extra, found.extra_inferior) == (4, 4, 2, 2)
    assert found.worst is None
    assert by_slice(_mask(nothing), _mask(high)).missing == 4
    assert by_slice(_mask(low), _mask(nothing)).extra == 2
    assert by_slice(_mask(nothing), _mask(nothing)).extra == 0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 100), st.sampled_from(SPACINGS))
def test_the_worst_slice_is_found_by_looking_at_every_slice(seed, spacing):
    a, b = _blob(seed, (8, 20, 18)), _blob(seed + 1, (8, 20, 18))
    found, worst = by_slice(_mask(a, spacing), _mask(b, spacing)), 0.0
    for one, other in zip(a, b, strict=True):
        if one.any() and other.any():
            ends = [
                np.argwhere(m & ~ndimage.binary_erosion(m, ndimage.generate_binary_structure(2, 1))) * spacing[1:]
                for m in (one, other)
            ]
            far = np.linalg.norm(ends[0][:, None] - ends[1][None], axis=2)
            worst = max(worst, *(np.percentile(far.min(axis=axis), 95) for axis in (0, 1)))
    assert found.worst == pytest.approx(worst, abs=1e-4)
    assert found.missing == int((b.any(axis=(1, 2)) & ~a.any(axis=(1, 2))).sum())


def test_a_summary_says_what_is_usual_and_how_sure_that_is():
    values = np.random.default_rng(4).normal(0.8, 0.05, 40)
    found = summarise(values.tolist(), seed=1)
    assert found is not None
    assert found.n == 40
    assert found.mean == pytest.approx(values.mean())
    assert found.sd == pytest.approx(values.std(ddof=1))
    assert found.mean_interval is not None
    low, high = found.mean_interval
    assert low < found.mean < high
    assert high - low == pytest.approx(2 * 1.96 * values.std(ddof=1) / math.sqrt(40), rel=0.15)
    assert summarise(values.tolist(), seed=1) == found
    assert summarise(values.tolist(), seed=2) != found


def test_too_few_patients_have_no_interval_and_none_have_no_summary():
    few = summarise([0.5] * (FEWEST - 1))
    assert few is not None
    assert few.mean_interval is None
    assert summarise([1.0]).sd is None  # type: ignore[union-attr]
    assert summarise([]) is None
    with pytest.raises(ValueError, match="finite"):
        summarise([0.5, math.nan])
