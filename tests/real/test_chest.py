import numpy as np
import pytest

from benchmarks.lungs import CLINIC, chest, effusion, wall_tumour
from contour.anatomy import AnatomyEngine
from contour.engine import Context, Finding
from contour.evaluate import Agreement, compare
from contour.truncation import Extent, abrupt_ends, uneven_pairs
from patient.rasterisation import mask_of_united_loops
from patient.read.images import open_folder
from patient.read.rtstruct import read_structure_set
from patient.volume import Field, Volume

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


@pytest.mark.parametrize("patient", CLINIC)
def test_lungs_are_whole_where_tumour_parts_them_and_hold_no_bowel(real_data, patient):
    of = chest(patient)
    for answer in AnatomyEngine().contour(of.image, list(of.lungs), Context()):
        assert isinstance(answer, Finding)
        agreement = compare(answer.field.mask(), of.lungs[answer.name], 2.0)
        assert isinstance(agreement, Agreement)
        assert agreement.dice > 0.97
        assert agreement.hd95 <= 4.0 + 1e-6
        ends = agreement.slices
        assert max(ends.missing_superior, ends.missing_inferior, ends.extra_superior, ends.extra_inferior) <= 2
        assert not answer.flags


@pytest.mark.parametrize("patient", CLINIC)
def test_a_lung_without_its_apex_is_flagged_and_a_whole_one_is_not(real_data, patient):
    image = open_folder(real_data / patient / "CT")
    grid = image.geometry
    fields = {a.name: a.field for a in AnatomyEngine().contour(image.load(), ["Lung_L", "Lung_R"], Context())}
    extents = {name: Extent.of(field, grid) for name, field in fields.items()}
    assert not [f for name, extent in extents.items() for f in abrupt_ends(name, extent)]
    assert not list(uneven_pairs(extents))
    mask = fields["Lung_R"].mask().placed_in(grid).array
    last = np.flatnonzero(mask.any(axis=(1, 2)))[-1]
    mask[last - int(30 / grid.spacing[0]) :] = False
    short = Extent.of(Field.of_mask(Volume(mask, grid)), grid)
    assert [name for name, _ in uneven_pairs({**extents, "Lung_R": short})] == ["Lung_R"]


@pytest.mark.parametrize(
    ("patient", "change", "name"), [("lung-nsclc-001", effusion, "Lung_R"), ("thorax-oncentra", wall_tumour, "Lung_L")]
)
def test_fluid_or_tumour_at_a_real_lungs_wall_is_flagged_on_its_own_side(real_data, patient, change, name):
    painted = change(chest(patient))
    found = {a.name: a for a in AnatomyEngine().contour(painted.image, list(painted.lungs), Context())}
    assert {n for n, answer in found.items() if "dense_lung" in [flag.code for flag in answer.flags]} == {name}
