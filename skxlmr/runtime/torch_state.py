"""The global settings of torch under which estimators run."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from skxlmr.system.forks import after_fork

# Devices for which a user may have entered autocast.
AUTOCAST_DEVICES = ("cpu", "cuda", "mps")

# The default dtype belongs to the whole process: the first of several threads saves it, the last one restores it.
_lock = threading.Lock()
_n_users = 0
_dtype_of_user = torch.float32
_of_thread = threading.local()  # its `depth` is how many of the blocks the current thread is in


@after_fork
def _forget_other_threads() -> None:
    """Renew the lock, and leave the blocks of threads that do not exist in a forked child."""
    global _lock, _n_users
    _lock = threading.Lock()
    n_others, _n_users = _n_users - _depth(), _depth()
    if n_others and not _n_users:
        torch.set_default_dtype(_dtype_of_user)


def _depth() -> int:
    return getattr(_of_thread, "depth", 0)


@contextmanager
def default_torch_state() -> Iterator[None]:
    """Run under the settings that torch starts with, and leave those of the user as they were.

    These are the default dtype (float32) and device (CPU), gradients on, and neither inference mode nor autocast. The
    context manager is a decorator, too. Settings that choose between speed and precision, such as
    `torch.set_float32_matmul_precision`, stay the user's.

    Examples
    --------
    >>> import torch
    >>> with torch.no_grad(), default_torch_state():
    ...     torch.is_grad_enabled()
    True
    """
    with ExitStack() as stack:
        stack.enter_context(_float32())
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        if not torch.is_grad_enabled():
            stack.enter_context(torch.enable_grad())
        for device in AUTOCAST_DEVICES:
            if torch.is_autocast_enabled(device):
                # The cache outlives the blocks within that of the user, and so the weights that it was made of.
                stack.enter_context(torch.autocast(device, enabled=False, cache_enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield


@contextmanager
def _float32() -> Iterator[None]:
    """Make float32 the default dtype, also while several threads are within such blocks."""
    global _n_users, _dtype_of_user
    with _lock:
        if not _n_users:
            _dtype_of_user = torch.get_default_dtype()
            if _dtype_of_user != torch.float32:
                torch.set_default_dtype(torch.float32)
        _n_users += 1
        _of_thread.depth = _depth() + 1
    try:
        yield
    finally:
        with _lock:
            _n_users -= 1
            _of_thread.depth -= 1
            if not _n_users and _dtype_of_user != torch.float32:
                torch.set_default_dtype(_dtype_of_user)
