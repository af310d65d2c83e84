"""The sample course is the same every time, is real DICOM, and its truth is true."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from contour.anatomy import AnatomyEngine
from contour.engine import Context, Finding
from data_samples.course import write_course
from data_samples.motion import course_of_changes, setup
from data_samples.planned import STRUCTURES, noiseless, plan_patient
from data_samples.population import population
from data_samples.truth import FractionTruth, read_truth
from patient.read.completeness import UNTOLD
from patient.read.images import open_folder
from patient.read.rtdose import read_dose
from patient.read.rtplan import read_plan
from patient.read.rtstruct import read_structure_set
from patient.read.scan import scan
from patient.series import ImageSeries
from patient.structures import StructureSet
from patient.volume import Volume
from registration.couch import setup_error
from registration.resampling import resampled, resampled_mask
from registration.transforms import Rigid, Space, jacobian

SMALL = {"slices": 80, "size": 128, "nodes": 5.0}
FRACTIONS = 2


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("course")
    write_course(folder, fractions=FRACTIONS, **SMALL)
    return folder


@pytest.fixture(scope="module")
def plan(course: Path) -> ImageSeries:
    return open_folder(course / "plan" / "CT")


@pytest.fixture(scope="module")
def drawn(course: Path) -> StructureSet:
    return read_structure_set(course / "plan" / "rtstruct.dcm")


@pytest.fixture(scope="module")
def last(course: Path) -> FractionTruth:
    return read_truth(course, FRACTIONS)


@cache
def _patient():
    return plan_patient(0)


def _digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_same_seed_gives_the_same_files_and_another_seed_other_ones(tmp_path):
    tiny = {"slices": 40, "size": 64, "nodes": 8.0}
    write_course(tmp_path / "one", fractions=1, seed=3, **tiny)
    write_course(tmp_path / "again", fractions=1, seed=3, **tiny)
    write_course(tmp_path / "other", fractions=0, seed=4, **tiny)
    one, again, other = (_digests(tmp_path / name) for name in ("one", "again", "other"))
    assert one == again
    assert other.keys() < one.keys()
    assert all(one[name] != digest for name, digest in other.items())


def test_one_patient_and_for_each_day_its_own_study_series_and_frame(course):
    index = scan(course)
    assert not index.problems
    (patient,) = index.patients
    assert len(patient.studies) == 1 + FRACTIONS
    images = index.of("CT")
    assert len({e.frame_of_reference for e in images}) == len({e.uid for e in images}) == 1 + FRACTIONS
    (structures,), (dose,), (asked,) = index.of("RTSTRUCT"), index.of("RTDOSE"), index.of("RTPLAN")
    assert set(asked.sop_instance_uids) <= dose.references
    assert set(structures.sop_instance_uids) <= asked.references


def test_fractions_are_on_consecutive_days_after_the_plan(course):
    dates = [open_folder(course / f"fraction_{n:02d}").header.StudyDate for n in range(1, FRACTIONS + 1)]
    assert [int(date) - int(dates[0]) for date in dates] == list(range(FRACTIONS))
    assert open_folder(course / "plan" / "CT").header.StudyDate < dates[0]


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="DICIODVFY IS NOT INSTALLED")
def test_a_checker_of_the_standard_finds_no_error(course):
    objects = [course / "plan" / f"{name}.dcm" for name in ("rtstruct", "rtdose", "rtplan")]
    for path in (*objects, course / "plan" / "CT" / "CT0000.dcm", course / "fraction_01" / "CT0000.dcm"):
        done = subprocess.run(["dciodvfy", path], capture_output=True, encoding="utf-8", check=False)
        errors = [line for line in done.stderr.splitlines() if line.startswith("Error") and "<Laterality>" not in line]
        assert done.returncode >= 0, f"the checker crashed on {path.name}"
        assert not errors, path.name


def test_structures_have_the_names_and_the_volumes_that_the_truth_states(plan, drawn, last):
    assert tuple(s.name for s in drawn.structures) == STRUCTURES
    for structure in drawn.structures:
        volume = structure.mask(plan.geometry).array.sum() * plan.geometry.voxel_cc
        assert volume == pytest.approx(last.planned_cc[structure.name], rel=0.08), structure.name


def test_a_structure_pulled_through_the_truth_has_the_volume_stated_for_the_day(course, plan, drawn, last):
    today = open_folder(course / f"fraction_{FRACTIONS:02d}").geometry
    for name in ("Parotid_L", "Parotid_R", "GTVp", "Brainstem", "Bone_Mandible"):
        mask = drawn[name].mask(plan.geometry).placed_in(plan.geometry)
        volume = resampled_mask(last.plan_from_fraction, mask, today).array.sum() * today.voxel_cc
        assert volume == pytest.approx(last.volumes_cc[name], rel=0.08), name


def test_glands_and_tumour_shrink_steadily_to_what_was_asked_and_bone_keeps_its_volume(course):
    for n in range(1, FRACTIONS + 1):
        truth = read_truth(course, n)
        left = {name: truth.volumes_cc[name] / truth.planned_cc[name] for name in STRUCTURES}
        for name in ("Parotid_L", "Parotid_R", "GTVp", "GTVn"):
            assert left[name] == pytest.approx(1 - 0.3 * n / FRACTIONS, abs=0.02), (n, name)
        assert left["Bone_Mandible"] == pytest.approx(1, abs=0.02)
        assert left["External"] < 1 - 0.01 * n / FRACTIONS


def test_the_fraction_image_is_the_plan_pulled_through_the_truth_but_for_noise_and_shading(course, plan, last):
    fraction = open_folder(course / f"fraction_{FRACTIONS:02d}").load()
    ct, grid = plan.load(), fraction.geometry
    expected = resampled(last.plan_from_fraction, ct, grid, -1000.0).array
    nominal = Rigid.identity(last.plan_from_fraction.source, last.plan_from_fraction.target)
    unmoved = resampled(nominal, ct, grid, -1000.0).array
    body = expected > -500
    alike = np.corrcoef(expected[body], fraction.array[body])[0, 1]
    assert alike > 0.8
    assert alike > np.corrcoef(unmoved[body], fraction.array[body])[0, 1] + 0.1
    exact = noiseless(_patient(), last.plan_from_fraction, grid)
    assert np.abs(np.median(expected[body] - exact[body])) < 10


def test_the_truth_can_be_inverted_everywhere(last):
    field = last.plan_from_fraction
    determinant = jacobian(field, field.grid).array
    assert determinant.min() > 0.3
    assert determinant.max() < 3


def test_the_couch_correction_undoes_the_setup_error(course):
    change = course_of_changes(FRACTIONS, 0)[0]
    truth = read_truth(course, 1)
    plan, fraction = truth.plan_from_fraction.target, truth.plan_from_fraction.source
    said = setup_error(truth.setup.couch, "HFS", plan, fraction)
    asked = setup(change, truth.setup.couch.centre, fraction, plan)
    assert np.allclose(said.inverse().matrix, asked.matrix, atol=1e-3)
    assert np.allclose(truth.setup.plan_from_fraction.matrix, asked.matrix, atol=1e-6)
    # below the neck nothing bends: there the whole truth is the setup error, but for the day's small bend
    point = np.array([(0.0, 40.0, -230.0)])
    there = truth.plan_from_fraction.points(point, fraction)
    assert np.linalg.norm(there - asked.points(point, fraction)) < 2.5


def test_no_other_rigid_map_fits_the_bones_in_view_better_than_the_one_stated(course, last):
    fraction = open_folder(course / f"fraction_{FRACTIONS:02d}").geometry
    hu = noiseless(_patient(), last.plan_from_fraction, fraction)
    middle = (np.array(fraction.shape) - 1) / 2
    at = np.argwhere(hu > 250)
    away = np.hypot(*((at - middle)[:, 1:] * fraction.spacing[1:]).T)
    points = fraction.points(at[away < 125])
    there = last.plan_from_fraction.points(points, last.plan_from_fraction.source)

    def misses(rigid: Rigid) -> float:
        return float(np.sqrt(((rigid.points(points, rigid.source) - there) ** 2).sum(axis=1).mean()))

    best = misses(last.bones.plan_from_fraction)
    assert best < misses(last.setup.plan_from_fraction) - 0.2
    for axis in range(3):
        for step in (-0.5, 0.5):
            other = last.bones.plan_from_fraction.matrix.copy()
            other[axis, 3] += step
            assert best < misses(Rigid(other, last.plan_from_fraction.source, last.plan_from_fraction.target))


def test_the_dose_covers_the_targets_and_spares_cord_and_the_other_side(course, plan, drawn):
    dose = read_dose(course / "plan" / "rtdose.dcm")
    space = Space.of(plan.geometry)
    assert dose.volume.geometry.frame_of_reference == space.frame_of_reference
    here = replace(dose.volume.geometry, image=space.image)
    gray = resampled(Rigid.identity(space, space), Volume(dose.volume.array, here), plan.geometry, 0.0).array

    def inside(name: str) -> np.ndarray:
        return gray[drawn[name].mask(plan.geometry).placed_in(plan.geometry).array]

    assert np.percentile(inside("PTV_7000"), 5) > 0.95 * 70
    assert np.percentile(inside("PTV_5600"), 5) > 0.95 * 56
    assert inside("SpinalCord").max() < 45
    assert inside("Parotid_L").mean() < 30 < inside("Parotid_R").mean()
    assert dose.volume.array.max() < 1.1 * 70


def test_plan_dose_and_structures_are_read_without_a_remark_and_belong_together(course, plan, drawn):
    dose, asked = read_dose(course / "plan" / "rtdose.dcm"), read_plan(course / "plan" / "rtplan.dcm")
    assert not (*dose.notes, *asked.notes, *drawn.notes)
    assert plan.notes == (UNTOLD,)
    assert (dose.summation, dose.kind, dose.plan_uid) == ("PLAN", "PHYSICAL", asked.sop_instance_uid)
    assert asked.structure_set_uid == drawn.sop_instance_uid
    assert (asked.fractions, asked.isocentre, asked.approved) == (35, _patient().isocentre, False)
    prescribed = {p.structure_number: p.dose for p in asked.prescriptions}
    assert prescribed == {drawn["PTV_7000"].number: 70.0, drawn["PTV_5600"].number: 56.0}


def test_what_anatomy_alone_can_tell_is_found_in_the_planning_ct(plan, drawn):
    image = plan.load()
    found = {a.name: a for a in AnatomyEngine().contour(image, ["External", "Bones", "SpinalCanal"], Context())}
    assert all(isinstance(answer, Finding) for answer in found.values())

    def mask(name: str) -> np.ndarray:
        return found[name].field.mask().placed_in(image.geometry).array

    def truth(name: str) -> np.ndarray:
        return drawn[name].mask(image.geometry).placed_in(image.geometry).array

    body = mask("External"), truth("External")
    assert 2 * (body[0] & body[1]).sum() > 0.98 * (body[0].sum() + body[1].sum())
    assert (mask("SpinalCanal") & truth("SpinalCord")).sum() > 0.8 * truth("SpinalCord").sum()
    assert (mask("Bones") & truth("Bone_Mandible")).sum() > 0.6 * truth("Bone_Mandible").sum()


def test_the_population_says_where_it_comes_from():
    words = population().provenance
    assert "MIT licence" in words
    assert "No voxel, contour or shape of a single patient is in it" in words
