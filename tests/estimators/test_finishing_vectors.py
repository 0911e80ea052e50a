import numpy as np
from sklearn.preprocessing import normalize

from skxlmr.estimators.finishing_vectors import scaled_to_unit_length


def test_scaled_to_unit_length_equals_normalize_of_scikit_learn():
    vectors = np.random.default_rng(0).normal(size=(5, 33)).astype(np.float32)
    vectors[1] = 0
    expected = normalize(vectors)
    assert np.array_equal(scaled_to_unit_length(vectors), expected)
