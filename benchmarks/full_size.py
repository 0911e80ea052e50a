"""Measure a model of full size in 8 bits on the CPU, beside the estimates of its memory.

Each step runs in a new process and takes a few minutes at most; what it measures is added to
benchmarks/results/full-size-<model>-cpu.json.

    python benchmarks/make_checkpoint.py xl OUT
    python benchmarks/full_size.py OUT first --cache FOLDER   # the first load, with an empty cache
    python benchmarks/full_size.py OUT load --cache FOLDER    # then from the cache; see `STEPS` for the others
    python benchmarks/full_size.py OUT table
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from process_memory import forget_peak, resident, touch
from shared import real_texts

import skxlmr
from skxlmr import LoRA, XLMRXLClassifier, XLMRXLEmbedder, memory_estimate, set_feature_cache
from skxlmr.runtime.plan import make_plan
from skxlmr.training import Callback

OPTIONS: dict[str, Any] = {"load_in_8bit": True, "device": "cpu"}
GB = 10**9

Measured = dict[str, Any]


def embedder(model: str) -> XLMRXLEmbedder:
    """Return an embedder that has loaded the model."""
    set_feature_cache(0)  # measure the encoder, not the cache
    return XLMRXLEmbedder(model, **OPTIONS).fit(["good morning"])


def estimated(model: str, **options: Any) -> Measured:
    """Return the estimate of the memory, in GB."""
    estimate = memory_estimate(model, **OPTIONS, **options)
    parts = ("weights", "learned", "optimizer", "activations", "total")
    return {name: getattr(estimate, name) / GB for name in parts}


def texts_of(tokenizer: Any, n_texts: int, n_tokens: int) -> list[str]:
    """Return different texts with exactly so many tokens."""
    text = " ".join(real_texts(400))
    ids = np.concatenate([window[1:-1] for window in make_plan(tokenizer, [text], max_length=512, stride=0).windows])
    found: list[str] = []
    for start in range(len(ids)):
        candidate = tokenizer.decode(ids[start : start + n_tokens - 2].tolist())
        if make_plan(tokenizer, [candidate], max_length=512, stride=0).lengths.tolist() == [n_tokens]:
            found.append(candidate)
        if len(found) == n_texts:
            return found
    raise ValueError("there are not enough texts")


def load(model: str) -> Measured:
    """Load the model: the first time, or from the cache."""
    started = time.perf_counter()
    fitted = embedder(model)
    seconds = time.perf_counter() - started
    loaded = resident()
    touch(fitted._fitted_backbone().model.parameters())
    return {"seconds": seconds, "loaded": loaded, "touched": resident(), "estimated": estimated(model)}


def batches(model: str) -> Measured:
    """Embed ragged texts in batches."""
    fitted, texts = embedder(model), real_texts(64)
    backbone = fitted._fitted_backbone()
    n_tokens = int(make_plan(backbone.tokenizer, texts, max_length=512, stride=64).lengths.sum())
    touch(backbone.model.parameters())
    fitted.transform(texts[:2])
    forget_peak()
    started = time.perf_counter()
    fitted.transform(texts)
    seconds = time.perf_counter() - started
    return {"tokens": n_tokens, "tokens_per_s": n_tokens / seconds, "end": resident(), "estimated": estimated(model)}


def one_text(model: str) -> Measured:
    """Embed one text at a time."""
    fitted = embedder(model)
    tokenizer, measured = fitted._fitted_backbone().tokenizer, {}
    for n_tokens in (20, 200):
        seconds = []
        for text in texts_of(tokenizer, 8, n_tokens):
            started = time.perf_counter()
            fitted.transform([text])
            seconds.append(time.perf_counter() - started)
        measured[f"seconds_{n_tokens}"] = float(np.median(seconds[1:]))
    return measured


class StepSeconds(Callback):
    """Records the seconds of each optimizer step."""

    def on_fit_begin(self, trainer: object) -> None:
        self.ended = [time.perf_counter()]

    def on_step_end(self, trainer: object) -> None:
        self.ended.append(time.perf_counter())


def lora(model: str) -> Measured:
    """Take two LoRA steps of 8 texts with 64 tokens."""
    base = embedder(model)._fitted_backbone()
    touch(base.model.parameters())
    texts, clock = texts_of(base.tokenizer, 8, 64), StepSeconds()
    clf = XLMRXLClassifier(
        model, tuning=LoRA(rank=8), batch_size=8, max_epochs=2, random_state=0, init="random", callbacks=[clock],
        **OPTIONS,
    )  # fmt: skip
    forget_peak()
    clf.fit(texts, np.arange(8) % 2)
    steps = np.diff(clock.ended).tolist()
    options = {"tuning": LoRA(rank=8), "batch_tokens": 512}
    return {"steps": steps, "end": resident(), "estimated": estimated(model, **options)}


def head(model: str) -> Measured:
    """Fit a classifier by its head alone, from loading to a saved estimator that predicts the same."""
    texts, labels = real_texts(24), np.arange(16) % 2
    started, seconds = time.perf_counter(), {}

    def lap(name: str) -> None:
        nonlocal started
        seconds[name], started = time.perf_counter() - started, time.perf_counter()

    clf = XLMRXLClassifier(model, tuning="head", random_state=0, **OPTIONS).fit(texts[:16], labels)
    lap("fit with load")
    answers = clf.predict_proba(texts[16:])
    lap("predict 8")
    with tempfile.TemporaryDirectory() as folder:
        clf.save(Path(folder) / "saved")
        lap("save")
        megabytes = sum(path.stat().st_size for path in (Path(folder) / "saved").iterdir()) / 1e6
        pickled = len(pickle.dumps(clf)) / 1e6
        del clf
        skxlmr.release_models()
        set_feature_cache(0)
        released, started = resident(), time.perf_counter()
        again = skxlmr.load(Path(folder) / "saved")
        lap("load")
        same = bool(np.array_equal(again.predict_proba(texts[16:]), answers))
        lap("load the model again, predict 8")
    sizes = {"saved_mb": megabytes, "pickle_mb": pickled}
    return {"seconds": seconds, **sizes, "same_answers": same, "released": released, "end": resident()}


STEPS: dict[str, Callable[[str], Measured]] = {
    "first": load,
    "load": load,
    "batches": batches,
    "one_text": one_text,
    "lora": lora,
    "head": head,
}


def beyond(found: Measured, size: float) -> float:
    """Return a size without that of the process before the model was loaded."""
    return size - found["empty"]["resident"]


def table(measured: Measured) -> str:
    """Return the figures as a table for NOTES.md; those beside an estimate are without Python and the libraries."""
    rows = ["| | measured | estimated |", "|---|---|---|"]
    for step, name in (("first", "first load"), ("load", "from the cache")):
        if found := measured.get(step):
            peak, now = found["loaded"]["peak"], found["loaded"]["resident"]
            rows.append(f"| {name} | {found['seconds']:.1f} s, peak {peak:.2f} GB, then {now:.2f} | |")
    if found := measured.get("load"):
        added = beyond(found, found["touched"]["resident"])
        rows.append(f"| all weights resident | {added:.2f} GB | {found['estimated']['weights']:.2f} GB |")
    if found := measured.get("batches"):
        peak, speed = beyond(found, found["end"]["peak"]), found["tokens_per_s"]
        rows.append(f"| {found['tokens']} ragged tokens | {speed:.0f} tokens/s | |")
        rows.append(f"| its peak, all weights resident | {peak:.2f} GB | {found['estimated']['total']:.2f} GB |")
    if found := measured.get("one_text"):
        rows.append(f"| a text of 20, of 200 | {found['seconds_20']:.2f} s, {found['seconds_200']:.2f} s | |")
    if found := measured.get("lora"):
        steps = ", ".join(f"{step:.1f}" for step in found["steps"])
        rows.append(f"| LoRA steps of 8 x 64 tokens | {steps} s | |")
        peak, total = beyond(found, found["end"]["peak"]), found["estimated"]["total"]
        rows.append(f"| their peak, all weights resident | {peak:.2f} GB | {total:.2f} GB |")
    if found := measured.get("head"):
        laps = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in found["seconds"].items())
        rows.append(f"| head on 16 rows | {laps}; saved {found['saved_mb']:.1f} MB; {found['end']['peak']:.2f} GB | |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a checkpoint directory")
    parser.add_argument("step", choices=[*STEPS, "table"])
    parser.add_argument("--cache", type=Path, help="where the 8-bit weights are kept between steps")
    arguments = parser.parse_args()
    path = Path(__file__).parent / "results" / f"full-size-{Path(arguments.model).name}-cpu.json"
    measured = json.loads(path.read_text()) if path.exists() else {}
    if arguments.step == "table":
        print(table(measured))
        return
    if arguments.cache is not None:
        os.environ["SKXLMR_CACHE"] = str(arguments.cache)
    measured |= {"torch": torch.__version__, "threads": torch.get_num_threads()}
    empty = resident()
    measured[arguments.step] = {"empty": empty, **STEPS[arguments.step](arguments.model)}
    path.write_text(json.dumps(measured, indent=2) + "\n")
    print(json.dumps(measured[arguments.step]))


if __name__ == "__main__":
    main()
