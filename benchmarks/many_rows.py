"""Prediction of many rows: `predict_dataset` against `transform`, its memory, and Ray against two plain processes.

    python benchmarks/many_rows.py local 100000     # one process: rows per second of both, and peak memory
    python benchmarks/many_rows.py ray 40000        # needs the extra scale, and 2 CPUs
    python benchmarks/many_rows.py curve 1000000 --folder FOLDER --seconds 240   # call it again until all rows are done

"curve" classifies rows of a few words, and samples the memory of the process as it goes on. It ends after so many
seconds and is resumed by the next call. Writes benchmarks/results/many-rows-cpu.json, a list of samples for each call.

The texts are different from each other, so that nothing is computed once for several rows.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import threading
import time
from pathlib import Path

import pandas as pd
from process_memory import resident

from skxlmr import XLMRXLClassifier, XLMRXLEmbedder, load
from skxlmr.scale import predict_dataset

WORDS = ["good", "film", "the", "story", "was", "long", "and", "boring", "I", "loved", "every", "minute", "of", "it"]


def make_rows(path: Path, n_rows: int, n_words: int = 14) -> None:
    """Write rows with texts of so many words and a number."""
    texts = [
        " ".join(WORDS[(i * 7 + j * (i % 11 + 1)) % len(WORDS)] for j in range(n_words)) + f" {i}"
        for i in range(n_rows)
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


def sample(parts: Path, rows_per_part: int, seconds: float, out: Path) -> None:
    """Write how many rows are done and the memory, again and again, and end the process after so many seconds."""
    calls = json.loads(out.read_text()) if out.exists() else []
    calls.append([])
    started = time.perf_counter()
    while (now := time.perf_counter() - started) < seconds:
        n_rows = rows_per_part * sum(1 for _ in parts.glob("part-*.parquet"))
        calls[-1].append({"seconds": round(now, 1), "rows": n_rows, "mb": round(1000 * resident()["resident"])})
        out.write_text(json.dumps(calls) + "\n")
        time.sleep(2)
    os._exit(0)


def curve(folder: Path, n_rows: int, seconds: float) -> None:
    """Classify rows, and sample the memory; the next call resumes."""
    directory, source, target = folder / "classifier", folder / "short.parquet", folder / "classes"
    if not source.exists():
        folder.mkdir(parents=True, exist_ok=True)
        clf = XLMRXLClassifier("nano", tuning="head", random_state=0, device="cpu")
        clf.fit(["good film", "boring story"], [0, 1]).save(directory)
        make_rows(source, n_rows, n_words=2)
        return  # so that the memory of making them does not count
    out = Path(__file__).parent / "results" / "many-rows-cpu.json"
    threading.Thread(target=sample, args=(target, 4096, seconds, out), daemon=True).start()
    manifest = predict_dataset(str(directory), str(source), str(target), rows_per_part=4096)
    print(manifest, f"peak {peak_memory():,.0f} MB")


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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["local", "ray", "curve"])
    parser.add_argument("n_rows", type=int)
    parser.add_argument("--folder", type=Path, help="for what is resumed")
    parser.add_argument("--seconds", type=float, default=240.0)
    arguments = parser.parse_args()
    if arguments.what == "curve":
        curve(arguments.folder, arguments.n_rows, arguments.seconds)
    else:
        main(arguments.what, arguments.n_rows)
