"""Fit, predict, clone and search again and again, and watch the memory of the process; Linux only.

    python benchmarks/cycles.py [e5-small] [--cycles 30] [--tuning head]

In the last third of the cycles the base model is released after each. Writes a file in benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
from process_memory import resident
from shared import real_texts
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from skxlmr import XLMRXLClassifier, release_models, set_feature_cache


def cycle(model: str, tuning: str, number: int) -> None:
    """Fit, predict, clone, fit the clone, and search over two learning rates in two folds."""
    texts, labels = real_texts(400)[8 * number : 8 * number + 16], np.arange(16) % 2
    settings = {"tuning": tuning, "max_epochs": 1, "max_length": 64, "truncation": True, "device": "cpu"}
    clf = XLMRXLClassifier(model, load_in_8bit=True, random_state=0, **settings)
    clf.fit(texts, labels).predict(texts)
    clone(clf).fit(texts, labels).predict_proba(texts[:4])
    search = GridSearchCV(clone(clf), {"learning_rate": [1e-3, 1e-4]}, cv=2, refit=True)
    search.fit(texts, labels).predict(texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="e5-small")
    parser.add_argument("--cycles", type=int, default=30)
    parser.add_argument("--tuning", default="head")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # an epoch learns little
    set_feature_cache(2**20)  # full from the first cycle on
    samples = []
    for number in range(arguments.cycles):
        started = time.perf_counter()
        cycle(arguments.model, arguments.tuning, number)
        sample = {"cycle": number, "seconds": time.perf_counter() - started, **resident()}
        if number >= arguments.cycles * 2 // 3:
            release_models()
            sample["released"] = resident()["resident"]
        samples.append(sample)
        print({name: round(value, 3) for name, value in sample.items()}, flush=True)
    name = f"cycles-{Path(arguments.model).name}-{arguments.tuning}-cpu.json"
    (Path(__file__).parent / "results" / name).write_text(json.dumps(samples, indent=2) + "\n")


if __name__ == "__main__":
    main()
