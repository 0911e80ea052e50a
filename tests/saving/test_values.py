"""JSON encoding of parameters and fitted attributes."""

import json
from pathlib import Path

import numpy as np
import pytest

from skxlmr import Int8, LoRA
from skxlmr.saving.values import Decoder, Encoder


@pytest.mark.parametrize(
    "value",
    [
        None, 3, -0.5, float("nan"), float("-inf"), "näé", True, [1, "a", [None]], (1, (2,)), {1: "a", "b": (2.5,)},
        np.float32(0.5), Path("a") / "b", np.arange(6).reshape(2, 3), np.array(["a", "bc"]), np.array([1.5]),
        LoRA(rank=3, targets=("up",)), Int8(outliers="dynamic"), np.asfortranarray(np.ones((2, 3), np.float32)),
        np.array(3),
    ],
    ids=repr,
)  # fmt: skip
def test_decode_of_encoded_value_equals_value(value):
    encoder = Encoder()
    text = json.dumps(encoder.encode(value, "it"), allow_nan=False)
    again = Decoder(encoder.arrays, Path("x.json")).decode(json.loads(text))
    np.testing.assert_equal(repr(again), repr(value.item() if isinstance(value, np.generic) else value))
    if isinstance(value, np.ndarray):
        assert (again.dtype, again.flags.f_contiguous) == (value.dtype, value.flags.f_contiguous)


@pytest.mark.parametrize(
    "value",
    [object(), np.array([{}]), {"a": 1j}, len, np.datetime64("2020-01-01"), np.ones(2, np.longdouble)],
    ids=["object", "array-of-objects", "complex-in-dict", "function", "datetime", "longdouble"],
)
def test_encode_with_unsupported_value_raises(value):
    with pytest.raises(TypeError, match=r"my value.* cannot be saved"):
        Encoder().encode(value, "my value")
