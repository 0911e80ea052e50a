"""Progress bars in terminals and notebooks."""

from __future__ import annotations

import functools
import sys
import threading
import warnings
from typing import TYPE_CHECKING, Any

from typing_extensions import Self

from skxlmr.system.forks import after_fork

if TYPE_CHECKING:
    from tqdm import tqdm


class HiddenBar:
    """A progress bar that is not shown. It takes no lock, which one of tqdm does even if it is disabled."""

    def update(self, n: float = 1) -> None:
        """Do nothing."""

    def set_postfix(self, **values: object) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


def progress_bar(
    total: int, description: str, *, unit: str = "B", shown: bool = True, leave: bool = True
) -> tqdm | HiddenBar:
    """Return a progress bar for a `with` statement; it is shown only in a terminal or a notebook, and if `shown`.

    The unit "B" counts bytes. With `leave` the bar remains visible when it is full.
    """
    if not (shown and (sys.stderr.isatty() or _in_notebook())):
        return HiddenBar()
    return _tqdm()(total=total, desc=description, unit=unit, unit_scale=unit == "B", leave=leave)


@functools.cache
def _tqdm() -> type[tqdm]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without ipywidgets tqdm warns that the bar is plain text
        from tqdm.auto import tqdm

    return tqdm


@after_fork
def _renew_lock() -> None:
    """Renew the lock that all bars of a process share; the one between processes, where there is one, may stay."""
    bar = _tqdm() if _tqdm.cache_info().currsize else None
    lock: Any = getattr(bar, "_lock", None)  # made with the first bar; a user may have set another kind
    if bar is not None and getattr(lock, "th_lock", None) is not None:
        type(lock).th_lock = threading.RLock()
        bar.set_lock(type(lock)())


def _in_notebook() -> bool:
    """Whether this runs in the kernel of a notebook, where stderr is not a terminal."""
    ipython = sys.modules.get("IPython")
    shell = ipython and ipython.get_ipython()
    return shell is not None and getattr(shell, "kernel", None) is not None
