"""The store: what enters, what is refused, and what becomes of a model that somebody changed."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from contour.engine import Context, Engine, Finding
from contour.model_registry import FILES, RECORD, ModelRegistry, registry_folder
from contour.registered_models import registered_engines
from patient.errors import ModelError
from patient.geometry import Geometry
from patient.volume import Volume
from tests import models
from tests.making import phantom


@pytest.fixture
def registry(tmp_path) -> ModelRegistry:
    return ModelRegistry(tmp_path / "store")


def _image() -> Volume:
    return Volume(phantom((24, 60, 72)), Geometry((24, 60, 72), (2.5, 1.5, 1.5)))


def test_a_model_is_listed_with_its_licence_names_and_digests(registry, tmp_path):
    record = registry.add(models.torchscript(tmp_path / "made"))
    assert registry.names() == ("dense",)
    read = registry.record("dense")
    assert read == record
    assert (read.card.licence, read.card.structures, read.card.kind) == ("CC-BY-4.0", ("Bones",), "torchscript")
    assert set(read.files) == {"network.pt", "about.toml"}
    assert registry.verify("dense").problems == ()


def test_a_model_of_our_own_is_taken_as_it_was_written(registry, tmp_path):
    registry.add(models.own_model(tmp_path / "own"))
    model = registry.load("parotids")
    assert model.card.structures == ("Parotid_L", "Parotid_R")
    assert model.grid.patch == (8, 16, 16)


@pytest.mark.parametrize("place", ["network.pt", "about.toml"])
def test_a_model_with_one_byte_changed_is_refused_before_it_is_read(place, registry, tmp_path):
    registry.add(models.torchscript(tmp_path / "made"))
    path = registry.folder / "dense" / FILES / place
    held = bytearray(path.read_bytes())
    held[len(held) // 2] ^= 1
    path.write_bytes(held)
    assert f"{place} was changed" in registry.verify("dense").problems[0]
    with pytest.raises(ModelError, match="was changed"):
        registry.load("dense")
    (engine,) = registered_engines(registry)
    with pytest.raises(ModelError, match="was changed"):
        next(iter(engine.contour(_image(), ["Bones"], Context())))


def test_a_pickle_put_in_a_model_s_place_does_not_run(registry, tmp_path):
    import torch

    registry.add(models.monai_bundle(tmp_path / "bundle"), licence="Apache-2.0", name="bundle")
    torch.save(models.Evil(tmp_path / "pwned"), registry.folder / "bundle" / FILES / "models" / "model.pt")
    with pytest.raises(ModelError, match="was changed"):
        registry.load("bundle")
    assert not (tmp_path / "pwned").exists()


def test_files_that_came_or_went_are_told(registry, tmp_path):
    registry.add(models.torchscript(tmp_path / "made"))
    folder = registry.folder / "dense" / FILES
    (folder / "more.py").write_text("print()")
    (folder / "about.toml").unlink()
    assert [p.split(" ")[0] for p in registry.verify("dense").problems] == ["more.py", "about.toml"]
    with pytest.raises(ModelError):
        registry.load("dense")


def test_a_record_that_was_written_anew_is_refused(registry, tmp_path):
    registry.add(models.torchscript(tmp_path / "made"))
    path = registry.folder / "dense" / RECORD
    record = json.loads(path.read_text(encoding="utf-8"))
    record["files"]["network.pt"] = "0" * 64
    path.write_text(json.dumps(record))
    assert len(registry.verify("dense").problems) == 2
    path.write_text("{")
    with pytest.raises(ModelError, match="record cannot be read"):
        registered_engines(registry)


def test_a_licence_that_the_site_refuses_does_not_enter_and_is_not_used(registry, tmp_path):
    source = models.torchscript(tmp_path / "made")
    registry.folder.mkdir()
    policy = registry.folder / "policy.toml"
    policy.write_text('refused = ["cc-by-4.0"]')
    with pytest.raises(ModelError, match="refuses the licence CC-BY"):
        registry.add(source)
    policy.write_text('allowed = ["Apache-2.0"]')
    with pytest.raises(ModelError, match="not among those"):
        registry.add(source)
    policy.write_text('allowed = ["CC-BY-4.0"]')
    registry.add(source)
    policy.write_text('refused = ["CC-BY-4.0"]')
    assert registered_engines(registry) == []
    assert registry.verify("dense").problems
    with pytest.raises(ModelError, match="refuses"):
        registry.load("dense")
    policy.write_text("forbidden = []")
    with pytest.raises(ModelError, match="forbidden"):
        registry.load("dense")


def test_a_model_without_a_licence_is_refused(registry, tmp_path):
    with pytest.raises(ModelError, match="licence"):
        registry.add(models.monai_bundle(tmp_path / "bundle"))


def test_a_name_is_given_once(registry, tmp_path):
    source = models.torchscript(tmp_path / "made")
    registry.add(source)
    with pytest.raises(ModelError, match="already in the store"):
        registry.add(source)
    assert registry.add(source, name="again").name == "again"
    for name in ("../out", ".hidden", "a/b"):
        with pytest.raises(ModelError, match="folder's name"):
            registry.add(source, name=name)


@pytest.mark.parametrize("what", ["empty", "text.txt", "nowhere", "pickle.pkl"])
def test_what_is_no_model_is_refused_in_words(what, registry, tmp_path):
    source = tmp_path / what
    if what == "empty":
        source.mkdir()
    elif what != "nowhere":
        source.write_text("hello")
    with pytest.raises(ModelError):
        registry.add(source)
    with pytest.raises(ModelError, match="No kind"):
        registry.add(tmp_path, kind="pickle")
    assert registry.names() == ()


KILLED = """
import os, sys
from pathlib import Path
import contour.model_registry as s
s.must_answer = lambda model: os._exit(9)
s.ModelRegistry(Path(sys.argv[1])).add(Path(sys.argv[2]))
"""


def test_an_adding_that_was_killed_leaves_nothing_that_counts_and_its_remains_go(registry, tmp_path):
    source = models.torchscript(tmp_path / "made")
    done = subprocess.run([sys.executable, "-c", KILLED, registry.folder, source], env={**os.environ, "PYTHONPATH": "."})
    assert done.returncode == 9
    assert list(registry.folder.glob(".adding-*"))
    assert registry.names() == ()
    assert registry.add(source).name == "dense"
    assert not list(registry.folder.glob(".adding-*"))


def test_a_failing_disk_leaves_nothing(registry, tmp_path, monkeypatch):
    source = models.torchscript(tmp_path / "made")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ModelError, match="No space left"):
        registry.add(source)
    monkeypatch.undo()
    assert {path.name for path in registry.folder.iterdir()} == {".lock"}


def test_two_do_not_add_at_once(registry, tmp_path):
    source = models.torchscript(tmp_path / "made")
    with registry._adding(), pytest.raises(ModelError, match="Somebody else"):
        registry.add(source)


def test_a_stored_model_is_an_engine_and_its_weights_are_read_once_and_late(registry, tmp_path, monkeypatch):
    registry.add(models.torchscript(tmp_path / "made"))
    read = []
    monkeypatch.setattr(
        ModelRegistry, "load", lambda self, name, load=ModelRegistry.load: read.append(name) or load(self, name)
    )
    (engine,) = registered_engines(registry)
    assert isinstance(engine, Engine)
    assert engine.version == f"3+{registry.record('dense').digest[:8]}"
    assert engine.offers()["Bones"].licence == "CC-BY-4.0"
    with pytest.raises(ValueError, match="Liver"):
        next(iter(engine.contour(_image(), ["Liver"], Context())))
    assert read == []
    for _ in range(2):
        (found,) = engine.contour(_image(), ["Bones"], Context())
        assert isinstance(found, Finding)
        assert np.isclose(found.field.mask().array.sum(), (_image().array > 500).sum(), rtol=0.1)
    assert read == ["dense"]


def test_records_are_read_without_torch(registry, tmp_path):
    registry.add(models.torchscript(tmp_path / "made"))
    code = (
        "import sys; from pathlib import Path; from contour.model_registry import ModelRegistry; from "
        "contour.registered_models import registered_engines; "
    )
    code += (
        "print(len(registered_engines(ModelRegistry(Path(sys.argv[1])))), 'torch' in sys.modules, 'monai' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, registry.folder], capture_output=True, encoding="utf-8")
    assert done.stdout.split() == ["1", "False", "False"], done.stderr


def test_the_store_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("RECONTOUR_MODELS", str(tmp_path))
    assert registry_folder() == tmp_path
    monkeypatch.delenv("RECONTOUR_MODELS")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert registry_folder() == tmp_path / "data" / "recontour" / "models"
