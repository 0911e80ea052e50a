"""The kernels in Triton's interpreter, and compiled for GPUs that need not be there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from skxlmr.model.int8_triton import operators
from skxlmr.system.triton import is_usable

triton = pytest.importorskip("triton", reason="triton is not installed (pip install triton)")
INTERPRETED = Path(__file__).with_name("interpreted.py")
SHARED_MEMORY = {(8, 0): 163 * 1024, (8, 9): 99 * 1024, (9, 0): 227 * 1024}  # bytes for one program
REGISTERS = 65536  # for one program
SPILLED = 256  # bytes of a thread that may be without a register
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
compiled: list = []  # by the fixture `capability`


@pytest.mark.skipif(not is_usable(), reason="triton finds no C compiler or no headers of Python")
def test_kernels_in_the_interpreter():
    """Triton reads TRITON_INTERPRET when it is imported, so this needs a process of its own."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(INTERPRETED)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


class AbsentGpu:
    """A driver of Triton that knows what to compile for, and launches nothing."""

    def __init__(self, capability: tuple[int, int]) -> None:
        self.number = 10 * capability[0] + capability[1]

    def get_current_target(self) -> object:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.number, 32)

    def get_current_device(self) -> int:
        return self.number  # Triton keeps what it compiled by the number of the device

    def get_current_stream(self, device: int) -> int:
        return 0


@pytest.fixture(params=SHARED_MEMORY, ids=lambda capability: f"sm_{capability[0]}{capability[1]}")
def capability(request, tmp_path, monkeypatch):
    """The compute capability of a GPU for which the operators compile their kernels, without launching them."""
    from triton.runtime import JITFunction, driver

    from skxlmr.model.int8_triton import kernels

    run = JITFunction.run
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    monkeypatch.setattr(driver, "_active", AbsentGpu(request.param))
    monkeypatch.setattr(operators, "_kernels", lambda x: kernels)
    monkeypatch.setattr(
        JITFunction, "run", lambda *args, warmup, **options: compiled.append(run(*args, warmup=True, **options))
    )
    compiled.clear()
    return request.param


def registers_and_stack(kernel, path: Path) -> tuple[int, int]:
    """Return the registers of a thread, and the bytes of local memory that it uses in addition."""
    path.write_bytes(kernel.asm["cubin"])
    dump = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(path)]
    output = subprocess.run(dump, capture_output=True, text=True, check=True).stdout
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", output).groups()
    return int(registers), int(stack)


def quantize(n_rows: int, width: int, n_outliers: int, dtype: torch.dtype, norm: bool) -> tuple[torch.Tensor, ...]:
    x, columns = torch.zeros(n_rows, width, dtype=dtype), torch.arange(n_outliers)
    weight = torch.ones(width, dtype=dtype) if norm else None
    is_outlier = torch.arange(width) < n_outliers
    return operators.quantize_rows(x, is_outlier, columns, weight, weight, 1e-5, norm)


def multiply(
    n_rows: int, width: int, n_columns: int, n_outliers: int, dtype: torch.dtype, n_layers: int = 1, **options
) -> None:
    weights = [torch.zeros(n_columns, width, dtype=torch.int8)] * n_layers
    of_outliers = [torch.zeros(n_outliers, n_columns, dtype=torch.int8)] * n_layers if n_outliers else []
    scbs, biases = [torch.ones(n_columns)] * n_layers, [torch.ones(n_columns, dtype=dtype)] * n_layers
    options = {"residual": None, "gelu": False} | options
    values, scales, high, _ = quantize(n_rows, width, n_outliers, dtype, norm=False)
    operators.int8_linear(values, scales, high, weights, scbs, of_outliers, biases, dtype=dtype, **options)


@pytest.mark.parametrize(("width", "n_outliers"), [(2560, 40), (10240, 160)])
def test_quantize_rows_of_xl_compiles_without_spilling(capability, width, n_outliers, tmp_path):
    quantize(2, width, n_outliers, torch.bfloat16, norm=width == 2560)
    (kernel,) = compiled
    assert registers_and_stack(kernel, tmp_path / "cubin")[1] == 0


@pytest.mark.parametrize("tiles", operators.TILES, ids=lambda tiles: f"{tiles.m}x{tiles.n}")
def test_int8_linear_of_xl_compiles_for_tensor_cores(capability, tiles, tmp_path, monkeypatch):
    if tiles.hopper and capability < (9, 0):
        pytest.skip("these tiles are for later GPUs")
    monkeypatch.setattr(operators, "candidates", lambda *_: [tiles])
    multiply(33, 2560, 2560, 40, torch.bfloat16, residual=torch.zeros(33, 2560, dtype=torch.bfloat16))
    kernel = compiled[1]
    ptx = kernel.asm["ptx"]
    assert re.search(r"(wgmma\.mma_async|mma)\.sync\.aligned\S*\.s8\.s8", ptx), "products of int8"
    assert re.search(r"cp\.async\.cg\.shared\.global \[.*\], \[.*\], (0x10|16)", ptx), "loads of 16 bytes"
    assert kernel.metadata.shared <= SHARED_MEMORY[capability]
    assert (kernel.metadata.num_warps, kernel.metadata.num_stages) == (tiles.warps, tiles.stages)
    registers, stack = registers_and_stack(kernel, tmp_path / "cubin")
    assert registers * 32 * tiles.warps <= REGISTERS
    assert stack <= SPILLED


@pytest.mark.parametrize("dtype", DTYPES)
def test_operators_of_odd_sizes_compile(capability, dtype):
    quantize(2, 77, 0, dtype, norm=True)
    multiply(3, 77, 33, 5, dtype, n_layers=3)
    multiply(1, 77, 33, 0, dtype, gelu=True)
    assert [kernel.name for kernel in compiled] == ["quantize_rows", *["quantize_rows", "int8_linear"] * 2]
    assert not any(kernel.metadata.enable_fp_fusion for kernel in compiled), "fused additions could depend on the tiles"
