"""A package whose names are imported when they are first used."""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from skxlmr.system.forks import after_fork, torch_threads

_paused = False  # whether `without_garbage_collection` has disabled the garbage collector


def lazy_attributes(package: str, modules: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the functions ``__getattr__`` and ``__dir__`` of a package that imports its names when they are used.

    Parameters
    ----------
    package : str
        The name of the package.
    modules : mapping of str to str
        The names, and the modules in the package that define them. Besides these, the package has ``__version__`` and
        all its submodules as attributes.

    Returns
    -------
    getattr : callable
        Looks a name up, which is an ordinary attribute from then on.
    dir : callable
        Returns all names.

    Examples
    --------
    >>> get, names = lazy_attributes("skxlmr", {"LoRA": "tuning"})
    >>> get("LoRA")
    <class 'skxlmr.tuning.lora.LoRA'>
    >>> get("metrics")
    <module 'skxlmr.metrics' from '...
    >>> get("LORA")
    Traceback (most recent call last):
    AttributeError: module 'skxlmr' has no attribute 'LORA'
    """

    def get(name: str) -> Any:
        if name == "__version__":
            value: Any = version(package)
        elif name in modules:
            value = getattr(_imported(f"{package}.{modules[name]}"), name)
        elif not name.startswith("_") and find_spec(f"{package}.{name}") is not None:
            value = _imported(f"{package}.{name}")
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *modules, "__version__"})

    return get, names


def _imported(module: str) -> Any:
    with without_garbage_collection(), torch_threads.importing():
        return importlib.import_module(module)


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Pause Python's garbage collector.

    Imports of large libraries create hundreds of thousands of objects that stay. With the collector, each of its full
    runs visits them all, which is a fifth of the time of the imports, and frees nothing.
    """
    global _paused
    if not gc.isenabled():
        yield
        return
    gc.disable()
    _paused = True
    try:
        yield
    finally:
        _resume()
        if not gc.get_freeze_count():  # moves all objects to the oldest generation, so that the next run is a short one
            gc.freeze()
            gc.unfreeze()


@after_fork
def _resume() -> None:
    """Enable the collector if it is paused; in a forked child the thread that would do that does not exist."""
    global _paused
    if _paused:
        _paused = False
        gc.enable()
