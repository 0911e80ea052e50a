"""Compare `memory_estimate` with the memory that processes take on a CPU; Linux only.

Each row is measured in a new process, on texts of full length: the peak while a fitted estimator predicts, or while it
is fitted, without what the process took before the model was loaded. All weights are made resident first, since those
that are mapped from a file are counted by the estimate as a whole. Writes benchmarks/results/memory-<model>-cpu.json.

    python benchmarks/memory.py e5-small [--only "8-bit, predict"]
    python benchmarks/make_checkpoint.py base OUT; python benchmarks/memory.py OUT
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from process_memory import forget_peak, resident, touch
from shared import real_texts

from skxlmr import XLMRXLClassifier, XLMRXLEmbedder, XLMRXLMaskedLM, memory_estimate, release_models, set_feature_cache

STORAGES: dict[str, dict[str, Any]] = {
    "float32": {"load_in_8bit": False, "dtype": "float32"},
    "bfloat16": {"load_in_8bit": False, "dtype": "bfloat16"},
    "8-bit": {"load_in_8bit": True},
    "4-bit": {"load_in_8bit": False, "load_in_4bit": True},
}
USES = {"predict": None, "LoRA": "lora", "full": "full", "words, LoRA": "lora", "words, full": "full"}
ROWS = [
    f"{storage}, {use}"
    for use in USES
    for storage in STORAGES
    if "full" not in use or storage in ("float32", "bfloat16")
]
GB = 10**9


def long_texts(n: int) -> list[str]:
    """Return different texts of at least 512 tokens."""
    words = " ".join(real_texts(400)).split()
    step = max(1, (len(words) - 600) // n)
    return [" ".join(words[i * step : i * step + 600]) for i in range(n)]


def warm_up(tuning: str | None, of_words: bool) -> None:
    """Do with nano what is measured, so that all libraries are imported, and their threads are there."""
    options: dict[str, Any] = {"model": "nano", "device": "cpu"}
    XLMRXLEmbedder(**options).fit_transform(["good morning"])
    if tuning is not None and of_words:
        XLMRXLMaskedLM(tuning=tuning, max_epochs=1, **options).fit(["good morning"])
    elif tuning is not None:
        XLMRXLClassifier(tuning=tuning, max_epochs=1, **options).fit(["good", "bad"], [0, 1])
    release_models()


def child(model: str, row: str) -> None:
    """Measure one row of the table, in this process, and print it."""
    storage, use = row.split(", ", 1)
    options: dict[str, Any] = {"model": model, "device": "cpu", **STORAGES[storage]}
    tuning = USES[use]
    of_words = {"language_model": True} if use.startswith("words") else {}
    estimate = memory_estimate(**options, tuning=tuning, **of_words)
    n_texts = max(4, 2 * estimate.batch_tokens // 512)
    texts, labels = long_texts(n_texts), np.arange(n_texts) % 2
    set_feature_cache(0)
    warnings.simplefilter("ignore")  # a step or two learn nothing
    warm_up(tuning, bool(of_words))
    empty = resident()
    embedder = XLMRXLEmbedder(truncation=True, **options).fit(texts[:1])
    loaded = resident()
    if "full" not in use:
        touch(embedder._fitted_backbone().model.parameters())
    forget_peak()
    started = time.perf_counter()
    if tuning is None:
        embedder.transform(texts)
    else:
        settings = {"tuning": tuning, "truncation": True, "max_epochs": 1, "random_state": 0, **options}
        if of_words:
            XLMRXLMaskedLM(**settings, batch_size=n_texts).fit(texts)
        else:
            XLMRXLClassifier(**settings, batch_size=n_texts).fit(texts, labels)
    parts = ("weights", "packed", "learned", "optimizer", "activations", "total")
    found = {
        "seconds": time.perf_counter() - started,
        "peak": resident()["peak"] - empty["resident"],
        "peak_of_load": loaded["peak"] - empty["resident"],
        "estimated": {part: getattr(estimate, part, 0) / GB for part in parts},
        "batch_tokens": estimate.batch_tokens,
    }
    print(json.dumps(found))


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Return the figures as a table for NOTES.md."""
    lines = ["| | measured GB | estimated GB | measured / estimated |", "|---|---|---|---|"]
    for name, row in rows.items():
        peak, total = row["peak"], row["estimated"]["total"]
        lines.append(f"| {name} | {peak:.3f} | {total:.3f} | {peak / total:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--only", action="append", choices=ROWS, help="a row of the table; may be repeated")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.model, arguments.child)
        return
    path = Path(__file__).parent / "results" / f"memory-{Path(arguments.model).name}-cpu.json"
    rows = json.loads(path.read_text()) if path.exists() else {}
    for row in arguments.only or ROWS:
        command = [sys.executable, __file__, arguments.model, "--child", row]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            print(f"{row}: ended with {done.returncode}", flush=True)
            continue
        rows[row] = json.loads(done.stdout.splitlines()[-1])
        print(table({row: rows[row]}).splitlines()[-1], json.dumps(rows[row]), flush=True)
        path.write_text(json.dumps(rows, indent=2) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
