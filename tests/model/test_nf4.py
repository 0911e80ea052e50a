import logging
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from quantized_layers import dequantized, linear_and_quantized, quantized_layer
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from skxlmr.model import nf4 as four_bit
from skxlmr.model.nf4 import BLOCK, Linear4bit, quantize_nf4
from skxlmr.system.bitsandbytes import bitsandbytes_ops

# (K, N): blocks that end with rows, that are in two rows, with a short last one; odd numbers of columns and weights
SIZES = [(192, 96), (64, 1), (96, 5), (32, 4), (32, 3), (20, 7), (21, 6), (21, 7), (1, 1)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def pair(in_features=192, out_features=96):
    return linear_and_quantized("nf4", in_features, out_features)


def bitsandbytes_layer(linear):
    """Return the same layer, quantised by bitsandbytes."""
    bitsandbytes_ops()
    import bitsandbytes as bnb

    layer = bnb.nn.Linear4bit(linear.in_features, linear.out_features, quant_type="nf4", compress_statistics=False)
    layer.load_state_dict(linear.state_dict())
    return layer.to("cpu")


def looked_up(layer):
    """Return the weight in float32, each number as a code times the scale of its block."""
    bitsandbytes_ops()
    from bitsandbytes.functional import get_4bit_type

    n = layer.in_features * layer.out_features
    codes = torch.cat([layer.weight >> 4, layer.weight & 15], 1).view(-1)[:n].long()
    values = get_4bit_type("nf4", device="cpu")[codes] * layer.absmax.repeat_interleave(BLOCK)[:n]
    return values.view(layer.out_features, layer.in_features)


@pytest.mark.parametrize(("in_features", "out_features"), SIZES)
def test_quantize_nf4_equals_bitsandbytes(in_features, out_features):
    linear, layer = pair(in_features, out_features)
    other = bitsandbytes_layer(linear)
    assert torch.equal(layer.weight, other.weight)
    assert torch.equal(layer.absmax, other.weight.quant_state.absmax)
    empty = Linear4bit(in_features, out_features, device="meta")
    assert empty.weight.shape == layer.weight.shape
    assert empty.absmax.shape == layer.absmax.shape


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("in_features", "out_features"), SIZES)
def test_dequantize_equals_codes_times_scales(in_features, out_features, dtype):
    _, layer = pair(in_features, out_features)
    weight = layer.dequantize(dtype)
    assert weight.dtype == dtype
    assert_close(weight, looked_up(layer).to(dtype), rtol=torch.finfo(dtype).eps, atol=0)  # ties may round either way


def test_dequantize_is_close_to_weight():
    linear, layer = pair()
    scales = layer.absmax.repeat_interleave(BLOCK).view_as(linear.weight)
    widest = 0.31 / 2  # half the largest distance of two codes of NF4, -1 and -0.696
    assert ((layer.dequantize(torch.float32) - linear.weight).abs() <= widest * scales).all()


def test_linear4bit_equals_bitsandbytes():
    linear, layer = pair()
    x = torch.randn(5, 192)
    assert_close(layer(x), bitsandbytes_layer(linear)(x), rtol=1e-5, atol=1e-5)


def test_quantize_nf4_in_chunks_equals_whole(monkeypatch):
    weight = torch.randn(37, 50).bfloat16()
    whole = quantize_nf4(weight)
    monkeypatch.setattr(four_bit, "CHUNK", 3 * BLOCK)
    for part, expected in zip(quantize_nf4(weight), whole, strict=True):
        assert torch.equal(part, expected)


def test_linear4bit_gradient_reaches_input_only():
    _, layer = pair(24, 10)
    x = torch.randn(3, 4, 24, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, x)
    assert torch.autograd.gradgradcheck(layer, x)
    layer(x).sum().backward()
    assert not any(p.requires_grad or p.grad is not None for p in layer.parameters())


@pytest.mark.parametrize("reentrant", [True, False])
def test_linear4bit_with_gradient_checkpointing(reentrant):
    _, layer = pair()
    x = torch.randn(3, 192)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    checkpoint(lambda t: layer(t).tanh(), ours, use_reentrant=reentrant).sum().backward()
    layer(theirs).tanh().sum().backward()
    assert torch.equal(ours.grad, theirs.grad)


def test_linear4bit_in_autocast_equals_linear():
    _, layer = pair()
    x = torch.randn(3, 192)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, expected = layer(ours), dequantized(layer)(theirs)
    assert y.dtype == expected.dtype == torch.bfloat16
    assert torch.equal(y, expected)
    y.float().sum().backward()
    expected.float().sum().backward()
    assert_close(ours.grad, theirs.grad, rtol=1e-2, atol=1e-2)


def test_linear4bit_cast_keeps_scales_in_float32():
    _, layer = pair()
    absmax = layer.absmax.clone()
    for dtype in (torch.float16, torch.float64):
        layer.to(dtype)
        assert layer.bias.dtype == dtype
        assert torch.equal(layer.absmax, absmax)
        assert layer.weight.dtype == torch.uint8


def test_linear4bit_missing_bitsandbytes_raises(monkeypatch):
    _, layer = pair()
    bitsandbytes_ops.cache_clear()
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ImportError, match="pip install bitsandbytes"):
        layer(torch.zeros(1, 192))
    bitsandbytes_ops.cache_clear()


def test_linear4bit_imports_bitsandbytes_lazily_and_silently():
    program = (
        "import sys, torch, skxlmr; from skxlmr.model.nf4 import Linear4bit;"
        "assert 'bitsandbytes' not in sys.modules;"
        "Linear4bit(21, 7).load('weight', torch.zeros(7, 21)); assert 'bitsandbytes' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert logging.getLogger("bitsandbytes.backends.cpu.ops").level == logging.NOTSET


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("in_features", "out_features"), [(192, 96), (96, 5), (21, 7)])
def test_linear4bit_on_cuda_equals_cpu(in_features, out_features, dtype):
    linear, layer = pair(in_features, out_features)
    there = quantized_layer(linear.to("cuda"), "nf4")
    assert torch.equal(there.weight.cpu(), layer.weight)
    x = torch.randn(5, in_features)
    outputs, gradients = [], []
    for each in (layer, there):
        moved = x.to(each.weight.device, dtype).requires_grad_()
        y = each(moved)
        (gradient,) = torch.autograd.grad(y.float().sum(), moved)
        outputs.append(y.detach().float().cpu())
        gradients.append(gradient.float().cpu())
    tolerance = 1e-3 if dtype == torch.float32 else 2e-2
    assert_close(outputs[1], F.linear(x, layer.dequantize(torch.float32), layer.bias.cpu()), rtol=tolerance, atol=0.05)
    assert_close(outputs[1], outputs[0], rtol=tolerance, atol=tolerance)
    assert_close(gradients[1], gradients[0], rtol=tolerance, atol=tolerance)
