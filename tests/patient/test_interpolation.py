"""Arrays between their nodes, against what scipy says."""

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from patient.interpolation import interpolated


@pytest.mark.parametrize("shape", [(7, 8, 9), (1, 8, 9), (7, 1, 1)])
def test_values_between_nodes_are_those_of_linear_interpolation(shape):
    rng = np.random.default_rng(2)
    arrays = [rng.normal(30, 10, shape).astype(np.float32) for _ in range(2)]
    at = rng.uniform(0, 1, (3, 5000)) * (np.array(shape)[:, None] - 1)
    at[:, :50] = np.rint(at[:, :50])
    for array, found in zip(arrays, interpolated(arrays, at), strict=True):
        assert found == pytest.approx(map_coordinates(array, at, order=1, prefilter=False), abs=1e-4)
