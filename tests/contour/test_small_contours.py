"""Small contours are left out where a template asks for it, and never without a word."""

import numpy as np
import pytest

from contour.small_contours import CODE, LEFT_OUT, NOTABLE, area, without_small
from contour.template import available_templates, load_template
from patient.errors import TemplateError
from patient.loop import Loop
from pipelines.planning.reasons import reasons_of
from pipelines.records.case import FlagRecord, StructureRecord

TILTED = np.array([[1, 0, 0], [0, 0.6, 0.8]])


def square(side, at=0.0):
    corners = np.array([[0, 0], [side, 0], [side, side], [0, side]], float)
    return Loop(corners @ TILTED + [300.0, -200.0, at])


def test_the_area_is_that_of_the_plane_whatever_its_tilt_and_direction():
    loop = square(3.0)
    assert area(loop) == pytest.approx(9.0)
    assert area(Loop(loop.points[::-1])) == pytest.approx(9.0)


def test_smaller_contours_are_left_out_and_counted():
    loops = [square(1.0), square(2.1, 3), square(9.0, 3), square(1.5, 6)]
    kept, flags = without_small(loops, 4.0, 3.0)
    assert kept == (loops[1], loops[2])
    assert [(f.code, f.detail) for f in flags] == [
        (CODE, "2 of 4 contours smaller than 4 mm2 were left out (0.01 cc, 3.7 %)")
    ]


def test_what_takes_next_to_nothing_of_a_structure_is_told_and_no_reason_to_look():
    loops = [square(90.0), *(square(1.0, 3.0 * n) for n in range(1, 9))]
    share = 8.0 / (8100 + 8)
    assert share < NOTABLE
    kept, (flag,) = without_small(loops, 4.0, 3.0)
    assert kept == (loops[0],)
    assert (flag.code, flag.detail) == (LEFT_OUT, "8 of 9 contours smaller than 4 mm2 were left out (0.02 cc, 0.099 %)")
    record = StructureRecord(
        name="Bones",
        state="contoured",
        flags=(FlagRecord(code=flag.code, detail=flag.detail), FlagRecord(code=CODE, detail="d")),
    )
    assert reasons_of([record]) == ("Bones: d",)


def test_every_shipped_template_leaves_out_specks_of_bones():
    bones = [w for name in available_templates() for w in load_template(name).structures if w.name == "Bones"]
    assert bones
    assert {wanted.least_area_mm2 for wanted in bones} == {2.0}


def test_nothing_small_is_nothing_said_and_a_structure_of_small_ones_stays():
    large = (square(3.0),)
    assert without_small(large, 4.0, 3.0) == (large, ())
    loops = (square(1.0), square(1.2, 3))
    kept, flags = without_small(loops, 4.0, 3.0)
    assert kept == loops
    assert "all of them were kept" in flags[0].detail


def test_a_templates_own_value_holds_where_a_structure_gives_none(tmp_path):
    path = tmp_path / "t.toml"
    head = 'description = "d"\nleast_area_mm2 = 1.5\n'
    path.write_text(head + '[structures.External]\nengine = "any"\n[structures.Bones]\nengine = "any"\nleast_area_mm2 = 0\n')
    assert [wanted.least_area_mm2 for wanted in load_template(str(path)).structures] == [1.5, 0.0]
    path.write_text(path.read_text(encoding="utf-8").replace("= 1.5", "= -1"))
    with pytest.raises(TemplateError):
        load_template(str(path))
