from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptive.dose.accumulate import DAILY, DRIFT, Accumulated, accumulated
from adaptive.dose.fraction_dose import FractionDose, UncertainDose, gradient_magnitude, mapped, placed, recomputed
from patient.dose import Dose
from patient.errors import FrameMismatch, InputError
from patient.geometry import Geometry
from patient.trust import GIVEN, Estimated, Trust
from patient.volume import Volume
from registration.transforms import Rigid, Space
from tests.adaptive.placing import PLAN, TODAY, alignment

GRID = replace(PLAN, shape=(26, 30, 30), spacing=(3.0, 3.0, 3.0), origin=(-42.0, -42.0, -39.0))
SEEN = Volume(np.ones(TODAY.shape, dtype=bool), TODAY)
N = 30


def gray(at: np.ndarray) -> np.ndarray:
    """Smooth, different along each axis."""
    return 30 + 0.4 * at[..., 0] + 0.2 * at[..., 1] - 0.3 * at[..., 2] + 5 * np.sin(at[..., 0] / 25)


def plan_dose(grid: Geometry = GRID) -> Dose:
    at = grid.points(np.moveaxis(np.indices(grid.shape), 0, -1))
    return Dose(Volume(gray(at).astype(np.float32), grid), plan_uid="1.2.9")


def day(number: int, gy: float | np.ndarray, width: float = 0.0, trust: Trust = GIVEN, shown: bool = True) -> FractionDose:
    band = UncertainDose(*(Volume(np.broadcast_to(np.float32(v), GRID.shape).copy(), GRID) for v in (gy, width)))
    return FractionDose(number, Estimated(band, trust), Volume(np.full(GRID.shape, shown), GRID))


def gray_of(one: FractionDose) -> np.ndarray:
    return one.dose.judged[0].gray.array


def width_of(one: FractionDose | Accumulated) -> np.ndarray:
    return one.dose.judged[0].half_width.array


def sum_of(one: Accumulated) -> np.ndarray:
    return one.dose.judged[0].dose.volume.array


def test_the_plans_dose_goes_where_the_couch_puts_it_without_being_resampled():
    turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1.0]])
    rigid = Rigid.of(turn, (3.0, -2.0, 5.0), Space.of(TODAY), Space.of(PLAN))
    dose = plan_dose()
    today = placed(dose, rigid)
    grid = today.whole.volume.geometry
    index = (10, 7, 22)
    there = rigid.points(grid.points(index), rigid.source)
    assert there == pytest.approx(GRID.points(index))
    assert today.whole.volume.array is dose.volume.array
    assert grid.frame_of_reference == TODAY.frame_of_reference
    assert today.whole.transformed == "RIGID"


def test_dose_placed_rigidly_and_mapped_back_rigidly_is_the_plans():
    of = alignment()
    dose = plan_dose()
    one = mapped(placed(dose, of.rigid), dose, of, 1, N, SEEN)
    assert gray_of(one) * N == pytest.approx(dose.volume.array, abs=1e-3)
    assert one.unmapped < 0.3


