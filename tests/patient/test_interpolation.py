"""Arrays between their nodes, against what scipy says."""

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from patient.interpolation import gradient_at, interpolated


@pytest.mark.parametrize("shape", [(7, 8, 9), (1, 8, 9), (7, 1, 1)])
def test_values_between_nodes_are_those_of_linear_interpolation(shape):
    rng = np.random.default_rng(2)
    arrays = [rng.normal(30, 10, shape).astype(np.float32) for _ in range(2)]
    at = rng.uniform(0, 1, (3, 5000)) * (np.array(shape)[:, None] - 1)
    at[:, :50] = np.rint(at[:, :50])
    for array, found in zip(arrays, interpolated(arrays, at), strict=True):
        assert found == pytest.approx(map_coordinates(array, at, order=1, prefilter=False), abs=1e-4)


@pytest.mark.parametrize("shape", [(5, 6, 7), (1, 4, 2)])
def test_the_gradient_at_every_node_is_central_and_at_the_border_one_sided(shape):
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    spacing = (3.0, 1.5, 0.7)
    at = np.stack(np.indices(shape), axis=-1).reshape(-1, 3)
    known = np.zeros((*shape, 3))
    for axis, size in enumerate(shape):
        if size > 1:
            known[..., axis] = np.gradient(values.astype(np.float64), spacing[axis], axis=axis)
    assert np.allclose(gradient_at(values, at, spacing), known.reshape(-1, 3), rtol=1e-5, atol=1e-6)
