"""Layers with frozen weights in 8-bit floating point or in 4 bits: what is the same for both."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from quantized_layers import dequantized, linear_and_quantized
from torch.testing import assert_close

from skxlmr import Float8

pytestmark = pytest.mark.parametrize("settings", [Float8(), "nf4"], ids=["float8", "nf4"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_layer_equals_linear_with_dequantized_weight(settings, dtype):
    _, layer = linear_and_quantized(settings)
    x = torch.randn(2, 5, 192).to(dtype)
    y = layer(x)
    assert y.dtype == dtype
    assert torch.equal(y, dequantized(layer, dtype)(x))
    assert layer(x[0, 0]).shape == (96,)
    assert layer(x[:0]).shape == (0, 5, 96)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradient_equals_that_of_linear_with_dequantized_weight(settings, dtype):
    _, layer = linear_and_quantized(settings)
    x = torch.randn(3, 4, 192).to(dtype)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    outward = torch.randn(3, 4, 96).to(dtype)
    layer(ours).backward(outward)
    dequantized(layer, dtype)(theirs).backward(outward)
    rounds_once = settings == "nf4" or dtype == torch.float32  # float8 rounds the scaled gradient, too
    assert_close(ours.grad, theirs.grad, **({} if rounds_once else {"rtol": 2e-2, "atol": 2e-2}))


def test_layer_saves_no_tensors_for_backward(settings):
    _, layer = linear_and_quantized(settings)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda packed: packed):
        layer(torch.randn(3, 192, requires_grad=True))
    assert not saved


def test_copies_pickles_and_state_dict_give_the_same_layer(settings):
    _, layer = linear_and_quantized(settings)
    other = type(layer)(192, 96)
    other.load_state_dict(layer.state_dict())
    x = torch.randn(2, 192)
    for twin in (other, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x), layer(x))
    assert set(layer.state_dict()) == {*layer.quantized_parameters, "bias"}
    assert not list(layer.buffers()), "sharding leaves buffers whole"


def test_layer_without_bias_of_zeros_is_zero(settings):
    _, layer = linear_and_quantized(settings, bias=False)
    assert layer.bias is None
    assert set(layer.state_dict()) == set(layer.quantized_parameters)
    assert layer(torch.zeros(2, 192)).abs().max() == 0


def test_weight_of_zeros_stays_zero(settings):
    _, layer = linear_and_quantized(settings, bias=False)
    layer.load("weight", torch.zeros(96, 192))
    assert layer.dequantize(torch.float32).abs().max() == 0
    assert layer(torch.randn(2, 192)).abs().max() == 0


def test_layer_runs_in_inference_mode(settings):
    _, layer = linear_and_quantized(settings)
    x = torch.randn(3, 192)
    expected = layer(x)
    with torch.inference_mode():
        assert torch.equal(layer(x), expected)
    assert layer(x.requires_grad_()).requires_grad


def test_layer_is_shared_by_threads(settings):
    _, layer = linear_and_quantized(settings)
    xs = [torch.randn(3, 192) for _ in range(8)]

    def output_and_gradient(x):
        x = x.clone().requires_grad_()
        y = layer(x)
        return y.detach(), torch.autograd.grad(y.square().sum(), x)[0]

    expected = [output_and_gradient(x) for x in xs]
    with ThreadPoolExecutor(2) as pool:
        for found, wanted in zip(pool.map(output_and_gradient, xs), expected, strict=True):
            assert_close(found, wanted, rtol=0, atol=0)
