"""Networks here are rules that a test can predict: what is dense, and on the patient's left, is `Parotid_L`."""

import threading
from dataclasses import replace
from functools import cache
from itertools import combinations, pairwise, permutations, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contour.checks import centroid, wrong_side
from contour.engine import Absent, Context, Engine, Finding, NoModel, NotConfident, NotInImage
from contour.model import Calibration, ModelCard, Offset, Population
from contour.network import Grid, LoadedModel, NetworkEngine
from contour.shipped import head_neck, head_neck_targets
from contour.windows import Run, probabilities
from patient.errors import Cancelled
from patient.geometry import Geometry
from patient.volume import Volume

LEFT, RIGHT, FRONT = (42.0, 10.0, 20.0), (-42.0, 10.0, 20.0), (0.0, -20.0, -20.0)
RADII = {LEFT: 16.0, RIGHT: 20.0, FRONT: 14.0}
STRUCTURES = ("Parotid_L", "Parotid_R", "Larynx")
GRID = Grid((24, 32, 32), (3.0, 4.0, 4.0), (2.0, 3.7, 3.7), (3.4, 5.0, 5.0))
CARD = ModelCard(name="rule", version="1", kind="test", structures=STRUCTURES, sha256="0" * 64, licence="Apache-2.0")
UPRIGHT = np.array([[0.0, 0, 1], [0, 1, 0], [1, 0, 0]])


def _geometry(spacing, axes=UPRIGHT, extent=(140.0, 150.0, 190.0)):
    """A grid about the middle whose axes k, j, i run along the rows of `axes`."""
    along = np.abs(axes) @ np.array(extent[::-1])
    shape = tuple(int(np.ceil(mm / s)) for mm, s in zip(along, spacing, strict=True))
    origin = -(np.array(shape) - 1) / 2 * np.array(spacing) @ axes
    return Geometry(shape, tuple(spacing), tuple(origin), tuple(map(tuple, axes)))


def _phantom(geometry):
    """A body of 0 HU in air, with three dense balls."""
    points = geometry.points(np.moveaxis(np.indices(geometry.shape), 0, -1))
    inside = np.linalg.norm(points / (75.0, 60.0, 60.0), axis=-1) < 1
    hu = np.where(inside, 0.0, -1000.0)
    for centre, radius in RADII.items():
        away = np.linalg.norm(points - centre, axis=-1) - radius
        hu += np.clip(0.5 - away / max(geometry.spacing), 0, 1) * 1000
    return Volume(hu.astype(np.int16), geometry)


def _rule(axes="SPL", card=CARD, grid=GRID):
    """A network that knows where it looks: dense is 1, left of the body's middle is left, whatever order the axes are in."""
    across = next(n for n, letter in enumerate(axes) if letter in "LR")
    up = next(n for n, letter in enumerate(axes) if letter in "SI")

    def towards(inputs, axis, positive):
        size = inputs.shape[axis + 2]
        body = (inputs > -500).movedim(axis + 2, 0).flatten(1).any(1).nonzero()
        ramp = torch.arange(size) - body.float().mean()
        shape = [1] * 5
        shape[axis + 2] = size
        return (ramp if positive else -ramp).reshape(shape).sign()

    def forward(inputs):
        dense = torch.sigmoid((inputs - 500) / 100)
        left, head = towards(inputs, across, "L" in axes), towards(inputs, up, "S" in axes)
        return torch.cat([dense * (left > 0) * (head > 0), dense * (left < 0) * (head > 0), dense * (head < 0)], dim=1)

    order = np.argsort([{"S": 0, "I": 0, "P": 1, "A": 1}.get(letter, 2) for letter in axes])

    def turned(triple):
        return None if triple is None else tuple(triple[i] for i in np.argsort(order))

    mine = replace(
        grid,
        axes=axes,
        patch=(64, 64, 64),
        **{k: turned(getattr(grid, k)) for k in ("spacing", "finest", "coarsest")},
    )
    return NetworkEngine(LoadedModel(card, mine, lambda hu: hu[None], forward))


