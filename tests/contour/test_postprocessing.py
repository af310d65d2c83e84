import cc3d
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import binary_fill_holes

from contour.postprocessing import Postprocessed, Postprocessing, postprocess
from contour.template import load_template
from patient.errors import TemplateError
from patient.geometry import Geometry
from patient.volume import Field, Level, Volume

GRID = Geometry((7, 8, 9), (3.0, 1.5, 1.0), (0.0, 0.0, 0.0))
MASKS = arrays(np.bool_, GRID.shape, elements=st.sampled_from([False, False, True])).filter(lambda m: m.any())
LEVELS = st.sampled_from(Level)


def _field(mask, level):
    """Values that differ from voxel to voxel, so that a change shows."""
    far = np.random.default_rng(1).uniform(0.01, 0.49, mask.shape)
    values = 0.5 + np.where(mask, far, -far) if level is Level.PROBABILITY else np.where(mask, -far, far)
    return Field(Volume(values.astype(np.float32), GRID), level)


def _sizes(mask):
    return sorted(np.bincount(cc3d.connected_components(mask, connectivity=26).ravel())[1:], reverse=True)


def _clean(mask, level=Level.PROBABILITY, **how):
    field = _field(mask, level)
    postprocessed = postprocess(field, Postprocessing(**how))
    if isinstance(postprocessed, str):
        return field, np.zeros_like(mask), postprocessed
    return field, postprocessed.field.mask().array, postprocessed


@settings(deadline=None)
@given(MASKS, LEVELS, st.integers(1, 4))
def test_of_all_pieces_the_largest_stay(mask, level, n):
    _, left, _ = _clean(mask, level, keep_largest=n)
    assert _sizes(left) == _sizes(mask)[:n]
    assert not (left & ~mask).any()


@settings(deadline=None)
@given(MASKS, LEVELS, st.floats(0.004, 0.1), st.floats(1, 60))
def test_pieces_that_are_too_small_go_and_no_others(mask, level, cc, percent):
    sizes = _sizes(mask)
    _, left, said = _clean(mask, level, drop_below_cc=cc, drop_below_percent=percent)
    least = max(cc / GRID.voxel_cc, percent / 100 * sum(sizes))
    assert _sizes(left) == [size for size in sizes if size >= least]
    assert left.any() or "nothing is left" in str(said)


@settings(deadline=None)
@given(MASKS, LEVELS)
def test_closed_cavities_are_filled_and_nothing_else_is_added(mask, level):
    _, left, _ = _clean(mask, level, fill_holes=True)
    assert np.array_equal(left, binary_fill_holes(mask))


@settings(deadline=None)
@given(MASKS, LEVELS, st.integers(1, 3), st.booleans())
def test_what_stays_keeps_its_surface_and_a_second_clean_up_changes_nothing(mask, level, n, fill):
    field, left, postprocessed = _clean(mask, level, keep_largest=n, fill_holes=fill)
    untouched = left == mask
    assert np.array_equal(postprocessed.field.volume.array[untouched], field.volume.array[untouched])
    again = postprocess(postprocessed.field, Postprocessing(keep_largest=n, fill_holes=fill))
    assert isinstance(again, Postprocessed)
    assert np.array_equal(again.field.volume.array, postprocessed.field.volume.array)
    assert again.flags == ()


@settings(deadline=None)
@given(MASKS, st.integers(1, 3))
def test_who_loses_or_gains_more_than_a_twentieth_is_flagged(mask, n):
    _, left, postprocessed = _clean(mask, keep_largest=n, fill_holes=True)
    changed = max((mask & ~left).sum(), (left & ~mask).sum())
    assert [flag.code for flag in postprocessed.flags] == (["cleaned"] if changed > 0.05 * mask.sum() else [])


@pytest.mark.parametrize("level", Level)
def test_smoothing_takes_a_spike_and_leaves_a_flat_side_where_it_is(level):
    grid = Geometry((40, 40, 40), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    depth = np.broadcast_to(np.arange(40)[:, None, None] - 19.5, grid.shape).astype(np.float32).copy()
    depth[20:26, 20, 20] = -0.5
    values = depth if level is Level.DISTANCE else np.clip(0.5 - depth, 0, 1).astype(np.float32)
    postprocessed = postprocess(Field(Volume(values, grid), level), Postprocessing(smooth_mm=2.0))
    assert isinstance(postprocessed, Postprocessed)
    left = postprocessed.field.mask().array
    assert left[:20].all()
    assert not left[22:].any()


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ("{ keep_largst = 1 }", "clean.keep_largst"),
        ("{ keep_largest = 0 }", "clean.keep_largest"),
        ("{ drop_below_cc = -1 }", "clean.drop_below_cc"),
        ("{ drop_below_percent = 200 }", "clean.drop_below_percent"),
        ("true", "clean"),
    ],
)
def test_a_template_with_a_clean_up_that_nobody_knows_is_refused_with_its_line(tmp_path, said, complaint):
    file = tmp_path / "mine.toml"
    file.write_text(f'description = "d"\n[structures.Bones]\nengine = "anatomy"\nclean = {said}\n')
    with pytest.raises(TemplateError, match=complaint) as refused:
        load_template(str(file))
    assert "line 4" in refused.value.where
