"""What tests share: a small CT as DICOM, and the real patients where they are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.making import DATA, phantom, write_ct

os.environ["RECONTOUR_MODELS"] = str(Path(__file__).parent / "no models are installed")


@pytest.fixture
def ct_folder(tmp_path: Path) -> Path:
    return write_ct(tmp_path / "ct", phantom())


@pytest.fixture(scope="session")
def real_data() -> Path:
    if not DATA.is_dir():
        pytest.skip(f"REAL PATIENTS ARE NOT THERE ({DATA}): set RECONTOUR_DATA")
    return DATA


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Scenarios go first: they are the longest, and two workers then end together."""
    items.sort(key=lambda item: "scenarios" not in item.path.parts)