def _answers(engine, image, wanted=STRUCTURES, context=None):
    return {a.name: a for a in engine.contour(image, wanted, context or Context())}


def _volume(finding):
    return float(finding.field.mask().array.sum()) * finding.field.geometry.voxel_cc


def _ball_cc(radius):
    return 4 / 3 * np.pi * radius**3 / 1000


def _is_the_phantom(found, geometry, mm, share=0.12):
    for name, centre in zip(STRUCTURES, (LEFT, RIGHT, FRONT), strict=True):
        assert isinstance(found[name], Finding), found[name]
        geometry.box_of(found[name].field.geometry)
        assert np.linalg.norm(np.subtract(centroid(found[name].field), centre)) < mm
        assert _volume(found[name]) == pytest.approx(_ball_cc(RADII[centre]), rel=share)


def test_it_is_an_engine():
    assert isinstance(_rule(), Engine)
    assert all(isinstance(engine, Engine) for engine in (head_neck(), head_neck_targets()))


TURNS = [np.diag(signs) @ UPRIGHT[list(order)] for order in permutations(range(3)) for signs in product((1, -1), repeat=3)]


@settings(max_examples=24, deadline=None)
@given(st.sampled_from(TURNS), st.sampled_from(["SPL", "RAS", "LPS", "IAR"]))
def test_an_image_stored_in_any_order_gives_the_same_places_in_the_patient(axes, network):
    spacing = np.abs(axes) @ np.array([4.0, 4.0, 3.0])
    geometry = _geometry(spacing, axes)
    _is_the_phantom(_answers(_rule(network), _phantom(geometry)), geometry, 1.0)


@settings(max_examples=12, deadline=None)
@given(st.floats(1.3, 6.0), st.floats(1.3, 5.5))
def test_an_image_of_any_spacing_gives_the_same_places_and_sizes(dz, dx):
    geometry = _geometry((dz, dx, dx))
    _is_the_phantom(_answers(_rule(), _phantom(geometry)), geometry, 1.5, 0.25)


def test_fine_voxels_get_a_surface_between_the_networks_own():
    geometry = _geometry((1.0, 1.25, 1.25))
    found = _answers(_rule(), _phantom(geometry), ["Parotid_R"])["Parotid_R"]
    values = found.field.volume.array
    points = found.field.geometry.points(np.moveaxis(np.indices(values.shape), 0, -1))
    away = np.linalg.norm(points - RIGHT, axis=-1)
    assert found.field.geometry.spacing == geometry.spacing
    assert away[found.field.mask().array].max() < RADII[RIGHT] + 1.5
    assert away[~found.field.mask().array].min() > RADII[RIGHT] - 1.5


