"""Trust travels with what stands on it: by type, so that code that drops it does not type-check."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patient.trust import GIVEN, Estimated, Trust

ROOT = Path(__file__).resolve().parents[2]
HEAD = """
from adaptive.dose.accumulate import Accumulated, Summed
from adaptive.dose.fraction_dose import UncertainDose, FractionDose
from adaptive.course.tracks import Point
from adaptive.decision.decision import RuleResult, State, Verdict
from adaptive.decision.measurement import Figure, Measurement
from adaptive.propagation.propagated import Made, Propagated
from adaptive.decision.rules import Rule, StructurePolicy
from patient.dose import Dose
from patient.geometry import Geometry
from patient.series import ImageSeries
from patient.structures import Structure
from patient.trust import GIVEN, Estimated, Trust
from patient.volume import Mask
from patient.write.rtdose import write_dose
from pathlib import Path

def code(measurement: Measurement, day: FractionDose, summed: Accumulated, dose: Dose, band: UncertainDose, shown: Mask,
         rule: Rule, image: ImageSeries, structure: Structure, how: StructurePolicy) -> None:
    """
RIGHT = (
    'Measurement("Parotid_L", "Dmean", "Gy", Estimated(Figure(21.0), GIVEN))',
    "figure = measurement.figure.if_trusted; assert figure is not None; print(figure.value)",
    "figure, trust = measurement.figure.judged; print(figure.value, trust.doubts)",
    "FractionDose(1, Estimated(band, GIVEN), shown)",
    'write_dose(Path("d"), Estimated(dose, GIVEN), image, version="", label="", derivation="")',
    "Propagated(structure, how, Made.RIGID, GIVEN)",
)
WRONG = (
    # made without it
    'Measurement("Parotid_L", "Dmean", "Gy", Figure(21.0))',
    "Estimated(Figure(21.0))",
    "FractionDose(1, band, shown)",
    "FractionDose(1, dose=Estimated(band), shown=shown)",
    "Point(1, 21.0, None)",
    'RuleResult(rule, "", "", State.NEAR, Verdict.REVIEW, "")',
    "Propagated(structure, how, Made.RIGID)",
    'write_dose(Path("d"), dose, image, version="", label="", derivation="")',
    # read without it
    "print(measurement.figure.value)",
    "print(measurement.value)",
    "print(measurement.figure.if_trusted.value)",
    "print(day.dose.gray)",
    "print(summed.dose.half_width)",
    "total: Summed = summed.dose",
)


def test_code_that_makes_or_reads_a_value_without_its_trust_does_not_type_check(tmp_path):
    path = tmp_path / "snippet.py"
    path.write_text(HEAD + "\n    ".join((*RIGHT, *WRONG)) + "\n")
    first = 1 + HEAD.count("\n") + len(RIGHT)
    call = [Path(sys.executable).with_name("pyright"), "--outputjson", path]
    said = json.loads(subprocess.run(call, capture_output=True, encoding="utf-8", check=False, cwd=ROOT).stdout)
    found = {one["range"]["start"]["line"] + 1 for one in said["generalDiagnostics"] if one["severity"] == "error"}
    assert found == set(range(first, first + len(WRONG))), said["generalDiagnostics"]


REASONS = st.sampled_from(["it folds", "points disagree", "no image"])
doubts = st.sets(REASONS, max_size=3).map(lambda d: Trust(tuple(d)))


@given(doubts, doubts)
def test_what_stands_on_two_things_is_trusted_only_where_both_are(a, b):
    assert bool(a & b) == (bool(a) and bool(b))
    assert set((a & b).doubts) == set(a.doubts) | set(b.doubts)


@given(doubts, doubts)
def test_a_value_is_never_more_trusted_for_what_is_made_of_it(a, b):
    made = Estimated(2, a).mapped(lambda v: v * 2).given(b)
    assert made.judged == (4, a & b)
    assert made.if_trusted == (4 if a & b else None)


def test_a_value_with_its_trust_cannot_be_had_by_its_plain_name():
    with pytest.raises(AttributeError):
        Estimated(1, GIVEN).trust = Trust(("changed",))  # type: ignore[misc]
