"""Compare this library with the fastest engines for CPUs: same weights, texts and threads; two threads in total.

    python benchmarks/engines.py                                  # everything: about half an hour, mostly conversions
    python benchmarks/engines.py --prepare                        # only convert the models, which is kept in --folder
    python benchmarks/engines.py --sizes e5-small --engines skxlmr "OpenVINO, int8"    # those that begin so
    python benchmarks/engines.py --parts first                    # only fresh processes
    python benchmarks/engines.py --smoke                          # nano without peers, writes no file

Parts: "batches" embeds texts sorted by length, in the best of several batch sizes; "one" single texts of 20 and 200
tokens; "first" starts processes, up to the first vector of e5-small. Texts are token ids already, but for "first". Each
engine runs in a process of its own. Figures are added to those of earlier runs in results/engines-<device>.json,
from which the table and the chart are made anew. The peers: pip install -c constraints.txt -e ".[engines]".
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from engine_first import PROGRAMS, first_vector
from engine_kinds import BATCH_SIZES, ENGINES, THREADS, Embed, Engine, environment, in_batches
from engine_models import ONE_TEXT, SIZES, Model
from engine_report import FIRST, Report, line
from shared import device_name

PARTS = ("batches", "one", "first")
TURNS, CALLS, WARM_UP = 3, 60, 10
ENOUGH_SECONDS = 8.0  # of the turns of an engine; of the calls of single texts
PACKAGES = ("torch", "openvino", "nncf", "ctranslate2", "onnxruntime", "torchao", "transformers")
RESULT = "result: "  # begins the line of a child
SMOKE_COSINE = 0.99  # to float32, at least


def timed(function: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
    started = time.perf_counter()
    result = function()
    return result, time.perf_counter() - started


def batches(engine: Engine, embed: Embed, model: Model) -> dict[str, object]:
    """Time all texts in the batch size that is the best for every fourth of them."""
    ids = model.ids
    some = ids[::4]
    in_batches(engine, embed, some, BATCH_SIZES[0])
    seconds = {}
    for size in BATCH_SIZES if not engine.makes_batches else (0,):
        in_batches(engine, embed, some, size)
        seconds[size] = min(timed(lambda size=size: in_batches(engine, embed, some, size))[1] for _ in range(2))
    best, times = min(seconds, key=seconds.get), []
    while len(times) < TURNS and sum(times) < ENOUGH_SECONDS:
        vectors, took = timed(lambda: in_batches(engine, embed, ids, best))
        times.append(took)
    n_tokens, exact = sum(map(len, ids)), model.reference
    cosines = (vectors * exact).sum(1) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(exact, axis=1)
    return {
        "tokens_per_s": n_tokens / min(times),
        "turns": [round(n_tokens / took) for took in times],
        "batch_size": best or "own",
        "least_cosine": float(cosines.min()),
        "mean_cosine": float(cosines.mean()),
    }


def one(engine: Engine, embed: Embed, model: Model) -> dict[str, object]:
    """Return the median milliseconds of one text, of each length."""
    found = {}
    for n_tokens in ONE_TEXT:
        ids, times = [model.one_text(n_tokens)], []
        for _ in range(WARM_UP):
            embed(ids)
        while len(times) < CALLS and sum(times) < ENOUGH_SECONDS:
            times.append(timed(lambda ids=ids: embed(ids))[1])
        found[f"ms_{n_tokens}"] = 1000 * statistics.median(times)
    return found


def compile_first(engine: Engine, embed: Embed, model: Model) -> dict[str, object]:
    """Run each batch size once, so that what is compiled is in its cache."""
    for size in BATCH_SIZES:
        in_batches(engine, embed, model.ids[::8], size)
    embed([model.one_text(ONE_TEXT[0])])
    return {}


CHILDREN = {"batches": batches, "one": one, "compile": compile_first}


def child(size: str, name: str, parts: Iterable[str], folder: Path) -> None:
    """Print what one engine measures, in this process."""
    engine, model, found = ENGINES[name], Model(size, folder / size), {}
    embed = engine.load(model)
    for part in parts:
        found |= CHILDREN[part](engine, embed, model)
    print(RESULT + json.dumps(found))


def in_process(size: str, name: str, parts: Iterable[str], folder: Path) -> dict[str, object]:
    """Run an engine in a process of its own; return its figures, or the reason why there are none."""
    if ENGINES[name].missing:
        return {"missing": f"not installed: {', '.join(ENGINES[name].missing)}"}
    command = [sys.executable, __file__, "--folder", str(folder), "--child", size, name, *parts]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    for printed in done.stdout.splitlines():
        if printed.startswith(RESULT):
            return json.loads(printed.removeprefix(RESULT))
    last = (done.stderr.strip().splitlines() or ["no output"])[-1]
    return {"failed": f"{last[:200]} (exit status {done.returncode})"}


def prepare(size: str, folder: Path) -> None:
    """Convert a model for all engines that are installed."""
    (folder / size).mkdir(parents=True, exist_ok=True)
    for what, make in Model(size, folder / size).prepare():
        try:
            _, took = timed(make)
        except Exception as error:  # of one package: the engines that need it are reported as failed
            print(f"{size}: {what} failed: {error!r}", flush=True)
            continue
        print(f"{size}: {what}, {took:.0f} s", flush=True)
    for name, engine in ENGINES.items():
        done = folder / size / f"{name} is in its cache"
        if engine.compiles and not engine.missing and not done.exists():
            found, took = timed(lambda name=name: in_process(size, name, ["compile"], folder))
            print(f"{size}: {name}, {found.get('failed', f'{took:.0f} s')}", flush=True)
            if "failed" not in found:
                done.touch()


def chosen(names: Iterable[str], beginnings: list[str] | None) -> list[str]:
    """Return the names that begin with one of these, or all."""
    return [name for name in names if beginnings is None or name.startswith(tuple(beginnings))]


def measure(arguments: argparse.Namespace) -> Iterator[tuple[str, str, dict[str, object]]]:
    """Yield size, engine and figures."""
    for size in arguments.sizes:
        for name in chosen(ENGINES, arguments.engines):
            parts = [part for part in arguments.parts if part != "first" and (part != "one" or ENGINES[name].takes_one)]
            if parts:
                yield size, name, in_process(size, name, parts, arguments.folder)
    if "first" in arguments.parts:
        for name in chosen(PROGRAMS, arguments.engines):
            yield FIRST, name, first_vector(name, arguments.folder / "e5-small")


def versions() -> dict[str, str]:
    """Return the versions of the packages that are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=[size for size in SIZES if size != "nano"])
    parser.add_argument("--engines", nargs="+", help="beginnings of names")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "skxlmr-engines")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        size, name, *parts = arguments.child
        child(size, name, parts, arguments.folder)
        return
    torch.set_num_threads(THREADS)
    about = {"device": device_name("cpu")} | versions()
    if arguments.smoke:
        with tempfile.TemporaryDirectory() as folder:
            smoke(Path(folder), Report(about))
        return
    if not chosen([*ENGINES, *PROGRAMS], arguments.engines):
        parser.error(f"no engine begins with {' or '.join(arguments.engines)}: they are {'; '.join(ENGINES)}")
    sizes = set(arguments.sizes) if {"batches", "one"} & set(arguments.parts) else set()
    for size in sizes | ({"e5-small"} if "first" in arguments.parts else set()):
        prepare(size, arguments.folder)
    if not arguments.prepare:
        compare(arguments, Report.read(about, arguments.out))


def compare(arguments: argparse.Namespace, report: Report) -> None:
    """Measure, and write the figures after each engine."""
    for size, name, figures in measure(arguments):
        report.add(size, name, figures)
        print(f"{size} | {name} | {line(figures)}", flush=True)
        report.write()
    print(report.table())


def smoke(folder: Path, report: Report) -> None:
    """Run this library's 8 bits on nano, and end with an error if that fails or a vector is wrong."""
    (name, *_) = ENGINES
    prepare("nano", folder)
    report.add("nano", name, in_process("nano", name, ["batches", "one"], folder))
    print(report.table())
    if report.results["nano"][name].get("least_cosine", 0.0) < SMOKE_COSINE:
        sys.exit(f"{name}: {line(report.results['nano'][name])}")


if __name__ == "__main__":
    main()
