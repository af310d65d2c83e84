import json
import re
from functools import cache

import numpy as np
import pydicom
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from contour.anatomy import AnatomyEngine
from contour.derived_structures import derive
from contour.engine import Context, NotInImage
from contour.recipe import Margin, Named, ingredients, needs, parse, reduced
from contour.template import available_templates, load_template
from patient.geometry import Geometry
from patient.loop import Loop
from patient.manual_contours import field_of_structure
from patient.rasterisation import mask_of_loops
from patient.read.images import open_folder
from patient.read.rtstruct import read_structure_set
from patient.structures import Structure, StructureSet
from patient.volume import Field, Level, Volume
from patient.write.rtstruct import write_structure_set
from pipelines.app import app
from pipelines.commands.terminal import NEEDS_REVIEW
from pipelines.planning.case import CaseRequest, contour_case
from pipelines.planning.existing_structures import ExistingStructure
from pipelines.planning.existing_structures import existing_structure as meant
from tests.making import write_ct

SHAPE, SPACING, ORIGIN = (16, 64, 72), (2.5, 1.5, 1.5), (-54.0, -48.0, 40.0)
G = Geometry(SHAPE, SPACING, ORIGIN)
AIR, BONE, GTV = (-10.0, 0.0), (22.0, 0.0), (6.0, 0.0)
"""x, y of a shaft of air, a shaft of bone and between them a tumour that touches the bone."""
TARGETS = ("CTVp1", "CTVp2", "PTVp1", "PTVp2")


def _away(centre):
    x, y = (np.arange(n) * 1.5 + o for n, o in ((72, ORIGIN[0]), (64, ORIGIN[1])))
    return np.hypot(*np.meshgrid(x - centre[0], y - centre[1]))


def _neck():
    """Skin at a radius of 40 mm, a shaft of air of 6 mm, bone of 7 mm."""
    plane = np.full(SHAPE[1:], -1000, np.int16)
    plane[_away((0, 0)) < 40] = 40
    plane[_away(AIR) < 6] = -1000
    plane[_away(BONE) < 7] = 900
    return np.repeat(plane[None], SHAPE[0], axis=0)


def _circle(centre, radius, z):
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    return Loop(np.stack([centre[0] + radius * np.cos(angle), centre[1] + radius * np.sin(angle), np.full(60, z)], axis=1))


def _tumour(grid=G, centre=GTV, radius=11.2):
    planes = [float(grid.points((k, 0, 0))[2]) for k in range(5, 11)]
    return tuple(_circle(centre, radius, z) for z in planes)


@cache
def _field(loops):
    return field_of_structure(Structure("GTVp", drawn=tuple(loops)), G)


def _found():
    image = Volume(_neck(), G)
    answers = AnatomyEngine().contour(image, ["External", "Bones", "zAir", "Lung_L"], Context())
    found = {a.name: a.field for a in answers if not isinstance(a, NotInImage)}
    gtv = _field(_tumour())
    assert gtv is not None
    return {**found, "GTVp": gtv}


def _inside(field):
    return field.mask().placed_in(G).array


def _all_derived(found):
    found = dict(found)
    for wanted in load_template("head_neck_targets").structures:
        if wanted.recipe is not None:
            made = derive(wanted.recipe, found, G)
            if isinstance(made, Field):
                found[wanted.name] = made
    return {name: _inside(field) for name, field in found.items()}


def test_air_inside_the_body_is_found_and_what_is_outside_is_not():
    air = _inside(_found()["zAir"])
    truth = np.broadcast_to(_away(AIR) < 6, SHAPE)
    assert 2 * (air & truth).sum() / (air.sum() + truth.sum()) > 0.95
    assert not (air & (_away((0, 0)) > 36)).any()


def test_a_body_without_air_has_none():
    hu = _neck()
    hu[:, _away(AIR) < 6] = 40
    (answer,) = AnatomyEngine().contour(Volume(hu, G), ["zAir"], Context())
    assert isinstance(answer, NotInImage)
    assert "no air" in answer.reason


def test_lungs_are_no_air_and_the_airway_is():
    from data_samples.patient import planes, sample_geometry

    image = Volume(np.stack([hu for hu, _ in planes(70, 96)]), sample_geometry(70, 96))
    found = {a.name: a for a in AnatomyEngine().contour(image, ["Lung_L", "Lung_R", "Trachea", "zAir"], Context())}
    mask = {name: a.field.mask().placed_in(image.geometry).array for name, a in found.items()}
    lumen = mask["Trachea"] & (image.array < -700)
    assert (mask["zAir"] & lumen).sum() > 0.85 * lumen.sum() > 0
    assert (mask["zAir"] & (mask["Lung_L"] | mask["Lung_R"])).sum() < 0.02 * mask["zAir"].sum()


