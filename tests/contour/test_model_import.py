"""Each kind of model, built as its own software builds it: what it says, what it computes, and what is refused."""

import json

import numpy as np
import pytest
import torch

from contour.model_import import READERS, recognised
from contour.model_import.description import ABOUT, About, channels_of, class_names
from contour.model_import.monai_config import Configuration
from contour.model_import.totalsegmentator import classes_of as totalsegmentator_classes
from contour.model_import.totalsegmentator import tasks as totalsegmentator_tasks
from contour.model_registry import ModelRegistry
from patient.errors import ModelError
from patient.geometry import Geometry
from patient.names import lookup
from patient.volume import Volume
from tests import models
from tests.making import phantom

ABDOMEN = {"background": 0, "spleen": 1, "kidney_right": 2, "kidney_left": 3}
ORGANS = totalsegmentator_classes("organs")


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def _taken(source, tmp_path, about=""):
    """The model as it comes out of a store; `about` as its description."""
    told = None
    if about:
        told = tmp_path / "told.toml"
        told.write_text(about)
    registry = ModelRegistry(tmp_path / "store")
    return registry.load(registry.add(source, about=told).name)


def _patch(model, seed=0):
    return np.random.default_rng(seed).uniform(-1000, 1500, model.grid.patch).astype(np.float32)


def _answer(model, hu):
    with torch.inference_mode():
        return model.forward(torch.from_numpy(model.prepare(hu))[None])[0].numpy()


@pytest.mark.parametrize("make", [models.torchscript, models.onnx_file])
def test_an_exported_network_finds_what_is_dense(make, tmp_path):
    from contour.engine import Context, Finding
    from contour.network import NetworkEngine

    image = Volume(phantom((24, 60, 72)), Geometry((24, 60, 72), (2.5, 1.5, 1.5)))
    engine = NetworkEngine(_taken(make(tmp_path / "made"), tmp_path))
    (found,) = engine.contour(image, ["Bones"], Context())
    assert isinstance(found, Finding)
    drawn = found.field.mask().placed_in(image.geometry).array
    wanted = image.array > 500
    assert 2 * (drawn & wanted).sum() / (drawn.sum() + wanted.sum()) > 0.97


@pytest.mark.parametrize("old", [False, True])
def test_an_nnunet_folder_computes_what_its_network_computes(old, tmp_path):
    folder = models.nnunet_folder(tmp_path, ABDOMEN, old=old)
    model = _taken(folder, tmp_path, 'licence = "CC0-1.0"\naxes = "SPL"')
    hu = _patch(model)
    network = models.nnunet_network(4).eval()
    network.decoder.deep_supervision = False
    shown = torch.from_numpy((hu.clip(-900, 1200) - 100) / 200)[None, None]
    with torch.inference_mode():
        wanted = network(shown)[0].softmax(0)[1:].numpy()
    order = [model.card.structures.index(name) for name in ("Spleen", "Kidney_R", "Kidney_L")]
    np.testing.assert_allclose(_answer(model, hu)[order], wanted, atol=1e-5)
    assert (model.grid.spacing, model.grid.patch) == ((2.5, 1.5, 1.25), (8, 16, 16))


def test_a_residual_encoder_is_built_from_its_plan(tmp_path):
    from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet

    arguments = {key: value for key, value in models.ARGUMENTS.items() if key != "n_conv_per_stage"}
    arguments["n_blocks_per_stage"] = [1, 1]
    torch.manual_seed(4)
    network = ResidualEncoderUNet(input_channels=1, num_classes=4, **arguments, **models.LAYERS).eval()
    folder = models.nnunet_folder(tmp_path, ABDOMEN, weights=network.state_dict())
    plans = json.loads((folder / "plans.json").read_text(encoding="utf-8"))
    architecture = plans["configurations"]["parent"]["architecture"]
    architecture["network_class_name"] = architecture["network_class_name"].replace("PlainConvUNet", "ResidualEncoderUNet")
    architecture["arch_kwargs"] = arguments | models.NAMED
    (folder / "plans.json").write_text(json.dumps(plans))
    model = _taken(folder, tmp_path, 'licence = "CC0-1.0"\naxes = "SPL"')
    hu = _patch(model)
    with torch.inference_mode():
        wanted = network(torch.from_numpy((hu.clip(-900, 1200) - 100) / 200)[None, None])[0].softmax(0)[1].numpy()
    np.testing.assert_allclose(_answer(model, hu)[model.card.structures.index("Spleen")], wanted, atol=1e-5)


