"""Start the processes of a training on this machine, wait for them, and return what rank 0 returns."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from joblib import wrap_non_picklable_objects

from skxlmr.system.warn import warn

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing import PContext

JOB, RESULT, ERROR, MEETING = "job", "result", "error-{}", "meeting"  # files
SECONDS_BETWEEN_LOOKS = 0.05  # for processes that have ended
# Errors that would come again if the training was started again.
OF_THE_CALL = (TypeError, ValueError, ArithmeticError, ImportError, KeyboardInterrupt)
HANDLED = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")  # signals whose handlers torch replaces


class ProcessDiedError(RuntimeError):
    """A process that trained was killed, or ended without an exception of Python."""


class ProcessError(Exception):
    """The traceback of an exception in another process; it is the cause of the exception that is raised here."""

    def __init__(self, rank: int, text: str) -> None:
        super().__init__(rank, text)
        self.rank, self.text = rank, text

    def __str__(self) -> str:
        return f'in the process of rank {self.rank}:\n"""\n{self.text}"""'


@dataclass
class Failure:
    """An exception in a process, as its file holds it."""

    rank: int
    time: float
    error: bytes | None  # pickled; None if it cannot be
    text: str  # its traceback


def launch(
    function: Callable[..., Any], *arguments: Any, n: int, device_type: str = "cpu", max_restarts: int = 0
) -> Any:
    """Call a function in `n` new processes that have formed a group, and return what it returns in that of rank 0.

    The processes import nothing of `__main__`; functions and classes of it are pickled by value. If one fails, the
    others are killed. They also end when this process does.

    Parameters
    ----------
    function : callable
    *arguments
        Its arguments.
    n : int
    device_type : {"cpu", "cuda"}
        What they compute on; they exchange tensors by gloo or NCCL.
    max_restarts : int
        How often all are started again after one was killed, or failed by an error of the system.

    Returns
    -------
    object

    Raises
    ------
    ProcessDiedError
        If one was killed; and the exception of the first one that raised one.
    """
    for attempt in range(max_restarts + 1):
        with tempfile.TemporaryDirectory(prefix="skxlmr-processes-") as directory:  # of this attempt alone
            try:
                return _attempt(Path(directory), function, arguments, n, device_type)
            except OF_THE_CALL:
                raise
            except Exception as error:
                if attempt == max_restarts:
                    raise
                warn(f"{type(error).__name__}: {error} Training is started again ({attempt + 1} of {max_restarts}).")
    raise AssertionError("the last attempt returns or raises")


def by_value(content: Any) -> bytes:
    """Pickle content, with the functions and classes of `__main__`, which another process does not have."""
    return pickle.dumps(wrap_non_picklable_objects(content, keep_wrapper=False), protocol=5)


def _attempt(directory: Path, function: Callable, arguments: tuple, n: int, device_type: str) -> Any:
    with open(directory / JOB, "wb") as file:
        file.write(by_value((function, arguments)))
    failed = _run(_start(directory, n, device_type))
    if not failed:
        with open(directory / RESULT, "rb") as file:
            return pickle.load(file)  # nosec B301: written by our own process into our own directory
    raise _error_of(directory, failed)


def _start(directory: Path, n: int, device_type: str) -> PContext:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, start_processes

    path = [os.path.abspath(entry) for entry in sys.path]
    command = f"import sys; sys.path[:] = {path!r}; from skxlmr.training.worker import main; main()"
    environment = {"WORLD_SIZE": str(n), "SKXLMR_PARENT": str(os.getpid())}
    if "OMP_NUM_THREADS" not in os.environ or n > 1:
        environment["OMP_NUM_THREADS"] = str(max(1, torch.get_num_threads() // n))
    loopback = {"lo", "lo0"} & {name for _, name in socket.if_nameindex()} if hasattr(socket, "if_nameindex") else set()
    if loopback and "GLOO_SOCKET_IFNAME" not in os.environ:
        environment["GLOO_SOCKET_IFNAME"] = loopback.pop()  # no connections from other machines
    ranks = range(n)
    with _handlers_kept():
        return start_processes(
            "skxlmr",
            sys.executable,
            args={rank: ("-c", command, str(directory), device_type) for rank in ranks},
            envs={rank: {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in ranks},
            logs_specs=DefaultLogsSpecs(log_dir=os.devnull),
        )


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Restore the handlers of signals afterwards; only the main thread has any."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {name: signal.getsignal(getattr(signal, name)) for name in HANDLED if hasattr(signal, name)}
    try:
        yield
    finally:
        for name, handler in before.items():
            if handler is not None:
                signal.signal(getattr(signal, name), handler)


def _run(context: PContext) -> dict[int, int]:
    """Wait until all processes have ended, or one has failed; returns the exit codes of those that failed, by rank.

    The first KeyboardInterrupt is passed on: training ends after the step. The second one kills.
    """
    interrupted = False
    try:
        while True:
            try:
                result = context.wait(period=SECONDS_BETWEEN_LOOKS)
                break
            except KeyboardInterrupt:
                if interrupted:
                    raise
                interrupted = True
                for pid in context.pids().values():
                    os.kill(pid, signal.SIGINT)
    finally:
        context.close(signal.SIGKILL)
    assert result is not None, "without a time limit, wait returns a result"
    return {rank: failure.exitcode for rank, failure in result.failures.items()}


def _error_of(directory: Path, exit_codes: dict[int, int]) -> BaseException:
    """Return the error that made processes fail: that of the one that was killed, or else the first exception.

    The others then fail, too, since they have lost it, or are ended by SIGTERM.
    """
    failures = []
    for path in directory.glob(ERROR.format("*[0-9]")):
        with open(path, "rb") as file:
            failures.append(pickle.load(file))  # nosec B301: as above
    killed = {rank: -code for rank, code in exit_codes.items() if code < 0 and -code != signal.SIGTERM}
    if killed or not failures:
        ends = killed or exit_codes
        rank, code = min(ends.items())
        how = f"was killed by {signal.Signals(code).name}" if killed else f"ended with exit code {code}"
        return ProcessDiedError(
            f"The process of rank {rank} {how}. The kernel kills processes if memory runs out; lower batch_tokens "
            f"or the number of processes then."
        )
    first: Failure = min(failures, key=lambda failure: failure.time)
    cause = ProcessError(first.rank, first.text)
    error: BaseException = ProcessDiedError(f"The process of rank {first.rank} failed: {first.text.splitlines()[-1]}")
    if first.error is not None:
        error = pickle.loads(first.error)  # nosec B301: as above
    error.__cause__ = cause
    return error
