"""Parts for the runner of `benchmarks/gpu.py` that do not end well; at the top of a module, so that they pickle."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator


def works(session: object, part: str) -> Iterator[object]:
    from gpu_session import Line

    yield Line(part, "parts known", float(len(session.known)))


def raises(session: object, part: str) -> Iterator[object]:
    yield from works(session, part)
    raise RuntimeError("CUDA error: an illegal memory access\nwas encountered")


def crashes(session: object, part: str) -> Iterator[object]:
    yield from works(session, part)
    os._exit(3)


def hangs(session: object, part: str) -> Iterator[object]:
    yield from works(session, part)
    time.sleep(600)
