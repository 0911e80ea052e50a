"""Integer products by `torch._int_mm`: blocks of rows, the buffer for sums, sizes that cuBLAS takes."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from quantized_layers import quantized_layer
from torch import nn

from skxlmr.model.blocks import BLOCK
from skxlmr.model.int8 import Int8
from skxlmr.model.int8_engines import int_mm as module


@pytest.fixture
def linear():
    torch.manual_seed(0)
    return nn.Linear(192, 96)


def inputs():
    return torch.randn(41, 192, generator=torch.Generator().manual_seed(1))


def quantized(linear, columns=()):
    layer = quantized_layer(linear, Int8(engine="int_mm"))
    layer.set_outliers(torch.tensor(columns, dtype=torch.int64))
    return layer


def test_int_mm_engine_in_blocks_equals_whole(linear, monkeypatch):
    layer, x = quantized(linear, [7]), inputs()
    whole = layer(x)
    monkeypatch.setitem(BLOCK, "cpu", 3 * 96)
    assert torch.equal(layer(x), whole)


@pytest.mark.parametrize("largest", [2**20, 100], ids=["kept", "too large to be kept"])
def test_workspace_reused_does_not_change_results(linear, largest, monkeypatch):
    monkeypatch.setattr(module, "_workspace", module.Workspace())
    monkeypatch.setattr(module, "LARGEST_WORKSPACE", largest)
    layer, wide = quantized(linear, [7]), quantized(nn.Linear(192, 300))
    x = inputs()
    with torch.inference_mode():
        first, kept = layer(x[:5]), wide(x).clone()
        assert torch.equal(layer(x)[:5], first)
    learning = x.clone().requires_grad_()  # the buffer was allocated in inference mode
    wide(learning).sum().backward()
    assert torch.equal(wide(learning).detach(), kept)
    assert (len(module._workspace.buffer) == 41 * 300) == (largest == 2**20)


def test_workspace_ignores_default_device(linear, monkeypatch):
    monkeypatch.setattr(module, "_workspace", module.Workspace())
    layer, x = quantized(linear), inputs()
    with torch.device("meta"):
        module._workspace.sums(*layer(x).shape, x.device)
    assert torch.equal(layer(x[:2]), layer(x)[:2])


def test_workspace_is_separate_per_thread(linear):
    layer, batches = quantized(linear, [7]), inputs().split(8)
    expected = [layer(x) for x in batches]
    with ThreadPoolExecutor(4) as threads:
        for _ in range(20):
            for y, right in zip(threads.map(layer, batches), expected, strict=True):
                assert torch.equal(y, right)


@pytest.mark.parametrize(("n_rows", "inner", "n_columns"), [(1, 192, 96), (17, 3, 40), (30, 7, 5), (40, 16, 32)])
def test_filled_int_mm_pads_to_cublas_sizes(n_rows, inner, n_columns, monkeypatch):
    a = torch.randint(-127, 128, (n_rows, inner), dtype=torch.int8)
    weight = torch.randint(-127, 128, (n_columns, inner), dtype=torch.int8)
    multiply = torch._int_mm

    def strict(a, b):
        assert len(a) > 16
        assert a.shape[1] % 8 == b.shape[1] % 8 == 0
        assert b.stride(0) == 1, "the other order of rows and columns has no kernel"
        return multiply(a, b)

    monkeypatch.setattr(torch, "_int_mm", strict)
    for b in (weight.t(), weight.t().contiguous()):
        assert torch.equal(module._filled_int_mm(a, b).long(), a.long() @ b.long())
