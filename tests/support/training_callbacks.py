"""Callbacks that let a training on several processes fail, and one that records; what runs of processes and threads."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from skxlmr.training import Callback


class Record(Callback):
    """Remember the losses, and which process called."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.processes: set[int] = set()

    def on_step_end(self, trainer: Any) -> None:
        self.losses.append(trainer.loss)
        self.processes.add(os.getpid())


class FailOnce(Callback):
    """Raise an error after a step, unless the file `marker` says that it has been raised."""

    def __init__(self, step: int, marker: Path, error: type[BaseException] = ValueError) -> None:
        self.step, self.marker, self.error = step, marker, error

    def on_step_end(self, trainer: Any) -> None:
        if trainer.step == self.step and not self.marker.exists():
            self.marker.touch()
            raise self.error("failed on purpose")


class KillOnce(FailOnce):
    """Kill the process of a rank after a step, unless that has been done."""

    rank = 1

    def on_step_end(self, trainer: Any) -> None:
        if trainer.step == self.step and not self.marker.exists():
            self.marker.touch()
            for pid in processes_of(os.environ["SKXLMR_PARENT"], self.rank):
                os.kill(pid, signal.SIGKILL)


def processes_of(parent: str, rank: int | None = None) -> list[int]:
    """Return the ids of the processes that train for a process, or that of a rank."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            environment = path.read_bytes().split(b"\0")
        except OSError:  # it has ended, or is that of another user
            continue
        is_rank = rank is None or f"RANK={rank}".encode() in environment
        if f"SKXLMR_PARENT={parent}".encode() in environment and is_rank:
            found.append(int(path.parent.name))
    return found


def threads_of_the_group() -> list[str]:
    """Return the names of the threads that exchange tensors for this process; of none where there is no /proc."""
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return [name for name in names if "gloo" in name]
