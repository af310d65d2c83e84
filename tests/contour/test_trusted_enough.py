import numpy as np
import pytest

from contour.checks import sure_enough
from contour.engine import Finding, Flag
from contour.template import load_template
from patient.errors import TemplateError
from patient.geometry import Geometry
from patient.volume import Field, Volume

FIELD = Field(Volume(np.zeros((2, 3, 3), np.float32), Geometry((2, 3, 3), (1.0, 1.0, 1.0))))
CUT, DOUBTED = Flag("cut_by_field_of_view", "cut off"), Flag("low_confidence", "the engine's own limit")


def _wanted(tmp_path, limits):
    path = tmp_path / "t.toml"
    path.write_text(f'description = ""\n[structures.Larynx]\nengine = "any"\n{limits}\n')
    return load_template(str(path)).structures[0]


def _said(tmp_path, limits, confidence, *flags):
    return sure_enough(_wanted(tmp_path, limits), Finding("Larynx", FIELD, confidence, flags))


def test_without_a_limit_in_the_template_the_engines_own_flags_stand(tmp_path):
    assert _said(tmp_path, "", 0.1, CUT, DOUBTED) == (CUT, DOUBTED)


LIMITS = "confidence = { review_below = 0.7, withhold_below = 0.4 }"


@pytest.mark.parametrize(("confidence", "flagged"), [(0.7, False), (0.69, True), (0.4, True)])
def test_the_templates_limit_stands_in_the_place_of_the_engines(tmp_path, confidence, flagged):
    said = _said(tmp_path, LIMITS, confidence, CUT, DOUBTED)
    assert not isinstance(said, str)
    assert said[0] == CUT
    assert [flag.code for flag in said[1:]] == ["low_confidence"] * flagged
    assert not flagged or "below 0.70 the template" in said[1].detail


def test_what_is_below_the_lower_limit_is_withheld_with_both_numbers(tmp_path):
    said = _said(tmp_path, LIMITS, 0.39)
    assert said == "predicted Dice 0.39; the template withholds what is below 0.40"


def test_an_engine_that_does_not_say_how_sure_it_is_is_flagged_where_the_template_asks(tmp_path):
    said = _said(tmp_path, LIMITS, None)
    assert not isinstance(said, str)
    assert [flag.code for flag in said] == ["low_confidence"]


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ("confidence = { review_below = 0.4, withhold_below = 0.7 }", "nothing would ever be flagged"),
        ("confidence = { review_below = 7 }", "less than or equal to 1"),
        ("confidence = { below = 0.4 }", "below"),
    ],
)
def test_limits_that_make_no_sense_are_refused_with_their_line(tmp_path, limits, said):
    with pytest.raises(TemplateError, match=said) as refused:
        _wanted(tmp_path, limits)
    assert "line 4" in str(refused.value)


def test_a_derived_structure_has_no_confidence_to_ask_for(tmp_path):
    path = tmp_path / "t.toml"
    path.write_text(
        'description = ""\n[structures.Larynx]\nengine = "any"\n'
        '[structures.B]\nrecipe = "Larynx + 3 mm"\ncolor = [1, 2, 3]\nconfidence = { review_below = 0.4 }\n'
    )
    with pytest.raises(TemplateError, match="only an engine says how sure it is"):
        load_template(str(path))
