"""Progress bars: in a terminal or a notebook, nowhere else."""

from __future__ import annotations

import functools
import sys
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tqdm import tqdm


def progress_bar(total: int, description: str, *, unit: str = "B", shown: bool = True, leave: bool = True) -> tqdm:
    """Return a bar, to be used in a `with` statement; it writes nothing unless somebody is there to see it.

    Parameters
    ----------
    total : int
    description : str
    unit : str, default="B"
        "B" counts bytes.
    shown : bool, default=True
        Whether it is asked for at all.
    leave : bool, default=True
        Whether it stays when it is full.
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
        warnings.simplefilter("ignore")  # in a notebook without ipywidgets the bar is text, which is no matter
        from tqdm.auto import tqdm

    return tqdm


def _in_notebook() -> bool:
    """Whether a notebook's kernel runs this; its error stream says that it is no terminal."""
    ipython = sys.modules.get("IPython")
    shell = ipython and ipython.get_ipython()
    return shell is not None and getattr(shell, "kernel", None) is not None
