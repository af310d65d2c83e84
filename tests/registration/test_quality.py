"""The measures of a registration, and the verdict that a policy draws from them."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from patient.errors import PolicyError
from patient.geometry import Geometry
from patient.volume import Mask, Volume
from registration.agreement import Agreement, Pair, agreement
from registration.local_evidence import LocalEvidence
from registration.measures import RegistrationQuality
from registration.method import Fit, RegistrationContext
from registration.quality import Policy, Registered, judged, verdict_on
from registration.resampling import resampled, resampled_mask
from registration.transforms import Affine, Displacement, Points, Rigid, Space, Transform, composed, rigid_part

OWN = Path(__file__).parents[2] / "registration" / "policy.toml"
GRID = Geometry((46, 54, 54), (3.0, 2.5, 2.5), (-67.0, -67.0, 20.0), image="planning")
OTHER = replace(GRID, image="fraction")
HERE, THERE = Space.of(GRID), Space.of(OTHER)
CENTRE = GRID.points((np.array(GRID.shape) - 1) / 2)
LIMITS = [f.name for f in fields(Policy) if f.name not in ("version", "matches_settle")]


def changed(tmp_path: Path, old: str, new: str) -> Path:
    """The package's policy with one text replaced."""
    text = OWN.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "site.toml"
    path.write_text(text.replace(old, new))
    return path


def test_the_package_comes_with_a_policy() -> None:
    policy = Policy.read()
    assert policy == Policy.read(OWN)
    assert policy.version
    assert policy.folded == 0.0
    assert all(isinstance(getattr(policy, name), float) for name in LIMITS)


def test_a_site_sets_its_own_limits(tmp_path: Path) -> None:
    policy = Policy.read(changed(tmp_path, "agreement_mm = 3.0", "agreement_mm = 2"))
    assert policy == replace(Policy.read(), agreement_mm=2.0)


@pytest.mark.parametrize("name", LIMITS)
def test_a_missing_limit_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(PolicyError, match=rf"limits.{name}: is missing \[site.toml, line \d+\]"):
        Policy.read(changed(tmp_path, f"\n{name} =", f"\n# {name} ="))


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("[limits]", "[limits]\nfoldet = 0.0", "foldet"),
        ("folded =", "foldet =", r"limits.folded: is missing; line 8: limits.foldet: unknown key: did you mean 'folded'\?"),
        ("schema = 1", "schema = 1\nlimit = 3", "limit"),
        ("[limits]", "[bounds]", "bounds"),
    ],
)
def test_an_unknown_key_is_named(tmp_path: Path, old: str, new: str, named: str) -> None:
    with pytest.raises(PolicyError, match=named):
        Policy.read(changed(tmp_path, old, new))


@pytest.mark.parametrize("value", ['"3.0"', "true", "[3.0]", "2026-11-01"])
def test_a_limit_that_is_no_number_is_named(tmp_path: Path, value: str) -> None:
    with pytest.raises(PolicyError, match=r"limits.agreement_mm: has to be a number \[site.toml, line 17\]"):
        Policy.read(changed(tmp_path, "agreement_mm = 3.0", f"agreement_mm = {value}"))


def test_what_is_no_toml_or_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"Not TOML: .*site.toml"):
        Policy.read(changed(tmp_path, "schema = 1", "schema is 1"))
    with pytest.raises(PolicyError, match=r"cannot be read: .*\[nowhere.toml\]"):
        Policy.read(tmp_path / "nowhere.toml")
    with pytest.raises(PolicyError, match="cannot be read"):
        Policy.read(tmp_path)


POLICY = Policy(
    overlap=0.25,
    folded=0.0,
    inverse_consistency=3.0,
    region_error=5.0,
    unconfirmed=0.6,
    unconfirmed_lung=0.3,
    feature_error_median=3.0,
    matches_share=0.12,
    matches=20.0,
    matches_settle=0.8,
    agreement_mm=3.0,
    agreement_degrees=2.0,
    split_half_mm=5.0,
    split_half_degrees=3.0,
    structure_dice=0.7,
)
LIVER = Agreement("Liver", volume_cc=1400.0, dice=0.7, mean_surface_distance=2.0, hd95=6.0)
PASSES = RegistrationQuality(
    overlap=0.25,
    folded=0.0,
    inverse_consistency_mean=3.0,
    feature_error_median=3.0,
    matches=100,
    agreeing=20,
    features_mm=3.0,
    features_degrees=2.0,
    split_half_mm=5.0,
    split_half_degrees=3.0,
    local=LocalEvidence(5.0, 9, "lung, lower right of the image", 0.6, 0.3),
    structures=(LIVER,),
)
BENT = replace(PASSES, displacement_max=12.0)


