import subprocess
import sys
from pathlib import Path

import pytest

from skxlmr.system.malloc import return_freed_memory

# Blocks too small to be mapped on their own; the last one keeps glibc from shrinking the heap by itself.
PROGRAM = """
import ctypes
from skxlmr.system.malloc import return_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
blocks = [libc.malloc(100_000) for _ in range(1000)]
for block in blocks:
    ctypes.memset(ctypes.c_void_p(block), 1, 100_000)
for block in blocks[:-1]:
    libc.free(block)
before = resident()
return_freed_memory()
print(before - resident())
"""


def has_glibc():
    return sys.platform == "linux" and "libc.so.6" in Path("/proc/self/maps").read_text()


@pytest.mark.skipif(not has_glibc(), reason="glibc only")
def test_return_freed_memory_shrinks_process():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=300)
    assert int(done.stdout) > 50_000_000, done.stderr


def test_return_freed_memory_on_other_systems_does_nothing(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr("ctypes.CDLL", None)
    return_freed_memory()
