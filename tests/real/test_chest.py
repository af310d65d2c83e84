import pytest

from contour.anatomy import AnatomyEngine
from contour.engine import Context, Finding
from patient.outline import mask_of_united_loops
from patient.read.images import open_folder
from patient.read.rtstruct import read_structure_set

pytestmark = pytest.mark.real


def test_the_clinics_cord_lies_in_the_canal_from_its_first_plane_to_its_last(real_data):
    folder = real_data / "lung-nsclc-001"
    image = open_folder(folder / "CT")
    (found,) = AnatomyEngine().contour(image.load(), ["SpinalCanal"], Context())
    assert isinstance(found, Finding)
    clinic = read_structure_set(next((folder / "RTSTRUCT").iterdir()))["Spinal-Cord"]
    cord = mask_of_united_loops(clinic.loops, image.geometry).placed_in(image.geometry).array
    canal = found.field.mask().placed_in(image.geometry).array
    assert (cord & canal).sum() > 0.95 * cord.sum()
    assert canal[cord.any(axis=(1, 2))].sum() < 4 * cord.sum()