def test_at_every_limit_a_registration_is_still_trusted() -> None:
    for quality in (PASSES, BENT):
        verdict = verdict_on(quality, POLICY)
        assert verdict.trusted
        assert verdict.reasons == ()


def test_a_rigid_result_need_not_follow_every_region() -> None:
    assert verdict_on(replace(PASSES, local=LocalEvidence(20.0, 40, "lower of the image", 0.9, 0.9)), POLICY).trusted


FAILING = {
    "overlap": (
        replace(PASSES, overlap=0.249),
        "the part of the fixed image that the moving one shows is 0.249, less than 0.25",
    ),
    "folded": (replace(PASSES, folded=0.001), "the folded part of the body is 0.001, more than 0"),
    "inverse_consistency": (
        replace(PASSES, inverse_consistency_mean=3.01),
        "the inverse-consistency error (mean) is 3.01 mm, more than 3 mm",
    ),
    "region_error": (
        replace(BENT, local=replace(BENT.local, worst_mm=9.13)),
        "the median distance at matched points in a region (lung, lower right of the image) is 9.13 mm, more than 5 mm",
    ),
    "unconfirmed": (
        replace(BENT, local=replace(BENT.local, unconfirmed=0.61)),
        "the part of the body without points that confirm the result is 0.61, more than 0.6",
    ),
    "unconfirmed_lung": (
        replace(BENT, local=replace(BENT.local, unconfirmed_lung=0.31)),
        "the part of the lungs without points that confirm it is 0.31, more than 0.3",
    ),
    "feature_error_median": (
        replace(PASSES, feature_error_median=3.01),
        "the median distance at matched points is 3.01 mm, more than 3 mm",
    ),
    "matches_share": (replace(PASSES, matches=170), "the share of matched points that agree is 0.118, less than 0.12"),
    "matches": (
        replace(PASSES, agreeing=19),
        "the number of matched points that agree with the result is 19, less than 20",
    ),
    "agreement_mm": (
        replace(PASSES, features_mm=3.01),
        "the distance to the rigid result by features is 3.01 mm, more than 3 mm",
    ),
    "agreement_degrees": (
        replace(PASSES, features_degrees=2.01),
        "the angle to the rigid result by features is 2.01°, more than 2°",
    ),
    "split_half_mm": (
        replace(PASSES, split_half_mm=5.01),
        "ambiguous: the distance between the answers of the body and of its halves is 5.01 mm, more than 5 mm",
    ),
    "split_half_degrees": (
        replace(PASSES, split_half_degrees=3.01),
        "ambiguous: the angle between them is 3.01°, more than 3°",
    ),
    "structure_dice": (
        replace(PASSES, structures=(replace(LIVER, name="Spleen"), replace(LIVER, dice=0.69))),
        "the Dice of Liver is 0.69, less than 0.7",
    ),
}


@pytest.mark.parametrize("limit", LIMITS)
def test_just_beyond_one_limit_one_sentence_says_which(limit: str) -> None:
    quality, sentence = FAILING[limit]
    verdict = verdict_on(quality, POLICY)
    assert not verdict.trusted
    assert verdict.reasons == (sentence,)


def test_every_reason_is_told_not_only_the_first() -> None:
    verdict = verdict_on(replace(PASSES, overlap=0.1, folded=0.2, features_mm=40.0), POLICY)
    assert len(verdict.reasons) == 3


def test_without_matched_points_nothing_is_trusted() -> None:
    """However good the rest looks: it is what the fit itself may have minimised."""
    verdict = verdict_on(replace(PASSES, matches=None, agreeing=None, feature_error_median=None), POLICY)
    assert not verdict.trusted
    assert verdict.reasons == ("no points could be matched, so that nothing independent speaks for the result",)
    none = verdict_on(replace(PASSES, matches=0, agreeing=0, feature_error_median=None), POLICY)
    assert not none.trusted


def test_a_structure_too_small_for_a_dice_is_not_held_against_it() -> None:
    lens = Agreement("Lens_L", volume_cc=0.2, dice=0.1, mean_surface_distance=1.0, hd95=2.0)
    assert verdict_on(replace(PASSES, structures=(lens,)), POLICY).trusted


def places(grid: Geometry) -> Points:
    return grid.points(np.moveaxis(np.indices(grid.shape), 0, -1))


