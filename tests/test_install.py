"""A wheel holds everything that runs: built, unpacked elsewhere, and used without the sources."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.making import phantom, write_ct

ROOT = Path(__file__).parents[1]
PACKAGES = ("patient", "registration", "contour", "adaptive", "pipelines", "data_samples", "recontour")
NOT_SHIPPED = {".pyc", ".md"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the project's own wheel was installed."""
    folder = tmp_path_factory.mktemp("wheel")
    sources = folder / "sources"
    sources.mkdir()
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, encoding="utf-8", check=True).stdout
    for name in filter(None, listed.split("\0")):
        if name.split("/")[0] in PACKAGES or name in ("pyproject.toml", "README.md", "LICENSE"):
            (sources / name).parent.mkdir(parents=True, exist_ok=True)
            (sources / name).write_bytes((ROOT / name).read_bytes())
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(folder),
        str(sources),
    ]
    subprocess.run(build, check=True)
    with zipfile.ZipFile(next(folder.glob("recontour-*.whl"))) as wheel:
        wheel.extractall(folder / "site")
    return folder / "site"


def _recontour(site: Path, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    call = "import sys; from pipelines.app import main; sys.argv[0] = 'recontour'; main()"
    return subprocess.run(
        [sys.executable, "-P", "-c", call, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        encoding="utf-8",
    )


def test_the_wheel_holds_every_file_of_the_packages(installed: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", *PACKAGES], cwd=ROOT, capture_output=True, encoding="utf-8", check=True
    ).stdout
    wanted = {name for name in filter(None, listed.split("\0")) if Path(name).suffix not in NOT_SHIPPED}
    missing = {name for name in wanted if not (installed / name).is_file()}
    assert missing == set()
    assert not any(installed.glob("tests*"))


def test_what_is_installed_contours_without_the_sources(installed: Path, tmp_path: Path) -> None:
    ct = write_ct(tmp_path / "ct", phantom())
    done = _recontour(installed, "contour", ct, "-o", tmp_path / "out", "--json", cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert (tmp_path / "out" / "rtstruct.dcm").is_file()
    assert (tmp_path / "out" / "report.html").is_file()


def test_the_installed_command_and_its_engines_have_entry_points(installed: Path) -> None:
    said = next(installed.glob("recontour-*.dist-info")).joinpath("entry_points.txt").read_text(encoding="utf-8")
    for name in ("recontour = pipelines.app:main", "anatomy = ", "headneck = ", "deformable = "):
        assert name in said
