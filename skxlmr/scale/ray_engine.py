"""Prediction in a pool of actors of Ray Data.

Ray Data distributes the numbers of spans, not their rows: the actors read the spans themselves and write the parts, so
that an actor that dies loses one part at most, and a part that is written twice is the same file.

Spans whose actor has died again and again are left to single tasks: one for each span, and where that dies, too, one
for each piece of it, down to single rows.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from skxlmr.scale.job import Job
from skxlmr.scale.parts import as_table, write_part
from skxlmr.scale.progress import Progress
from skxlmr.scale.ray_workers import Workers, bytes_of_worker

if TYPE_CHECKING:
    import pyarrow as pa

MAX_RESTARTS = 10  # of an actor
MAX_TASK_RETRIES = 2  # after the death of an actor
MOST_SPANS_PER_TASK = 4  # which are read in one go
TASKS_PER_WORKER = 4  # so that all workers end at about the same time
PIECES = 16  # that a range of rows is cut into if its process has died
ATTEMPTS = 2  # for a single row
DEATH = "The process ended while this row was predicted, in each of {} attempts."


class WorkerError(RuntimeError):
    """An error in a process of a cluster that has nothing to do with the rows that it predicted."""


def run_on_ray(
    job: Job, numbers: Sequence[int], progress: Progress, workers: Workers, no_progress_timeout: float
) -> None:
    """Predict and write spans in a cluster.

    Raises
    ------
    ValueError
        If the cluster is connected through Ray Client, or has not the workers that are asked for.
    WorkerError
        After an error that has nothing to do with rows, in a worker.
    """
    import ray

    with _cluster():
        memory = bytes_of_worker(job.predictor.read())
        workers = workers.found(ray.cluster_resources(), memory, len(numbers))
        left = set(numbers)
        for number in _pool(job, numbers, workers, no_progress_timeout):
            left.discard(number)
            progress.update(job.plan.spans[number].rows)
        if left:
            still = set(job.todo()) & left  # some were written by actors that died before they said so
            progress.update(sum(job.plan.spans[number].rows for number in left - still))
            for number in _one_by_one(job, sorted(still), workers):
                progress.update(job.plan.spans[number].rows)


@contextmanager
def _cluster() -> Iterator[None]:
    """Be connected with a cluster, which ends with the block if it was started for it."""
    import ray

    address = os.environ.get("RAY_ADDRESS", "")
    if address.startswith("ray://") or ray.util.client.ray.is_connected():
        raise ValueError(
            "Ray Data does not run through Ray Client (ray://). Run this on a machine of the cluster, for example with "
            "`ray job submit`."
        )
    started = not ray.is_initialized()
    if started:
        local: dict[str, Any] = {} if address else {"include_dashboard": False}
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **local)
    try:
        yield
    finally:
        if started:
            ray.shutdown()


class PartWriter:
    """What an actor does: it predicts and writes some spans. Errors of Python are returned, not raised."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Take a list of the numbers of spans, one per row; return the numbers and an error, or ""."""
        done: list[int] = []
        error = ""
        try:
            for numbers in batch["numbers"]:
                done.extend(_process(self.job, [int(number) for number in numbers]))
        except Exception as exception:
            error = f"{type(exception).__name__}: {exception}"
            done = done or [-1]
        return {"number": np.array(done, np.int64), "error": np.array([error] * len(done), object)}


def _process(job: Job, numbers: list[int]) -> Iterator[int]:
    """Predict spans; those that a process has written that died later are there."""
    there = set(numbers) - set(job.todo_of(numbers))
    yield from there
    yield from job.process([number for number in numbers if number not in there])


def _pool(job: Job, numbers: Sequence[int], workers: Workers, no_progress_timeout: float) -> Iterator[int]:
    """Yield the numbers of spans that a pool has written; those of actors that died are left out."""
    import ray
    from ray.data import ActorPoolStrategy

    tasks = [{"numbers": some} for some in _tasks(job, numbers, workers)]
    dataset = ray.data.from_items(tasks, override_num_blocks=len(tasks)).map_batches(
        PartWriter,
        fn_constructor_kwargs={"job": job},
        batch_size=1,
        compute=ActorPoolStrategy(size=workers.count, max_tasks_in_flight_per_actor=2),
        num_cpus=workers.cpus,
        num_gpus=workers.gpus or None,
        max_restarts=MAX_RESTARTS,
        max_task_retries=MAX_TASK_RETRIES,
    )
    dataset.context.max_errored_blocks = -1  # those of actors that have died again and again
    dataset.context.enable_progress_bars = False
    dataset.context.execution_no_progress_timeout_s = no_progress_timeout
    with _quiet(), suppress(ray.exceptions.RayError, _timeout()):
        for row in dataset.iter_rows():
            if row["error"]:
                raise WorkerError(f"A worker has failed. {row['error']}")
            yield row["number"]


