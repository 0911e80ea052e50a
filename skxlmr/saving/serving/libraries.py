"""The optional libraries that write graphs for serving, and what their formats have in common."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from torch.export import ExportedProgram


@dataclass(frozen=True)
class GraphFormat:
    """A format of graphs.

    Attributes
    ----------
    extra : str
        The extra of this package that has its libraries; the method is "export_" and this name.
    files : sequence of str
        The file that a runtime opens, and those that may be beside it.
    libraries, int8_libraries : sequence of str
        The modules that write it; with weights in 8 bits also the second.
    prepares_int8 : bool
        Whether the graph is prepared for 8 bits by `PaddedEncoder.prepare_int8`.
    write : callable
        Takes the graph, the path of the first file, the name of the output, the bytes of the weights, and how many
        layers of the encoder are to be in 8 bits: all or 0.
    """

    extra: str
    files: Sequence[str]
    libraries: Sequence[str]
    int8_libraries: Sequence[str]
    prepares_int8: bool
    write: Callable[[ExportedProgram, Path, str, int, int], None]

    def check(self, int8: bool) -> None:
        """Raise ImportError if a library is not installed."""
        for name in (*self.libraries, *(self.int8_libraries if int8 else ())):
            require(name, self.extra)


def require(name: str, extra: str) -> ModuleType:
    """Import a library of an extra.

    Raises
    ------
    ImportError
        If it is not installed; the message says how to install it.
    """
    try:
        with quiet():
            return importlib.import_module(name)
    except ImportError as error:
        method = f"export_{extra}"
        raise ImportError(
            f"{method} needs the package {name.partition('.')[0]}: pip install skxlmr[{extra}]"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the warnings and the messages of a library, which are about its own code, from users."""
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)  # otherwise messages to the root logger would install a handler that stays
    disabled = root.manager.disable
    logging.disable(max(disabled, logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        root.removeHandler(handler)
