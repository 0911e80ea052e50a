"""Integer products by `torch._int_mm`: blocks of rows, the buffer for sums, sizes that cuBLAS takes."""

import os
import subprocess
import sys
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

    def strict(a, b):
        assert len(a) > 16
        assert a.shape[1] % 8 == b.shape[1] % 8 == 0
        assert b.stride(0) == 1, "the other order of rows and columns has no kernel"
        return (a.long() @ b.long()).int()

    monkeypatch.setattr(torch, "_int_mm", strict)
    for b in (weight.t(), weight.t().contiguous()):
        assert torch.equal(module._filled_int_mm(a, b).long(), a.long() @ b.long())


@pytest.mark.parametrize("is_exact", [True, False], ids=["as here", "CPU whose products are cut to 16 bits"])
@pytest.mark.parametrize("with_out", [False, True])
@pytest.mark.parametrize(("n_rows", "inner", "n_columns"), [(1, 64, 96), (20, 2500, 7), (33, 1024, 40)])
def test_int_mm_on_cpu_is_exact(n_rows, inner, n_columns, with_out, is_exact, monkeypatch):
    if not is_exact:
        monkeypatch.setattr(module, "_is_exact_on_cpu", lambda: False)
        monkeypatch.setattr(torch, "_int_mm", None)
    generator = torch.Generator().manual_seed(0)
    a = torch.randint(-128, 128, (n_rows, inner), dtype=torch.int8, generator=generator)
    b = torch.randint(-128, 128, (n_columns, inner), dtype=torch.int8, generator=generator).t()
    a[0], b[:, 0] = -128, -128  # the largest sums
    out = torch.full((n_rows, n_columns), 7, dtype=torch.int32) if with_out else None
    product = module.int_mm(a, b, out)
    assert torch.equal(product.long(), a.long() @ b.long())
    assert out is None or product is out


PROGRAM = """
import torch
from skxlmr.model.int8_engines.int_mm import int_mm
a = torch.full((40, 192), 127, dtype=torch.int8)
assert (int_mm(a, a.t()) == 192 * 127**2).all()
"""


@pytest.mark.parametrize("instructions", ["ALL", "AVX2"])
def test_int_mm_is_exact_with_the_instructions_of_older_cpus(instructions):
    """oneDNN reads this variable once, at its first product."""
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": instructions}
    subprocess.run([sys.executable, "-c", PROGRAM], env=environment, check=True, timeout=300)
