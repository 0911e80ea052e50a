"""The engines by name, and which of them a device gets."""

from __future__ import annotations

import functools

import torch

from skxlmr.model.avx import operators as avx_operators
from skxlmr.model.avx.library import library as avx_library
from skxlmr.model.dequantize import Dequantize
from skxlmr.model.int8_engines.bits_and_bytes import BitsAndBytes
from skxlmr.model.int8_engines.fused import Avx, Fused, triton_operators
from skxlmr.model.int8_engines.int_mm import IntMM
from skxlmr.model.quantized_input import Engine
from skxlmr.system import bitsandbytes, triton
from skxlmr.system.capability import cuda_capability

ENGINES: dict[str, Engine] = {
    "int_mm": IntMM(),
    "avx": Avx(lambda: avx_operators),
    "triton": Fused(triton_operators),
    "bitsandbytes": BitsAndBytes(),
    "dequantize": Dequantize(),
}
# Compute capabilities from which engines have integer products; cuBLAS multiplies them on tensor cores since Turing.
LEAST_CAPABILITY = {"int_mm": (7, 5), "triton": (8, 0), "bitsandbytes": (7, 5)}


def choose_engine(name: str, device: torch.device) -> Engine:
    """Return an engine by name; "auto" is the fastest that runs on the device.

    Raises ImportError for "triton" where it is not installed and for "avx" where its kernels are not, and ValueError
    for an engine on a device that it does not run on, or on a GPU for which it has no integer products.
    """
    if name == "auto":
        name = "dequantize"
        if device.type == "cuda":
            name = _fastest_on_cuda(device)
        elif device.type == "cpu":
            name = fastest_on_cpu()
    if name == "triton":
        triton.require()
        if device.type != "cuda" and not triton.is_interpreting():
            raise ValueError(
                f"Int8 engine='triton' runs on CUDA devices only, not on {device.type!r}. Use engine='auto'."
            )
    if name == "avx":
        _require_avx(device)
    least = LEAST_CAPABILITY.get(name)
    if least is not None and device.type == "cuda" and cuda_capability(device) < least:
        raise ValueError(
            f"Int8 engine={name!r} needs a GPU of compute capability {least[0]}.{least[1]} or higher, which "
            f"{torch.cuda.get_device_name(device)} does not have. Use engine='auto', which is "
            f"{_fastest_on_cuda(device)!r} there."
        )
    return ENGINES[name]


def fastest_on_cpu() -> str:
    """Return the name of the engine that "auto" is on this CPU."""
    if avx_library() is not None:
        return "avx"
    return "int_mm" if cpu_has_int8() else "dequantize"


def _require_avx(device: torch.device) -> None:
    if device.type not in ("cpu", "meta"):
        raise ValueError(f"Int8 engine='avx' runs on CPUs, but the device is {str(device)!r}. Use engine='auto'.")
    if avx_library() is None:
        raise ImportError(
            "Int8(engine='avx') needs an x86 CPU with AVX2 and the kernels that are compiled when skxlmr is installed, "
            "for which there must be a C compiler: install gcc or clang, then skxlmr again. Int8(engine='auto') runs "
            "without them."
        )


def _fastest_on_cuda(device: torch.device) -> str:
    if torch.version.hip is not None:  # GPUs of AMD, for which bitsandbytes comes as a build of its own
        return "dequantize"
    capability = cuda_capability(device)
    if capability >= LEAST_CAPABILITY["triton"] and triton.is_usable():
        return "triton"
    if capability < LEAST_CAPABILITY["int_mm"]:
        return "dequantize"
    return "bitsandbytes" if bitsandbytes.has_cuda() else "int_mm"


@functools.cache
def cpu_has_int8() -> bool:
    """Whether this CPU has instructions for int8 products (VNNI or AMX); without them the engine int_mm is slow."""
    flags = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(flags.get(name) for name in ("avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"))
