"""Layers with weights in 8-bit floating point."""

import pytest
import torch
import torch.nn.functional as F
from quantized_layers import linear_and_quantized, quantized_layer
from sklearn.base import clone
from torch.testing import assert_close

from skxlmr import Float8, XLMRXLEmbedder
from skxlmr.model.float8 import Float8Linear
from skxlmr.model.float8_engines import E4M3


def pair(in_features=192, out_features=96):
    return linear_and_quantized(Float8(), in_features, out_features)


def relative(x, y):
    x, y = x.detach().double(), y.detach().double()
    return float((x - y).norm() / y.norm())


def test_weight_has_one_scale_per_output_channel():
    linear, layer = pair()
    assert (layer.values.dtype, layer.weight.shape) == (E4M3, (96, 192))
    assert_close(layer.scales, linear.weight.detach().abs().amax(1) / 448, rtol=1e-6, atol=0)
    assert_close(layer.dequantize(torch.float64), layer.values.double() * layer.scales.double()[:, None])
    assert relative(layer.dequantize(torch.float64), linear.weight) < 0.03
    assert torch.equal(layer.unscaled(torch.float32), layer.values.float())


def test_load_fills_the_allocated_weight():
    linear, layer = pair()
    other = Float8Linear(192, 96, device="meta")
    other.allocate("cpu")
    address = other.weight.data_ptr()
    other.load("weight", linear.weight.detach())
    assert other.weight.data_ptr() == address
    assert torch.equal(other.dequantize(torch.float32), layer.dequantize(torch.float32))


def test_float8_linear_gradient_reaches_input_only():
    _, layer = pair(24, 10)
    x = torch.randn(3, 4, 24, dtype=torch.float64, requires_grad=True)
    layer.scales.data.fill_(2**-9)  # float32 numbers whose products are exact
    assert torch.autograd.gradcheck(layer, x)
    layer(x).sum().backward()
    assert not any(p.requires_grad or p.grad is not None for p in layer.parameters())


def test_float8_linear_takes_an_input_that_others_share():
    _, layer = pair()
    x = torch.randn(5, 192)
    expected = layer(x)
    assert torch.equal(layer(x, layer.prepare(x)), expected)
    learning = x.clone().requires_grad_()
    assert torch.equal(layer(learning, layer.prepare(learning)).detach(), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.bfloat16])
def test_float8_linear_cast_keeps_weight_and_scales(dtype):
    _, layer = pair()
    weight, scales = layer.weight.clone(), layer.scales.clone()
    layer.to(dtype)
    assert layer.bias.dtype == dtype
    assert torch.equal(layer.weight, weight)
    assert torch.equal(layer.scales, scales)
    assert not layer.weight.requires_grad


def test_settings_are_parameters_of_estimators():
    embedder = XLMRXLEmbedder("nano", load_in_8bit=Float8())
    assert embedder.get_params()["load_in_8bit__engine"] == "auto"
    twin = clone(embedder).set_params(load_in_8bit__engine="dequantize")
    assert (twin.load_in_8bit, embedder.load_in_8bit) == (Float8(engine="dequantize"), Float8())
    with pytest.raises(ValueError, match="Float8 has no parameter 'outliers'; it has engine"):
        Float8().set_params(outliers="none")
    with pytest.raises(
        ValueError, match=r"Float8 engine must be one of \('auto', 'scaled_mm', 'dequantize'\), got 'fp'"
    ):
        XLMRXLEmbedder("nano", load_in_8bit=Float8(engine="fp")).fit(["a text"])


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("in_features", "out_features"), [(192, 96), (40, 5)])
def test_float8_linear_on_cuda_is_near_the_cpu(in_features, out_features, dtype):
    linear, layer = pair(in_features, out_features)
    there = quantized_layer(linear.to("cuda"), Float8())
    assert torch.equal(there.weight.cpu(), layer.weight)
    assert_close(there.scales.cpu(), layer.scales)
    x = torch.randn(20, in_features)
    x[3] *= 1000
    outputs, gradients = [], []
    for each in (layer, there):
        moved = x.to(each.weight.device, dtype).requires_grad_()
        y = each(moved)
        (gradient,) = torch.autograd.grad(y.float().sum(), moved)
        outputs.append(y.detach().float().cpu())
        gradients.append(gradient.float().cpu())
    error = (outputs[1] - outputs[0]).norm(dim=1) / outputs[0].norm(dim=1)
    assert error.max() < 0.06  # inputs are rounded to three bits of mantissa where they are multiplied in 8 bits
    assert_close(gradients[1], gradients[0], rtol=2e-2, atol=2e-2)
    exact = F.linear(x, linear.weight.cpu(), linear.bias.cpu())
    assert ((outputs[1] - exact).norm(dim=1) / exact.norm(dim=1)).max() < 0.08
