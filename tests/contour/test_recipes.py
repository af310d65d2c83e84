import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from contour.derived_structures import derive
from contour.recipe import Combined, Margin, Named, ingredients, parse
from contour.template import available_templates, load_template
from patient.errors import TemplateError
from patient.geometry import Box, Geometry
from patient.volume import Field, Level, Volume

G = Geometry((24, 50, 52), (2.5, 1.2, 1.0), axes=((0, 0, -1), (0, 1, 0), (-1, 0, 0)))


def _ball(centre, radius):
    points = G.points(np.moveaxis(np.indices(G.shape), 0, -1))
    away = np.linalg.norm(points - G.points(centre), axis=-1) - radius
    return Field(Volume(away.astype(np.float32), G), Level.DISTANCE)


FOUND = {"A": _ball((12, 25, 22), 10.03), "B": _ball((12, 25, 32), 8.03)}


def _points(recipe):
    made = derive(parse(recipe), FOUND, G)
    mask = made.mask().placed_in(G).array
    return mask, G.points(np.argwhere(mask))


def test_a_recipe_reads_from_left_to_right():
    assert parse("A | B - C") == Combined("-", Combined("|", Named("A"), Named("B")), Named("C"))
    assert parse("A - 3 mm") == Margin(Named("A"), (-3.0,) * 6)
    assert list(ingredients(parse("ring(A, 5 mm, 9 mm) & (B + (L 1, I 2) mm)"))) == ["A", "A", "B"]


@pytest.mark.parametrize(
    ("text", "column"), [("A +", 4), ("A + 5", 6), ("A |", 4), ("A $ B", 2), ("A B", 3), ("A + (X 5) mm", 6)]
)
def test_a_recipe_that_makes_no_sense_says_where(text, column):
    with pytest.raises(TemplateError, match=f"column {column}:"):
        parse(text)


@settings(max_examples=12, deadline=None)
@given(st.floats(-6, 9))
@example(3.78125)
def test_a_margin_is_exact_to_a_tenth_of_a_voxel(mm):
    mask, points = _points(f"A {'+' if mm >= 0 else '-'} {abs(mm):.3f} mm")
    away = np.linalg.norm(points - G.points((12, 25, 22)), axis=-1)
    everywhere = np.linalg.norm(G.points(np.moveaxis(np.indices(G.shape), 0, -1)) - G.points((12, 25, 22)), axis=-1)
    radius, tenth = 10.03 + mm, 0.1
    assert away.max() <= radius + tenth
    assert mask[everywhere < radius - tenth].all()


@pytest.mark.parametrize(
    ("side", "direction"),
    [("L", (1, 0, 0)), ("R", (-1, 0, 0)), ("A", (0, -1, 0)), ("P", (0, 1, 0)), ("S", (0, 0, 1)), ("I", (0, 0, -1))],
)
def test_a_margin_to_one_side_goes_to_the_patients_side(side, direction):
    before, after = (derive(parse(f"A + ({side} {mm}) mm"), FOUND, G) for mm in (0.1, 5.1))
    towards = np.array(direction)
    assert _reach(after, towards) - _reach(before, towards) == pytest.approx(5, abs=0.1)
    assert _reach(after, -towards) == pytest.approx(_reach(before, -towards), abs=0.1)


def _reach(field, direction):
    """mm from the middle of A to the surface."""
    mm = np.arange(0, 25, 0.05)
    at = field.geometry.indices(G.points((12, 25, 22)) + mm[:, None] * direction)
    values = ndimage.map_coordinates(field.volume.array, at.T, order=1, mode="nearest")
    return mm[np.argmax(values > 0)]


def test_algebra_is_algebra_of_sets():
    a, b = (FOUND[n].mask().placed_in(G).array for n in "AB")
    for text, expected in (("A | B", a | b), ("A & B", a & b), ("A - B", a & ~b)):
        assert (_points(text)[0] == expected).all()


def test_what_lies_apart_takes_nothing_away_and_has_nothing_in_common():
    far = {"A": _ball((12, 10, 8), 5.03), "B": _ball((12, 38, 44), 5.03)}
    found = {name: Field(f.volume.cropped(Box.of(f.mask().array).padded(1, G.shape)), f.level) for name, f in far.items()}
    for one, other in (("A", "B"), ("B", "A")):
        without = derive(parse(f"{one} - {other}"), found, G)
        assert (without.mask().placed_in(G).array == far[one].mask().array).all()
        assert "nothing is left" in derive(parse(f"{one} & {other}"), found, G)


def test_a_ring_and_a_wall_have_their_thickness():
    ring, _ = _points("ring(A, 2 mm, 6 mm)")
    wall, _ = _points("wall(A, 3 mm)")
    a = FOUND["A"].mask().placed_in(G).array
    assert not (ring & a).any()
    assert (wall & ~a).sum() == 0
    assert 0 < wall.sum() < a.sum()


def test_what_is_derived_from_nothing_says_so():
    assert "which is not there" in derive(parse("C + 3 mm"), FOUND, G)
    assert "nothing is left" in derive(parse("A - 20 mm"), FOUND, G)


def test_every_shipped_template_is_whole():
    assert set(available_templates()) >= {"head_neck", "thorax", "abdomen", "pelvis"}
    for name in available_templates():
        template = load_template(name)
        assert template.structures[0].interpreted_type == "EXTERNAL"
        assert len(template.digest) == 64


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('description = "x"\n[structures.A]\nengine = "e"\ncolor = [1, 2, 3]\nwhat = 1\n', 5),
        ('description = "x"\n[structures.Heart]\nengine = "e"\nvolume_cc = "big"\n', 4),
        ('description = "x"\n\n[structures.Heart]\nrequired = true\n', 3),
        ('description = "x"\n[structures.Heart]\nrecipe = "Lungs + 3 mm"\n', 2),
    ],
)
def test_a_template_that_is_wrong_says_which_line(tmp_path, text, line):
    (tmp_path / "site.toml").write_text(text)
    with pytest.raises(TemplateError, match=f"line {line}"):
        load_template(str(tmp_path / "site.toml"))


def test_a_template_that_is_not_there_names_those_that_are():
    with pytest.raises(TemplateError, match="head_neck"):
        load_template("nothing")


@pytest.mark.parametrize("recipe", ["A", "A | A"])
def test_a_recipe_that_is_one_structure_is_that_structure_however_it_was_found(recipe):
    drawn = Field.of_mask(FOUND["A"].mask())
    made = derive(parse(recipe), {"A": drawn}, G)
    assert not isinstance(made, str)
    assert (made.mask().placed_in(G).array == FOUND["A"].mask().array).all()


def test_a_probability_becomes_the_same_distance_whatever_lies_around_it():
    ball = np.clip(0.5 - FOUND["A"].volume.array, 0, 1).astype(np.float32)
    box = Box.of(ball > 0)
    derived = [
        derive(parse("A | A"), {"A": field}, G)
        for field in (Field(Volume(ball, G)), Field(Volume(ball, G).cropped(box.padded(1, G.shape))))
    ]
    assert np.array_equal(*(field.volume.array for field in derived))
