import hashlib

import pytest
import torch
from safetensors.torch import load, save

from contour.model import (
    CARD,
    OURS,
    WEIGHTS,
    Calibration,
    ModelCard,
    Population,
    Score,
    Shape,
    read_card,
    read_model,
    write_card,
)
from contour.model import write_model as write
from contour.shipped import Shipped
from contour.unet import Architecture, network
from patient.errors import ModelError

NET = Architecture(("A_L", "A_R"), (2.75, 3.75, 3.75), (8, 8, 8), (2, 4, 4))
SHAPE = Shape(
    spacing=NET.spacing, finest=(2, 3, 3), coarsest=(3, 4, 4), patch=NET.patch, filters=NET.filters, windows=NET.windows
)
CARD_OF_IT = ModelCard(
    name="tiny",
    version="0.1",
    kind=OURS,
    structures=NET.structures,
    sha256="0" * 64,
    licence="Apache-2.0",
    architecture=SHAPE,
    landmarks=("A_L",),
    landmarks_needed=1,
    scores={"A_L": Score(dice=0.8, patients=3)},
    population={"A_R": Population(low_cc=1, median_cc=2, high_cc=4, patients=20)},
    confidence=Calibration(weights={"doubt": -2.0}, intercepts={"A_L": 1.0}, review_below=0.6, patients=9),
)


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(1)
    write(tmp_path / "model", CARD_OF_IT, network(NET).state_dict())
    return tmp_path / "model"


def _changed(folder, old, new):
    path = folder / CARD
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new))


def _reweighed(folder, weights):
    """Other weights whose digest the card knows."""
    held = save(weights)
    (folder / WEIGHTS).write_bytes(held)
    _changed(folder, read_card(folder).sha256, hashlib.sha256(held).hexdigest())


def test_a_model_comes_back_as_it_was_written(folder):
    torch.manual_seed(1)
    written = network(NET).eval()
    module, card = read_model(folder)
    image = torch.randn(1, 2, 8, 8, 8)
    assert torch.equal(module(image), written(image))
    assert card == CARD_OF_IT.model_copy(update={"sha256": card.sha256})
    assert not module.training


def test_weights_kept_in_half_the_bits_run_as_whole_numbers(tmp_path):
    state = network(NET).state_dict()
    write(tmp_path, CARD_OF_IT, {name: value.half() for name, value in state.items()})
    module, _ = read_model(tmp_path)
    assert {p.dtype for p in module.parameters()} == {torch.float32}


def test_new_scores_leave_the_weights_alone(folder):
    write_card(folder, read_card(folder).model_copy(update={"scores": {}}))
    assert read_model(folder)[1].scores == {}


@pytest.mark.parametrize("gone", [CARD, WEIGHTS])
def test_a_folder_that_lacks_a_file_is_refused(folder, gone):
    (folder / gone).unlink()
    with pytest.raises(ModelError, match=f"No {gone}"):
        read_model(folder)


def test_weights_that_were_cut_short_are_refused(folder):
    held = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(held[: len(held) // 2])
    with pytest.raises(ModelError, match="SHA-256"):
        read_model(folder)


def test_weights_of_which_one_bit_was_changed_are_refused(folder):
    held = bytearray((folder / WEIGHTS).read_bytes())
    held[-5] ^= 1
    (folder / WEIGHTS).write_bytes(held)
    with pytest.raises(ModelError, match="SHA-256"):
        read_model(folder)


def test_a_file_that_is_no_safetensors_is_refused_even_where_the_card_names_it(folder):
    held = b"\x80\x04cos\nsystem\n."
    (folder / WEIGHTS).write_bytes(held)
    _changed(folder, read_card(folder).sha256, hashlib.sha256(held).hexdigest())
    with pytest.raises(ModelError, match="does not fit"):
        read_model(folder)


def test_weights_of_another_network_are_refused(folder):
    other = Architecture(NET.structures, NET.spacing, NET.patch, (4, 4, 4))
    _reweighed(folder, {name: value.clone() for name, value in network(other).named_parameters()})
    with pytest.raises(ModelError, match="shape"):
        read_model(folder)


def test_weights_that_lack_a_layer_are_refused(folder):
    weights = load((folder / WEIGHTS).read_bytes())
    weights.pop(sorted(weights)[0])
    _reweighed(folder, weights)
    with pytest.raises(ModelError, match="only one of them"):
        read_model(folder)


def test_weights_that_are_no_numbers_are_refused(folder):
    weights = load((folder / WEIGHTS).read_bytes())
    weights[sorted(weights)[0]][:] = torch.nan
    _reweighed(folder, weights)
    with pytest.raises(ModelError, match="not finite"):
        read_model(folder)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('    "A_R",\n', "", "none of the model's structures"),
        ('    "A_R",\n', '    "A_R",\n    "B",\n', "shape"),
        ('licence = "Apache-2.0"', 'licence = "Apache-2.0"\nlicense = "MIT"', "license"),
        ("version", "ver sion", "TOML"),
        ('"recontour-unet"', '"nnunet"', "nnunet"),
        ('landmarks = [\n    "A_L",', 'landmarks = [\n    "Liver",', "Liver is none"),
        ("patch = [\n    8", "patch = [\n    7", "describes no network"),
        ("windows = [\n    [\n        -160.0", "windows = [\n    [\n        900.0", "lower end first"),
    ],
)
def test_a_card_that_does_not_say_what_the_weights_are_is_refused(folder, old, new, said):
    _changed(folder, old, new)
    with pytest.raises(ModelError, match=said):
        read_model(folder)


def test_weights_that_do_not_fit_their_card_are_not_written(tmp_path):
    state = network(Architecture(("A_L",), NET.spacing, NET.patch, NET.filters)).state_dict()
    with pytest.raises(ModelError, match="do not fit"):
        write(tmp_path / "model", CARD_OF_IT, state)
    assert not (tmp_path / "model").exists()


def test_where_no_model_is_installed_nothing_is_offered(tmp_path):
    assert Shipped("tiny", tmp_path).offers() == {}


def test_an_installed_model_offers_its_structures_before_its_weights_are_read(folder):
    (folder / WEIGHTS).unlink()
    offers = Shipped("tiny", folder).offers()
    assert set(offers) == {"A_L", "A_R"}
    assert offers["A_L"].licence == "Apache-2.0"


def test_what_only_serves_as_a_landmark_is_not_offered(folder):
    _changed(folder, "offered = []", 'offered = ["A_R"]')
    assert set(Shipped("tiny", folder).offers()) == {"A_R"}


def test_what_is_offered_is_one_of_the_models_structures(folder):
    _changed(folder, "offered = []", 'offered = ["B"]')
    with pytest.raises(ModelError, match="B is none of the model's structures"):
        read_card(folder)