@pytest.mark.parametrize("named", ["os.system", "torch.hub.load", "some.package.PlainConvUNetOfMine"])
def test_a_plan_with_another_network_is_refused(named, tmp_path):
    folder = models.nnunet_folder(tmp_path, ABDOMEN)
    text = (folder / "plans.json").read_text(encoding="utf-8")
    (folder / "plans.json").write_text(text.replace("dynamic_network_architectures.architectures.unet.PlainConvUNet", named))
    with pytest.raises(ModelError, match="not known here"):
        _taken(folder, tmp_path, 'licence = "CC0-1.0"\naxes = "SPL"')


def test_a_model_of_another_modality_is_refused(tmp_path):
    folder = models.nnunet_folder(tmp_path, ABDOMEN, normalisation="ZScoreNormalization")
    path = folder / "dataset.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"CT"', '"MRI"'))
    with pytest.raises(ModelError, match="trained on MRI"):
        _taken(folder, tmp_path, 'licence = "CC0-1.0"\naxes = "SPL"')


def test_folds_are_averaged_before_the_softmax(tmp_path):
    model = _taken(models.nnunet_folder(tmp_path, ABDOMEN, folds=(0, 1)), tmp_path, 'licence = "CC0-1.0"\naxes = "SPL"')
    hu = _patch(model)
    shown = torch.from_numpy((hu.clip(-900, 1200) - 100) / 200)[None, None]
    logits = 0
    for seed in (0, 1):
        network = models.nnunet_network(4, seed).eval()
        network.decoder.deep_supervision = False
        with torch.inference_mode():
            logits = logits + network(shown)[0] / 2
    wanted = logits.softmax(0)[1].numpy()
    np.testing.assert_allclose(_answer(model, hu)[model.card.structures.index("Spleen")], wanted, atol=1e-5)


def test_regions_of_nnunet_overlap_and_keep_their_order(tmp_path):
    labels = {"background": 0, "Kidneys": [1, 2], "Kidney_L": 2}
    model = _taken(models.nnunet_folder(tmp_path, labels), tmp_path, 'licence = "CC0-1.0"\naxes = "SPL"')
    network = models.nnunet_network(2).eval()
    network.decoder.deep_supervision = False
    hu = _patch(model)
    with torch.inference_mode():
        wanted = network(torch.from_numpy((hu.clip(-900, 1200) - 100) / 200)[None, None])[0].sigmoid().numpy()
    order = [model.card.structures.index(name) for name in ("Kidneys", "Kidney_L")]
    np.testing.assert_allclose(_answer(model, hu)[order], wanted, atol=1e-5)


def test_axes_follow_a_plan_that_transposes(tmp_path):
    folder = models.nnunet_folder(tmp_path, ABDOMEN, transpose=(2, 0, 1))
    assert _taken(folder, tmp_path, 'licence = "CC0-1.0"\naxes = "SPL"').grid.axes == "LSP"


def test_an_nnunet_folder_without_directions_is_refused(tmp_path):
    with pytest.raises(ModelError, match="directions"):
        _taken(models.nnunet_folder(tmp_path, ABDOMEN), tmp_path, 'licence = "CC0-1.0"')


def test_totalsegmentator_is_known_by_its_dataset_and_sees_images_turned_to_ras(tmp_path):
    labels = {"background": 0} | {name: n for n, name in enumerate(ORGANS, start=1)}
    folder = models.nnunet_folder(tmp_path, labels, dataset="Dataset291_TotalSegmentator_part1_organs_1559subj", old=True)
    model = _taken(folder, tmp_path)
    assert model.card.kind == "totalsegmentator"
    assert model.card.licence == "Apache-2.0"
    assert model.grid.axes == "SAR"
    hu = _patch(model)
    network = models.nnunet_network(25).eval()
    network.decoder.deep_supervision = False
    with torch.inference_mode():
        each = network(torch.from_numpy((hu.clip(-900, 1200) - 100) / 200)[None, None])[0].softmax(0).numpy()
    answer = _answer(model, hu)
    left = answer[model.card.structures.index("Lung_L")]
    np.testing.assert_allclose(left, each[labels["lung_upper_lobe_left"]] + each[labels["lung_lower_lobe_left"]], atol=1e-5)
    np.testing.assert_allclose(answer[model.card.structures.index("Kidney_L")], each[3], atol=1e-5)


