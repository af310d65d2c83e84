"""Policies as files: what is shipped is whole and honest about its sources; what is wrong is refused with its line."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest

from adaptive.decision.policy import _File, _Rule, _Separation, _Structure, available_policies, load_policy
from adaptive.decision.rules import EXAMPLE, Compare, Policy, Propagation
from contour.recipe import ingredients, parse
from patient.errors import PolicyError

SHIPPED = available_policies()
SOURCES = (
    "Deasy 2010 IJROBP 76(3S):S58",
    "Kirkpatrick 2010 IJROBP 76(3S):S42",
    "Marks 2010 IJROBP 76(3S):S70",
    "GORTEC constraints as tabulated in Castelli 2016 Radiat Oncol 11:79 (s13014-016-0650-6)",
)
"""The only publications that shipped policies may name: each was looked up."""


def written(folder: Path, text: str) -> Policy:
    (folder / "site.toml").write_text(text)
    return load_policy(str(folder / "site.toml"))


HEAD = 'schema = 1\nversion = "1"\ndescription = "x"\n'
RULE = (
    '[rules.a]\nquantity = "setup"\nunit = "mm"\ncompare = "value"\n'
    'rises_above = 5.0\nconsequence = "review"\nsource = "s"\n'
)


def test_three_sites_are_shipped() -> None:
    assert set(SHIPPED) >= {"head_neck", "prostate", "thorax"}


@pytest.mark.parametrize("name", SHIPPED)
def test_every_number_of_a_shipped_policy_has_a_known_source_or_is_an_example(name: str) -> None:
    policy = load_policy(name)
    sources = [r.source for r in policy.rules]
    sources += [s.source for _, s in policy.structures if s.recipe or s.eud is not None or s.prescription is not None]
    assert all(source == EXAMPLE or source.startswith(SOURCES) for source in sources)
    text = files("adaptive").joinpath("policies", f"{name}.toml").read_text(encoding="utf-8")
    assert f'source = "{EXAMPLE}"' in text.split("[structures")[0], "levels of separation have a source too"


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_policy_reviews_what_is_not_trusted(name: str) -> None:
    assert any(r.quantity == "registration_trusted" and r.consequence == "review" for r in load_policy(name).rules)


def test_dose_that_a_rule_asks_for_is_wanted_though_no_entry_says_so(tmp_path: Path) -> None:
    rule = RULE.replace('"setup"', '"D5%"').replace('"mm"', '"Gy"') + 'structures = ["Heart*"]\n'
    policy = written(tmp_path, HEAD + '[structures.Heart]\nmetrics = ["Dmean"]\n' + rule)
    assert policy.for_structure("heart").metrics == ("Dmean", "D5%")
    assert policy.for_structure("Heart_2").metrics == ("D5%",)
    assert policy.for_structure("Lungs").metrics == ()


def test_an_eud_is_wanted_only_where_there_is_an_exponent(tmp_path: Path) -> None:
    rule = RULE.replace('"setup"', '"EUD"').replace('"mm"', '"Gy"') + 'structures = ["*"]\n'
    policy = written(tmp_path, HEAD + '[structures.Heart]\neud = 1\nsource = "s"\n' + rule)
    assert policy.for_structure("Heart").metrics == ("EUD",)
    assert policy.for_structure("Lungs").metrics == ()


def test_the_first_entry_that_matches_counts_and_names_go_into_recipes() -> None:
    policy = load_policy("head_neck")
    assert policy.for_structure("PTV_7000").prescription == 70.0
    assert policy.for_structure("ptv_7000").recipe == "CTV_7000 + 5 mm"
    assert policy.for_structure("PTV_5425").recipe == "CTV_5425 + 5 mm"
    assert policy.for_structure("PTV_5425").prescription is None
    assert policy.for_structure("Parotid_L").propagate is Propagation.RECONCILE
    assert policy.for_structure("Something").propagate is Propagation.DEFORM


@pytest.mark.parametrize("name", ["PTV-03", "PTV-Ring", "PTV!", "PTV 70", "PTV+5"])
def test_a_name_that_would_make_another_recipe_has_none_and_is_copied_rigidly(name: str) -> None:
    got = load_policy("head_neck").for_structure(name)
    assert (got.recipe, got.propagate) == ("", Propagation.RIGID)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_recipe_grows_a_ctv(name: str) -> None:
    for pattern, _ in load_policy(name).structures:
        entry = load_policy(name).for_structure(pattern.replace("*", "_1"))
        if entry.recipe:
            assert list(ingredients(parse(entry.recipe))) == [pattern.replace("*", "_1").replace("PTV", "CTV")]


def test_the_digest_follows_the_text(tmp_path: Path) -> None:
    one, two = written(tmp_path, HEAD + RULE), written(tmp_path, HEAD + RULE.replace("5.0", "6.0"))
    assert one.digest != two.digest
    assert len(one.digest) == 64
    assert one.name == "site"


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        (HEAD + RULE + "colour = 1\n", 11, "colour"),
        (HEAD + "colour = 1\n" + RULE, 4, "colour"),
        (HEAD + RULE.replace("5.0", '"five"'), 8, "rises_above"),
        (HEAD + RULE.replace("5.0", "nan"), 8, "rises_above"),
        (HEAD + RULE.replace("5.0", "true"), 8, "rises_above"),
        (HEAD + RULE.replace('"setup"', '"setupp"'), 5, "nothing measures"),
        (HEAD + RULE.replace('"setup"', '"Dmaen"'), 5, "nothing measures"),
        (HEAD + RULE.replace('"mm"', '"cm"'), 4, "is in 'mm', not 'cm'"),
        (HEAD + RULE.replace('"value"', '"relative"'), 4, "is in '%'"),
        (HEAD + RULE.replace('"review"', '"stop"'), 9, "consequence"),
        (HEAD + RULE.replace('"value"', '"sum"'), 7, "compare"),
        (HEAD + RULE.replace('source = "s"', 'source = ""'), 10, "source"),
        (HEAD + RULE.replace('source = "s"\n', ""), 4, "source"),
        (HEAD + RULE.replace("rises_above = 5.0\n", ""), 4, "either rises_above or falls_below"),
        (HEAD + RULE + "falls_below = 3.0\n", 4, "either rises_above or falls_below"),
        (HEAD + RULE + "consecutive = 0\n", 11, "consecutive"),
        (HEAD + RULE + "consecutive = 1.5\n", 11, "consecutive"),
        (HEAD + RULE + 'structures = ["Parotid_?"]\n', 11, "structures"),
        (HEAD + RULE.replace('"value"', '"change"') + "accepted_in_plan = true\n", 4, "accepted_in_plan"),
        (HEAD, 1, "rules"),
        (HEAD + "[rules]\n", 4, "rules"),
        (HEAD.replace("= 1", "= 2") + RULE, 1, "schema"),
        (HEAD.replace('version = "1"\n', "") + RULE, 1, "version"),
        (HEAD + '[structures."PTV*"]\nrecipe = "CTV* + mm"\nsource = "s"\n' + RULE, 5, "column"),
        (HEAD + '[structures."PTV*"]\nrecipe = "CTV* + 5 mm"\n' + RULE, 4, "needs a source"),
        (HEAD + '[structures."*PTV"]\nrecipe = "*CTV + 5 mm"\nsource = "s"\n' + RULE, 4, "only \\*"),
        (HEAD + '[structures.A]\npropagate = "warp"\n' + RULE, 5, "propagate"),
        (HEAD + '[structures.A]\npropagate = "rigid"\nrecipe = "B + 5 mm"\nsource = "s"\n' + RULE, 4, "recipe is rebuilt"),
        (HEAD + '[structures.A]\neud = 0\nsource = "s"\n' + RULE, 5, "EUD"),
        (HEAD + '[structures.A]\nmetrics = ["volume"]\n' + RULE, 5, "not a dose metric"),
        (HEAD + '[structures.A]\nmetrics = [\n  "Dmaen",\n]\n' + RULE, 5, "not a dose metric"),
        (HEAD + "[structures.A]\nprescription = -70.0\n" + RULE, 5, "prescription"),
        (HEAD + "[separation]\nlevels = 5\nsource = 's'\n" + RULE, 5, "levels"),
        (HEAD + "[separation]\nlevels = [5]\n" + RULE, 4, "source"),
        (HEAD + RULE + RULE, 11, "TOML"),
    ],
)
def test_a_policy_that_is_wrong_says_which_line(tmp_path: Path, text: str, line: int, what: str) -> None:
    with pytest.raises(PolicyError, match=f"(?s)({what}.*line {line}\\b|line {line}\\b.*{what})"):
        written(tmp_path, text)


def test_a_rule_is_not_confused_with_one_whose_name_begins_alike(tmp_path: Path) -> None:
    other = RULE.replace("rules.a", "rules.ab")
    with pytest.raises(PolicyError, match="line 15"):
        written(tmp_path, HEAD + other + RULE.replace("5.0", '"x"'))


def test_a_policy_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(PolicyError, match="head_neck"):
        load_policy("nothing")
    with pytest.raises(PolicyError, match="cannot be read"):
        load_policy("nothing.toml")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PolicyError, match="cannot be read"):
        load_policy(str(tmp_path / "x.toml"))


def test_every_key_is_explained() -> None:
    page = (Path(__file__).parents[2] / "docs" / "policies.md").read_text(encoding="utf-8")
    for keys in (_File, _Rule, _Structure, _Separation):
        for name, field in keys.model_fields.items():
            assert (field.alias or name) in page, name
    for value in (*Propagation, *Compare):
        assert f'"{value.value}"' in page
    for quantity in {rule.quantity for name in SHIPPED for rule in load_policy(name).rules}:
        form = re.sub(r"[0-9.]+", "#", quantity)
        assert f"`{form}`" in re.sub(r"[0-9.]+", "#", page), quantity
