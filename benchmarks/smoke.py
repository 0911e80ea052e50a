"""Check that no path is slower than its padded counterpart: transformers with the weights of nano, in padded batches.

    python benchmarks/smoke.py

Ends with an error that names the slower paths. It compares ratios within one run, not times, so that it can run on any
machine.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import peers
import torch
import transformers
from shared import copy_nano, in_turns, real_texts

import skxlmr
from skxlmr import XLMRXLQA, LoRA, XLMRXLClassifier, XLMRXLEmbedder, XLMRXLTagger

N_TEXTS, REPEATS = 64, 3
OPTIONS = {"model": "nano", "device": "cpu", "max_epochs": 1, "random_state": 0}

Run = Callable[[], object]


def paths(folder: Path) -> dict[str, tuple[Run, Run]]:
    """Return this library's function and the padded one for each path."""
    texts = [" ".join(text.split()) for text in real_texts(N_TEXTS)]
    return {**embedding(folder, texts), **predicting(folder, texts), **training(folder, texts)}


def embedding(folder: Path, texts: list[str]) -> dict[str, tuple[Run, Run]]:
    """Compare embeddings; 8 bits with bfloat16 of transformers."""
    nano = copy_nano(folder / "nano")
    found = {}
    for name, settings, dtype in (
        ("float32", {"dtype": "float32"}, torch.float32),
        ("bfloat16", {"dtype": "bfloat16"}, torch.bfloat16),
        ("8-bit", {"dtype": "bfloat16", "load_in_8bit": True}, torch.bfloat16),
    ):
        ours = XLMRXLEmbedder("nano", device="cpu", **settings).fit(texts)
        found[f"embedder, {name}"] = partial(ours.transform, texts), partial(peers.Padded(nano, dtype=dtype), texts)
    return found


def predicting(folder: Path, texts: list[str]) -> dict[str, tuple[Run, Run]]:
    """Compare fitted estimators with the models that they export."""
    words = [text.split() for text in texts]
    tags = [[f"T{i % 3}" for i in range(len(row))] for row in words]
    questions = ["What is it about?"] * len(texts)
    pairs = pd.DataFrame({"question": questions, "context": texts})
    found = {}
    for cls, X, y, twin, theirs in (
        (XLMRXLClassifier, texts, np.arange(16) % 2, transformers.AutoModelForSequenceClassification, (texts,)),
        (XLMRXLTagger, words, tags[:16], transformers.AutoModelForTokenClassification, (words,)),
        (XLMRXLQA, pairs, [(text.split()[0], 0) for text in texts[:16]], transformers.AutoModelForQuestionAnswering,
         (questions, texts)),
    ):  # fmt: skip
        fitted, name = cls(**OPTIONS).fit(X[:16], y), cls.__name__
        fitted.export_pretrained(folder / name)
        padded = peers.Padded(folder / name, twin, peers.answer_of_head)
        found[f"{name}.predict"] = partial(fitted.predict, X), partial(padded, *theirs)
    return found


def training(folder: Path, texts: list[str]) -> dict[str, tuple[Run, Run]]:
    """Compare an epoch of LoRA."""
    labels = (np.arange(len(texts)) % 2).tolist()
    ours = XLMRXLClassifier(**OPTIONS, tuning=LoRA(rank=8, alpha=16, dropout=0.0), dtype="float32", batch_size=16)
    settings = {"dtype": torch.float32, "device": "cpu", "rank": 8, "batch_size": 16}
    twin = peers.trainer(copy_nano(folder / "nano"), **settings)
    return {"XLMRXLClassifier.fit": (partial(ours.fit, texts, labels), partial(twin, texts, labels))}


def main() -> None:
    skxlmr.set_feature_cache(0)
    slower = []
    with tempfile.TemporaryDirectory() as folder:
        print("| path | speed relative to the padded counterpart |\n|---|---|")
        for name, (ours, padded) in paths(Path(folder)).items():
            ours(), padded()
            seconds, _ = in_turns({"ours": ours, "padded": padded}, REPEATS)
            ratio = seconds["padded"] / seconds["ours"]
            print(f"| {name} | {ratio:.2f} |", flush=True)
            slower += [name] if ratio < 1 else []
    if slower:
        sys.exit(f"Slower than padded batches: {', '.join(slower)}.")


if __name__ == "__main__":
    main()
