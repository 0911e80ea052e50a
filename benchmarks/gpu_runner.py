"""Running the parts of `gpu.py`, so that a part that fails, hangs or crashes does not end the others."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Protocol

import torch
from gpu_parts import Part, first_line
from gpu_session import Line, Session
from products import synchronize

LEAST_SECONDS = 10.0  # with less time left no part begins
START_SECONDS = 45.0  # for the second process to begin, beside the budget of a part


class Runner(Protocol):
    """Runs one part after the other."""

    def lines(self, part: Part, seconds: float) -> Iterator[Line]:
        """Yield the lines of a part; the last one has the status "failed" if the part failed or took too long."""


class InThisProcess:
    """Runs parts here, without time budgets."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def lines(self, part: Part, seconds: float) -> Iterator[Line]:
        try:
            for line in part.run(self.session, part.name):
                if line.value is not None:
                    self.session.known[line.part, line.what] = line.value
                yield line
        except Exception as error:
            yield Line(part.name, "", status="failed", remark=first_line(error))


class InSecondProcess:
    """Runs parts in a second process, which is ended after a failure and at the end of a part's time budget."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None

    def lines(self, part: Part, seconds: float) -> Iterator[Line]:
        problem = None
        try:
            if self._process is None:
                self._start()
            self._pipe.send(part)
            for line in self._received(time.monotonic() + seconds):
                if line.value is not None:
                    self.session.known[line.part, line.what] = line.value
                yield line
                if line.status == "failed":
                    self.stop()
                    return
        except TimeoutError as error:
            problem = str(error) or f"not done after {seconds:.3g} s, its time budget"
        except (EOFError, OSError):
            self._process.join(5)
            problem = f"its process ended with {self._process.exitcode}"
        if problem:
            self.stop()
            yield Line(part.name, "", status="failed", remark=problem)

    def _received(self, ends: float) -> Iterator[Line]:
        """Yield lines until None arrives; raise TimeoutError if it does not arrive in time."""
        while self._pipe.poll(max(0.0, ends - time.monotonic())):
            line = self._pipe.recv()
            if line is None:
                return
            yield line
        raise TimeoutError

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, self.session), daemon=True)
        self._process.start()
        theirs.close()
        if not self._pipe.poll(START_SECONDS):
            raise TimeoutError(f"the process of the parts did not start within {START_SECONDS:.0f} s")
        self._pipe.recv()

    def stop(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None


def serve(pipe: Connection, session: Session) -> None:
    """Run the parts that arrive, and send their lines; the second process."""
    if session.device.index:
        torch.cuda.set_device(session.device)  # its clock is that of the current device
    synchronize(session.device)  # begins with CUDA
    pipe.send("ready")
    runner = InThisProcess(session)
    while True:
        try:
            part = pipe.recv()
        except EOFError:
            return
        for line in runner.lines(part, float("inf")):
            pipe.send(line)
        pipe.send(None)


def budget(part: Part, left: float, of_later: float) -> float:
    """Return the seconds of a part: its own, and time that nobody needs; `of_later` are those of the parts after it."""
    return min(left, max(part.seconds, min(2 * part.seconds, left - of_later)))


def run_parts(
    parts: Sequence[Part], runner: Runner, seconds: float, record: Callable[[Part, Line | None], None]
) -> None:
    """Run the parts one after the other for so many seconds; `record` gets each line, and None at the end of a part.

    A part may use what those before it left of their budgets, up to twice its own; those after it keep theirs.
    """
    ends, of_later = time.monotonic() + seconds, sum(part.seconds for part in parts)
    for part in parts:
        of_later -= part.seconds
        left = ends - time.monotonic()
        if left < LEAST_SECONDS:
            record(part, Line(part.name, "", status="skipped", remark="no time left: --resume runs it"))
            continue
        failed = False
        for line in runner.lines(part, budget(part, left, of_later)):
            record(part, line)
            failed |= line.status == "failed"
        if not failed:
            record(part, None)
