"""Whether triton can be used, which compiles kernels for GPUs."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path


@functools.cache
def missing() -> str | None:
    """Return what triton needs and this machine lacks, with what to do; None if it can be used.

    torch for CUDA on Linux requires triton. It compiles kernels itself, but what starts them is C code for this Python,
    which images of containers for deployment often cannot compile.
    """
    if importlib.util.find_spec("triton") is None:
        return "triton, which is not installed: run `pip install triton`"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "a C compiler, which triton does not find: install gcc, or name one in the environment variable CC"
    scheme = sysconfig.get_default_scheme()
    header = Path(sysconfig.get_path("include", "posix_prefix" if scheme == "posix_local" else scheme), "Python.h")
    if not header.is_file():
        return f"{header}, which is missing: install the headers of Python, on Debian and Ubuntu python3-dev"
    folder = _cache()
    if not os.access(next((path for path in (folder, *folder.parents) if path.exists()), folder), os.W_OK):
        return f"a folder to write to, which {folder} is not: name one in the environment variable TRITON_CACHE_DIR"
    return None


def _cache() -> Path:
    """Return the folder in which triton keeps what it has compiled."""
    home = os.environ.get("TRITON_HOME") or os.path.expanduser("~")
    return Path(os.environ.get("TRITON_CACHE_DIR") or os.path.join(home, ".triton", "cache"))


def is_usable() -> bool:
    """Whether nothing is missing."""
    return missing() is None


def require() -> None:
    """Raise ImportError if something is missing."""
    if not is_usable():
        raise ImportError(
            f'Int8(engine="triton") needs {missing()}. Int8(engine="auto") multiplies without it, by bitsandbytes.'
        )


def is_interpreting() -> bool:
    """Whether triton interprets kernels, on any device, as the environment variable TRITON_INTERPRET tells it to."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on", "y")
