"""Margins are measured from where the surface is, on any grid, and algebra is that of sets."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contour.checks import cut_sides
from contour.derive import derive
from contour.margin import grown
from contour.recipe import parse
from patient.geometry import Box, Geometry
from patient.outline import loops_of_field
from patient.volume import Field, Level, Mask, Volume

UPRIGHT = ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))
GRID = Geometry((20, 40, 44), (2.5, 1.25, 1.0))


def places(grid: Geometry) -> np.ndarray:
    return grid.points(np.moveaxis(np.indices(grid.shape), 0, -1))


def ball(grid: Geometry, centre: tuple[float, float, float], radius: float, *, soft: bool = True) -> Field:
    """A ball as probability, cropped with a voxel of room: a ramp of two pixels, or hard voxels."""
    away = np.linalg.norm(places(grid) - grid.points(centre), axis=-1) - radius
    values = np.clip(0.5 - away / (2 * max(grid.spacing)), 0, 1) if soft else (away < 0)
    box = Box.of(values > 0).padded(1, grid.shape)
    return Field(Volume(values.astype(np.float32)[box.slices], grid.cropped(box)))


def whole_mask(field: Field | str, grid: Geometry) -> np.ndarray:
    assert isinstance(field, Field)
    return field.mask().placed_in(grid).array


def brute_force(mask: np.ndarray, grid: Geometry, with_it: list[float], against_it: list[float]) -> np.ndarray:
    """The least gauge of every voxel from every midpoint between an inner voxel and an outer neighbour, one by one."""
    seeds: list[np.ndarray] = []
    for axis in range(3):
        ahead = np.moveaxis(mask, axis, 0)
        changed = np.argwhere(np.moveaxis(ahead[:-1] != ahead[1:], 0, axis)).astype(float)
        changed[:, axis] += 0.5
        seeds.append(changed)
    index = np.moveaxis(np.indices(mask.shape), 0, -1).reshape(-1, 1, 3)
    away = (index - np.concatenate(seeds)[None]) * np.array(grid.spacing)
    scaled = np.where(away > 0, away / np.array(with_it), away / np.array(against_it))
    return np.sqrt((scaled**2).sum(axis=-1)).min(axis=1).reshape(mask.shape)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.tuples(*[st.floats(0.6, 3.5)] * 3),
    st.tuples(*[st.floats(0.5, 7.0)] * 6),
    st.booleans(),
)
def test_a_margin_reaches_exactly_what_some_point_of_the_surface_reaches(seed, spacing, mm, shrinks) -> None:
    random = np.random.default_rng(seed)
    mask = random.random((9, 11, 12)) < 0.15
    mask[3:6, 3:8, 4:9] = True
    grid = Geometry(mask.shape, spacing)
    left, right, front, back, head, foot = mm
    with_it, against_it = [head, back, left], [foot, front, right]
    field = Field.of_mask(Volume(mask, grid))
    if shrinks:
        gauge = brute_force(mask, grid, against_it, with_it)
        expected = mask & (gauge > 1)
    else:
        gauge = brute_force(mask, grid, with_it, against_it)
        expected = mask | (gauge < 1)
    got = grown(field, grid, [-v if shrinks else v for v in mm]).mask().placed_in(grid).array
    clear = np.abs(gauge - 1) > 1e-3
    assert (got == expected)[clear].all()


@pytest.mark.parametrize("mm", [-4.0, -0.7, 0.7, 3.0, 6.5])
@pytest.mark.parametrize("soft", [True, False])
def test_a_grown_balls_contours_lie_where_they_should(mm: float, soft: bool) -> None:
    grid = Geometry((40, 70, 72), (1.5, 1.0, 0.9))
    centre = (20.0, 35.0, 36.0)
    made = derive(parse(f"A {'+' if mm > 0 else '-'} {abs(mm)} mm"), {"A": ball(grid, centre, 12.0, soft=soft)}, grid)
    assert isinstance(made, Field)
    points = np.concatenate([loop.points for loop in loops_of_field(made)])
    away = np.linalg.norm(points - grid.points(centre), axis=-1) - (12.0 + mm)
    near_the_poles = np.abs(points[:, 2] - grid.points(centre)[2]) > 0.8 * (12.0 + mm)
    assert np.abs(away[~near_the_poles]).max() < (0.35 if soft else 0.75)
    assert abs(away[~near_the_poles].mean()) < (0.15 if soft else 0.3)


@settings(max_examples=10, deadline=None)
@given(st.floats(0.5, 6.0))
def test_a_margin_there_and_back_gives_the_ball_again(mm: float) -> None:
    field = ball(GRID, (10, 20, 22), 8.03)
    back = derive(parse(f"(A + {mm:.3f} mm) - {mm:.3f} mm"), {"A": field}, GRID)
    before, after = whole_mask(field, GRID), whole_mask(back, GRID)
    assert (before != after).sum() <= 0.05 * before.sum()


@pytest.mark.parametrize("flips", list(product([1.0, -1.0], repeat=3)))
@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0), (2, 0, 1)])
def test_directions_are_the_patients_on_any_grid(flips, order) -> None:
    rows = [tuple(sign * v for v in UPRIGHT[row]) for sign, row in zip(flips, order, strict=True)]
    grid = Geometry((26, 26, 26), (2.0, 2.0, 2.0), axes=tuple(rows))
    field = ball(grid, (13, 13, 13), 7.0)
    sides = {"L": (1, 0, 0), "R": (-1, 0, 0), "A": (0, -1, 0), "P": (0, 1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
    margins = dict(zip(sides, (2.0, 4.0, 6.0, 8.0, 10.0, 12.0), strict=True))
    text = ", ".join(f"{side} {mm}" for side, mm in margins.items())
    inside = places(grid)[whole_mask(derive(parse(f"A + ({text}) mm"), {"A": field}, grid), grid)]
    for side, direction in sides.items():
        reach = ((inside - grid.points((13, 13, 13))) @ np.array(direction)).max()
        assert reach == pytest.approx(7.0 + margins[side], abs=2.0), side


def test_no_margin_on_a_side_leaves_the_surface_there_where_it_was() -> None:
    field = ball(GRID, (10, 20, 22), 8.3)
    made = derive(parse("A + (L 0, R 6, A 0, P 0, S 0, I 0) mm"), {"A": field}, GRID)
    assert isinstance(made, Field)
    middle = GRID.points((10, 20, 22))
    points = np.concatenate([loop.points for loop in loops_of_field(made) if abs(loop.points[0, 2] - middle[2]) < 0.1])
    assert (points - middle)[:, 0].max() == pytest.approx(8.3, abs=0.15)
    assert (points - middle)[:, 0].min() == pytest.approx(-14.3, abs=0.15)


def test_a_flat_margin_stays_on_its_planes() -> None:
    field = ball(GRID, (10, 20, 22), 8.3)
    made = derive(parse("A + (L 5, R 5, A 5, P 5) mm"), {"A": field}, GRID)
    before, after = whole_mask(field, GRID), whole_mask(made, GRID)
    assert (before.any(axis=(1, 2)) == after.any(axis=(1, 2))).all()
    assert after.sum() > 2 * before.sum()


@pytest.mark.parametrize(
    "text", ["A | B", "A & B", "A - B", "B - A", "(A | B) - (A & B)", "A - A", "A & C", "A - C", "C | A"]
)
def test_algebra_is_that_of_sets(text: str) -> None:
    found = {
        "A": ball(GRID, (10, 20, 20), 8.03),
        "B": ball(GRID, (11, 22, 28), 6.03, soft=False),
        "C": ball(GRID, (3, 5, 38), 4.0),
    }
    sets = {name: whole_mask(field, GRID) for name, field in found.items()}
    expected = eval(text.replace("- ", "& ~"), {}, sets)
    made = derive(parse(text), found, GRID)
    assert (whole_mask(made, GRID) if isinstance(made, Field) else np.zeros_like(expected)).tolist() == expected.tolist()


def test_what_was_found_is_never_written_over() -> None:
    found = {"A": ball(GRID, (10, 20, 20), 8.0), "D": grown(ball(GRID, (11, 22, 28), 6.0), GRID, [1.0] * 6)}
    before = {name: field.volume.array.copy() for name, field in found.items()}
    for text in ("A | D", "D | A", "A - D", "D - A", "D & D", "D - 1 mm", "(D + 1 mm) | A", "(A - 1 mm) - D"):
        derive(parse(text), found, GRID)
    for name, array in before.items():
        assert (found[name].volume.array == array).all()


def test_a_ring_and_a_wall_are_as_thick_as_they_say() -> None:
    found = {"A": ball(GRID, (10, 20, 22), 8.0)}
    away = np.linalg.norm(places(GRID) - GRID.points((10, 20, 22)), axis=-1) - 8.0
    half = max(GRID.spacing) / 2
    for text, low, high in (
        ("ring(A, 2 mm, 6 mm)", 2.0, 6.0),
        ("wall(A, 3 mm)", -3.0, 0.0),
        ("ring(A, 0 mm, 4 mm)", 0.0, 4.0),
    ):
        got = whole_mask(derive(parse(text), found, GRID), GRID)
        assert got[(away > low + half) & (away < high - half)].all(), text
        assert not got[(away < low - half) | (away > high + half)].any(), text


def test_skin_is_a_ring_on_the_image_s_end_planes_too() -> None:
    """Where the body goes on beyond the image there is no skin: the last plane is a ring, not a disc."""
    grid = Geometry((12, 60, 60), (3.0, 1.5, 1.5))
    body = np.hypot(*(np.indices((60, 60)) - 29.5)) * 1.5 < 36
    field = Field.of_mask(Volume(np.broadcast_to(body, grid.shape).copy(), grid))
    skin = whole_mask(derive(parse("External - (External - 5 mm)"), {"External": field}, grid), grid)
    assert (skin == skin[5]).all()
    assert skin[0].sum() * 1.5**2 == pytest.approx(np.pi * (36**2 - 31**2), rel=0.05)


def test_what_a_margin_pushes_out_of_the_image_is_seen_to_be_cut() -> None:
    field = ball(GRID, (10, 20, 8), 5.0)
    near = derive(parse("A + 2 mm"), {"A": field}, GRID)
    beyond = derive(parse("A + 6 mm"), {"A": field}, GRID)
    assert isinstance(near, Field)
    assert isinstance(beyond, Field)
    assert cut_sides(near, GRID) == []
    assert cut_sides(beyond, GRID) == ["right side"]


def test_what_cannot_be_made_says_why() -> None:
    found = {"A": ball(GRID, (10, 20, 22), 8.0)}
    assert derive(parse("A | Gone"), found, GRID) == "derived from Gone, which is not there"
    assert derive(parse("A - 30 mm"), found, GRID) == "nothing is left of it"
    assert derive(parse("A - A"), found, GRID) == "nothing is left of it"


def test_one_voxel_grows_to_a_ball() -> None:
    mask = np.zeros(GRID.shape, dtype=bool)
    mask[10, 20, 22] = True
    one: Mask = Volume(mask, GRID).cropped(Box((10, 20, 22), (11, 21, 23)))
    got = whole_mask(derive(parse("A + 5 mm"), {"A": Field.of_mask(one)}, GRID), GRID)
    away = np.linalg.norm(places(GRID) - GRID.points((10, 20, 22)), axis=-1)
    assert got[away < 5.0].all()
    assert not got[away > 5.0 + 1.25].any()


def test_a_wide_margin_is_as_exact_as_a_narrow_one() -> None:
    grid = Geometry((30, 80, 80), (3.0, 1.5, 1.5))
    field = ball(grid, (15, 40, 40), 6.0)
    got = whole_mask(derive(parse("A + 30 mm"), {"A": field}, grid), grid)
    away = np.linalg.norm(places(grid) - grid.points((15, 40, 40)), axis=-1)
    assert got[away < 35.5].all()
    assert not got[away > 36.5].any()


def test_a_distance_is_one() -> None:
    made = grown(ball(GRID, (10, 20, 22), 8.0), GRID, [3.0] * 6)
    assert made.level is Level.DISTANCE
    away = np.linalg.norm(places(made.geometry) - GRID.points((10, 20, 22)), axis=-1) - 11.0
    assert np.abs(made.volume.array - away)[np.abs(away) < 2.0].max() < min(GRID.spacing) / 2
