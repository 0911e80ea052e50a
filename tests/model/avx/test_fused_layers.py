"""Layers with 8-bit weights by the kernels for x86 CPUs against those of torch's operators."""

import pytest
import torch
from x86_kernels import kernels
from x86_models import LENGTHS, ROBERTA, SIZES, XL, encode, model_of

from skxlmr.model import XLMRobertaXLConfig
from skxlmr.model.avx import operators
from skxlmr.model.fused_encoder import FusedEncoder
from skxlmr.model.quantized import int8_layers
from skxlmr.tuning import Bias, LoRA


@pytest.fixture(autouse=True)
def one_layer_at_a_time(monkeypatch):
    """Compute each step of a layer by a call, where otherwise one call would run all layers."""
    kernels("avx2")
    monkeypatch.setattr(FusedEncoder, "can_run", lambda layers: False)


def adapter_of(tuning, config):
    """Return an adapter as after some training."""
    torch.manual_seed(1)
    adapter = tuning.build(config).eval()
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return adapter


def relative(x, y):
    return float((x - y).norm() / y.norm())


@pytest.fixture
def calls(monkeypatch):
    """The names of the operators that run."""
    names = []

    def counted(name, operator):
        def run(*arguments):
            names.append(name)
            return operator(*arguments)

        return run

    for name in ("quantize_rows", "int8_linear", "int8_gelu_rows", "attention"):
        monkeypatch.setattr(operators, name, counted(name, getattr(operators, name)))
    return names


TUNINGS = [None, LoRA(rank=2, layers=1), LoRA(rank=2, targets=["key", "down"]), Bias()]


@pytest.mark.parametrize("config", [XL, ROBERTA], ids=["XL", "RoBERTa"])
@pytest.mark.parametrize("tuning", TUNINGS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_layers_equal_layers_of_operators_of_torch(config, tuning, dtype):
    adapter = None if tuning is None else adapter_of(tuning, config)
    with torch.inference_mode():
        expected = encode(model_of(config, torch.float32, "int_mm"), adapter)
        found, unfused = (encode(model_of(config, dtype, engine), adapter) for engine in ("avx", "int_mm"))
    assert relative(found, expected) < (2e-3 if dtype == torch.float32 else 0.025)
    assert relative(found, expected) < 1.1 * relative(unfused, expected) + 2e-3


@pytest.mark.parametrize("activation", ["relu", "gelu_new"])
def test_fused_layers_with_another_activation(activation):
    config = XLMRobertaXLConfig(**SIZES, hidden_act=activation)
    with torch.inference_mode():
        assert relative(encode(model_of(config)), encode(model_of(config, engine="int_mm"))) < 2e-3


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
@pytest.mark.parametrize("config", [XL, ROBERTA], ids=["XL", "RoBERTa"])
def test_layer_runs_seven_kernels_and_attention(config, mode, calls, monkeypatch):
    monkeypatch.setattr(operators, "ROWS_IN_CACHE", 1)
    model = model_of(config)
    with mode():
        encode(model, lengths=[30] * 3)
    assert len(calls) == 2 * 8, calls
    assert calls.count("int8_gelu_rows") == calls.count("attention") == 2
    assert calls.count("quantize_rows") == calls.count("int8_linear") == 6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("config", [XL, ROBERTA], ids=["XL", "RoBERTa"])
def test_text_is_independent_of_batch_and_threads(config, dtype):
    model, before, many = model_of(config, dtype), torch.get_num_threads(), [*LENGTHS, *[7] * 10]
    try:
        torch.set_num_threads(3)
        with torch.inference_mode():
            together = encode(model, lengths=many)
            torch.set_num_threads(1)
            start = 0
            for length in many:
                assert torch.equal(encode(model, None, [length], start), together[start : start + length])
                start += length
    finally:
        torch.set_num_threads(before)


def test_adapter_is_trained_through_layers_of_the_same_products(calls):
    def gradients(engine):
        model, adapter = model_of(XL, engine=engine), adapter_of(LoRA(rank=2, layers=None), XL)
        encode(model, adapter).square().sum().backward()
        return [p.grad for p in adapter.parameters()]

    for gradient, expected in zip(gradients("avx"), gradients("int_mm"), strict=True):
        assert relative(gradient, expected) < 0.01
    assert "int8_linear" in calls
    assert "attention" not in calls
    assert "int8_gelu_rows" not in calls


@pytest.mark.parametrize("change", ["dropout", "observer", "hook", "norm"])
def test_layer_that_cannot_be_fused_gives_the_same(change, calls):
    model, adapter = model_of(XL), None
    with torch.inference_mode():
        expected = encode(model)
        calls.clear()
        if change == "dropout":
            for layer in model.layers:
                layer.training = True
        elif change == "observer":
            for layer in int8_layers(model).values():
                layer.observer = lambda x: None
        elif change == "hook":
            for layer in model.layers:
                layer.ffn.register_forward_hook(lambda *_: None)
        else:

            class Same(torch.nn.Module):
                def forward(self, x, y):
                    return y

            adapter = [{"ffn_norm": Same()}] * 2
        found = encode(model, adapter)
    assert "int8_gelu_rows" not in calls
    if change != "dropout":
        assert relative(found, expected) < 1e-3
