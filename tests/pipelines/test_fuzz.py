"""An inbox full of spoilt files: none costs the night or a good case, and none shows a traceback."""

import pytest

from tests.fuzzing import KINDS, night_alone

EACH = 40


@pytest.mark.parametrize("kind", KINDS)
def test_spoilt_files_cost_neither_the_night_nor_a_good_case_and_show_no_traceback(kind):
    told, peak_mib = night_alone(kind, EACH, seed=1)
    assert told.lost == 0, told.tracebacks
    assert told.missing == 0
    assert told.tracebacks == []
    assert peak_mib < 1500