def test_totalsegmentator_with_another_order_of_classes_is_refused(tmp_path):
    exchanged = [*ORGANS[:1], "kidney_left", "kidney_right", *ORGANS[3:]]
    labels = {"background": 0} | {name: n for n, name in enumerate(exchanged, start=1)}
    with pytest.raises(ModelError, match="kidney_left has the number 2, not 3"):
        _taken(models.nnunet_folder(tmp_path, labels, dataset="Dataset291_TotalSegmentator_x"), tmp_path)


def test_a_totalsegmentator_dataset_that_needs_a_licence_says_so(tmp_path):
    classes = totalsegmentator_classes("heartchambers_highres")
    labels = {"background": 0} | {name: n for n, name in enumerate(classes, start=1)}
    folder = models.nnunet_folder(tmp_path, labels, dataset="Dataset301_heart_highres_1559subj")
    _, kept = recognised(folder)
    assert all(place.startswith("Dataset301_heart_highres_1559subj/") for place in kept)
    assert "non-commercial" in READERS["totalsegmentator"].described(folder, "0" * 64).card.licence


def test_a_monai_bundle_computes_what_its_network_computes(tmp_path):
    from monai.transforms import Compose, NormalizeIntensity, ScaleIntensity

    model = _taken(models.monai_bundle(tmp_path / "bundle"), tmp_path, 'licence = "Apache-2.0"')
    assert (model.grid.axes, model.grid.spacing, model.grid.patch) == ("RAS", (1.5, 1.5, 2.0), (16, 16, 8))
    assert set(model.card.structures) == {"Spleen", "Kidney_R", "Kidney_L", "Lung_LUL", "Lung_LLL", "Lung_L"}
    hu = _patch(model)
    shown = torch.as_tensor(Compose([NormalizeIntensity(nonzero=True), ScaleIntensity(-1, 1)])(hu[None]))[None]
    with torch.inference_mode():
        wanted = models.bundle_network()(shown.float())[0].softmax(0)[3].numpy()
    np.testing.assert_allclose(_answer(model, hu)[model.card.structures.index("Kidney_L")], wanted, atol=1e-5)


def test_a_preparation_by_the_image_s_own_range_sees_the_whole_image(tmp_path):
    from contour.windows import probabilities

    model = _taken(models.monai_bundle(tmp_path / "bundle"), tmp_path, 'licence = "Apache-2.0"')
    hu = np.random.default_rng(0).uniform(-1000, 200, (28, 16, 8)).astype(np.float32)
    hu[0, 0, 0] = 3000
    ends = []

    def forward(inputs):
        ends.append(float(inputs.max()))
        return inputs

    probabilities(hu, model.grid, model.prepare, forward, [0], whole=model.whole)
    assert model.whole
    assert ends[0] == pytest.approx(1.0)
    assert ends[-1] < 0.0


def test_nothing_of_a_bundle_is_run_and_its_code_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _taken(models.monai_bundle(tmp_path / "bundle"), tmp_path, 'licence = "Apache-2.0"')
    assert not (tmp_path / "pwned").exists()
    assert not list((tmp_path / "store").rglob("*.py"))


def test_vista3d_is_asked_for_its_classes_and_for_none_that_needs_a_click(tmp_path):
    model = _taken(models.vista3d_bundle(tmp_path / "vista"), tmp_path, 'licence = "NCLS-v1"')
    assert set(model.card.structures) == {"Liver", "Spleen", "Kidney_L"}
    from monai.networks.nets.vista3d import vista3d132

    torch.manual_seed(2)
    network, hu = vista3d132(encoder_embed_dim=8).eval(), _patch(model)
    shown = torch.from_numpy(((hu + 963.8) / (1053.7 + 963.8)).clip(0, 1).astype(np.float32))[None, None]
    with torch.inference_mode():
        wanted = network(shown, class_vector=torch.tensor([[14]]))[0, 0].sigmoid().numpy()
    np.testing.assert_allclose(_answer(model, hu)[model.card.structures.index("Kidney_L")], wanted, atol=1e-4)