@cache
def phantom() -> Volume[np.float32]:
    """An ellipsoid of blobs of all sizes in air, HU."""
    rng = np.random.default_rng(1)
    texture = sum(
        width**1.5 * ndimage.gaussian_filter(rng.normal(size=GRID.shape), [width / s for s in GRID.spacing])
        for width in (4, 8)
    )
    texture = 300 * texture / texture.std()
    inside = (((places(GRID) - CENTRE) / (60, 56, 85)) ** 2).sum(axis=-1) < 1
    return Volume(np.where(inside, np.clip(texture, -400, 1500), -1000).astype(np.float32), GRID)


@cache
def truth() -> Rigid:
    """fraction_from_planning: 7 degrees about z through the middle, then a shift."""
    c, s = np.cos(np.radians(7.0)), np.sin(np.radians(7.0))
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    return Rigid.of(turn, CENTRE + (12.0, -9.0, 10.0) - turn @ CENTRE, HERE, THERE)


@cache
def moving() -> Volume[np.float32]:
    other = resampled(truth().inverse(), phantom(), OTHER, -1000.0)
    noise = np.random.default_rng(9).normal(0, 20, GRID.shape).astype(np.float32)
    return Volume(other.array + noise, OTHER)


def ball(radius: float, grid: Geometry, centre: Points) -> Mask:
    return Volume(np.linalg.norm(places(grid) - centre, axis=-1) < radius, grid)


def of(transform: Transform, **more: object) -> Registered:
    return judged(Fit(transform), phantom(), moving(), RegistrationContext(), **more)  # type: ignore[arg-type]


@cache
def right() -> Registered:
    organ = ball(18.0, OTHER, truth().points(CENTRE, HERE))
    known = Pair("Organ", resampled_mask(truth(), organ, GRID), organ)
    return of(truth(), structures=(known,), inverse_registration=truth().inverse())


def test_the_truth_is_trusted() -> None:
    result = right()
    assert result.verdict.reasons == ()
    assert result.verdict.trusted
    assert result.moving_from_fixed is truth()


def test_the_measures_of_the_truth_are_those_of_a_rigid_move() -> None:
    quality = right().quality
    assert quality.similarity_before is not None
    assert quality.similarity_after is not None
    assert 1.0 <= quality.similarity_before < quality.similarity_after - 0.05 < 2.0
    assert quality.overlap is not None
    assert 0.8 < quality.overlap <= 1.0
    assert quality.folded == 0.0
    assert quality.jacobian_min == pytest.approx(1.0, abs=1e-3)
    assert quality.jacobian_max == pytest.approx(1.0, abs=1e-3)
    assert quality.displacement_max == pytest.approx(0.0, abs=1e-4)
    assert quality.inverse_consistency_p95 == pytest.approx(0.0, abs=1e-6)


def test_points_matched_anew_agree_with_the_truth() -> None:
    quality = right().quality
    assert quality.matches is not None
    assert quality.agreeing is not None
    assert quality.agreeing > 100
    assert quality.agreeing > 0.9 * quality.matches
    assert quality.feature_error_median is not None
    assert quality.feature_error_median < 1.0
    assert quality.features_mm is not None
    assert quality.features_mm < 1.0
    assert quality.features_degrees is not None
    assert quality.features_degrees < 1.0


def test_a_structure_pulled_by_the_truth_is_the_same() -> None:
    (organ,) = right().quality.structures
    assert organ.name == "Organ"
    assert organ.volume_cc == pytest.approx(4 / 3 * np.pi * 1.8**3, rel=0.05)
    assert organ.dice == 1.0
    # Surfaces are compared finer than the voxels that the two masks were cut to.
    assert organ.mean_surface_distance < 0.5 * min(GRID.spacing)
    assert organ.hd95 <= min(GRID.spacing)


@cache
def wrong() -> Registered:
    """15 mm off, with a way back that does not know of it."""
    organ = ball(18.0, OTHER, truth().points(CENTRE, HERE))
    off = composed(Rigid.of(np.eye(3), (0.0, 15.0, 0.0), THERE, THERE), truth())
    known = (
        Pair("Organ", resampled_mask(truth(), organ, GRID), organ),
        Pair("Elsewhere", ball(10.0, GRID, CENTRE), ball(10.0, OTHER, CENTRE + (0.0, 0.0, 50.0))),
    )
    return of(off, structures=known, inverse_registration=truth().inverse())


def test_what_is_15_mm_off_is_not_trusted_and_the_reasons_say_so() -> None:
    verdict = wrong().verdict
    assert not verdict.trusted
    said = "; ".join(verdict.reasons)
    assert "the distance to the rigid result by features is 1" in said
    assert "the inverse-consistency error (mean) is 15 mm, more than 3 mm" in said
    assert "the Dice of Organ" in said


