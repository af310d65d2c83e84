"""Patches are a function of seed and step, unknown structures teach nothing, mirrors exchange sides, killed runs go on."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from contour.cases import TrainingCase, labelled, read_case, write_case
from contour.patches import OpenEnd, Patches, other_side
from contour.training import Schedule, Training, loss
from contour.unet import Architecture, grown, network
from tests.clinic import SHAPE, SPACING, anatomy

STRUCTURES = ("Parotid_L", "Parotid_R", "SpinalCord")
TINY = Architecture(STRUCTURES, SPACING, (8, 16, 16), (2, 4, 4))
LEFT, RIGHT, CORD = range(3)


def _case(seed: int, known=STRUCTURES) -> TrainingCase:
    hu, masks = anatomy(seed)
    return TrainingCase(
        f"case{seed}", hu, labelled({n: m for n, m in masks.items() if n in known}, STRUCTURES), known, SPACING
    )


def _patches(*cases: TrainingCase, architecture=TINY, ends=()) -> Patches:
    return Patches(cases or (_case(0), _case(1)), STRUCTURES, architecture, ends)


def _same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in ((a.hu, b.hu), (a.truth, b.truth), (a.known, b.known)))


def test_the_patch_of_a_step_depends_on_seed_and_step_alone():
    first, second = _patches(), _patches()
    for _ in islice(range(5), 3):
        second.draw(0, 9)
    assert _same(first.draw(3, 7), second.draw(3, 7))
    assert not _same(first.draw(3, 7), first.draw(3, 8))
    assert not _same(first.draw(3, 7), first.draw(4, 7))


def test_a_structure_that_nobody_contoured_in_a_patient_is_unknown_there():
    patches = _patches(_case(0, ("Parotid_L", "Parotid_R")))
    drawn = [patches.draw(0, step) for step in range(12)]
    assert all(not patch.known[CORD].any() for patch in drawn)
    assert all(patch.known[LEFT].all() and patch.known[RIGHT].all() for patch in drawn)


def test_what_is_unknown_teaches_nothing():
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn((1, 2, 4, 4, 4), generator=rng, requires_grad=True)
    truth, known = torch.zeros((1, 2, 4, 4, 4)), torch.ones((1, 2, 4, 4, 4))
    truth[0, :, :2] = 1
    known[0, 1, 1:] = 0
    loss(logits, truth, known).backward()
    assert logits.grad is not None
    assert not logits.grad[0, 1, 1:].any()
    assert logits.grad[0, 1, :1].all()
    assert logits.grad[0, 0].all()
    nothing = loss(logits, truth, torch.zeros_like(known))
    assert float(nothing.detach()) == 0


def test_a_better_answer_has_a_lower_loss():
    truth, known = torch.zeros((1, 1, 4, 4, 4)), torch.ones((1, 1, 4, 4, 4))
    truth[0, 0, :2] = 1
    right, wrong = (loss((2 * truth - 1) * sign * 5, truth, known) for sign in (1, -1))
    assert float(right) < 0.1 < float(wrong)


def test_beyond_the_ends_of_a_cord_nobody_knows_whether_it_goes_on():
    hu, masks = anatomy(0)
    masks["SpinalCord"][:5], masks["SpinalCord"][11:] = False, False
    case = TrainingCase("ends", hu, labelled(masks, STRUCTURES), STRUCTURES, SPACING)
    for ends, unknown in (((), False), ((OpenEnd("SpinalCord", 1e4, 1e4),), True)):
        patches = _patches(case, ends=ends)
        seen = [patches.draw(0, step) for step in range(20)]
        assert any(not patch.known[CORD].all() for patch in seen) == unknown
        assert all(patch.known[LEFT].all() for patch in seen)
        # Nothing that was drawn is ever unknown.
        assert all((patch.known[CORD] >= patch.truth[CORD]).all() for patch in seen)


def test_a_mirrored_patch_exchanges_left_and_right():
    """The left gland lies at high columns: in every patch that shows both, whichever way it was turned, it still does."""
    wide = replace(TINY, patch=(8, 24, 48))
    patches = _patches(architecture=wide)
    columns = torch.arange(48, dtype=torch.float32)
    seen = 0
    for step in range(30):
        truth = patches.draw(0, step).truth
        if truth[LEFT].any() and truth[RIGHT].any():
            left, right = ((truth[n].sum((0, 1)) * columns).sum() / truth[n].sum() for n in (LEFT, RIGHT))
            assert left > right + 5
            seen += 1
    assert seen > 10
    assert [other_side(s) for s in ("Parotid_L", "Glnd_Submand_R", "Larynx", "Lung_LLL")] == [
        "Parotid_R", "Glnd_Submand_L", "Larynx", "Lung_LLL",
    ]  # fmt: skip


def test_both_halves_of_the_patches_are_seen_mirrored_and_not():
    """One gland is brighter: mirrored, the brighter one is called by the other name."""
    hu, masks = anatomy(0)
    hu[masks["Parotid_L"]] = 400
    wide = replace(TINY, patch=(8, 24, 48))
    patches = _patches(TrainingCase("b", hu, labelled(masks, STRUCTURES), STRUCTURES, SPACING), architecture=wide)
    brighter = []
    for step in range(30):
        patch = patches.draw(0, step)
        if patch.truth[LEFT].any() and patch.truth[RIGHT].any():
            left, right = (patch.hu[0][patch.truth[n] > 0].mean() for n in (LEFT, RIGHT))
            brighter.append(bool(left > right))
    assert 0.2 < np.mean(brighter) < 0.8


def test_where_only_one_side_of_a_pair_is_learnt_nothing_is_mirrored():
    one = Architecture(("Parotid_L",), SPACING, (8, 24, 48), (2, 4, 4))
    hu, masks = anatomy(0)
    hu[masks["Parotid_R"]] = -500
    patches = Patches([TrainingCase("o", hu, labelled(masks, STRUCTURES), STRUCTURES, SPACING)], STRUCTURES, one)
    for step in range(20):
        patch = patches.draw(0, step)
        if patch.truth.any():
            assert patch.hu[0][patch.truth[0] > 0].mean() > 0


def test_a_model_as_it_is_read_from_its_folder_can_be_trained_further(tmp_path):
    start = network(TINY).eval().requires_grad_(False)
    before = {name: value.clone() for name, value in start.state_dict().items()}
    training = Training(_patches(), TINY, Schedule(3, warm_up=1), tmp_path, start)
    assert all(np.isfinite(value) for value in training.run())
    after = training.trained().state_dict()
    assert any(not torch.equal(after[name], value) for name, value in before.items())
    assert all(torch.equal(start.state_dict()[name], value) for name, value in before.items())


def test_a_killed_run_resumes_to_the_same_weights(tmp_path):
    schedule = Schedule(5, warm_up=2, save_every=2)
    patches = _patches()
    whole = Training(patches, TINY, schedule, tmp_path / "whole", exact=True)
    losses = list(whole.run())
    for n in (1, 3):
        folder = tmp_path / f"killed{n}"
        killed = Training(patches, TINY, schedule, folder, exact=True)
        list(islice(killed.run(), n))
        del killed
        resumed = Training(_patches(), TINY, schedule, folder, exact=True)
        went_on = resumed.step
        assert went_on == n // 2 * 2, "what was not yet saved is done again"
        assert list(resumed.run()) == losses[went_on:]
        for name, value in resumed.trained().state_dict().items():
            assert torch.equal(value, whole.trained().state_dict()[name]), name


def test_a_run_killed_while_it_saves_has_its_checkpoint_before(tmp_path, monkeypatch):
    schedule = Schedule(4, warm_up=1, save_every=2)
    training = Training(_patches(), TINY, schedule, tmp_path)
    run = training.run()
    next(run), next(run), next(run)
    monkeypatch.setattr(torch, "save", lambda held, path: (path.write_bytes(b"half"), (_ for _ in ()).throw(OSError())))
    with pytest.raises(OSError):
        list(run)
    monkeypatch.undo()
    assert Training(_patches(), TINY, schedule, tmp_path).step == 2


def test_a_gradient_that_is_no_number_teaches_nothing(tmp_path, monkeypatch):
    patches = _patches()
    training = Training(patches, TINY, Schedule(4, warm_up=1), tmp_path, exact=True)
    draw = patches.draw
    monkeypatch.setattr(
        patches,
        "draw",
        lambda seed, step: replace(draw(seed, step), hu=draw(seed, step).hu * np.nan) if step == 1 else draw(seed, step),
    )
    losses = list(training.run())
    assert np.isnan(losses[1])
    assert np.isfinite([losses[0], *losses[2:]]).all()
    assert all(value.isfinite().all() for value in training.trained().state_dict().values())


def test_a_run_of_another_schedule_is_not_gone_on_from(tmp_path):
    list(Training(_patches(), TINY, Schedule(1), tmp_path).run())
    with pytest.raises(ValueError, match="another schedule"):
        Training(_patches(), TINY, Schedule(2), tmp_path)


def test_training_learns(tmp_path):
    losses = list(Training(_patches(), replace(TINY, filters=(4, 8, 8)), Schedule(24, 1e-2, warm_up=4), tmp_path).run())
    assert np.mean(losses[-6:]) < 0.9 * np.mean(losses[:6])


def test_a_case_is_written_and_read_back_whole(tmp_path):
    case = _case(0)
    back = read_case(write_case(case, tmp_path))
    assert (back.hu == case.hu).all()
    assert (back.labels == case.labels).all()
    assert (back.name, back.known, back.spacing) == (case.name, case.known, case.spacing)
    assert back.hu.shape == SHAPE


def test_a_wider_network_begins_with_the_answers_of_the_narrow_one_and_learns_with_all_its_channels():
    narrow, wider = network(TINY).eval(), replace(TINY, filters=(2, 6, 10))
    wide = grown(narrow, wider).eval()
    seen = torch.randn(1, 2, *TINY.patch)
    torch.testing.assert_close(wide(seen), narrow(seen), atol=1e-4, rtol=1e-4)
    wide.train()(seen).square().mean().backward()
    grads = {name: p.grad for name, p in wide.named_parameters() if "transp_conv" in name and p.grad is not None}
    assert grads
    assert all(grad[-1].abs().max() > 0 for grad in grads.values())


def test_a_network_grows_in_width_alone():
    with pytest.raises(ValueError, match="width"):
        grown(network(TINY), replace(TINY, filters=(2, 2, 4)))
    with pytest.raises(ValueError, match="width"):
        grown(network(TINY), replace(TINY, filters=(2, 4, 4, 4)))
