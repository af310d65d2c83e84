import threading
from functools import cache
from itertools import islice

import numpy as np
import pytest

from contour.anatomy import AnatomyEngine
from contour.anatomy.body import coarse, find_body
from contour.checks import check, cut_sides
from contour.engine import Context, Engine, Finding, NotInImage
from contour.template import load_template
from data_samples.patient import planes, sample_geometry, truth_masks
from patient.errors import Cancelled
from patient.geometry import Box, Geometry
from patient.volume import Field, Volume

SIZE, SLICES = 128, 140


@cache
def _image():
    return Volume(np.stack([hu for hu, _ in planes(SLICES, SIZE)]), sample_geometry(SLICES, SIZE))


@cache
def _truth():
    return truth_masks(SLICES, SIZE)


def _answers(image, names=None, context=None):
    engine = AnatomyEngine()
    return {a.name: a for a in engine.contour(image, names or list(engine.offers()), context or Context())}


@cache
def _found():
    return _answers(_image())


def _mask(finding, geometry):
    return finding.field.mask().placed_in(geometry).array


def _dice(a, b):
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


def test_it_is_an_engine():
    assert isinstance(AnatomyEngine(), Engine)


@pytest.mark.parametrize(("name", "least"), [("External", 0.985), ("Lung_L", 0.96), ("Lung_R", 0.96)])
def test_the_sample_patients_truth_is_found(name, least):
    assert _dice(_mask(_found()[name], _image().geometry), _truth()[name]) > least


def test_the_canal_follows_the_truth():
    truth, found = _truth()["SpinalCanal"], _mask(_found()["SpinalCanal"], _image().geometry)
    planes_with_both = truth.any(axis=(1, 2)) & found.any(axis=(1, 2))
    assert planes_with_both.sum() > 0.8 * truth.any(axis=(1, 2)).sum()
    assert (truth & found)[planes_with_both].sum() > 0.85 * truth[planes_with_both].sum()


def test_the_canal_is_found_in_the_middle_also_where_all_around_is_bone_over_some_width():
    planes_of_the_chest = np.stack([hu for hu, _ in islice(planes(250, 512), 100)])
    image = Volume(planes_of_the_chest, sample_geometry(250, 512).cropped(Box((0, 0, 0), planes_of_the_chest.shape)))
    canal = _mask(_answers(image, ["SpinalCanal"])["SpinalCanal"], image.geometry)
    truth = np.stack([truth.canal > 0 for _, truth in islice(planes(250, 512), 100)])
    assert _dice(canal, truth) > 0.7


def test_couch_and_mask_are_no_body():
    external = _mask(_found()["External"], _image().geometry)
    assert not external[:, int((128 + 250) / 500 * SIZE) + 1 :].any()


def test_left_is_left():
    centre = {
        n: _image().geometry.points(np.argwhere(_mask(_found()[n], _image().geometry)).mean(axis=0))
        for n in ("Lung_L", "Lung_R")
    }
    assert centre["Lung_L"][0] > 30
    assert centre["Lung_R"][0] < -30