def test_what_is_15_mm_off_measures_15_mm() -> None:
    quality, other = wrong().quality, right().quality
    assert quality.features_mm == pytest.approx(15.0, abs=1.5)
    assert quality.inverse_consistency_mean == pytest.approx(15.0, abs=1e-3)
    assert quality.agreeing is not None
    assert other.agreeing is not None
    assert quality.agreeing < other.agreeing / 4
    assert quality.similarity_after is not None
    assert other.similarity_after is not None
    assert quality.similarity_after < other.similarity_after


def test_a_structure_that_was_missed_is_far_away_and_one_that_is_lost_infinitely() -> None:
    organ, elsewhere = wrong().quality.structures
    assert 0.3 < organ.dice < 0.6
    assert 5.0 < organ.mean_surface_distance < 15.0
    assert organ.mean_surface_distance < organ.hd95 < 17.0
    assert elsewhere.dice == 0.0
    assert elsewhere.hd95 > 20.0


def test_what_is_wrong_in_one_region_alone_is_not_trusted_and_the_region_is_named() -> None:
    """All but the lowest part is right: figures of the whole body pass."""
    push = np.exp(-((places(GRID) - CENTRE - (0, 0, -40)) ** 2).sum(axis=-1) / (2 * 20.0**2)) * 15.0
    vectors = np.zeros((*GRID.shape, 3), np.float32)
    vectors[..., 0] = push
    result = of(composed(truth(), Displacement(vectors, GRID, HERE, HERE)))
    (reason,) = result.verdict.reasons
    assert reason.startswith("the median distance at matched points in a region (tissue, lower")
    assert result.quality.local.worst_mm is not None
    assert 6.0 < result.quality.local.worst_mm < 15.0


def test_a_field_that_folds_is_seen() -> None:
    push = np.exp(-((places(GRID) - CENTRE) ** 2).sum(axis=-1) / (2 * 10.0**2)) * 40.0
    vectors = np.zeros((*GRID.shape, 3), np.float32)
    vectors[..., 0] = push
    result = of(composed(truth(), Displacement(vectors, GRID, HERE, HERE)))
    assert result.quality.folded is not None
    assert result.quality.folded > 0.002
    assert result.quality.jacobian_min is not None
    assert result.quality.jacobian_min < 0.0
    assert result.quality.jacobian_max is not None
    assert result.quality.jacobian_max > 2.0
    assert result.quality.displacement_max == pytest.approx(40.0, abs=2.0)
    assert result.quality.inverse_consistency_p95 is None
    assert not result.verdict.trusted
    assert any(reason.startswith("the folded part of the body is 0.0") for reason in result.verdict.reasons)


def test_the_rigid_part_of_a_chain_is_the_product_of_its_matrices() -> None:
    warp = Displacement(np.ones((*GRID.shape, 3), np.float32), GRID, HERE, HERE)
    found = rigid_part(composed(truth(), warp))
    assert isinstance(found, Rigid)
    assert (found.source, found.target) == (HERE, THERE)
    np.testing.assert_allclose(found.matrix, truth().matrix, atol=1e-12)
    scaled = rigid_part(composed(Affine(np.diag((1.1, 1, 1, 1)), THERE, THERE), composed(truth(), warp)))
    assert not isinstance(scaled, Rigid)
    np.testing.assert_allclose(scaled.matrix, np.diag((1.1, 1, 1, 1)) @ truth().matrix, atol=1e-12)


def test_surface_distances_do_not_depend_on_how_thick_the_slices_are():
    found = []
    for thickness in (1.0, 5.0):
        grid = Geometry((int(60 / thickness), 60, 70), (thickness, 1.0, 1.0), image="a")
        z, y, x = (grid.points(np.moveaxis(np.indices(grid.shape), 0, -1))[..., n] for n in (2, 1, 0))
        ball, aside = (((z - 30) ** 2 + (y - 30) ** 2 + (x - c) ** 2 < 400) for c in (30, 36))
        other = replace(grid, image="b")
        pair = Pair("Ball", Volume(ball, grid), Volume(aside, other))
        found.append(agreement(pair, Rigid.identity(Space.of(grid), Space.of(other))))
    assert found[1].mean_surface_distance == pytest.approx(found[0].mean_surface_distance, rel=0.2)
    assert found[1].hd95 == pytest.approx(found[0].hd95, abs=1.0)


@pytest.mark.parametrize(
    "text", ["schema = 1\nlimits = 3\n", "schema = 99\n[limits]\n", "schema = 1\n[limits]\noverlap = nan\n"]
)
def test_a_policy_that_would_switch_its_limits_off_is_refused(tmp_path, text):
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(PolicyError):
        Policy.read(path)


