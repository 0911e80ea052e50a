"""Integers that a caller gives."""

import numpy as np
import pytest

from skxlmr.system.integers import check_integer


@pytest.mark.parametrize("value", [True, np.True_, 2.0, "2", None])
def test_other_types_raise_and_name_the_argument(value):
    with pytest.raises(TypeError, match="top_k must be an integer, got"):
        check_integer("top_k", value, 1)


def test_integers_of_numpy_are_integers_and_small_ones_raise():
    check_integer("top_k", np.int64(1), 1)
    with pytest.raises(ValueError, match=r"top_k must be at least 1, got 0\."):
        check_integer("top_k", np.int32(0), 1)