@pytest.mark.parametrize(
    "network",
    [
        {"_target_": "os.system", "command": "touch pwned"},
        {"_target_": "monai.bundle.ConfigWorkflow"},
        "$__import__('os').mkdir('pwned')",
        "$(lambda: monai.networks.nets.SegResNet())()",
        "$scripts.networks.SegResNet(spatial_dims=3)",
        {"_target_": "SegResNet", "spatial_dims": "$__import__('os').mkdir('pwned') or 3"},
        {"_target_": "SegResNet", "act": {"_target_": "os.mkdir", "path": "pwned"}},
    ],
)
def test_a_bundle_that_would_build_or_run_anything_else_is_refused(network, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError):
        _taken(models.monai_bundle(tmp_path / "bundle", network=network), tmp_path, 'licence = "Apache-2.0"')
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("file", "at", "value"),
    [
        ("inference", "preprocessing#transforms#3#axcodes", "XYZ"),
        ("inference", "preprocessing#transforms#4#pixdim", "wide"),
        ("inference", "preprocessing#transforms#4#pixdim", [1.5, -1.5, 1.5]),
        ("inference", "preprocessing#transforms#5#_target_", "Flipd"),
        ("inference", "inferer#roi_size", [96, 96]),
        ("inference", "inferer#overlap", 1.5),
        ("inference", "inferer#overlap", {}),
        ("inference", "postprocessing#transforms", []),
        ("metadata", "network_data_format#outputs#pred#channel_def", ["spleen"]),
        ("metadata", "network_data_format#inputs#image", []),
        ("metadata", "network_data_format#inputs#image#modality", "MR"),
    ],
)
def test_a_bundle_that_says_something_odd_is_refused_in_words(file, at, value, tmp_path):
    path = models.monai_bundle(tmp_path / "bundle") / "configs" / f"{file}.json"
    said = json.loads(path.read_text(encoding="utf-8"))
    inner = said
    *above, last = [int(part) if part.isdigit() else part for part in at.split("#")]
    for part in above:
        inner = inner[part]
    inner[last] = value
    path.write_text(json.dumps(said))
    with pytest.raises(ModelError):
        _taken(tmp_path / "bundle", tmp_path, 'licence = "Apache-2.0"')


def test_references_of_a_configuration_are_followed_and_circles_are_refused():
    configuration = Configuration({"a": {"b": [1, "$@c"]}, "c": "@d#e", "d": {"e": -2.5}, "x": "@y", "y": "@x"}, "test")
    assert configuration.value("a#b") == [1, -2.5]
    assert configuration.value("a::b::1") == -2.5
    assert configuration.value("nowhere", 7) == 7
    with pytest.raises(ModelError):
        configuration.value("x")


def test_a_bundle_with_one_class_more_than_its_network_is_refused(tmp_path):
    with pytest.raises(ModelError, match="8 classes"):
        _taken(
            models.monai_bundle(tmp_path / "b", classes=(*models.CLASSES, "one_more")), tmp_path, 'licence = "Apache-2.0"'
        )


def test_an_nnunet_network_with_another_number_of_classes_is_refused(tmp_path):
    folder = models.nnunet_folder(tmp_path, ABDOMEN, heads=5)
    with pytest.raises(ModelError, match="another number of classes"):
        _taken(folder, tmp_path, 'licence = "CC0-1.0"\naxes = "SPL"')


@pytest.mark.parametrize("make", [models.torchscript, models.onnx_file])
def test_an_exported_network_with_another_number_of_classes_is_refused(make, tmp_path):
    with pytest.raises(ModelError, match=r"classes|answers with"):
        _taken(make(tmp_path / "made", channels=3), tmp_path)


def test_weights_of_another_configuration_are_refused(tmp_path):
    with pytest.raises(ModelError, match="3d_lowres"):
        _taken(models.nnunet_folder(tmp_path, ABDOMEN, trained="3d_lowres"), tmp_path, 'licence = "CC0-1.0"\naxes = "SPL"')


def test_a_pickle_with_code_in_it_is_refused_and_does_not_run(tmp_path):
    mark = tmp_path / "pwned"
    evil = models.Evil(mark)
    folder = models.nnunet_folder(tmp_path, ABDOMEN, weights=evil)
    with pytest.raises(ModelError, match="more than numbers"):
        _taken(folder, tmp_path, 'licence = "CC0-1.0"\naxes = "SPL"')
    with pytest.raises(ModelError, match="more than numbers"):
        _taken(models.monai_bundle(tmp_path / "bundle", weights={"x": evil}), tmp_path, 'licence = "Apache-2.0"')
    path = models.torchscript(tmp_path / "script")
    torch.save(evil, path)
    with pytest.raises(ModelError, match="Weights without a network"):
        _taken(path, tmp_path)
    assert not mark.exists()
    assert ModelRegistry(tmp_path / "store").names() == ()