def test_where_organs_moved_against_each_other_matched_points_outweigh_a_rigid_answer_that_differs():
    apart = replace(PASSES, features_mm=19.0, displacement_max=25.0)
    assert not verdict_on(replace(apart, agreeing=79), POLICY).trusted
    assert verdict_on(replace(apart, agreeing=80), POLICY).trusted
    assert not verdict_on(replace(apart, agreeing=80, displacement_max=0.0), POLICY).trusted


def test_without_an_answer_by_features_a_result_is_looked_at():
    assert "no rigid answer" in verdict_on(replace(PASSES, features_mm=None, features_degrees=None), POLICY).reasons[0]


def test_a_measure_that_is_no_number_is_not_trusted():
    nothing = RegistrationQuality(folded=float("nan"), overlap=float("nan"), matches=100, agreeing=90, features_mm=0.1)
    assert len(verdict_on(nothing, Policy.read()).reasons) == 2


BREATH = 30.0
"""mm down, of all that lies below z = 60; nothing above 120 moves."""
CALM, FULL, END = 120.0, 60.0, 20.0
"""LPS z (mm) where the breath begins, where it is whole, and of the moving image's last plane."""


def along_z(heights: list[float], there: list[float], source: Space, target: Space, grid: Geometry) -> Displacement:
    """Heights go where they are told, linear between, as far beyond the first and last as those."""
    z = places(grid)[..., 2]
    beyond = np.interp(z, heights, np.array(there) - heights)
    vectors = np.zeros((*grid.shape, 3), np.float32)
    vectors[..., 2] = beyond
    return Displacement(vectors, grid, source, target)


@cache
def breathed_back() -> Displacement:
    """planning_from_fraction of the breath; what it knows ends with the fraction's image, and it goes on alike beyond."""
    return along_z([FULL - BREATH, CALM], [FULL, CALM], THERE, HERE, OTHER)


@cache
def breathed() -> Volume[np.float32]:
    """The phantom's lower part is 30 mm farther down: its last 40 mm have left the view."""
    there = resampled(breathed_back(), phantom(), OTHER, -1000.0)
    noise = np.random.default_rng(9).normal(0, 20, GRID.shape).astype(np.float32)
    return Volume(there.array + noise, OTHER)


def breath(heights: list[float], there: list[float]) -> Registered:
    """What is said of a field that takes heights of the planning image to heights of the fraction's."""
    still = Rigid.identity(HERE, THERE)
    field = composed(still, along_z(heights, there, HERE, HERE, GRID))
    return judged(Fit(field), phantom(), breathed(), RegistrationContext(), inverse_registration=breathed_back())


def inverse_consistency(result: Registered) -> float:
    assert result.quality.inverse_consistency_mean is not None
    return result.quality.inverse_consistency_mean


def blamed(result: Registered) -> bool:
    return any(reason.startswith("the inverse-consistency error") for reason in result.verdict.reasons)


def test_a_good_field_is_not_blamed_for_what_left_the_view() -> None:
    """Down to the last 10 mm of the view it is right; all that went below is squeezed into these, where none can follow."""
    result = breath([END, FULL, CALM], [END, FULL - BREATH, CALM])
    assert inverse_consistency(result) < 0.5
    assert result.verdict.trusted
    (note,) = (note for note in result.quality.notes if note.startswith("Inverse consistency"))
    share = float(note.removeprefix("Inverse consistency without the ").split(" %")[0])
    assert 15 < share < 35
    assert note.endswith("% that lie at the moving image's end")


def test_a_field_that_did_not_follow_inside_the_view_is_blamed() -> None:
    """It keeps still, and nothing of it leaves the view: 30 mm are missed at the bottom, less above."""
    result = breath([END, CALM], [END, CALM])
    assert inverse_consistency(result) > 10.0
    assert blamed(result)


def test_leaving_a_part_out_does_not_hide_an_error_beside_it() -> None:
    """What left the view is squeezed as it must be; but above it the field misses by up to 18 mm."""
    result = breath([END, FULL, 90.0, CALM], [END, FULL - BREATH, 93.0, CALM])
    assert inverse_consistency(result) > 4.0
    assert blamed(result)


def test_a_field_cannot_pass_by_pushing_nearly_everything_out_of_view() -> None:
    """All but the uppermost 15 mm are put into the last 8: then all of it counts."""
    result = breath([END, 140.0, 155.0], [END, END + 8.0, 155.0])
    assert inverse_consistency(result) > 20.0
    assert blamed(result)
    assert any("is put at the moving image's end or beyond" in note for note in result.quality.notes)