def test_targets_keep_to_their_barriers_and_never_lose_what_they_grew_from():
    there = _all_derived(_found())
    gtv, air, bones = there["GTVp"], there["zAir"], there["Bones"]
    assert (gtv & bones).any(), "the tumour is meant to reach into the bone"
    assert not (there["CTVp1"] & ~gtv & (air | bones)).any()
    assert not (there["CTVp2"] & ~gtv & (air | bones)).any()
    assert (there["CTVp2"] & (_away(AIR) > 6) & ~there["CTVp1"]).any()
    for inner, outer in (("GTVp", "CTVp1"), ("CTVp1", "CTVp2"), ("CTVp1", "PTVp1"), ("CTVp2", "PTVp2"), ("PTVp1", "PTVp2")):
        assert not (there[inner] & ~there[outer]).any(), (inner, outer)
    assert "CTVn" not in there


@settings(max_examples=5, deadline=None, phases=(Phase.explicit, Phase.generate))
@example(-30.0, 0.0, 3.0)
@example(18.0, 0.0, 2.0)
@given(st.floats(-34, 34), st.floats(-30, 30), st.floats(2, 12))
def test_wherever_a_gtv_lies_its_targets_hold_it_and_stay_under_the_skin(x, y, radius):
    gtv = _field(_tumour(centre=(x, y), radius=radius))
    if gtv is None:
        return
    there = _all_derived({**_found(), "GTVp": gtv})
    for name in TARGETS:
        assert not (there["GTVp"] & ~there[name]).any()
        assert not (there["CTVp1"] & ~there[name]).any()
        assert not (there[name] & ~there["GTVp"] & (_away((0, 0)) > 37 + 1.5)).any()


def test_what_was_drawn_is_finer_than_voxels_and_the_same_voxels_are_inside():
    for radius in (9.1, 9.4, 9.8):
        loops = _tumour(radius=radius)
        field = _field(loops)
        assert field is not None
        assert field.level is Level.DISTANCE
        assert (_inside(field) == mask_of_loops(loops, G).placed_in(G).array).all()
        truth = np.broadcast_to(_away(GTV) - radius, SHAPE)[7]
        values = field.volume.placed_in(G, outside=99).array[7]
        near = np.abs(truth) < 2
        assert np.abs(values - truth)[near].max() < 0.2


def test_nothing_drawn_is_nothing():
    assert _field(()) is None
    assert _field((_circle((500.0, 500.0), 5, 40.0),)) is None


def test_an_optional_barrier_that_is_not_there_takes_nothing_away():
    recipe = parse("((A + 5 mm) - B?) | A")
    assert list(ingredients(recipe)) == ["A", "B", "A"]
    assert list(needs(recipe)) == ["A", "A"]
    assert reduced(recipe, {"A"}) == parse("(A + 5 mm) | A")
    assert reduced(recipe, {"A", "B"}) == recipe
    assert reduced(parse("A & B?"), {"A"}) is None
    assert reduced(parse("B? | A"), {"A"}) == Named("A")
    assert reduced(parse("A | (B? + 3 mm)"), {"A", "B"}) == parse("A | (B? + 3 mm)")
    gtv = {"A": _found()["GTVp"]}
    with_optional, without = derive(recipe, gtv, G), derive(parse("(A + 5 mm) | A"), gtv, G)
    assert isinstance(with_optional, Field)
    assert isinstance(without, Field)
    assert (_inside(with_optional) == _inside(without)).all()
    assert "B, which is not there" in str(derive(parse("A - B"), gtv, G))
    assert "nothing is left" in str(derive(parse("A & B?"), gtv, G))


STUDIES = {5.0: ("Gregoire 2018 Radiother Oncol 126:3",), 10.0: ("Gregoire 2018 Radiother Oncol 126:3",)}
"""Margins (mm) from a GTV to a CTV that a study says; every other number is a site's."""
EXAMPLE = "example, site to set"


def _margins(recipe):
    if isinstance(recipe, Margin):
        yield from (abs(mm) for mm in recipe.mm)
        yield from _margins(recipe.of)
    elif not isinstance(recipe, Named):
        yield from _margins(recipe.left)
        yield from _margins(recipe.right)


@pytest.mark.parametrize("name", available_templates())
def test_every_number_of_a_shipped_target_has_its_source_or_is_called_an_example(name):
    for wanted in load_template(name).structures:
        if not wanted.is_target or wanted.recipe is None:
            continue
        for mm in set(_margins(wanted.recipe)):
            assert f"{mm:g} mm" in wanted.source
        parts = re.split(r"; (?=[^()]*(?:\(|$))", wanted.source)
        for part in parts:
            for number in re.findall(r"([\d.]+) mm", part):
                assert EXAMPLE in part or any(s in part for s in STUDIES.get(float(number), ())), part


def test_margins_of_the_primary_are_those_of_the_consensus_and_those_of_ptvs_and_nodes_the_sites_own():
    wanted = {w.name: w for w in load_template("head_neck_targets").structures}
    assert "Gregoire 2018" in wanted["CTVp1"].source
    assert "Gregoire 2018" in wanted["CTVp2"].source
    assert "Gregoire" not in wanted["CTVn"].source
    assert all("van Herk 2000" in wanted[n].source and EXAMPLE in wanted[n].source for n in ("PTVp1", "PTVp2", "PTVn"))


