"""Choice of device, dtype and quantisation: the meaning of "auto"."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping

import torch

from skxlmr.model.config import XLMRobertaXLConfig
from skxlmr.model.int8 import Int8
from skxlmr.model.storage import EightBit, Storage, quantization_settings
from skxlmr.tuning import Tuning

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Numbers of layer parameters. On a CPU, half precision slows down a smaller model for single texts and gains little in
# batches. A larger model fits into the memory of a laptop only with 8-bit weights.
SMALL_MODEL, LARGE_MODEL = 10_000_000, 1_000_000_000
ALL_GPUS = "cuda:all"
DEVICE_TYPES = ("cpu", "cuda", "mps")


def choose_devices(device: str) -> list[torch.device]:
    """Convert the parameter `device` to torch devices, the first of which trains; all but "cuda:all" are one."""
    if device != ALL_GPUS:
        return [choose_device(device)]
    if not torch.cuda.is_available():
        raise _missing(device, torch.device("cuda"))
    check_not_forked(torch.device("cuda"))
    return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]


def n_processes(n: int | str) -> int:
    """Return the number of processes that train together; "auto" is one per GPU that is visible."""
    return max(1, torch.cuda.device_count()) if isinstance(n, str) else int(n)


def choose_device(device: str) -> torch.device:
    """Convert the parameter `device` to a torch device; "auto" takes CUDA, then Apple's MPS, then the CPU.

    Of "cuda:all" this is the first one; see `choose_devices`.
    """
    if device == ALL_GPUS:
        return choose_devices(device)[0]
    if device == "auto":
        if torch.cuda.is_available():
            check_not_forked(torch.device("cuda"))
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ValueError(
            f"device={device!r} is not a torch device; use 'auto', 'cpu', 'cuda', 'cuda:1', 'cuda:all' or 'mps'."
        ) from None
    if chosen.type not in DEVICE_TYPES:
        raise ValueError(
            f"device={device!r} is not supported: models run on CPUs, on CUDA devices and on Apple's MPS. Use 'auto', "
            f"'cpu', 'cuda', 'cuda:1', 'cuda:all' or 'mps'."
        )
    available = {
        "cuda": torch.cuda.is_available() and (chosen.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not available.get(chosen.type, True):
        raise _missing(device, chosen)
    check_not_forked(chosen)
    if chosen.type == "cuda" and chosen.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return chosen


def check_not_forked(device: torch.device) -> None:
    """Raise RuntimeError if the device is a GPU that the process had used before it was forked into this one."""
    if device.type == "cuda" and getattr(torch.cuda, "_is_in_bad_fork", bool)():
        raise RuntimeError(
            f"This process was forked from one that had used CUDA, which cannot be used here. Start processes by "
            f"multiprocessing.get_context('spawn') instead, or by joblib, whose default does so; or use device='cpu' "
            f"in place of {str(device)!r}."
        )


def _missing(device: str, chosen: torch.device) -> ValueError:
    return ValueError(
        f"device={device!r} is not on this machine{_why_not(chosen)}; use device='auto' or 'cpu'. An estimator that "
        f"was fitted or saved on another machine takes it by set_params(device='auto')."
    )


def _why_not(device: torch.device) -> str:
    if device.type != "cuda":
        return ""
    if torch.cuda.is_available():
        return f", which has {torch.cuda.device_count()} CUDA device(s), numbered from 0"
    if torch.version.cuda is None and torch.version.hip is None:
        return ": this build of torch has no CUDA (install one that has, from pytorch.org)"
    needs = f"CUDA {torch.version.cuda}" if torch.version.hip is None else f"ROCm {torch.version.hip}"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    chosen = "" if visible is None else f"; the environment variable CUDA_VISIBLE_DEVICES is {visible!r}"
    return f": torch finds no GPU (is the driver installed, and recent enough for {needs} of this torch?{chosen})"


def choose_dtype(dtype: str, device: torch.device, config: XLMRobertaXLConfig) -> torch.dtype:
    """Convert the parameter `dtype` to a torch dtype.

    On CUDA "auto" is bfloat16, or float16 if the GPU does not support bfloat16. On a CPU it is bfloat16 if the CPU has
    instructions for it and the model is not small. Otherwise it is float32.
    """
    if dtype != "auto":
        return DTYPES[dtype]
    if device.type == "cuda":
        return torch.bfloat16 if _has_bfloat16(device) else torch.float16
    if device.type == "cpu" and cpu_has_bfloat16() and config.num_layer_parameters >= SMALL_MODEL:
        return torch.bfloat16
    return torch.float32


def _has_bfloat16(device: torch.device) -> bool:
    """Ask torch, which answers for the current device."""
    if device.index not in (None, torch.cuda.current_device()):
        with torch.cuda.device(device):
            return _has_bfloat16(device)
    return torch.cuda.is_bf16_supported(including_emulation=False)


def choose_quantization(
    load_in_8bit: bool | str | EightBit,
    load_in_4bit: bool,
    device: torch.device,
    config: XLMRobertaXLConfig,
    tuning: Tuning | None = None,
) -> Storage | None:
    """Convert `load_in_8bit` and `load_in_4bit` to settings of 8-bit weights, "nf4", or None.

    "auto" means 8 bits for XL and XXL, always on a CPU, where they are also faster than 16 bits, and on a GPU if 16-bit
    weights would fill more than half of it, since training needs room too. A tuning that trains the base model's own
    weights excludes both.

    Raises
    ------
    ValueError
        If both are requested, a setting is not one of its choices, or the tuning trains the base model's own weights.
    """
    if tuning is not None and tuning.trains_base:
        if load_in_4bit or load_in_8bit not in ("auto", False):
            raise ValueError(
                "tuning='full' trains every weight, which 8-bit and 4-bit weights do not allow. Use "
                "load_in_8bit=False, or tuning='lora', which trains through them."
            )
        return None
    if load_in_8bit == "auto" and not load_in_4bit:
        large = config.num_layer_parameters >= LARGE_MODEL
        if large and device.type == "cuda":
            _, total = torch.cuda.mem_get_info(device)
            large = 2 * config.num_parameters > total / 2
        return Int8() if large and device.type != "mps" else None
    assert not isinstance(load_in_8bit, str) or load_in_8bit == "auto"
    return quantization_settings(False if isinstance(load_in_8bit, str) else load_in_8bit, load_in_4bit)


@functools.cache
def cpu_has_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16 products (AVX-512 or AMX)."""
    return any(cpu_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16"))


def cpu_capabilities() -> Mapping[str, object]:
    """Return what torch reports about the CPU; empty if this torch reports nothing."""
    return torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