@pytest.mark.parametrize("degrees", [6.0, 25.0])
def test_an_oblique_image_gives_the_same_places(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    axes = UPRIGHT @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    geometry = _geometry((2.5, 2.0, 2.0), axes, (170.0, 150.0, 190.0))
    _is_the_phantom(_answers(_rule(), _phantom(geometry)), geometry, 2.0, 0.2)


def test_an_image_on_the_networks_own_grid_is_not_resampled():
    image = _phantom(_geometry((2.5, 4.6, 4.6)))
    seen = []
    engine = _rule()
    model = replace(engine._model, prepare=lambda hu: (seen.append(hu.copy()), hu[None])[1])
    list(NetworkEngine(model).contour(image, STRUCTURES, Context()))
    assert set(np.unique(seen[0])) <= set(np.unique(image.array).astype(np.float32))


@cache
def _image():
    return _phantom(_geometry((3.0, 4.0, 4.0)))


def test_a_structure_is_answered_in_its_own_box():
    found = _answers(_rule(), _image(), ["Parotid_L"])["Parotid_L"]
    assert found.field.volume.array.dtype == np.float32
    assert found.field.volume.array.size < 0.1 * _image().array.size


@pytest.mark.parametrize(("shift", "flagged"), [(0, False), (40, False), (-120, True), (200, True)])
def test_every_contour_is_flagged_where_soft_tissue_lies_where_it_cannot(shift, flagged):
    image = _phantom(_geometry((3.0, 4.0, 4.0)))
    body = image.array > -900
    image.array[body] += shift
    answers = _answers(_rule(), image)
    for name in STRUCTURES:
        assert isinstance(answers[name], Finding)
        assert ("shifted_hounsfield" in [flag.code for flag in answers[name].flags]) is flagged


def test_a_structure_that_only_serves_as_a_landmark_is_not_answered_for():
    card = CARD.model_copy(update={"offered": ("Larynx",)})
    with pytest.raises(ValueError, match="not offered: Parotid_L"):
        list(_rule(card=card).contour(_phantom(_geometry((3.0, 4.0, 4.0))), ("Larynx", "Parotid_L"), Context()))


def test_a_name_that_is_not_offered_is_an_error():
    with pytest.raises(ValueError, match="Liver"):
        _answers(_rule(), _image(), ["Liver"])


def test_one_who_asks_to_stop_is_heard():
    context = Context(cancelled=threading.Event())
    context.cancelled.set()
    with pytest.raises(Cancelled):
        _answers(_rule(), _image(), context=context)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.full((40, 40, 40), 37, np.int16), "constant"),
        (np.full((40, 40, 40), np.nan, np.float32), "constant"),
        (np.random.default_rng(0).gamma(2, 300, (40, 40, 40)).astype(np.float32), "no Hounsfield"),
        (np.random.default_rng(0).normal(-990, 10, (40, 40, 40)).astype(np.float32), "as dense as a body"),
        (np.full((1, 1, 1), 0, np.int16), "constant"),
    ],
)
def test_for_what_is_no_ct_of_a_body_there_is_no_model_and_it_says_why(array, said):
    answers = _answers(_rule(), Volume(array, Geometry(array.shape, (3.0, 4.0, 4.0))))
    assert all(isinstance(a, NoModel) and said in a.reason for a in answers.values())


def test_voxels_that_are_no_numbers_are_air_and_the_rest_is_found():
    array = _image().array.astype(np.float32)
    array[:, :3] = np.nan
    array[:, -3:] = np.inf * -1
    _is_the_phantom(_answers(_rule(), Volume(array, _image().geometry)), _image().geometry, 1.0)


def test_what_the_network_does_not_see_is_not_drawn():
    array = np.where(_image().array > 0, 0, _image().array).astype(np.int16)
    answers = _answers(_rule(), Volume(array, _image().geometry))
    assert all(isinstance(a, NotInImage | NotConfident) and "nowhere sure" in a.reason for a in answers.values())


