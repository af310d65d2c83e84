"""Objects that this software wrote: known wherever they are met again, so that none is taken for the clinic's."""

from __future__ import annotations

from pydicom.dataset import Dataset

SOFTWARE = "recontour"
"""Manufacturer and Manufacturer's Model Name of everything that is written."""


def made_here(dataset: Dataset) -> bool:
    """Whether an object says that this software made it."""
    said = (dataset.get("Manufacturer"), dataset.get("ManufacturerModelName"))
    return all(str(value or "").strip() == SOFTWARE for value in said)
