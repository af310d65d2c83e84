"""`recontour evaluate` and `commission`: who is compared with whom, what page and document say, with what they exit."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813 - as everybody writes it

from contour.acceptance import load_limits
from contour.engine import Context, Engine, Finding, NotInImage, Offer
from patient.errors import FrameMismatch, InputError, ModelError, PolicyError
from patient.naming import Naming, read_naming, understand
from patient.structures import Structure
from patient.volume import Field, Volume
from pipelines.app import app
from pipelines.commands.terminal import DONE, NEEDS_REVIEW
from pipelines.evaluation.commission import commission, find_engine
from pipelines.evaluation.drawings import find_drawings
from pipelines.evaluation.evaluation import Rules, evaluate, pair_up
from pipelines.records.evaluation import EvaluationResult
from pipelines.report.evaluation import write_evaluation_report
from tests.clinic import NAMES, anatomy, archive, draw, moved, patient

TG263 = {name: name for name in NAMES}


@pytest.fixture(scope="module")
def clinic(tmp_path_factory) -> Path:
    return archive(tmp_path_factory.mktemp("clinic"), 3)


@pytest.fixture(scope="module")
def predicted(clinic, tmp_path_factory) -> Path:
    """Of the same images: exact for p0, a voxel off for p1, two for p2 and there without the right gland."""
    folder = tmp_path_factory.mktemp("predicted")
    for seed in range(3):
        masks = moved(anatomy(seed)[1], seed)
        if seed == 2:
            masks.pop("Parotid_R")
        draw(clinic / f"p{seed}" / "CT", masks, folder / f"{seed}.dcm", names={})
    return folder


def _evaluated(predicted: Path, reference: Path, rules: Rules | None = None, ct: Path | None = None) -> EvaluationResult:
    pairs, left_out = pair_up(predicted, reference, ct)
    return evaluate(pairs, rules or Rules(), total=len(pairs), left_out=left_out)[0]


def _of(result: EvaluationResult, structure: str):
    return next(s for s in result.structures if s.structure == structure)


def test_structure_sets_are_paired_by_their_image_and_their_names_by_meaning(predicted, clinic):
    result = _evaluated(predicted, clinic)
    assert [s.structure for s in result.structures] == ["Parotid_L", "Parotid_R", "SpinalCord"]
    left = sorted(r.dice for case in result.cases for r in case.structures if r.structure == "Parotid_L")
    assert left[-1] == 1.0
    assert 0.4 < left[0] < left[1] < 0.95
    assert {(r.predicted_name, r.reference_name) for c in result.cases for r in c.structures if r.predicted_name} == {
        ("Parotid_L", "PAROTID_L"), ("Parotid_R", "Rt Parotid"), ("SpinalCord", "cord"),
    }  # fmt: skip
    assert _of(result, "Parotid_L").worst[0] == min(
        (r.dice, c.case) for c in result.cases for r in c.structures if r.structure == "Parotid_L"
    )[1]  # fmt: skip


def test_what_was_united_or_interpolated_before_it_was_measured_is_said_on_page_and_in_the_document(
    predicted, clinic, tmp_path
):
    """One organ of the prediction is drawn on every second slice, one of the reference with contours that cross."""

    def spoilt(path: Path, roi: str, change) -> None:
        d = pydicom.dcmread(path)
        number = next(r.ROINumber for r in d.StructureSetROISequence if r.ROIName == roi)
        item = next(c for c in d.ROIContourSequence if c.ReferencedROINumber == number)
        item.ContourSequence = change(list(item.ContourSequence))
        d.save_as(path)

    def crossing(loops):
        aside = [copy.deepcopy(loop) for loop in loops]
        for loop in aside:
            loop.ContourData = [float(v) + 6.0 * (n % 3 == 0) for n, v in enumerate(loop.ContourData)]
        return [*loops, *aside]

    made = Path(shutil.copytree(predicted, tmp_path / "predicted"))
    truth = Path(shutil.copytree(clinic, tmp_path / "clinic"))
    spoilt(made / "0.dcm", "SpinalCord", lambda loops: loops[::2])
    spoilt(next(p for p in (truth / "p0").rglob("*.dcm") if p.parent.name != "CT"), "PAROTID_L", crossing)
    result = _evaluated(made, truth)
    said = {
        (r.structure, remark.partition(" ")[0]): remark for c in result.cases for r in c.structures for remark in r.remarks
    }
    assert set(said) == {("SpinalCord", "predicted:"), ("Parotid_L", "reference:")}
    assert "drawn on some slices only" in said["SpinalCord", "predicted:"]
    assert "contours cross on" in said["Parotid_L", "reference:"]
    assert (
        sum("united or interpolated before they were measured (Parotid_L, SpinalCord)" in why for why in result.reasons) == 1
    )
    write_evaluation_report(tmp_path, result, ())
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert all(remark in page for remark in said.values())


def test_a_missed_organ_is_counted_and_in_no_mean(predicted, clinic):
    right = _of(_evaluated(predicted, clinic), "Parotid_R")
    assert (right.compared, right.missed) == (2, 1)
    assert right.dice is not None
    assert right.dice.n == 2
    assert right.dice.lowest > 0.4


def test_no_name_of_a_patient_stands_in_document_or_page(predicted, clinic, tmp_path):
    pairs, left_out = pair_up(predicted, clinic)
    result, shown = evaluate(pairs, Rules(load_limits("head_neck")), total=len(pairs), left_out=left_out)
    write_evaluation_report(tmp_path, result, shown)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for text in (page, result.model_dump_json()):
        assert "Test" not in text.replace("Tested", "")
        assert '"P0"' not in text
        assert str(clinic) not in text
    assert "<script" not in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    assert page.count("<svg") == 6
    assert {"01.png", "02.png", "03.png"} <= {p.name for p in (tmp_path / "figures").iterdir()}


def test_one_file_finds_its_ct_beside_it(clinic, predicted, tmp_path):
    lone = tmp_path / "one"
    shutil.copytree(clinic / "p1", lone)
    (lone / "RTSTRUCT").mkdir()
    (lone / "RS.dcm").rename(lone / "RTSTRUCT" / "RS.dcm")
    result = _evaluated(predicted / "1.dcm", lone / "RTSTRUCT" / "RS.dcm")
    assert len(result.cases) == 1
    assert result.cases[0].case.startswith("20260101-")
    (lone / "CT").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="Nothing could be compared") as refused:
        _evaluated(predicted / "1.dcm", lone / "RTSTRUCT" / "RS.dcm")
    assert "--ct" in refused.value.remedy or "not there" in refused.value.why
    assert len(_evaluated(predicted / "1.dcm", lone / "RTSTRUCT" / "RS.dcm", ct=tmp_path / "elsewhere").cases) == 1


def test_what_has_no_counterpart_is_listed(clinic, tmp_path):
    _, masks = anatomy(0)
    image_grid = find_drawings(clinic / "p0").drawings[0].open().grid
    ring = Structure("Ring_PTV", field=Field.of_mask(Volume(masks["SpinalCord"], image_grid)))
    prv = Structure("SpinalCord_PRV05", field=Field.of_mask(Volume(masks["SpinalCord"], image_grid)))
    draw(clinic / "p0" / "CT", {"Parotid_L": masks["Parotid_L"]}, tmp_path / "a.dcm", names={}, more=[prv, ring])
    case = _evaluated(tmp_path / "a.dcm", clinic / "p0").cases[0]
    assert case.predicted_only == ("Ring_PTV", "SpinalCord_PRV05"), "a planning risk volume is not its organ"
    assert case.reference_only == ("Rt Parotid", "cord")


def test_names_that_nobody_knows_are_compared_where_both_sides_spell_them_alike(clinic, tmp_path):
    _, masks = anatomy(0)
    for name, spelled in (("a", "Boost 1"), ("b", "BOOST 1")):
        draw(clinic / "p0" / "CT", {"Parotid_L": masks["Parotid_L"]}, tmp_path / f"{name}.dcm", names={"Parotid_L": spelled})
    result = _evaluated(tmp_path / "a.dcm", tmp_path / "b.dcm", ct=clinic / "p0")
    assert [s.structure for s in result.structures] == ["BOOST 1"]


def test_two_structures_that_mean_one_organ_are_not_chosen_between(clinic, tmp_path):
    _, masks = anatomy(0)
    twice = {"Parotid_L": masks["Parotid_L"], "SpinalCord": masks["SpinalCord"], "Parotid_R": masks["Parotid_R"]}
    draw(clinic / "p0" / "CT", twice, tmp_path / "a.dcm", names={"Parotid_L": "cord", "SpinalCord": "Spinal Cord"})
    case = _evaluated(tmp_path / "a.dcm", clinic / "p0").cases[0]
    assert [r.structure for r in case.structures] == ["Parotid_R"]
    assert "2 structures that mean SpinalCord" in case.remarks[0]


CONVENTIONS = [
    {"Parotid_L": "Parotid_L", "Parotid_R": "Parotid_R", "SpinalCord": "SpinalCord"},
    {"Parotid_L": "parotid lt", "Parotid_R": "parotid rt", "SpinalCord": "spinal cord"},
    {"Parotid_L": "PAROTID_L", "Parotid_R": "PAROTID_R", "SpinalCord": "CORD"},
    {"Parotid_L": "L_Parotid", "Parotid_R": "R_Parotid", "SpinalCord": "Spinal_Cord"},
    {"Parotid_L": "Lt Parotid", "Parotid_R": "Rt Parotid", "SpinalCord": "Spinal Cord"},
    {"Parotid_L": "LParotid", "Parotid_R": "RParotid", "SpinalCord": "SpinalCord (1)"},
    {"Parotid_L": "Parotis li", "Parotid_R": "Parotis re", "SpinalCord": "Myelon"},
    {"Parotid_L": "PAROTIDE_G", "Parotid_R": "PAROTIDE_D", "SpinalCord": "Moelle"},
    {"Parotid_L": "Parotid Gland, Left", "Parotid_R": "Parotid Gland, Right", "SpinalCord": "sc"},
    {"Parotid_L": "left parotid gland", "Parotid_R": "right parotid gland", "SpinalCord": "cord"},
    {"Parotid_L": "GLND_PAROTID_L", "Parotid_R": "GLND_PAROTID_R", "SpinalCord": "SPINAL_CORD"},
]


@pytest.mark.parametrize("names", CONVENTIONS, ids=lambda names: names["Parotid_L"])
def test_ten_clinics_conventions_are_understood_among_helpers_and_risk_volumes(names):
    written = [*names.values(), "SpinalCord_PRV05", "cord+5", "ring PTV", "zOpt", "Parotid both opt", "Couch"]
    understood = understand(written, Naming())
    assert understood.meant == {**names, "SpinalCord_PRV05": "SpinalCord_PRV05"}
    assert not understood.ambiguous


def test_a_sites_own_names_go_first_and_may_leave_out(tmp_path):
    path = tmp_path / "names.toml"
    path.write_text('[names]\n"Hals RM" = "spinalcord"\n"cord" = ""\n"LN II li" = "LN_Neck_II_L"\n', encoding="utf-8")
    understood = understand(["HALS RM", "cord", "LN II li", "Larynx"], read_naming(path))
    assert understood.meant == {"SpinalCord": "HALS RM", "LN_Neck_II_L": "LN II li", "Larynx": "Larynx"}
    assert understood.unknown == ("cord",)
    for text in ("[nomes]\n", "[names]\nx = 3\n", "[names\n", '[names]\nx = "a name that is much too long"\n'):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(PolicyError):
            read_naming(path)


def test_of_two_structure_sets_on_one_image_the_newest_is_taken_and_said(clinic, predicted, tmp_path):
    twice = tmp_path / "p0"
    shutil.copytree(clinic / "p0", twice)
    draw(twice / "CT", moved(anatomy(0)[1], 2), twice / "older.dcm", when="20250101")
    result = _evaluated(predicted / "0.dcm", twice)
    assert _of(result, "Parotid_L").dice.mean == 1.0
    assert any("newest was taken" in said for said in result.left_out)
    draw(twice / "CT", moved(anatomy(0)[1], 2), twice / "same day.dcm")
    with pytest.raises(InputError) as refused:
        _evaluated(predicted / "0.dcm", twice)
    assert "do not say which is the newest" in str(refused.value)


def test_a_set_on_another_image_is_refused_rather_than_laid_over(clinic, predicted, tmp_path):
    with pytest.raises(InputError, match="Nothing could be compared") as refused:
        _evaluated(predicted / "0.dcm", clinic / "p1")
    assert "frame of reference" in refused.value.why


def test_of_two_images_in_one_frame_none_is_guessed(tmp_path):
    """A set that names a series that is not there, and whose frame of reference a CT and a registered one share."""
    patient(tmp_path / "p", 0)
    d = pydicom.dcmread(tmp_path / "p" / "RS.dcm")
    study = d.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    study.RTReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.3"
    for item in study.RTReferencedSeriesSequence[0].ContourImageSequence:
        item.ReferencedSOPInstanceUID = "1.2.3.4"
    d.save_as(tmp_path / "p" / "RS.dcm")
    assert find_drawings(tmp_path).drawings[0].image is not None
    for path in (tmp_path / "p" / "CT").iterdir():
        other = pydicom.dcmread(path)
        other.SeriesInstanceUID, other.Modality = "1.2.3.5", "MR"
        other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.6.{other.InstanceNumber}"
        other.save_as(path.with_name(f"mr-{path.name}"))
    (drawing,) = find_drawings(tmp_path).drawings
    assert drawing.image is None
    with pytest.raises(InputError, match="several could be it"):
        drawing.open()


def test_a_case_that_cannot_be_compared_is_said_and_does_not_stop_the_others(clinic, predicted, tmp_path):
    broken = tmp_path / "predicted"
    shutil.copytree(predicted, broken)
    d = pydicom.dcmread(broken / "1.dcm")
    d.ROIContourSequence[0].ContourSequence[0].ContourData = ["1", "2", "3", "4"]
    d.save_as(broken / "1.dcm")
    result = _evaluated(broken, clinic)
    assert sum(bool(case.problem) for case in result.cases) == 1
    assert any("was not compared" in reason for reason in result.reasons)
    assert _of(result, "Parotid_L").compared == 2


def test_limits_pass_fail_or_could_not_be_measured(clinic, predicted, tmp_path):
    (tmp_path / "own.toml").write_text(
        'description = "d"\nsource = "ours"\ntolerance = 1.5\n'
        "[structures.Parotid_L]\ndice = 0.5\nhd95 = 30\n[structures.Parotid_R]\nmissed = 0\n"
        '[structures.SpinalCord]\nsurface_dice = 0.999\ntolerance = 9\nsource = "other"\n[structures.Larynx]\ndice = 0.1\n'
    )
    result = _evaluated(predicted, clinic, Rules(load_limits(str(tmp_path / "own.toml"))))
    said = {(j.structure, j.measure): j for j in result.judgements}
    assert said["Parotid_L", "dice"].passed
    assert said["Parotid_L", "hd95"].passed
    assert not said["Parotid_L", "dice"].sure, "three patients have no interval"
    assert said["Parotid_R", "missed"].passed is False
    assert said["SpinalCord", "surface_dice"].source == "other"
    assert said["Larynx", "dice"].passed is None
    assert result.verdict == "failed"
    assert (_of(result, "SpinalCord").tolerance, _of(result, "Parotid_L").tolerance) == (9, 1.5)
    (tmp_path / "bad.toml").write_text('description = "d"\nsource = "s"\n[structures.Larynx]\ndise = 0.1\n')
    with pytest.raises(PolicyError, match=r"dise.*line 4"):
        load_limits(str(tmp_path / "bad.toml"))


def _label_case(folder: Path, masks, *, mapped: bool) -> None:
    folder.mkdir(parents=True)
    if mapped:
        labels = np.zeros(next(iter(masks.values())).shape, np.uint8)
        for n, mask in enumerate(masks.values(), start=1):
            labels[mask] = n
        sitk.WriteImage(sitk.GetImageFromArray(labels), str(folder / "labels.nii.gz"))
        (folder / "labels.json").write_text(json.dumps({name: n for n, name in enumerate(masks, start=1)}))
    else:
        for name, mask in masks.items():
            sitk.WriteImage(sitk.GetImageFromArray(mask.astype(np.uint8)), str(folder / f"{name}.nii.gz"))


def test_label_folders_of_either_layout_are_paired_by_name(tmp_path):
    for seed in range(2):
        masks = anatomy(seed)[1]
        _label_case(tmp_path / "reference" / f"case{seed}", masks, mapped=False)
        _label_case(tmp_path / "predicted" / f"case{seed}", moved(masks, seed), mapped=True)
    _label_case(tmp_path / "reference" / "case7", masks, mapped=False)
    result = _evaluated(tmp_path / "predicted", tmp_path / "reference")
    assert [case.case for case in result.cases] == ["case0", "case1"]
    assert _of(result, "Parotid_L").dice.highest == 1.0
    assert result.left_out == ("case7 has a reference and nothing predicted",)


def test_label_files_on_other_voxels_are_refused(tmp_path):
    masks = anatomy(0)[1]
    _label_case(tmp_path / "a", masks, mapped=False)
    _label_case(tmp_path / "b", {name: mask[:-1] for name, mask in masks.items()}, mapped=False)
    with pytest.raises(InputError, match="Nothing could be compared"):
        _evaluated(tmp_path / "a", tmp_path / "b")
    pairs, _ = pair_up(tmp_path / "a", tmp_path / "b")
    with pytest.raises(FrameMismatch, match="other voxels"):
        pairs[0].open()


def _run(*arguments) -> int:
    return app([*map(str, arguments)], standalone_mode=False)


def test_the_command_exits_with_3_where_a_limit_fails_and_writes_everything(clinic, predicted, tmp_path, capsys):
    assert _run("evaluate", predicted, clinic, "-o", tmp_path / "out", "--limits", "head_neck", "--json") == NEEDS_REVIEW
    written = (tmp_path / "out" / "evaluation.json").read_text(encoding="utf-8")
    assert json.loads(capsys.readouterr().out) == json.loads(written)
    assert EvaluationResult.model_validate_json(written).verdict == "failed"
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"evaluation.json", "report.html", "figures"}
    with pytest.raises(InputError, match="not empty"):
        _run("evaluate", predicted, clinic, "-o", tmp_path / "out")


def test_the_command_exits_with_0_where_every_limit_is_kept(clinic, predicted, tmp_path):
    (tmp_path / "own.toml").write_text('description = "d"\nsource = "s"\n[structures.SpinalCord]\ndice = 0.2\n')
    assert _run("evaluate", predicted, clinic, "-o", tmp_path / "out", "--limits", tmp_path / "own.toml") == DONE


class Thresholds:
    """An engine for tests: the bright glands by side; no cord, and says so."""

    name, version = "thresholds", "1"

    def offers(self):
        return {name: Offer("threshold") for name in ("Parotid_L", "Parotid_R", "SpinalCord")}

    def contour(self, image, wanted, context: Context) -> Iterator[Finding | NotInImage]:
        bright = image.array > 110
        middle = image.array.shape[2] // 2
        for name in wanted:
            if name == "SpinalCord":
                yield NotInImage(name, "not bright")
                continue
            mask = bright.copy()
            mask[..., slice(None, middle) if name == "Parotid_L" else slice(middle, None)] = False
            yield Finding(name, Field.of_mask(Volume(mask, image.geometry)), confidence=0.9)


def test_an_engine_is_measured_on_a_clinics_cases(clinic):
    assert isinstance(Thresholds(), Engine)
    result, shown = commission(Thresholds(), clinic, Rules())
    assert result.kind == "commission"
    assert result.maker is not None
    assert (result.maker.name, result.maker.version) == ("thresholds", "1")
    assert result.maker.seconds_per_case is not None
    assert all(_of(result, name).dice.mean > 0.97 for name in ("Parotid_L", "Parotid_R"))
    cord = _of(result, "SpinalCord")
    assert (cord.compared, cord.missed, cord.dice) == (0, 3, None)
    records = [r for c in result.cases for r in c.structures]
    assert {r.reason for r in records if r.structure == "SpinalCord"} == {"not bright"}
    assert {r.confidence for r in records if r.state == "compared"} == {0.9}
    assert all(one.image is not None for one in shown)


def test_a_model_is_an_engine_by_name_or_a_folder_with_whole_weights(tmp_path):
    assert find_engine("anatomy").name == "anatomy"
    with pytest.raises(InputError, match="no engine 'nobody'"):
        find_engine("nobody")
    with pytest.raises(ModelError):
        find_engine(str(tmp_path))


def test_patients_with_two_images_stay_two_cases_of_one_patient(tmp_path):
    patient(tmp_path / "a", 0, who="SAME")
    patient(tmp_path / "b", 1, who="SAME")
    drawings = find_drawings(tmp_path).drawings
    assert len({d.case for d in drawings}) == 2
    assert len({d.patient for d in drawings}) == 1
    assert "SAME" not in repr(drawings)