def test_torchscript_that_reaches_for_files_is_refused(tmp_path):
    with pytest.raises(ModelError, match="more than compute: from_file"):
        _taken(models.torchscript(tmp_path / "made", models.ReadsFiles()), tmp_path)


@pytest.mark.parametrize("where", [0.1, 0.5, 0.98])
def test_files_that_were_cut_short_are_refused(where, tmp_path):
    cases = [
        (models.torchscript(tmp_path / "t"), "dense.pt", ""),
        (models.onnx_file(tmp_path / "o"), "dense.onnx", ""),
        (models.nnunet_folder(tmp_path / "n", ABDOMEN), "checkpoint_final.pth", 'licence = "CC0-1.0"\naxes = "SPL"'),
        (models.monai_bundle(tmp_path / "b"), "model.pt", 'licence = "Apache-2.0"'),
    ]
    for source, name, about in cases:
        path = source if source.is_file() else next(source.rglob(name))
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * where)])
        with pytest.raises(ModelError):
            _taken(source, tmp_path, about)
    assert ModelRegistry(tmp_path / "store").names() == ()


def test_weights_that_are_not_finite_are_refused(tmp_path):
    state = models.nnunet_network(4).state_dict()
    next(iter(state.values()))[0] = float("nan")
    with pytest.raises(ModelError, match="not finite"):
        _taken(models.nnunet_folder(tmp_path, ABDOMEN, weights=state), tmp_path, 'licence = "CC0-1.0"\naxes = "SPL"')


def test_logits_that_are_called_probabilities_are_refused(tmp_path):
    with pytest.raises(ModelError, match="no probabilities"):
        _taken(models.torchscript(tmp_path / "made", output="probabilities"), tmp_path)


@pytest.mark.parametrize(
    "change", ["axes = 'SPX'", "axes = 'SSL'", "channels = 0", "colour = 1", "overlap = 1.0", "= nonsense"]
)
def test_a_description_that_says_what_nobody_knows_is_refused(change, tmp_path):
    path = models.torchscript(tmp_path / "made")
    described = path.with_suffix(".toml")
    key = change.split(" = ")[0]
    kept = [line for line in described.read_text(encoding="utf-8").splitlines() if not line.startswith(f"{key} = ")]
    described.write_text("\n".join([change, *kept]))
    with pytest.raises(ModelError):
        _taken(path, tmp_path)


def test_the_classes_that_a_site_names_are_the_ones_that_it_gets(tmp_path):
    about = 'licence = "CC0-1.0"\naxes = "SPL"\n[structures]\nKidneys = ["kidney_left", "kidney_right"]'
    assert _taken(models.nnunet_folder(tmp_path, ABDOMEN), tmp_path, about).card.structures == ("Kidneys",)
    with pytest.raises(ModelError, match="no class 'liver'"):
        channels_of(About(structures={"Liver": "liver"}), {"spleen": 1})
    with pytest.raises(ModelError, match="no class 0"):
        channels_of(About(structures={"Liver": 0}), {"spleen": 1})


def test_two_classes_of_one_meaning_are_refused():
    with pytest.raises(ModelError, match="Two classes mean Kidney_L"):
        channels_of(About(), {"left kidney": 1, "Kidney_L": 2})


def test_names_of_public_classes_agree_with_the_list_of_names():
    for name, classes in class_names().items():
        assert len(name) <= 16
        listed = lookup(name)
        for written in classes if listed is not None and len(classes) == 1 else ():
            side = written.split("_")
            assert name.endswith("_L") == ("left" in side)
            assert name.endswith("_R") == ("right" in side)


def test_every_class_of_totalsegmentator_stands_at_one_number_only():
    for task in totalsegmentator_tasks():
        classes = totalsegmentator_classes(task)
        assert len(set(classes)) == len(classes)
    assert len(totalsegmentator_classes("total")) == 117
    submandibular = totalsegmentator_classes("head_glands_cavities")[8:10]
    assert submandibular == ("submandibular_gland_right", "submandibular_gland_left")


def test_a_folder_with_two_trained_configurations_needs_a_choice(tmp_path):
    folder = models.nnunet_folder(tmp_path, ABDOMEN)
    other = folder.with_name("nnUNetTrainer__nnUNetPlans__3d_lowres")
    other.mkdir()
    (other / "plans.json").write_text(json.dumps({}))
    with pytest.raises(ModelError, match="2 trained configurations"):
        recognised(folder.parent)
    assert (tmp_path / ABOUT).exists() is False
