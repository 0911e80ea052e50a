"""Measure fine-tuning: of the upper layers with and without cached states of the lower ones; and a step of XL.

    python benchmarks/finetune.py layers [--out FILE]       # LoRA on the last quarter of the layers, 5 and 20 epochs
    python benchmarks/finetune.py step MODEL [--out FILE]   # seconds and memory of LoRA steps; see make_checkpoint.py

"layers" creates a model with random weights and without dropout in a temporary folder. For each number of epochs it
times `fit` with an empty cache, without a cache, and for a second candidate (another rank) with a filled cache. The
bound follows from the number of operations: all layers forward and a quarter backward, against a quarter of both.
"""

from __future__ import annotations

import argparse
import json
import pickle
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from shared import make_model

from skxlmr import LoRA, XLMRXLClassifier, XLMRXLEmbedder, set_feature_cache
from skxlmr.datasets import load_reviews
from skxlmr.runtime import feature_cache
from skxlmr.runtime.plan import make_plan
from skxlmr.training import Callback


def timed_fit(clf: XLMRXLClassifier, texts: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the seconds and the losses of a fit."""
    started = time.perf_counter()
    clf.fit(texts, labels)
    return time.perf_counter() - started, np.array(clf.loss_curve_)


def layers(arguments: argparse.Namespace) -> dict:
    """Time LoRA on the last quarter of the layers."""
    reviews = load_reviews().sample(arguments.texts, random_state=0)
    texts, labels = reviews.text.to_numpy(object), reviews.label.to_numpy()
    report = {"hidden": arguments.hidden, "layers": arguments.layers, "texts": arguments.texts, "runs": []}
    with tempfile.TemporaryDirectory() as directory:
        make_model(Path(directory), arguments.hidden, arguments.layers)
        tuning = LoRA(rank=8, layers=arguments.layers // 4)
        clf = XLMRXLClassifier(directory, tuning=tuning, dtype=arguments.dtype, device=arguments.device, random_state=0)
        clf.set_params(load_in_8bit=False, max_epochs=1).fit(texts[:32], labels[:32])  # loads the model
        for epochs in arguments.epochs:
            clf.set_params(max_epochs=epochs, tuning__rank=8)
            set_feature_cache(0)
            without, plain = timed_fit(clf, texts, labels)
            set_feature_cache()
            feature_cache.clear_features()
            with_cache, losses = timed_fit(clf, texts, labels)
            second, _ = timed_fit(clf.set_params(tuning__rank=4), texts, labels)
            bound = epochs * 1.25 / (0.75 + epochs * 0.5)
            report["runs"].append(
                {
                    "epochs": epochs, "without_s": without, "with_s": with_cache, "ratio": without / with_cache,
                    "bound": bound, "second_candidate_s": second, "ratio_second": without / second,
                    "largest_difference_of_losses": float(np.abs(losses - plain).max()),
                }
            )  # fmt: skip
    print("| epochs | without s | with s | ratio | bound | second candidate s | ratio | losses differ by |")
    print("|---|---|---|---|---|---|---|---|")
    for run in report["runs"]:
        row = "| {epochs} | {without_s:.1f} | {with_s:.1f} | {ratio:.2f} | {bound:.2f} | {second_candidate_s:.1f} "
        print((row + "| {ratio_second:.2f} | {largest_difference_of_losses:.1e} |").format(**run))
    return report


class StepSeconds(Callback):
    """Records the seconds of each optimizer step."""

    def on_fit_begin(self, trainer: object) -> None:
        self.ended = [time.perf_counter()]

    def on_step_end(self, trainer: object) -> None:
        self.ended.append(time.perf_counter())


def step_in_this_process(arguments: argparse.Namespace) -> dict:
    """Time LoRA steps on a model in 8 bits, in batches of four texts with about this many tokens."""
    texts = load_reviews().sample(400, random_state=0).text.tolist()
    embedder = XLMRXLEmbedder(arguments.model, load_in_8bit=True, device=arguments.device).fit(texts[:1])
    tokenizer = embedder._fitted_backbone().tokenizer
    text = " ".join(texts)
    per_text = arguments.tokens // 4
    whole = make_plan(tokenizer, [text], max_length=512, stride=0).windows
    ids = np.concatenate([window[1:-1] for window in whole])
    chosen = [tokenizer.decode(ids[i * per_text : (i + 1) * per_text - 2].tolist()) for i in range(4 * arguments.steps)]
    seconds = StepSeconds()
    clf = XLMRXLClassifier(
        arguments.model, tuning=LoRA(rank=8), load_in_8bit=True, device=arguments.device, random_state=0,
        batch_size=4, max_epochs=1, callbacks=[seconds],
    )  # fmt: skip
    n_tokens = int(make_plan(tokenizer, chosen, max_length=512, stride=0).lengths.sum())
    clf.fit(chosen, np.arange(len(chosen)) % 2)
    report = {
        "tokens_per_step": n_tokens / arguments.steps,
        "seconds_per_step": float(np.diff(seconds.ended).mean()),
        "steps": arguments.steps,
        "pickle_mb": len(pickle.dumps(clf)) / 1e6,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    }
    if arguments.device.startswith("cuda"):
        report["peak_gpu_gb"] = torch.cuda.max_memory_allocated() / 1e9
    return report


def step(arguments: argparse.Namespace) -> dict:
    """Run the same in a new process, with the 8-bit weights already in the cache."""
    XLMRXLEmbedder(arguments.model, load_in_8bit=True, device=arguments.device).fit(["good morning"])
    command = [sys.executable, __file__, "step", arguments.model, "--tokens", str(arguments.tokens), "--here"]
    command += ["--steps", str(arguments.steps), "--device", arguments.device]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    report = json.loads(done.stdout.splitlines()[-1])
    for name, value in report.items():
        print(f"| {name} | {value:.2f} |")
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    sub = commands.add_parser("layers")
    sub.add_argument("--hidden", type=int, default=512)
    sub.add_argument("--layers", type=int, default=24)
    sub.add_argument("--texts", type=int, default=96)
    sub.add_argument("--epochs", type=int, nargs="+", default=[5, 20])
    sub.add_argument("--dtype", default="float32")
    sub.set_defaults(run=layers)
    sub = commands.add_parser("step")
    sub.add_argument("model")
    sub.add_argument("--tokens", type=int, default=512)
    sub.add_argument("--steps", type=int, default=3)
    sub.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    sub.set_defaults(run=step)
    for sub in commands.choices.values():
        sub.add_argument("--device", default="cpu")
        sub.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if getattr(arguments, "here", False):
        print(json.dumps(step_in_this_process(arguments)))
        return
    report = arguments.run(arguments)
    on_gpu = arguments.device.startswith("cuda")
    report |= {"device": torch.cuda.get_device_name() if on_gpu else "cpu", "threads": torch.get_num_threads()}
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
