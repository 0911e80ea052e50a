"""A network namespace that has nothing but loopback, for programs that listen on all interfaces."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

CLONE_NEWNET = 0x40000000
REASON = (
    "Ray listens on all network interfaces, so it runs in a network namespace that has loopback alone, which this "
    "system does not let us make ({}); `unshare --map-root-user --net` may make one for the whole of pytest"
)


@contextmanager
def loopback_only() -> Iterator[None]:
    """Move this thread, and what it starts, into such a namespace; skip the test where that is not permitted."""
    if {name for _, name in socket.if_nameindex()} == {"lo"}:
        yield
        return
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    except (OSError, TypeError) as error:
        pytest.skip(REASON.format(error))
    try:
        if libc.unshare(CLONE_NEWNET):
            pytest.skip(REASON.format(os.strerror(ctypes.get_errno())))
        try:
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            yield
        finally:
            libc.setns(before, CLONE_NEWNET)
    finally:
        os.close(before)