def test_for_another_part_of_the_body_there_is_no_model():
    card = CARD.model_copy(update={"landmarks": ("Parotid_L", "Parotid_R"), "landmarks_needed": 2})
    array = _image().array.copy()
    array[:, :, : array.shape[2] // 2] = np.minimum(array[:, :, : array.shape[2] // 2], 0)
    half = _answers(_rule(card=card), Volume(array, _image().geometry), ["Larynx", "Parotid_L"])
    assert all(isinstance(a, NoModel) and "only Parotid_L" in a.reason for a in half.values())
    whole = _answers(_rule(card=card), _image(), ["Larynx"])
    assert isinstance(whole["Larynx"], Finding)


def test_landmarks_whose_predicted_dice_is_low_do_not_say_which_part_of_the_body_this_is():
    landmarks = {"landmarks": ("Parotid_L", "Parotid_R"), "landmarks_needed": 2}
    for intercept, believed in ((3.0, True), (-1.0, False)):
        said = Calibration(
            weights={}, intercepts={"Parotid_L": intercept, "Parotid_R": intercept}, review_below=0.7, patients=9
        )
        card = CARD.model_copy(update={**landmarks, "confidence": said})
        answers = _answers(_rule(card=card), _image(), ["Larynx"])
        assert isinstance(answers["Larynx"], Finding) == believed


def test_of_what_is_far_too_small_for_the_organ_the_model_is_not_confident():
    usual = Population(low_cc=80.0, median_cc=100.0, high_cc=130.0, patients=50)
    card = CARD.model_copy(update={"population": {"Parotid_L": usual}})
    answers = _answers(_rule(card=card), _image())
    assert isinstance(answers["Parotid_L"], NotConfident)
    assert "80.0 to 130.0 cc" in answers["Parotid_L"].reason
    assert isinstance(answers["Parotid_R"], Finding)


def test_an_organ_that_the_image_cuts_is_flagged():
    half = _image().array[: _image().array.shape[0] // 2 + 6]
    image = Volume(half, replace(_image().geometry, shape=half.shape))
    flags = {f.code for f in _answers(_rule(), image)["Parotid_R"].flags}
    assert "cut_by_field_of_view" in flags


def test_every_contour_of_a_model_that_only_suggests_asks_for_a_person():
    sure, suggests = (
        _answers(_rule(), _image()),
        _answers(_rule(card=CARD.model_copy(update={"suggestion": True})), _image()),
    )
    assert not any(f.code == "suggestion" for found in sure.values() for f in found.flags)
    assert all("suggestion" in {f.code for f in found.flags} for found in suggests.values())


def test_left_and_right_exchanged_are_flagged():
    engine = _rule()
    exchanged = lambda inputs: engine._model.forward(inputs)[:, [1, 0, 2]]  # noqa: E731
    answers = _answers(NetworkEngine(replace(engine._model, forward=exchanged)), _image())
    for name in ("Parotid_L", "Parotid_R"):
        assert "wrong_side" in {f.code for f in answers[name].flags}
    assert not any(f.code == "wrong_side" for a in _answers(_rule(), _image()).values() for f in a.flags)


def test_one_of_a_pair_alone_is_known_by_the_patients_middle():
    found = {"SpinalCord": (3.0, 60.0, 0.0), "Brainstem": (1.0, 40.0, 90.0), "Parotid_L": (-58.0, 20.0, 50.0)}
    assert "60 mm on the other side" in wrong_side("Parotid_L", found)
    assert wrong_side("Parotid_R", {**found, "Parotid_R": found["Parotid_L"]}) != ""
    assert wrong_side("Parotid_R", {"Parotid_R": found["Parotid_L"], "SpinalCord": found["SpinalCord"]}) == ""
    assert wrong_side("SpinalCord", found) == ""


def test_a_doubtful_contour_has_less_confidence_and_is_flagged():
    weights = {"doubt": -3.0, "wavering": -3.0}
    calibration = Calibration(weights=weights, intercepts={"Larynx": 2.0}, review_below=0.7, patients=9)
    sure = _rule(card=CARD.model_copy(update={"confidence": calibration}))
    hazy = NetworkEngine(replace(sure._model, forward=lambda inputs: 0.6 * sure._model.forward(inputs)))
    certain, doubtful = (_answers(engine, _image(), ["Larynx"])["Larynx"] for engine in (sure, hazy))
    assert certain.confidence > 0.7 > doubtful.confidence
    assert "low_confidence" in {f.code for f in doubtful.flags}
    assert "low_confidence" not in {f.code for f in certain.flags}


def _offset(of, seen_from, sd=3.0):
    x, y, z = (a - b for a, b in zip(PLACES[of], PLACES[seen_from], strict=True))
    return Offset(of=of, seen_from=seen_from, mean=(x, y, z), sd=(sd, sd, sd), patients=30)


PLACES = dict(zip(STRUCTURES, (LEFT, RIGHT, FRONT), strict=True))
LAYOUT = CARD.model_copy(
    update={
        "landmarks": STRUCTURES,
        "landmarks_needed": 2,
        "layout": tuple(_offset(*pair) for pair in combinations(STRUCTURES, 2)),
    }
)


def test_organs_that_lie_as_they_do_in_patients_are_believed():
    _is_the_phantom(_answers(_rule(card=LAYOUT), _image()), _image().geometry, 1.0)


def test_organs_that_lie_as_in_no_patient_are_not_believed():
    wide = LAYOUT.model_copy(update={"layout": tuple(replaced_mean(o, 3.0) for o in LAYOUT.layout)})
    answers = _answers(_rule(card=wide), _image())
    assert all(isinstance(a, NoModel) and "none was detected" in a.reason for a in answers.values())


def replaced_mean(offset, times):
    x, y, z = (times * v for v in offset.mean)
    return offset.model_copy(update={"mean": (x, y, z)})


def test_of_two_pieces_the_one_that_lies_right_is_taken_though_the_other_is_larger():
    array = _image().array.copy()
    points = _image().geometry.points(np.moveaxis(np.indices(array.shape), 0, -1))
    array[np.linalg.norm(points - (40.0, -5.0, -45.0), axis=-1) < 24] = 1000
    engine = _rule(card=LAYOUT)
    confused = lambda inputs: torch.where(  # noqa: E731
        torch.tensor([True, False, False]).reshape(1, 3, 1, 1, 1),
        engine._model.forward(inputs).sum(1, keepdim=True),
        engine._model.forward(inputs),
    )
    found = _answers(NetworkEngine(replace(engine._model, forward=confused)), Volume(array, _image().geometry), STRUCTURES)
    assert np.linalg.norm(np.subtract(centroid(found["Parotid_L"].field), LEFT)) < 1


def test_sides_exchanged_are_withheld_where_the_model_knows_where_organs_lie():
    engine = _rule(card=LAYOUT.model_copy(update={"landmarks_needed": 0}))
    exchanged = lambda inputs: engine._model.forward(inputs)[:, [1, 0, 2]]  # noqa: E731
    answers = _answers(NetworkEngine(replace(engine._model, forward=exchanged)), _image(), STRUCTURES[:2])
    assert all("lies to the right of" in a.reason for a in answers.values() if isinstance(a, Absent))
    assert all(isinstance(a, NotConfident) for a in answers.values())


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.integers(4, 40), st.floats(0.0, 0.6))
def test_windows_cover_an_axis_and_share_it_out(size, patch, overlap):
    run = Run.over(size, patch, overlap)
    starts = [span.start for span in run.spans]
    assert all(span.stop - span.start == patch for span in run.spans)
    assert starts[0] == 0
    assert run.spans[-1].stop == max(size, patch)
    np.testing.assert_allclose(run.shares.sum(axis=0), 1, atol=1e-5)
    common = min(patch - 1, round(overlap * patch))
    assert all(b - a <= patch - common for a, b in pairwise(starts))
    if len(starts) > 1:
        assert patch + (len(starts) - 2) * (patch - common) < size


def test_windows_put_together_give_what_one_look_would_have_given():
    hu = np.random.default_rng(3).normal(0, 200, (50, 37, 41)).astype(np.float32)
    grid = Grid((16, 16, 16), overlap=0.5)
    found = probabilities(hu, grid, lambda part: part[None], lambda x: torch.sigmoid(x.float() / 100), [0])
    np.testing.assert_allclose(found[0], 1 / (1 + np.exp(-hu / 100)), atol=1e-5)


def test_a_preparation_that_looks_at_the_whole_image_sees_all_of_it():
    hu = np.random.default_rng(4).normal(0, 200, (30, 20, 20)).astype(np.float32)
    shapes = []

    def prepare(part):
        shapes.append(part.shape)
        return (part - part.mean())[None]

    found = probabilities(hu, Grid((16, 16, 16)), prepare, lambda x: torch.sigmoid(x.float() / 100), [0], whole=True)
    assert shapes == [hu.shape]
    np.testing.assert_allclose(found[0], 1 / (1 + np.exp(-(hu - hu.mean()) / 100)), atol=1e-5)
