import numpy as np

from adaptive.alignment.alignment_file import AlignmentFile
from tests.adaptive.placing import SHIFT, TODAY, alignment, shrinking


def test_a_kept_alignment_maps_every_point_as_before(tmp_path):
    made = alignment(push=shrinking(SHIFT, 15.0, 0.3), trusted=False)
    AlignmentFile(tmp_path / "a.npz", "same").keep(made)
    read = AlignmentFile(tmp_path / "a.npz", "same").load()
    assert read is not None
    at = TODAY.points(np.argwhere(np.ones((5, 5, 5))) * (7, 13, 13))
    for name in ("plan_from_today", "rigid"):
        one, other = getattr(made, name), getattr(read, name)
        assert (one.points(at, one.source) == other.points(at, other.source)).all()
    there = made.plan_from_today.points(at, made.plan_from_today.source)
    assert np.abs(read.today_from_plan.points(there, read.today_from_plan.source) - at).max() < 0.2
    assert (read.reasons, read.error, read.quality) == (made.reasons, made.error, made.quality)


def test_one_of_other_inputs_or_cut_short_is_as_good_as_none(tmp_path):
    path = tmp_path / "a.npz"
    assert AlignmentFile(path, "same").load() is None
    AlignmentFile(path, "same").keep(alignment())
    assert AlignmentFile(path, "other").load() is None
    path.write_bytes(path.read_bytes()[:300])
    assert AlignmentFile(path, "same").load() is None


def test_one_that_would_fill_the_memory_is_as_good_as_none(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, said=np.array("{}"), a0=np.zeros(80 << 20, np.uint8))
    assert AlignmentFile(path, "same").load() is None
