"""The Python of the documents does what it says, on the sample course: each block as it is written, the README's first."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import recontour
from tests.test_documented import PAGES, ROOT, blocks_of

FIRST = ROOT / "README.md"
"""Makes `registered`, which blocks of other pages go on with."""


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("documents")
    recontour.write_sample(folder, fractions=1, slices=60, size=64)
    return folder


def _workplace(folder: Path, sample: Path) -> Path:
    """A folder of its own for a page, with everything beside it that blocks read."""
    folder.mkdir()
    for name in ("plan", "fraction_01"):
        (folder / name).symlink_to(sample / name)
    (folder / "sample").symlink_to(sample)
    (folder / "archive/1").mkdir(parents=True)
    shutil.copy(sample / "plan/rtplan.dcm", folder / "archive/1")
    shutil.copy(ROOT / "registration/policy.toml", folder / "our-policy.toml")
    return folder


@pytest.fixture
def contoured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One image is contoured once for all pages: it takes most of the time."""
    contour, made = recontour.contour, {}

    def kept(image: recontour.ImageSeries, template: str = "head_neck") -> recontour.Contoured:
        key = (image.series_uid, template)
        if key not in made:
            made[key] = contour(image, template)
        return made[key]

    monkeypatch.setattr(recontour, "contour", kept)


@pytest.mark.usefixtures("contoured_once")
def test_blocks_of_python_run_as_they_are_written(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, object] = {}
    blocks = [
        (page, text) for page in (FIRST, *(page for page in PAGES if page != FIRST)) for text in blocks_of(page, "python")
    ]
    for number, (page, text) in enumerate(blocks):
        monkeypatch.chdir(_workplace(tmp_path / str(number), sample))
        exec(compile(text, str(page), "exec"), names)
    assert len(blocks) >= 5
    assert "Parotid_L" in capsys.readouterr().out
