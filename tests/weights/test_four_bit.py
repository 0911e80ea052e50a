import pytest
import torch
from torch import nn
from torch.testing import assert_close

from skxlmr.weights.four_bit import Linear4bit


def pair(in_features=192, out_features=96, bias=True):
    torch.manual_seed(0)
    linear = nn.Linear(in_features, out_features, bias=bias)
    return linear, Linear4bit.from_linear(linear)


def theirs(linear):
    import bitsandbytes as bnb

    layer = bnb.nn.Linear4bit(linear.in_features, linear.out_features, quant_type="nf4", compress_statistics=False)
    layer.load_state_dict(linear.state_dict())
    return layer.to("cpu")


@pytest.mark.parametrize(("in_features", "out_features"), [(192, 96), (64, 1), (20, 7)])
def test_weights_are_packed_as_bitsandbytes_does(in_features, out_features):
    linear, layer = pair(in_features, out_features)
    other = theirs(linear)
    x = torch.randn(5, in_features)
    expected = other(x)
    assert torch.equal(layer.weight, other.weight)
    assert torch.equal(layer.absmax, other.weight.quant_state.absmax)
    assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
    empty = Linear4bit(in_features, out_features, device="meta")
    assert empty.weight.shape == layer.weight.shape
    assert empty.absmax.shape == layer.absmax.shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_it_is_about_the_layer(dtype):
    linear, layer = pair()
    x = torch.randn(2, 5, 192).to(dtype)
    y = layer(x)
    expected = linear(x.float()).detach()
    assert y.dtype == dtype
    assert float((y.float() - expected).norm() / expected.norm()) < 0.12


def test_gradients_flow_to_the_input():
    _, layer = pair()
    x, weights = torch.randn(3, 4, 192, requires_grad=True), torch.randn(3, 4, 96)
    (layer(x) * weights).sum().backward()
    assert_close(x.grad, weights @ layer.dequantize(torch.float32))
    assert not any(p.requires_grad for p in layer.parameters())


def test_without_bias():
    linear, layer = pair(bias=False)
    assert layer.bias is None
    assert layer(torch.zeros(2, 192)).abs().max() == 0
    assert linear.bias is None


def test_casting_keeps_the_scales():
    _, layer = pair()
    layer.to(torch.float16)
    assert layer.absmax.dtype == torch.float32
    assert layer.weight.dtype == torch.uint8


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_multiplies_as_the_cpu_does():
    _, layer = pair()
    x = torch.randn(5, 192)
    expected = layer(x).detach()
    assert_close(layer.to("cuda")(x.cuda()).detach().cpu(), expected, rtol=1e-3, atol=1e-3)