def test_a_patient_turned_any_way_gets_the_same_contours():
    g = _image().geometry
    array = _image().array.transpose(0, 2, 1)[::-1, ::-1]
    axes = ((0.0, 0.0, -1.0), (-1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
    corner = tuple(float(v) for v in g.points((SLICES - 1, 0, SIZE - 1)))
    turned = Volume(array, Geometry((SLICES, SIZE, SIZE), (g.spacing[0], g.spacing[2], g.spacing[1]), corner, axes))
    found = _answers(turned, ["External", "Lung_L", "SpinalCanal"])
    for name, answer in found.items():
        back = _mask(answer, turned.geometry)[::-1, ::-1].transpose(0, 2, 1)
        assert (back == _mask(_found()[name], g)).all()


def test_the_body_hardly_changes_with_noise_or_threshold():
    image = _image()
    noisy = image.array + np.random.default_rng(3).normal(0, 30, image.array.shape).astype(np.int16)
    volume = _mask(_found()["External"], image.geometry).sum()
    assert (
        abs(_mask(_answers(Volume(noisy, image.geometry), ["External"])["External"], image.geometry).sum() / volume - 1)
        < 0.005
    )
    solid = find_body(coarse(image.array, 1), image.geometry.spacing, 1, -350.0).solid.sum()
    for threshold in (-400.0, -300.0):
        assert abs(find_body(coarse(image.array, 1), image.geometry.spacing, 1, threshold).solid.sum() / solid - 1) < 0.005


def _painted(where, hu):
    array = _image().array.copy()
    array[where] = hu
    return Volume(array, _image().geometry)


def test_an_apex_that_tumour_parts_from_its_lung_belongs_to_it():
    right = _mask(_found()["Lung_R"], _image().geometry)
    planes_of_lung = np.flatnonzero(right.any(axis=(1, 2)))
    first = int(planes_of_lung[-1]) - 10
    slab = np.zeros_like(right)
    slab[first : first + 4] = right[first : first + 4]
    found = _mask(_answers(_painted(slab, 40), ["Lung_R"])["Lung_R"], _image().geometry)
    assert _dice(found[first + 4 :], right[first + 4 :]) > 0.9
    assert np.flatnonzero(found.any(axis=(1, 2)))[-1] >= planes_of_lung[-1] - 1


def test_bowel_under_a_thin_diaphragm_is_no_lung():
    g = _image().geometry
    left = _mask(_found()["Lung_L"], g)
    diaphragm = 12
    j, i = (int(n) for n in np.argwhere(left[diaphragm]).mean(axis=0))
    z, y, x = np.ogrid[: g.shape[0], : g.shape[1], : g.shape[2]]
    away = np.sqrt(((z - diaphragm + 6) * g.spacing[0]) ** 2 + ((y - j) * g.spacing[1]) ** 2 + ((x - i) * g.spacing[2]) ** 2)
    image = _painted(left & (z < diaphragm), 40)
    bowel = away < 20.0
    image.array[bowel] = -1000
    image.array[diaphragm - 1][bowel[diaphragm - 2]] = -450  # a wall of which a plane holds a part
    found = _mask(_answers(image, ["Lung_L"])["Lung_L"], g)
    assert bowel.sum() * g.voxel_cc > 25
    assert not (found & bowel)[: diaphragm - 2].any()
    assert _dice(found[diaphragm:], left[diaphragm:]) > 0.98


def test_a_head_without_chest_has_no_lungs():
    head = _image().cropped(_image().geometry.box.__class__((95, 0, 0), (SLICES, SIZE, SIZE)))
    found = _answers(head, ["External", "Lung_L", "Lung_R"])
    assert isinstance(found["External"], Finding)
    assert isinstance(found["Lung_L"], NotInImage)
    assert isinstance(found["Lung_R"], NotInImage)


@pytest.mark.parametrize(
    "array",
    [
        np.full((20, 64, 64), -1000),
        np.zeros((20, 64, 64)),
        np.full((20, 64, 64), np.nan),
        np.random.default_rng(0).uniform(300, 2000, (20, 64, 64)),
    ],
)
def test_nothing_is_invented_where_there_is_no_patient(array):
    image = Volume(array.astype(np.float32), Geometry((20, 64, 64), (3, 3, 3)))
    assert all(isinstance(answer, NotInImage) and answer.reason for answer in _answers(image).values())


def test_one_plane_is_contoured_and_asks_for_no_spine():
    plane = Volume(_image().array[60:61], Geometry((1, SIZE, SIZE), _image().geometry.spacing))
    found = _answers(plane, ["External", "SpinalCanal"])
    assert found["External"].field.mask().array.sum() > 1000
    assert isinstance(found["SpinalCanal"], NotInImage)


def test_what_is_not_offered_is_refused_and_cancelling_stops():
    with pytest.raises(ValueError, match="Heart"):
        _answers(_image(), ["Heart"])
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(Cancelled):
        _answers(_image(), ["External"], Context(cancelled=cancelled))


def test_what_the_image_cuts_is_flagged_with_its_side():
    field = _found()["External"].field
    assert "inferior end" in cut_sides(field, _image().geometry)
    part = _image().geometry.box.__class__((0, 0, 30), (SLICES, SIZE, 100))
    found = _answers(_image().cropped(part), ["External"])["External"]
    assert {"left side", "right side"} <= set(cut_sides(found.field, _image().geometry.cropped(part)))


def test_a_lung_on_the_wrong_side_and_a_volume_out_of_band_are_flagged():
    wanted = {w.name: w for w in load_template("thorax").structures}
    g = _image().geometry
    lung = _found()["Lung_L"].field
    flags = check(wanted["Lung_L"], lung, g, {"Lung_L": (-70.0, 0, 0), "Lung_R": (70.0, 0, 0)})
    assert "wrong_side" in {f.code for f in flags}
    speck = np.zeros((9, 9, 9), bool)
    speck[1:4, 1:4, 1:4] = speck[6:8, 6:8, 6:8] = True
    small = Field.of_mask(Volume(speck, g.cropped(g.box.__class__((30, 30, 30), (39, 39, 39)))))
    assert {"implausible_volume", "fragments"} <= {f.code for f in check(wanted["Lung_L"], small, g, {})}
