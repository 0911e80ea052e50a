"""Release GPU memory after a failed call, whose traceback keeps the local variables of each function."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch

PACKAGES = ("skxlmr", "torch")  # whose local variables are released; users may debug their own functions


@contextmanager
def releasing_local_variables() -> Iterator[None]:
    """Release the local variables of functions that an exception ended, if the process uses CUDA.

    Notebooks and interactive sessions keep the latest exception, and with it the activations, the gradients and the
    state of the optimizer of a failed fit, until another exception occurs. The text of the traceback stays the same.
    The context manager is a decorator, too.

    Examples
    --------
    >>> with releasing_local_variables():
    ...     int("one")
    Traceback (most recent call last):
        ...
    ValueError: invalid literal for int() with base 10: 'one'
    """
    try:
        yield
    except BaseException as error:
        if torch.cuda.is_initialized():
            _release(error)
        raise


def _release(error: BaseException) -> None:
    """Clear the frames in the traceback of an exception, and of those that it followed; those that still run stay."""
    chain, seen = [error], set[int]()
    while chain:
        each = chain.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        chain += [other for other in (each.__context__, each.__cause__) if other is not None]
        traceback = each.__traceback__
        while traceback is not None:
            frame, traceback = traceback.tb_frame, traceback.tb_next
            if str(frame.f_globals.get("__name__")).partition(".")[0] in PACKAGES:
                with suppress(RuntimeError):  # it still runs
                    frame.clear()
