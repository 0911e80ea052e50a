"""Measure how time and memory grow with the number of texts; each size in a separate process.

    python benchmarks/scale.py [MODEL] [--texts 10000 30000 ...] [--layer -1] [--out FILE]

"planning" is what `transform` does besides running the model: finding distinct texts, tokenising, cutting, sorting
into batches. With `--layer 0` the model is reduced to its embeddings, so that a million texts take little time, most of
it planning. Memory is the peak of the process minus what it had before `transform` and minus the vectors. The feature
cache, which is bounded (`skxlmr.set_feature_cache`), is turned off.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
from shared import device_name, log_normal_texts

from skxlmr import XLMRXLEmbedder, set_feature_cache
from skxlmr.columns import check_text_column
from skxlmr.hardware.footprint import default_batch_tokens
from skxlmr.runtime.plan import make_plan
from skxlmr.runtime.streaming import run_in_parts
from skxlmr.text.batching import token_batches


class PeakMemory:
    """Context manager that samples the resident bytes every few milliseconds and keeps the peak."""

    def __enter__(self) -> PeakMemory:
        self.before = self.peak = resident()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            self.peak = max(self.peak, resident())

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()
        self.peak = max(self.peak, resident())


def resident() -> int:
    """Return the resident bytes of this process that are not backed by a file."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) * 1024


def measure(model: str, n_texts: int, layer: int, device: str) -> dict[str, float]:
    """Measure one size, in this process."""
    set_feature_cache(0)
    texts = log_normal_texts(n_texts)
    embedder = XLMRXLEmbedder(model, layer=layer, device=device).fit(texts[:1])
    embedder.transform(texts[:500])
    backbone = embedder._fitted_backbone()
    budget = default_batch_tokens(backbone.model.config, backbone.model.dtype, backbone.model.device)
    n_tokens = 0

    def only_plan(of_part: object, name: str) -> np.ndarray:
        nonlocal n_tokens
        n_tokens += int(of_part.lengths.sum())
        token_batches(of_part.lengths, budget)
        return np.zeros(len(of_part.text_of_row), np.float32)

    def tokenise(column: object) -> object:
        return make_plan(backbone.tokenizer, column.texts, max_length=512, stride=64)

    began = time.perf_counter()
    run_in_parts(check_text_column(texts), tokenise, only_plan, budget, backbone.devices, description="plan")
    planning = time.perf_counter() - began
    with PeakMemory() as memory:
        began = time.perf_counter()
        vectors = embedder.transform(texts)
        seconds = time.perf_counter() - began
    return {
        "texts": n_texts,
        "tokens": n_tokens,
        "seconds": seconds,
        "tokens_per_second": n_tokens / seconds,
        "planning_seconds": planning,
        "planning_share": planning / seconds,
        "vectors_mb": vectors.nbytes / 1e6,
        "beyond_vectors_mb": (memory.peak - memory.before - vectors.nbytes) / 1e6,
    }


def in_processes(model: str, sizes: list[int], layer: int = -1, device: str = "cpu") -> list[dict[str, float]]:
    """Measure all sizes, each in a separate process."""
    rows = []
    for n_texts in sizes:
        command = [sys.executable, __file__, model, "--texts", str(n_texts), "--layer", str(layer), "--here"]
        done = subprocess.run([*command, "--device", device], stdout=subprocess.PIPE, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="nano")
    parser.add_argument("--texts", type=int, nargs="+", default=[3_000, 10_000, 30_000])
    parser.add_argument("--layer", type=int, default=-1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.here:
        print(json.dumps(measure(arguments.model, arguments.texts[0], arguments.layer, arguments.device)))
        return
    rows = in_processes(arguments.model, arguments.texts, arguments.layer, arguments.device)
    print("| texts | tokens | s | tokens/s | planning s | share | vectors MB | memory beyond MB |")
    print("|" + "---|" * 8)
    for row in rows:
        print(
            "| {texts:,} | {tokens:,} | {seconds:.1f} | {tokens_per_second:,.0f} | {planning_seconds:.1f} | "
            "{planning_share:.3f} | {vectors_mb:.0f} | {beyond_vectors_mb:.0f} |".format(**row)
        )
    if arguments.out:
        about = {"model": str(arguments.model), "layer": arguments.layer, "device": device_name(arguments.device)}
        arguments.out.write_text(json.dumps(about | {"rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
