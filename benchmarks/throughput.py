"""Tokens per second of the tagger and of question answering beside the classifier, on the same texts.

    python benchmarks/throughput.py [MODEL] [--texts N] [--out FILE]

Each predicts the same windows: the classifier and the tagger the texts, the classifier and question answering pairs of
a question and a text. What differs is the alignment and the decoding.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from skxlmr import XLMRXLQA, XLMRXLClassifier, XLMRXLTagger
from skxlmr.datasets import load_reviews
from skxlmr.inference import plan
from skxlmr.tokens import split_words


def tokens_per_second(estimator: object, X: object, n_tokens: int, repeats: int) -> float:
    """Of `predict`, the best of several runs."""
    estimator.predict(X[:8])
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        estimator.predict(X)
        seconds.append(time.perf_counter() - started)
    return n_tokens / min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="nano")
    parser.add_argument("--texts", type=int, default=600)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    texts = load_reviews().sample(arguments.texts, random_state=0).text.tolist()
    words = [[text[a:b] for a, b in split_words(text)] or ["?"] for text in texts]
    joined = [" ".join(row) for row in words]
    pairs = pd.DataFrame({"question": ["What is it about?"] * len(texts), "context": joined})
    options = {"model": arguments.model, "device": arguments.device, "max_epochs": 1, "random_state": 0}
    labels = np.arange(16) % 2
    single = XLMRXLClassifier(**options).fit(joined[:16], labels)
    double = XLMRXLClassifier(**options).fit(pairs[:16], labels)
    tagger = XLMRXLTagger(**options).fit(words[:16], [[f"T{i % 3}" for i in range(len(row))] for row in words[:16]])
    bio_tags = [[("B-A", "I-A", "O")[i % 3] for i in range(len(row))] for row in words[:16]]
    bio = XLMRXLTagger(**options).fit(words[:16], bio_tags)
    qa = XLMRXLQA(**options).fit(pairs[:16], [(text[:3], 0) for text in joined[:16]])
    tokenizer = single._backbone.tokenizer

    def count(first: list[str], second: list[str] | None = None) -> int:
        return int(plan(tokenizer, first, second, max_length=512, stride=64).lengths.sum())

    n_words = sum(len(ids) for row in words for ids in tokenizer.encode_batch(row)) + 2 * len(words)
    n_pairs = count(list(pairs.question), joined)
    report = {
        "classifier": tokens_per_second(single, joined, count(joined), arguments.repeats),
        "tagger, plain tags": tokens_per_second(tagger, words, n_words, arguments.repeats),
        "tagger, BIO": tokens_per_second(bio, words, n_words, arguments.repeats),
        "classifier of pairs": tokens_per_second(double, pairs, n_pairs, arguments.repeats),
        "question answering": tokens_per_second(qa, pairs, n_pairs, arguments.repeats),
    }
    beside = dict.fromkeys(["tagger, plain tags", "tagger, BIO"], "classifier")
    beside["question answering"] = "classifier of pairs"
    print("| predicts | tokens/s | beside the classifier |")
    print("|---|---|---|")
    for name, value in report.items():
        print(f"| {name} | {value:,.0f} | {value / report[beside.get(name, name)]:.2f} |")
    on_gpu = arguments.device.startswith("cuda")
    about = {"model": arguments.model, "device": torch.cuda.get_device_name() if on_gpu else "cpu"}
    if arguments.out:
        arguments.out.write_text(json.dumps(report | about | {"threads": torch.get_num_threads()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
