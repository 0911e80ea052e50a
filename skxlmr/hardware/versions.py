"""Versions and hardware, for bug reports."""

from __future__ import annotations

import importlib.metadata
import platform
import re

import torch

from skxlmr.hardware.device import cpu_capabilities, cpu_has_bfloat16
from skxlmr.hardware.estimate import in_gigabytes
from skxlmr.hardware.free_memory import available_memory
from skxlmr.model.avx.library import compiled, library
from skxlmr.model.int8_engines import cpu_has_int8

X86 = {"x86_64", "amd64"}  # the names of machines for which there are kernels


def show_versions() -> None:
    """Print the versions of Python and of the dependencies, and the hardware that skxlmr sees.

    Paste the output into a bug report.

    Examples
    --------
    >>> import skxlmr
    >>> skxlmr.show_versions()  # doctest: +ELLIPSIS
    System
      skxlmr              ...
      python              ...
    """
    for number, (title, rows) in enumerate(versions().items()):
        print(f"{chr(10) if number else ''}{title.capitalize()}")
        for name, value in rows.items():
            print(f"  {name:<18}  {value}")


def versions() -> dict[str, dict[str, str]]:
    """Return what `show_versions` prints: in the sections "system", "devices" and "dependencies", texts by names."""
    return {"system": _system(), "devices": _devices(), "dependencies": _dependencies()}


def _system() -> dict[str, str]:
    return {
        "skxlmr": importlib.metadata.version("skxlmr"),
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "platform": platform.platform(),
    }


def _devices() -> dict[str, str]:
    free = available_memory(torch.device("cpu"))
    rows = {
        "cpu": str(cpu_capabilities().get("cpu_name") or platform.machine()),
        "torch threads": str(torch.get_num_threads()),
        "free memory": "unknown" if free is None else f"{in_gigabytes(free)} GB",
        "int8 products": "native" if cpu_has_int8() else "in floating point",
        "cpu kernels": _kernels(),
        "bfloat16 products": "native" if cpu_has_bfloat16() else "emulated",
        "cuda": f"{torch.version.cuda or 'not in this build of torch'}",
        "mps": "available" if torch.backends.mps.is_available() else "not available",
    }
    for i in range(torch.cuda.device_count()):
        free_bytes, total = torch.cuda.mem_get_info(i)
        name = torch.cuda.get_device_name(i)
        rows[f"cuda:{i}"] = f"{name}, {in_gigabytes(free_bytes)} of {in_gigabytes(total)} GB free"
    return rows


def _kernels() -> str:
    """Return the instructions that the kernels of skxlmr use on this CPU, or why there are none."""
    kernels = library()
    if kernels is not None:
        return kernels.variant
    if platform.machine().lower() not in X86:
        return "none for this CPU"
    if compiled() is None:
        return "not compiled, so that 8-bit models are slower: install gcc or clang, then skxlmr again"
    return "not usable, so that 8-bit models are slower: this CPU lacks AVX2, or skxlmr is to be installed again"


def _dependencies() -> dict[str, str]:
    """Return the version of each requirement of skxlmr that belongs to no extra, and of triton, which GPUs use."""
    requirements = importlib.metadata.requires("skxlmr") or []
    names = [re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in requirements if "extra ==" not in line]
    return {name: _version(name) for name in [*names, "triton"]}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
