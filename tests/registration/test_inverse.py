"""The inverse of a displacement, against what ITK says."""

import numpy as np
import pytest

from patient.geometry import Geometry
from registration.inverse import InverseDisplacement, inverse_of
from registration.transforms import Displacement, Rigid, Space, composed
from tests.adaptive.placing import PLAN, SHIFT, TODAY, alignment, shrinking

A, B = Space.of(TODAY), Space.of(PLAN)
GRID = Geometry((9, 10, 11), (6.0, 6.0, 6.0), (-30.0, -27.0, -24.0), frame_of_reference="1.2.3", image="a")


def _swirl(most: float) -> Displacement:
    """Up to `most` mm, 0 at the outermost nodes, neighbours alike."""
    k, j, i = (np.sin(np.pi * np.arange(n) / (n - 1)) for n in GRID.shape)
    bell = (k[:, None, None] * j[:, None] * i)[..., None] * most
    return Displacement(
        (bell * np.array([1.0, -0.6, 0.5])).astype(np.float32), GRID, Space("a", "1.2.3"), Space("b", "1.2.3")
    )


@pytest.fixture
def points() -> np.ndarray:
    return np.random.default_rng(1).uniform(-60, 60, (20_000, 3))


def test_every_point_comes_back_to_where_it_was_within_a_fiftieth_of_a_millimetre(points):
    displacement = _swirl(8.0)
    back = InverseDisplacement(displacement)
    there = displacement.points(points, displacement.source)
    # where a length shrinks by half, two hundredths of a millimetre left in the image are four of the way
    assert np.abs(back.points(there, back.source) - points).max() < 0.04
    assert np.abs(displacement.points(back.points(points, back.source), displacement.source) - points).max() < 0.02


def test_points_come_back_where_a_displacement_grows_by_two_millimetres_a_millimetre(points):
    vectors = np.zeros((*GRID.shape, 3), dtype=np.float32)
    along = np.interp(np.arange(GRID.shape[2]), [1, 2, 8], [0.0, 12.0, 0.0])
    vectors[1:-1, 1:-1, :, 0] = along
    displacement = Displacement(vectors, GRID, Space("a", "1.2.3"), Space("b", "1.2.3"))
    back = InverseDisplacement(displacement)
    assert np.abs(displacement.points(back.points(points, back.source), displacement.source) - points).max() < 0.05


def test_where_nothing_bends_the_way_back_is_exact(points):
    back = InverseDisplacement(_swirl(8.0))
    outside = points[(np.abs(points) > 42).any(axis=1)]
    assert (back.points(outside, back.source) == outside).all()
    rigid = Rigid.of(np.eye(3), (3.0, -2.0, 1.0), A, B)
    assert np.allclose(inverse_of(rigid).points(points, B), points - (3.0, -2.0, 1.0))


def test_a_whole_alignment_leads_there_and_back():
    made = alignment(push=shrinking(SHIFT, 15.0, 0.3))
    at = TODAY.points(np.argwhere(np.ones((5, 5, 5))) * (7, 13, 13) + 0.3)
    there = made.plan_from_today.points(at, made.plan_from_today.source)
    assert np.abs(made.today_from_plan.points(there, made.today_from_plan.source) - at).max() < 0.05


def test_itk_is_given_the_same_way_back_to_a_tenth_of_a_millimetre(points):
    back = InverseDisplacement(_swirl(8.0))
    itk, some = back.itk(), points[:300]
    theirs = np.array([itk.TransformPoint(tuple(p)) for p in some.tolist()])
    assert np.abs(theirs - back.points(some, back.source)).max() < 0.1


def test_turned_and_bent_parts_are_undone_in_their_order(points):
    displacement = _swirl(5.0)
    whole = composed(Rigid.of(np.eye(3), (3.0, -2.0, 1.0), Space("b", "1.2.3"), B), displacement)
    back = inverse_of(whole)
    assert np.abs(back.points(whole.points(points, whole.source), whole.target) - points).max() < 0.04
