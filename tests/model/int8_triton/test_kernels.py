"""The kernels in Triton's interpreter, and compiled for GPUs that need not be there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from skxlmr.model.int8_triton import operators
from skxlmr.system.triton import is_usable

triton = pytest.importorskip("triton", reason="triton is not installed (pip install triton)")
INTERPRETED = Path(__file__).with_name("interpreted.py")
SHARED_MEMORY = {(8, 0): 163 * 1024, (8, 9): 99 * 1024, (9, 0): 227 * 1024}  # bytes for one program
REGISTERS = 65536  # for one program, and 255 for a thread
XL_TOKENS = 4096
TYPES = {
    "eps": "fp32", "is_outlier_ptr": "*i1", "columns_ptr": "*i64", "scales_ptr": "*fp32", "values_ptr": "*i8",
    "high_ptr": "*i8", **dict.fromkeys(("T", "N", "K", "R", "S"), "i32"),
}  # fmt: skip


@pytest.mark.skipif(not is_usable(), reason="triton finds no C compiler or no headers of Python")
def test_kernels_in_the_interpreter():
    """Triton reads TRITON_INTERPRET when it is imported, so this needs a process of its own."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(INTERPRETED)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def type_of(name: str) -> str:
    """Return the type of an argument of a kernel for activations in bfloat16."""
    if "scb" in name:
        return "*fp32"
    if re.fullmatch(r"(second_|third_)?(outlier_)?weight_ptr", name):
        return "*i8"
    return TYPES.get(name, "*bf16")


def compiled(kernel, capability: tuple[int, int], constants: dict, **options: int):
    """Compile a kernel for XL, where all sizes but the numbers of tokens and outliers are multiples of 16."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else type_of(name) for name in names}
    if kernel.__name__ == "quantize_rows":
        signature["weight_ptr"] = "*bf16"  # of the LayerNorm
    unknown = {*constants, "eps", "T", "R", *(["S"] if kernel.__name__ == "quantize_rows" else [])}
    attributes = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name not in unknown}
    source = ASTSource(kernel, signature, {(names.index(name),): v for name, v in constants.items()}, attributes)
    target = GPUTarget("cuda", 10 * capability[0] + capability[1], 32)
    return triton.compile(source, target=target, options={**options, "enable_fp_fusion": False})


def usage(cubin: bytes, path: Path) -> tuple[int, int]:
    """Return the registers of a thread, and the bytes of local memory that it uses in addition."""
    path.write_bytes(cubin)
    dump = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(path)]
    output = subprocess.run(dump, capture_output=True, text=True, check=True).stdout
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", output).groups()
    return int(registers), int(stack)


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))


@pytest.mark.parametrize("capability", SHARED_MEMORY, ids=lambda c: f"sm_{c[0]}{c[1]}")
@pytest.mark.parametrize("width", [2560, 10240])
def test_quantize_rows_compiles_without_spilling(capability, width, tmp_path):
    from skxlmr.model.int8_triton.kernels import quantize_rows

    block = 2 ** (width - 1).bit_length()
    constants = {"BLOCK_K": block, "BLOCK_S": 64, "NORM": width == 2560, "KEEP": False, "OUTLIERS": True}
    kernel = compiled(quantize_rows, capability, constants, num_warps=min(16, max(4, block // 2048)))
    assert usage(kernel.asm["cubin"], tmp_path / "cubin")[1] == 0


@pytest.mark.parametrize("capability", SHARED_MEMORY, ids=lambda c: f"sm_{c[0]}{c[1]}")
def test_int8_linear_compiles_for_tensor_cores(capability, tmp_path):
    from skxlmr.model.int8_triton.kernels import int8_linear

    for tiles in {*operators.candidates(1, capability), *operators.candidates(XL_TOKENS, capability)}:
        constants = {"TILE_M": tiles.m, "TILE_N": tiles.n, "TILE_K": operators.TILE_K, "TILE_R": operators.TILE_R}
        constants |= {"GROUP": operators.GROUP, "BIAS": True, "WHOLE_K": True}
        constants |= {"THREE": tiles.m == 16, "RESIDUAL": tiles.m != 16, "GELU": False}  # of these, most registers
        kernel = compiled(int8_linear, capability, constants, num_warps=tiles.warps, num_stages=tiles.stages)
        ptx = kernel.asm["ptx"]
        assert re.search(r"(wgmma\.mma_async|mma)\.sync\.aligned\S*\.s8\.s8", ptx), "products of int8"
        assert re.search(r"cp\.async\.cg\.shared\.global \[.*\], \[.*\], (0x10|16)", ptx), "loads of 16 bytes"
        assert kernel.metadata.shared <= SHARED_MEMORY[capability]
        registers, stack = usage(kernel.asm["cubin"], tmp_path / "cubin")
        assert registers * 32 * tiles.warps <= REGISTERS
        assert stack <= 128, "bytes that do not fit in registers"
