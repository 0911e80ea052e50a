"""Several processes write the same thing at the same time, one reads it and one clears; prints what the reader found.

Run `python tests/support/races.py --rounds 200`.
"""

from __future__ import annotations

import argparse
import collections
import errno
import fcntl
import json
import multiprocessing
import sys
import tempfile
import warnings
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event
from pathlib import Path

from writers import WRITERS, prepare

from skxlmr.checkpoints.cache import clear_cached
from skxlmr.system import atomic

# An adapter, and the files of other programs beside a model, are not read by this library: their last state counts.
NOT_READ = ("export_adapter", "export_pretrained")
GOOD = {"written", "whole", "cleared"}


def no_locks(descriptor: int, operation: int) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


def start(name: str, place: Path, locks: bool) -> object:
    warnings.simplefilter("ignore")
    if not locks:
        fcntl.flock = no_locks
    return WRITERS[name](place)


def write(name: str, place: Path, locks: bool, number: int, rounds: int, answers: SimpleQueue) -> None:
    writer = start(name, place, locks)
    number = 1 if name == "cache" else number  # what is cached depends on the checkpoint alone
    with writer.settings():
        for _ in range(rounds):
            try:
                writer.write(number)
                answers.put("written")
            except Exception as error:
                answers.put(f"write: {type(error).__name__}: {error}")


def read(name: str, place: Path, locks: bool, numbers: int, done: Event, answers: SimpleQueue) -> None:
    writer = start(name, place, locks)
    while not done.is_set():
        try:
            found = writer.read()
            if found is None and name == "cache":
                answers.put("cleared")
            else:
                answers.put("whole" if found in range(1, numbers + 1) else f"read: {found}")
        except Exception as error:
            answers.put(f"read: {type(error).__name__}: {error}")


def clear(name: str, place: Path, locks: bool, done: Event, answers: SimpleQueue) -> None:
    """Remove all that is not in use: the cache, or else leftovers."""
    writer = start(name, place, locks)
    with writer.settings():
        while not done.wait(0.005):
            try:
                clear_cached()
                atomic.remove_left_over(writer.directory)
                atomic.remove_left_over(writer.place)
            except Exception as error:
                answers.put(f"clear: {type(error).__name__}: {error}")


def race(name: str, n_writers: int, rounds: int, place: Path, *, locks: bool = True) -> dict[str, int]:
    """Return how often each answer was given; all but `GOOD` are errors."""
    context = multiprocessing.get_context("fork")
    writer, answers, done = WRITERS[name](place), context.SimpleQueue(), context.Event()
    prepare(writer, None)
    with writer.settings():
        writer.write(1)
    arguments = name, place, locks
    writers = [
        context.Process(target=write, args=(*arguments, number + 1, rounds, answers)) for number in range(n_writers)
    ]
    others = [context.Process(target=clear, args=(*arguments, done, answers))]
    if not name.startswith(NOT_READ):
        others.append(context.Process(target=read, args=(*arguments, n_writers, done, answers)))
    for process in (*writers, *others):
        process.start()
    counts: collections.Counter[str] = collections.Counter()
    while any(process.is_alive() for process in writers):
        while not answers.empty():
            counts[answers.get()] += 1
        writers[0].join(0.01)
    done.set()
    while any(process.is_alive() for process in others) or not answers.empty():
        while not answers.empty():
            counts[answers.get()] += 1
        others[0].join(0.01)
    with writer.settings():
        try:
            if writer.read() is None and name != "cache":
                counts["nothing at the end"] += 1
        except Exception as error:
            counts[f"at the end: {type(error).__name__}: {error}"] += 1
    left = [path.name for path in place.rglob(".*")]
    if left:
        counts[f"litter: {left}"] += 1
    return dict(counts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--writers", type=int, nargs="*", default=[2, 4])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in WRITERS:
            for n_writers in options.writers:
                # Moves one by one need the lock.
                for locks in (True,) if name.endswith("in place") else (True, False):
                    key = f"{name}, {n_writers} writers{'' if locks else ' without locks'}"
                    results[key] = race(name, n_writers, options.rounds, Path(folder) / "place", locks=locks)
                    if not options.json:
                        print(f"{key:50}", results[key], flush=True)
    errors = {key: set(counts) - GOOD for key, counts in results.items()}
    if options.json:
        print(json.dumps(results))
    sys.exit(any(errors.values()))


if __name__ == "__main__":
    main()
