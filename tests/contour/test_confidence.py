from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr

from contour.confidence import Example, Features, calibrated, deviation, predicted
from contour.model import Population

USUAL = Population(low_cc=10.0, median_cc=20.0, high_cc=40.0, patients=50)


def _examples(patients=12):
    """Patients whose Dice falls with the doubt, and has nothing to do with how strange a volume is."""
    draw = np.random.default_rng(0)
    for patient in range(patients):
        for structure in ("Brainstem", "Parotid_L", "Larynx"):
            doubt = abs(draw.normal(0.2, 0.2))
            dice = float(np.clip(np.exp(-1.5 * doubt) + draw.normal(0, 0.03), 0, 1))
            yield Example(str(patient), structure, Features(doubt, doubt / 2, abs(draw.normal()), 0.0), dice)


def test_a_calibration_ranks_patients_that_it_never_saw():
    known, unknown = (list(_examples())[n::2] for n in (0, 1))
    formula = calibrated(known, 0.6)
    said = [predicted(e.features, e.structure, formula) for e in unknown]
    assert spearmanr(said, [e.dice for e in unknown]).statistic > 0.9
    assert np.abs(np.subtract(said, [e.dice for e in unknown])).mean() < 0.08


def test_no_sign_of_doubt_ever_raises_a_prediction():
    upside_down = [replace(e, dice=1 - e.dice) for e in _examples()]
    formula = calibrated(upside_down, 0.6)
    assert all(weight <= 0 for weight in formula.weights.values())


def test_a_structure_that_nobody_calibrated_is_predicted_as_the_others():
    formula = calibrated(list(_examples()), 0.6)
    sure = Features(0.05, 0.02, 0.0, 0.0)
    assert predicted(sure, "Eye_L", formula) == pytest.approx(predicted(sure, "Brainstem", formula), abs=0.05)


def test_there_is_nothing_to_learn_from_nobody():
    with pytest.raises(ValueError, match="no findings"):
        calibrated([], 0.6)


def test_certain_voxels_of_a_usual_volume_leave_no_doubt():
    values = np.zeros((10, 10, 10), np.float32)
    values[3:6, 3:6, 3:6] = 1.0
    found = Features.of(values, values > 0.5, 20.0 / 27, USUAL, cut=False)
    assert found == Features(0.0, 0.0, 0.0, 0.0)


def test_a_small_organ_is_strange_unless_the_image_cuts_it():
    assert deviation(5.0, USUAL) < -3
    assert deviation(5.0, USUAL, cut=True) == 0
    assert deviation(80.0, USUAL, cut=True) > 3


def test_a_contour_below_the_usual_volume_is_small_and_one_above_is_not():
    values = np.zeros((10, 10, 10), np.float32)
    values[3:6, 3:6, 3:6] = 1.0
    small, large, cut = (
        Features.of(values, values > 0.5, cc / 27, USUAL, cut=is_cut)
        for cc, is_cut in ((12.0, False), (35.0, False), (12.0, True))
    )
    assert small.small == pytest.approx(-deviation(12.0, USUAL), abs=1e-4)
    assert (large.small, cut.small) == (0.0, 0.0)
