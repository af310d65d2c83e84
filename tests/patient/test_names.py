"""What a structure is called, and what an archive's name means."""

import re

import pytest

from patient.names import _listed, lookup, match
from patient.structures import Code


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("BODY", "External"),
        ("Rt Parotid", "Parotid_R"),
        ("parotid_r", "Parotid_R"),
        ("LParotid", "Parotid_L"),
        ("PAROTIDE_G", "Parotid_L"),
        ("rein_g", "Kidney_L"),
        ("rein_d", "Kidney_R"),
        ("Lunge re", "Lung_R"),
        ("Lunge links", "Lung_L"),
        ("HüftkopfL", "Femur_Head_L"),
        ("Oesophagus", "Esophagus"),
        ("Ösophagus", "Esophagus"),
        ("left SMG", "Glnd_Submand_L"),
        ("N.opticus R", "OpticNrv_R"),
        ("Heart (1)", "Heart"),
        ("Heart(2)", "Heart"),
        ("SPINAL CORD", "SpinalCord"),
        ("Spinal_Canal", "SpinalCanal"),
        ("PCM_S", "Musc_Constrict_S"),
        ("both lungs", "Lungs"),
        ("A_LAD", "A_LAD"),
    ],
)
def test_an_archives_spelling_is_understood(written: str, meant: str) -> None:
    found = match(written)
    assert found is not None
    assert found.name == meant


@pytest.mark.parametrize(
    "written", ["Parotid", "Lung", "kidney", "Eye", "Femoral Head", "Lung L+R", "Lung L R", "Brainstem_L"]
)
def test_a_side_is_never_guessed(written: str) -> None:
    assert match(written) is None


@pytest.mark.parametrize("written", ["Lung_d", "Lung re", "Parotid_G", "Kidney li"])
def test_letters_that_are_sides_in_one_language_only_count_in_that_language(written: str) -> None:
    assert match(written) is None


@pytest.mark.parametrize(
    "written",
    [
        *("zLung_L", "_Lung_L", "Lung~_L", "Lungs^Ex", "Lungs-GTV", "cord+5", "Cord PRV", "SpinalCord_PRV05", "RingCord"),
        *(
            "Lung_L_opt",
            "Parotid L opt2",
            "Heart_avoid",
            "Brain eval",
            "dose 50",
            "ring PTV",
            "PTV70_eval",
            "Skin",
            "Medulla",
        ),
        *("", "  ", "???", "...", "\u0444"),
    ],
)
def test_helpers_parts_and_ambiguous_names_match_nothing(written: str) -> None:
    assert match(written) is None


def test_every_name_keeps_the_rules_of_tg_263() -> None:
    names = [entry.name for entry in _listed().values()]
    assert len({name.casefold() for name in names}) == len(names) >= 85
    for name in names:
        assert len(name) <= 16
        assert re.fullmatch(r"[A-Za-z0-9_]+", name)


def test_every_name_means_itself_unless_it_is_ambiguous() -> None:
    wrong = [name.name for name in _listed().values() if name.name != "Skin" and match(name.name) != name]
    assert wrong == []


def test_left_and_right_have_the_same_code_with_opposite_modifiers() -> None:
    left, right = lookup("Parotid_L"), lookup("parotid_r")
    assert left is not None
    assert right is not None
    assert left.code == Code("45289007", "SCT", "Parotid gland", Code("7771000", "SCT", "Left"))
    assert right.code == Code("45289007", "SCT", "Parotid gland", Code("24028007", "SCT", "Right"))
    assert (left.fma, right.fma) == ("59798", "59797")
    assert left.color != right.color


def test_volumes_colors_and_types_are_sane() -> None:
    for entry in _listed().values():
        assert all(0 <= channel <= 255 for channel in entry.color)
        assert entry.volume_cc is None or 0 < entry.volume_cc[0] < entry.volume_cc[1]
        assert entry.interpreted_type in ("ORGAN", "EXTERNAL", "GTV", "CTV", "PTV")


def test_a_planning_risk_volume_takes_its_organs_entry_without_code_and_volume() -> None:
    cord, prv, nerve = lookup("SpinalCord"), lookup("SpinalCord_PRV05"), lookup("OpticNrv_PRV03_L")
    assert cord is not None
    assert prv is not None
    assert nerve is not None
    assert (prv.name, prv.code, prv.volume_cc) == ("SpinalCord_PRV05", None, None)
    assert all(lighter >= darker for lighter, darker in zip(prv.color, cord.color, strict=True))
    assert lookup("Nonsense_PRV05") is None


def test_unknown_names_have_no_entry() -> None:
    assert lookup("Lung") is None
    assert lookup("Parotid") is None
