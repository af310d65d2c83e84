"""An inbox full of spoilt files: none costs the night or a good case, and none shows a traceback."""

import resource

import pytest

from tests.fuzzing import KINDS, Told, inbox, night_over

EACH = 40


@pytest.mark.filterwarnings("ignore")  # They quote bytes that no test runner can pass on.
@pytest.mark.parametrize("kind", KINDS)
def test_spoilt_files_cost_neither_the_night_nor_a_good_case_and_show_no_traceback(tmp_path, kind):
    inbox(tmp_path / "in", kind, EACH, seed=1)
    told = Told()
    night_over(tmp_path / "in", tmp_path / "out", told)
    assert told.lost == 0, told.tracebacks
    assert told.missing == 0
    assert told.tracebacks == []
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 1500 * 1024
