"""Prediction of many rows: `predict_dataset` against `transform`, its memory, and Ray against two plain processes.

    python benchmarks/many_rows.py local 100000     # one process: rows per second of both, and peak memory
    python benchmarks/many_rows.py ray 40000        # needs the extra scale, and 2 CPUs

The texts are different from each other, so that nothing is computed once for several rows.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

from skxlmr import XLMRXLEmbedder, load
from skxlmr.scale import predict_dataset

WORDS = ["good", "film", "the", "story", "was", "long", "and", "boring", "I", "loved", "every", "minute", "of", "it"]


def make_rows(path: Path, n_rows: int) -> None:
    """Write rows with texts of about 15 words."""
    texts = [
        " ".join(WORDS[(i * 7 + j * (i % 11 + 1)) % len(WORDS)] for j in range(14)) + f" {i}" for i in range(n_rows)
    ]
    pd.DataFrame({"id": range(n_rows), "text": texts}).to_parquet(path, row_group_size=100_000)


def peak_memory() -> float:
    """Return the most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def transform_in_memory(directory: str, source: str, target: str) -> None:
    """Read everything, transform it, and write it."""
    frame = pd.read_parquet(source)
    vectors = load(directory).transform(frame.text)
    frame[["id"]].assign(vector=list(vectors)).to_parquet(target)


def transform_only(directory: str, source: str, target: str) -> None:
    """Transform everything, without reading and writing of files."""
    frame = pd.read_parquet(source)
    embedder = load(directory)
    embedder.transform(frame.text[:100])
    started = time.perf_counter()
    embedder.transform(frame.text)
    print(f"    transform alone: {len(frame) / (time.perf_counter() - started):,.0f} rows/s")


def in_parts(directory: str, source: str, target: str) -> None:
    """Transform it part by part."""
    predict_dataset(directory, source, target, method="transform")


def in_ray(directory: str, source: str, target: str) -> None:
    """Transform it in two actors."""
    import ray

    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False)  # one of them only for Ray Data
    predict_dataset(directory, source, target, method="transform", engine="ray")


def timed(function, *arguments: str) -> None:
    """Run a function in this process, which is a new one, and print its time and memory."""
    started = time.perf_counter()
    function(*arguments)
    seconds = time.perf_counter() - started
    print(f"    {function.__name__}: {seconds:.1f} s, peak {peak_memory():,.0f} MB", flush=True)


def apart(calls: list[tuple]) -> float:
    """Run calls at the same time, each in a new process; return the seconds until the last one has ended."""
    context = multiprocessing.get_context("spawn")
    started = time.perf_counter()
    processes = [context.Process(target=timed, args=call) for call in calls]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        if process.exitcode:
            sys.exit(1)
    return time.perf_counter() - started


def main(what: str, n_rows: int) -> None:
    """Make rows and a fitted embedder, and compare."""
    folder = Path(tempfile.mkdtemp())
    directory, source = str(folder / "embedder"), str(folder / "in.parquet")
    XLMRXLEmbedder("nano", device="cpu").fit(["a text"]).save(directory)
    make_rows(Path(source), n_rows)
    print(f"{n_rows:,} rows, {os.cpu_count()} CPUs")
    if what == "local":
        apart([(transform_only, directory, source, "")])
        whole = apart([(transform_in_memory, directory, source, str(folder / "whole.parquet"))])
        parts = apart([(in_parts, directory, source, str(folder / "parts"))])
        print(f"predict_dataset takes {parts / whole - 1:+.1%} of the time of reading, transform and writing")
        return
    halves = [str(folder / f"half{i}.parquet") for i in range(2)]
    frame = pd.read_parquet(source)
    for i, half in enumerate(halves):
        frame[i::2].to_parquet(half)
    plain = apart(
        [(transform_in_memory, directory, half, str(folder / f"out{i}.parquet")) for i, half in enumerate(halves)]
    )
    ray = apart([(in_ray, directory, source, str(folder / "ray"))])
    print(f"two processes {plain:.1f} s, Ray {ray:.1f} s")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
