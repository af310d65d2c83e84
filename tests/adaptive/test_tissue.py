"""A gland loses what it lost, a rigid piece stays rigid, and a fit that cannot be believed changes nothing and says why."""

import numpy as np
import pytest

from adaptive.decision.rules import Propagation, StructurePolicy, Tissue
from adaptive.propagation.planned_surface import surface_of
from adaptive.propagation.propagate import propagated
from adaptive.propagation.shape import centre, common, filled
from tests.adaptive.placing import PLAN, SHIFT, TODAY, alignment, shrinking, stage
from tests.adaptive.test_propagate import drawn

RADIUS = 15.0


def cc(field) -> float:
    part = common(field.geometry, field)
    return float(filled(part, field).sum(dtype=np.int64)) / 64 * part.voxel_cc


def gland(radius=RADIUS, at=(0.0, 0.0, 0.0)):
    """A ball of 60 HU in fat, its border as soft as a scanner has it."""
    return lambda p: -100 + 160 / (1 + np.exp((np.linalg.norm(p - np.asarray(at), axis=-1) - radius) / 0.8))


def half(push, share=0.5):
    """A registration that follows a part of what happened."""
    return lambda at: share * push(at)


def made(tissue, of, structure=None):
    structure = structure or drawn("Parotid_L", RADIUS)
    return propagated(structure, surface_of(structure, PLAN), StructurePolicy(Propagation.DEFORM, tissue=tissue), of)


def misled(true_push, registered_push, shows=None, noise=0.0, seen=None):
    """A stage whose images were made with one deformation and whose registration is another."""
    truth = stage(alignment(push=true_push), seen, shows or gland())
    of = stage(alignment(push=registered_push), seen, shows or gland())
    today = truth.images[0]
    today.array[:] += np.random.default_rng(0).normal(0, noise, today.array.shape) if noise else 0.0
    object.__setattr__(of, "images", (today, truth.images[1]))
    return of


@pytest.mark.parametrize("part", [0.1, 0.2, 0.3])
def test_a_shrinking_gland_loses_all_it_lost_though_the_registration_follows_half_of_it(part):
    push = shrinking(SHIFT, RADIUS, part)
    of = misled(push, half(push), noise=30.0)
    free, own = made(Tissue.FREE, of), made(Tissue.SHRINKING, of)
    assert cc(free.whole) / cc(free.as_planned) > 1 - 0.7 * part
    assert cc(own.whole) / cc(own.as_planned) == pytest.approx(1 - part, abs=0.04)
    assert "then locally refined" in own.basis
    assert own.basis != free.basis


def test_a_gland_that_the_registration_has_right_stays_where_it_is():
    push = shrinking(SHIFT, RADIUS, 0.2)
    of = misled(push, push, noise=30.0)
    free, own = made(Tissue.FREE, of), made(Tissue.SHRINKING, of)
    assert cc(own.whole) == pytest.approx(cc(free.whole), rel=0.03)
    assert np.abs(centre(own.whole) - centre(free.whole)).max() < 0.3


def test_shading_and_another_gain_of_todays_image_change_nothing():
    push = shrinking(SHIFT, RADIUS, 0.2)
    of = misled(push, half(push), noise=10.0)
    plain = made(Tissue.SHRINKING, of)
    slope = np.linspace(-60, 60, TODAY.shape[2])
    of.images[0].array[:] = 0.8 * of.images[0].array + 40 + slope
    assert cc(made(Tissue.SHRINKING, of).whole) == pytest.approx(cc(plain.whole), rel=0.02)


@pytest.mark.parametrize(
    ("why", "shows", "radius", "seen"),
    [
        ("too unlike", lambda p: 0 * p[..., 0], RADIUS, None),
        ("too small for it", gland(6.0), 6.0, None),
        ("too little of it is seen", gland(), RADIUS, "half"),
    ],
)
def test_a_fit_that_cannot_be_believed_leaves_the_registration_and_says_why(why, shows, radius, seen):
    shown = None
    if seen:
        shown = np.ones(TODAY.shape, dtype=bool)
        shown[:, :, TODAY.shape[2] // 2 :] = False
    push = shrinking(SHIFT, radius, 0.2)
    of = misled(push, half(push), shows, noise=20.0, seen=shown)
    structure = drawn("Parotid_L", radius)
    free, own = made(Tissue.FREE, of, structure), made(Tissue.SHRINKING, of, structure)
    assert why in own.basis
    assert cc(own.whole) == cc(free.whole)


def test_an_image_in_which_intensities_mean_the_opposite_changes_nothing():
    push = shrinking(SHIFT, RADIUS, 0.2)
    of = misled(push, half(push))
    of.images[0].array[:] = -of.images[0].array
    assert "too unlike" in made(Tissue.SHRINKING, of).basis


def test_a_fit_that_would_change_half_of_a_volume_is_not_believed():
    push = shrinking(SHIFT, RADIUS, 0.75)
    of = misled(push, lambda at: 0 * at)
    own = made(Tissue.SHRINKING, of)
    assert "rejected" in own.basis, own.basis
    assert cc(own.whole) == pytest.approx(cc(own.as_planned), rel=0.01)


def test_a_rigid_piece_keeps_its_form_and_goes_where_the_deformation_takes_it():
    def push(at):
        return np.array([2.0, 1.0, -1.0]) + 0.8 * np.sin(at / 6.0)

    free, own = (made(t, stage(alignment(push=push))) for t in (Tissue.FREE, Tissue.RIGID))
    assert cc(own.whole) == pytest.approx(cc(own.as_planned), rel=0.005)
    assert np.abs(centre(own.whole) - centre(free.whole)).max() < 0.6
    assert np.linalg.norm(centre(own.whole) - centre(own.as_planned)) > 1.5
    assert "nearest rigid body" in own.basis


def test_a_rigid_piece_that_is_cut_lies_as_the_part_of_it_that_is_seen():
    low = TODAY.origin[2] + 0.55 * TODAY.shape[0] * TODAY.spacing[0]
    shown = TODAY.points(np.moveaxis(np.indices(TODAY.shape), 0, -1))[..., 2] > low

    def push(at):
        return np.where(at[..., 2:] > low, 0.0, np.array([0.0, 0.0, 10.0]))

    own = made(Tissue.RIGID, stage(alignment(push=push), shown))
    assert np.abs(centre(own.whole) - centre(own.as_planned)).max() < 0.7
    assert cc(own.whole) == pytest.approx(cc(own.as_planned), rel=0.005)


def test_without_a_deformation_tissue_says_nothing():
    of = stage(alignment())
    assert made(Tissue.RIGID, of).basis == made(Tissue.SHRINKING, of).basis == made(Tissue.FREE, of).basis
