"""Settings of storages, and their names."""

import pytest
import torch
from quantized_layers import quantized_layer
from torch import nn

from skxlmr.model.float8 import Float8
from skxlmr.model.int8 import Int8
from skxlmr.model.storage import kind_of, prepare, quantization_settings


@pytest.mark.parametrize(
    ("given", "settings", "kind"),
    [
        ((False, False), None, None),
        ((True, False), Int8(), "int8"),
        ((Int8(threshold=3.0), False), Int8(threshold=3.0), "int8"),
        ((Float8(), False), Float8(), "float8"),
        ((False, True), "nf4", "nf4"),
    ],
)
def test_quantization_settings_and_their_kind(given, settings, kind):
    assert quantization_settings(*given) == settings
    assert kind_of(settings) == kind


def test_quantization_settings_that_are_invalid_raise():
    for each in (True, Int8(), Float8()):
        with pytest.raises(ValueError, match="exclude each other"):
            quantization_settings(each, True)
    with pytest.raises(ValueError, match="Float8 engine must be one of"):
        quantization_settings(Float8(engine="int_mm"), False)


@pytest.mark.parametrize("settings", [Int8(threshold=2.0), Float8(engine="dequantize")])
def test_settings_by_name_make_an_equal_object(settings):
    assert type(settings)(**settings.get_params()) == settings
    changed = type(settings)().set_params(**settings.get_params())
    assert changed == settings
    with pytest.raises(ValueError, match=f"{type(settings).__name__} has no parameter 'bits'"):
        changed.set_params(bits=8)


def test_prepare_is_for_layers_in_8_bits_only():
    linear, x = nn.Linear(32, 16), torch.randn(3, 32)
    assert prepare(linear, x) is None
    assert prepare(quantized_layer(linear, "nf4"), x) is None
    for settings in (Int8(), Float8()):
        layer = quantized_layer(linear, settings)
        assert torch.equal(layer(x, prepare(layer, x)), layer(x))
