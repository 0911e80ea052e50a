"""Progress bars in terminals and notebooks."""

from __future__ import annotations

import functools
import sys
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tqdm import tqdm


def progress_bar(total: int, description: str, *, unit: str = "B", shown: bool = True, leave: bool = True) -> tqdm:
    """Return a progress bar for a `with` statement; it is shown only in a terminal or a notebook, and if `shown`.

    The unit "B" counts bytes. With `leave` the bar remains visible when it is full.
    """
    return _tqdm()(
        total=total,
        desc=description,
        unit=unit,
        unit_scale=unit == "B",
        leave=leave,
        disable=not (shown and (sys.stderr.isatty() or _in_notebook())),
    )


@functools.cache
def _tqdm() -> type[tqdm]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without ipywidgets tqdm warns that the bar is plain text
        from tqdm.auto import tqdm

    return tqdm


def _in_notebook() -> bool:
    """Whether this runs in the kernel of a notebook, where stderr is not a terminal."""
    ipython = sys.modules.get("IPython")
    shell = ipython and ipython.get_ipython()
    return shell is not None and getattr(shell, "kernel", None) is not None