def _tasks(job: Job, numbers: Sequence[int], workers: Workers) -> Iterator[list[int]]:
    """Group spans of the same file."""
    assert workers.count is not None
    most = max(1, min(MOST_SPANS_PER_TASK, len(numbers) // (workers.count * TASKS_PER_WORKER)))
    for _, of_file in groupby(numbers, lambda number: job.plan.spans[number].file):
        some = list(of_file)
        for start in range(0, len(some), most):
            yield some[start : start + most]


def _one_by_one(job: Job, numbers: Sequence[int], workers: Workers) -> Iterator[int]:
    """Predict spans in single tasks, which die alone; yield the number of each that was written."""
    import ray

    options = {"num_cpus": workers.cpus, "num_gpus": workers.gpus or None, "max_retries": 0, "retry_exceptions": False}
    whole = ray.remote(**options)(_whole)
    waiting = list(numbers)
    running: dict[Any, int] = {}
    held = ray.put(job)
    while waiting or running:
        while waiting and len(running) < (workers.count or 1):
            number = waiting.pop(0)
            running[whole.remote(held, number)] = number
        (finished,), _ = ray.wait(list(running), num_returns=1)
        number = running.pop(finished)
        if not _result(finished):
            table = _isolate(job, held, number, options)
            write_part(job.target, job.plan.spans[number], table)
        yield number


def _whole(job: Job, number: int) -> bool:
    """Predict and write a span."""
    return list(job.process([number])) == [number]


def _piece(job: Job, number: int, start: int, stop: int) -> pa.Table:
    """Predict some rows of a span."""
    ((_, rows),) = job.rows([number])
    results, errors = job.predictor.predict_columns([values[start:stop] for values in rows.columns])
    return as_table(job.plan.settings.id_column, rows.ids.slice(start, stop - start), results, errors)


def _isolate(job: Job, held: Any, number: int, options: dict[str, Any]) -> pa.Table:
    """Predict the pieces of a span whose process dies, and return its table, in which rows that kill it failed."""
    import pyarrow as pa
    import ray

    piece = ray.remote(**options)(_piece)
    tables: dict[int, pa.Table] = {}
    deaths: dict[int, int] = {}
    waiting = _cut(0, job.plan.spans[number].rows)
    while waiting:
        start, stop = waiting.pop(0)
        table = _result(piece.remote(held, number, start, stop))
        if table is not None:
            tables[start] = table
        elif stop - start > 1:
            waiting += _cut(start, stop)
        else:
            deaths[start] = deaths.get(start, 0) + 1
            if deaths[start] < ATTEMPTS:
                waiting.append((start, stop))
    failed = sorted(row for row, count in deaths.items() if count == ATTEMPTS)
    if failed:
        empty = _result(piece.remote(held, number, 0, 0))
        if empty is None:
            raise WorkerError("The processes of this estimator end before they have predicted a row.")
        ((_, rows),) = job.rows([number])
        for row in failed:
            errors = pa.array([DEATH.format(ATTEMPTS)], pa.string())
            values = {name: pa.nulls(1, empty.schema.field(name).type) for name in empty.column_names}
            values[job.plan.settings.id_column] = rows.ids.slice(row, 1)
            values[empty.column_names[-1]] = errors
            tables[row] = pa.table(values, schema=empty.schema)
    return pa.concat_tables([tables[start] for start in sorted(tables)]).combine_chunks()


def _cut(start: int, stop: int) -> list[tuple[int, int]]:
    """Cut a range into `PIECES`, or single rows."""
    size = max(1, -(-(stop - start) // PIECES))
    return [(first, min(first + size, stop)) for first in range(start, stop, size)]


def _result(reference: Any) -> Any:
    """Return the result of a task, None if its process has died; errors of Python are raised."""
    import ray

    try:
        with _quiet():
            return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise WorkerError(f"A worker has failed. {type(error.cause).__name__}: {error.cause}") from None
    except ray.exceptions.RayError:  # the worker, its machine, or its memory
        return None


def _timeout() -> type[BaseException]:
    """Return the error of a pool that makes no progress."""
    from ray.data.exceptions import ExecutionTimeoutError

    return ExecutionTimeoutError


@contextmanager
def _quiet() -> Iterator[None]:
    """Let Ray log errors only: the deaths of processes are handled here."""
    logger = logging.getLogger("ray")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
