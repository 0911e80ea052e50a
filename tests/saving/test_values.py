import json
from pathlib import Path

import numpy as np
import pytest
import torch
from parameter_ids import id_without_address

from skxlmr import Float8, Int8, LoRA
from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.saving.values import Decoder, Encoder
from skxlmr.system.nested_json import loads


@pytest.mark.parametrize(
    "value",
    [
        None, 3, -0.5, float("nan"), float("-inf"), "näé", True, [1, "a", [None]], (1, (2,)), {1: "a", "b": (2.5,)},
        np.float32(0.5), Path("a") / "b", np.arange(6).reshape(2, 3), np.array(["a", "bc"]), np.array([1.5]),
        LoRA(rank=3, targets=("up",)), Int8(outliers="dynamic"), Float8(engine="dequantize"),
        np.asfortranarray(np.ones((2, 3), np.float32)), np.array(3), np.array(["2020-01-01"], "datetime64[us]"),
    ],
    ids=id_without_address,
)  # fmt: skip
def test_decode_of_encoded_value_returns_it(value):
    encoder = Encoder()
    text = json.dumps(encoder.encode(value, "it"), allow_nan=False)
    again = Decoder(encoder.arrays, Path("x.json")).decode(json.loads(text))
    np.testing.assert_equal(repr(again), repr(value.item() if isinstance(value, np.generic) else value))
    if isinstance(value, np.ndarray):
        assert (again.dtype, again.flags.f_contiguous) == (value.dtype, value.flags.f_contiguous)


@pytest.mark.parametrize(
    "value",
    [object(), np.array([{}]), {"a": 1j}, len, np.datetime64("2020-01-01"), np.ones(2, np.longdouble)],
    ids=id_without_address,
)
def test_encode_with_unsupported_value_raises(value):
    with pytest.raises(TypeError, match=r"my value.* cannot be saved"):
        Encoder().encode(value, "my value")


def nested(kind, depth):
    value = 1
    for _ in range(depth):
        value = kind(value)
    return value


@pytest.mark.parametrize("kind", [lambda v: [v], lambda v: (v,), lambda v: {"a": v}])
def test_encode_of_deep_value_raises_or_its_json_can_be_read(kind):
    depth = 0
    with pytest.raises(TypeError, match=r"my value.* cannot be saved: it is nested deeper than 45 levels"):  # noqa: PT012
        while True:
            depth += 1
            text = json.dumps({"fitted": {"x_": Encoder().encode(nested(kind, depth), "my value")}})
            assert repr(Decoder({}, Path("x.json")).decode(loads(text)["fitted"]["x_"])) == repr(nested(kind, depth))
    assert 15 < depth < 50


class LoRAOfUser(LoRA):
    pass


def test_encode_with_subclass_of_tuning_raises():
    with pytest.raises(TypeError, match="tuning cannot be saved: it is a LoRAOfUser of another module"):
        Encoder().encode(LoRAOfUser(), "tuning")


LORA = {"kind": "object", "class": "LoRA", "parameters": {}}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"kind": "unknown"}, "unknown"),
        ({"value": 1}, "kind"),
        ({"kind": "float", "value": "1e9"}, "1e9"),
        ({"kind": "array", "tensor": "missing", "order": "C"}, "missing"),
        ({"kind": "array", "tensor": "a", "order": "C", "dtype": "uint16"}, "expected an array of int16, got int64"),
        ({"kind": "array", "tensor": "a", "order": "C", "dtype": "object"}, "expected an array of None, got int64"),
        ({"kind": "array", "tensor": "a", "order": "C", "dtype": "datetime64[Q]"}, "expected an array of None"),
        ({"kind": "strings", "dtype": "<f8", "items": ["1"]}, "float64 is not a dtype of strings"),
        ({"kind": "strings", "dtype": "<U99999999", "items": ["a"] * 99}, "are too large"),
        ({"kind": "object", "class": "Popen", "parameters": {}, "fitted": {}}, "Popen"),
        ({**LORA, "fitted": {"__class__": 1}}, "'__class__' is not the name of an attribute"),
        ({**LORA, "fitted": {"a b": 1}}, "'a b' is not the name of an attribute"),
    ],
)
def test_decode_with_damaged_value_raises(value, message):
    arrays = Encoder()
    arrays.encode(np.arange(3), "a")
    decoder = Decoder({"a": arrays.arrays["array/0"]}, Path("x.json"))
    with pytest.raises(CheckpointError, match=rf"x\.json is damaged.*{message}"):
        decoder.decode(value)


@pytest.mark.parametrize("depth", [1, 10, 48])
@pytest.mark.parametrize("kind", ["tuple", "dict"])
def test_decode_of_nested_nonsense_has_message_that_does_not_grow(depth, kind):
    value = {"kind": "nonsense"}
    for _ in range(depth):
        value = {"kind": kind, "items": value if kind == "tuple" else [["a", value]]}
    with pytest.raises(CheckpointError, match="nonsense") as caught:
        Decoder({}, Path("estimator.json")).decode(value)
    assert len(str(caught.value)) < 200


def test_decode_of_array_that_is_named_twice_raises():
    """Otherwise a small file could ask for any number of copies of a large array."""
    value = {"kind": "array", "tensor": "array/0", "order": "F"}
    decoder = Decoder({"array/0": torch.zeros(2, 3)}, Path("estimator.json"))
    decoder.decode(value)
    with pytest.raises(CheckpointError, match="array/0"):
        decoder.decode(value)


def test_decode_of_many_arrays_of_wide_strings_raises():
    value = {"kind": "strings", "dtype": f"<U{2**24}", "items": ["a", "b"]}  # 128 MiB
    decoder = Decoder({}, Path("estimator.json"))
    with pytest.raises(CheckpointError, match="too large: the limit is"):
        decoder.decode([value] * 3)