def test_tissue_that_moved_took_the_dose_of_where_it_was():
    away = np.array([4.0, 0.0, 0.0])
    of = alignment(push=lambda at: np.broadcast_to(away, at.shape))
    dose = plan_dose()
    one = mapped(placed(dose, of.rigid), dose, of, 1, N, SEEN)
    middle = tuple(n // 2 for n in GRID.shape)
    at = GRID.points(middle)
    # today it lies 4 mm to the right of where the rigid map puts it, and the beam stayed
    assert gray_of(one)[middle] * N == pytest.approx(gray(at - away), abs=0.05)


def test_the_band_is_the_slope_times_the_error():
    grid = replace(GRID, shape=(5, 6, 7))
    at = grid.points(np.moveaxis(np.indices(grid.shape), 0, -1))
    ramp = Volume((2.0 * at[..., 0] + 1.0 * at[..., 2]).astype(np.float32), grid)
    assert gradient_magnitude(ramp) == pytest.approx(np.full(grid.shape, np.hypot(2, 1)), rel=1e-4)


def test_where_nothing_is_seen_the_band_is_as_wide_as_the_deformation_departs_from_the_rigid_map():
    shown = np.ones(TODAY.shape, dtype=bool)
    shown[: TODAY.shape[0] // 2] = False
    dose, away = plan_dose(), np.array([0.0, 0.0, 12.0])
    straight, bent = alignment(), alignment(push=lambda at: np.broadcast_to(away, at.shape))
    slope = gradient_magnitude(dose.volume)
    for of, unseen in ((straight, 8.0), (bent, np.hypot(8.0, 12.0))):
        one = mapped(placed(dose, of.rigid), dose, of, 1, N, Volume(shown, TODAY))
        widths = np.median(width_of(one)[:, 10:20, 10:20] * N / slope[:, 10:20, 10:20], axis=(1, 2))
        assert widths[8] == pytest.approx(unseen, rel=0.1)
        assert widths[18] == pytest.approx(of.error, rel=0.2)


def test_fractions_without_an_image_count_as_the_nearest_one_before():
    plan = Dose(Volume(np.full(GRID.shape, 60.0, dtype=np.float32), GRID), plan_uid="1.2.9")
    total = accumulated([day(8, 1.0), day(3, 3.0)], plan, 10, N)
    # two as planned (2 Gy), five by the third (3 Gy), three by the eighth (1 Gy)
    assert sum_of(total) == pytest.approx(2 * 2.0 + 5 * 3.0 + 3 * 1.0)
    assert total.counted == 10
    assert total.accounting == (
        "Fractions 1 to 2 as planned, before the first image",
        "Fractions 3 to 7 by the image of fraction 3",
        "Fractions 8 to 10 by the image of fraction 8",
    )


def test_later_fractions_are_not_counted_and_none_counts_twice():
    plan = plan_dose()
    assert sum_of(accumulated([day(1, 2.0), day(5, 9.0)], plan, 1, N)) == pytest.approx(2.0)
    with pytest.raises(InputError, match="twice"):
        accumulated([day(1, 2.0), day(1, 2.0)], plan, 1, N)


def test_errors_of_one_image_add_up_and_those_of_several_less_than_that():
    plan = plan_dose()
    one = width_of(accumulated([day(1, 2.0, 0.1)], plan, 10, N))
    ten = width_of(accumulated([day(n, 2.0, 0.1) for n in range(1, 11)], plan, 10, N))
    assert one == pytest.approx(1.0)
    assert ten == pytest.approx(np.sqrt(0.5 * 1.0 + 0.5 * 10 * 0.01))


def test_a_dose_computed_today_is_taken_for_one_fraction_or_all_as_it_says():
    grid = replace(TODAY, shape=(5, 6, 7), image="")
    dose = Dose(Volume(np.full(grid.shape, 2.0, dtype=np.float32), grid), summation="FRACTION")
    assert recomputed(dose, TODAY, N).whole.volume.array == pytest.approx(60.0)
    assert recomputed(replace(dose, summation="PLAN"), TODAY, N).whole.volume.array == pytest.approx(2.0)
    for wrong in (replace(dose, summation="BEAM"), replace(dose, kind="ERROR")):
        with pytest.raises(InputError):
            recomputed(wrong, TODAY, N)
    with pytest.raises(FrameMismatch):
        recomputed(dose, PLAN, N)


def test_a_day_on_another_grid_is_refused():
    other = replace(GRID, origin=(0.0, 0.0, 0.0))
    zero, shown = Volume(np.zeros(other.shape, dtype=np.float32), other), Volume(np.ones(other.shape, dtype=bool), other)
    wrong = FractionDose(1, Estimated(UncertainDose(zero, zero), GIVEN), shown)
    with pytest.raises(FrameMismatch):
        accumulated([wrong], plan_dose(), 1, N)


# ---- what is not known ------------------------------------------------------------------------------------------------

TILTED = gray(GRID.points(np.moveaxis(np.indices(GRID.shape), 0, -1))) / N
"""Gy of one fraction, as planned."""
IMAGED = st.sets(st.integers(1, 20), min_size=1, max_size=20)


def summed_of(numbers, until: int = 20, width: float = 0.1, **more) -> Accumulated:
    return accumulated([day(n, TILTED, width, **more) for n in numbers], plan_dose(), until, N)


@settings(max_examples=25, deadline=None)
@given(IMAGED, st.data())
def test_the_band_never_grows_narrower_for_an_image_that_is_missing(numbers, data):
    fewer = data.draw(st.sets(st.sampled_from(sorted(numbers)), min_size=1))
    assert (width_of(summed_of(fewer)) >= width_of(summed_of(numbers)) - 1e-5).all()


def test_fractions_before_the_first_image_are_known_no_better_than_those_after_the_last():
    only_first, only_last, every = (width_of(summed_of(n)) for n in ([1], [20], range(1, 21)))
    assert (only_last >= only_first - 1e-5).all()
    assert (only_first > every).all()
    slope = gradient_magnitude(Volume(TILTED.astype(np.float32), GRID))
    # of 19 fractions each the image's band, what changes from day to day, and the drift since or until the image
    drift = slope * DRIFT * sum(range(1, 20))
    assert only_first == pytest.approx(np.sqrt((20 * 0.1) ** 2 + drift**2 + 19 * (slope * DAILY) ** 2), rel=1e-3)


def test_what_the_first_image_shows_to_differ_from_the_plan_widens_the_fractions_before_it():
    far = width_of(accumulated([day(20, TILTED + 0.5, 0.1)], plan_dose(), 20, N))
    assert (far >= 19 * 0.5).all()


def test_without_any_image_the_band_is_that_of_an_unknown_registration():
    none = width_of(accumulated([], plan_dose(), 10, N))
    assert none == pytest.approx(10 * 8.0 * gradient_magnitude(Volume(TILTED.astype(np.float32), GRID)), rel=1e-3)


def test_one_day_that_is_not_trusted_makes_the_sum_untrusted_and_is_named():
    days = [day(1, 2.0, trust=Trust(("the field folds",))), day(3, 2.0)]
    total = accumulated(days, plan_dose(), 3, N)
    assert total.dose.if_trusted is None
    assert total.dose.trust.doubts == ("Fraction 1: the field folds",)
    assert total.accounting == (
        "Fractions 1 to 2 by the image of fraction 1, which is not trusted",
        "Fraction 3 by the image of fraction 3",
    )
    assert accumulated(days[1:], plan_dose(), 3, N).dose.trust


def test_a_registration_that_is_not_trusted_is_taken_for_an_unknown_one():
    dose = plan_dose()
    trusted, doubted = (
        mapped(placed(dose, of.rigid), dose, of, 1, N, SEEN) for of in (alignment(), alignment(trusted=False))
    )
    assert doubted.dose.trust.doubts == ("made so",)
    inner = np.s_[8:-8, 8:-8, 8:-8]
    slope = gradient_magnitude(dose.volume)[inner] / N
    assert np.median(width_of(trusted)[inner] / slope) == pytest.approx(1.0, rel=0.2)
    assert np.median(width_of(doubted)[inner] / slope) == pytest.approx(8.0, rel=0.1)


def test_of_a_sum_it_is_known_how_much_stands_on_images_that_show_it():
    total = accumulated([day(3, 2.0), day(5, 2.0, shown=False)], plan_dose(), 8, N)
    # fractions 3 and 4 of eight
    assert total.dose.judged[0].shown.array == pytest.approx(2 / 8)