def _contour(*arguments):
    return app(["contour", *map(str, arguments), "--template", "head_neck_targets"], standalone_mode=False)


def _clinic(ct, path, *structures):
    image = open_folder(ct)
    grid = image.geometry
    drawn = [
        Structure(name, interpreted_type="GTV", color=(255, 0, 0), drawn=_tumour(grid) if full else ())
        for name, full in structures
    ]
    write_structure_set(path, StructureSet(tuple(drawn), label="clinic"), image, version="1")
    return path


@pytest.fixture(scope="module")
def neck(tmp_path_factory):
    return write_ct(tmp_path_factory.mktemp("neck") / "ct", _neck(), spacing=SPACING, origin=ORIGIN)


def test_a_gtv_of_the_clinic_gives_targets_with_their_sources_that_a_person_must_look_at(neck, tmp_path):
    clinic = _clinic(neck, tmp_path / "clinic.dcm", ("GTV_p", True))
    assert _contour(neck, "-o", tmp_path / "out", "--existing", clinic) == NEEDS_REVIEW
    result = json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))
    records = {r["name"]: r for r in result["structures"]}
    assert result["verdict"] == "review"
    assert records["GTV_p"]["state"] == "kept"
    assert [f["code"] for f in records["GTV_p"]["flags"]] == ["synonym"]
    assert records["GTVp"]["state"] == "withheld"
    assert "GTV_p" in records["GTVp"]["reason"]
    for name in TARGETS:
        assert records[name]["state"] == "derived"
        assert EXAMPLE in records[name]["source"]
        assert "suggestion" in [f["code"] for f in records[name]["flags"]]
        assert any(reason.startswith(f"{name}: a draft") for reason in result["reasons"])
    assert records["CTVn"]["state"] == "not_drawn"
    assert "GTVn" in records["CTVn"]["reason"]
    assert "Gregoire 2018" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    rois = {r.ROIName: r for r in pydicom.dcmread(tmp_path / "out" / "rtstruct.dcm").StructureSetROISequence}
    assert rois["CTVp1"].ROIDescription.startswith("(((GTVp + 5 mm)")
    assert "Gregoire 2018" in rois["CTVp1"].ROIDescription
    read = read_structure_set(tmp_path / "out" / "rtstruct.dcm")
    assert read["CTVp1"].remark == rois["CTVp1"].ROIDescription
    image = open_folder(neck)
    masks = {n: read[n].mask(image.geometry).placed_in(image.geometry).array for n in ("GTV_p", *TARGETS)}
    assert all(not (masks["GTV_p"] & ~masks[name]).any() for name in TARGETS)


def _set(*structures):
    return StructureSet(tuple(Structure(name, drawn=_tumour() if full else ()) for name, full in structures))


@pytest.mark.parametrize(
    ("existing", "said"),
    [
        (None, "it has to come from an existing structure set (--existing)"),
        (_set(("Other", True)), "has none of this name"),
        (_set(("GTV_p", True), ("GTV-T", True)), "GTV_p, GTV-T of the existing structure set may each be meant"),
        (_set(("GTV", True), ("Ring_GTVp", True), ("zGTVp", True)), "has none of this name"),
    ],
)
def test_a_gtv_that_is_not_given_is_not_guessed_and_says_why(existing, said):
    (gtv,) = (w for w in load_template("head_neck_targets").structures if w.name == "GTVp")
    assert said in str(meant(gtv, existing, G))


def test_the_spelling_of_the_template_goes_before_synonyms():
    (gtv,) = (w for w in load_template("head_neck_targets").structures if w.name == "GTVp")
    found = meant(gtv, _set(("GTV-T", True), ("gtvP", True)), G)
    assert isinstance(found, ExistingStructure)
    assert (found.name, found.flags) == ("gtvP", ())


@pytest.mark.parametrize("structures", [(), (("GTVp", False), ("Other", True))])
def test_without_a_gtv_no_target_is_made_and_a_person_hears_of_it(neck, tmp_path, structures):
    existing = str(_clinic(neck, tmp_path / "clinic.dcm", *structures)) if structures else ""
    (tmp_path / "out").mkdir()
    files = tuple(str(f) for f in neck.iterdir())
    request = CaseRequest(
        "c", files, open_folder(neck).series_uid, str(tmp_path / "out"), template="head_neck_targets", existing=existing
    )
    result = contour_case(request)
    records = {r.name: r for r in result.structures}
    assert result.verdict == "review"
    assert any("GTVp" in reason for reason in result.reasons)
    assert all(records[name].state == "not_drawn" for name in (*TARGETS, "CTVn", "PTVn"))
    assert ([f.code for f in records["GTVp"].flags] == ["missing"]) == bool(structures)
