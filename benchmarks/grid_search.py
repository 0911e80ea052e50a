"""Compare a grid search over a head with embedding the texts once and training the heads.

    python benchmarks/grid_search.py [MODEL] [--texts N] [--out FILE]

24 candidates in 5 folds make 120 fits and 240 predictions on the same texts. "embed once" is XLMRXLEmbedder on all
texts, "heads" the optimizer steps of the 120 fits. "grid" is the whole GridSearchCV with an empty cache; with
"no cache" every fit and prediction encodes its texts again.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.model_selection import GridSearchCV

from skxlmr import XLMRXLClassifier, XLMRXLEmbedder, set_feature_cache
from skxlmr.datasets import load_reviews
from skxlmr.runtime import feature_cache
from skxlmr.training import Callback

GRID = {"learning_rate": [1e-4, 3e-4, 1e-3, 3e-3], "weight_decay": [0.0, 0.01], "label_smoothing": [0.0, 0.05, 0.1]}
FOLDS = 5


class StepSeconds(Callback):
    """Sums the seconds of the optimizer steps of all fits."""

    total = 0.0

    def on_epoch_end(self, trainer: object) -> None:
        StepSeconds.total += trainer.metrics["seconds"]


def timed_grid(clf: XLMRXLClassifier, texts: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    """Return the seconds of the whole search and of its optimizer steps, and the best score."""
    StepSeconds.total = 0.0
    started = time.perf_counter()
    grid = GridSearchCV(clf, GRID, cv=FOLDS, refit=False).fit(texts, labels)
    return time.perf_counter() - started, StepSeconds.total, grid.best_score_


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="nano")
    parser.add_argument("--texts", type=int, default=600)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-cache", action="store_true", help="also run the grid without the cache, which takes long")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    reviews = load_reviews().sample(arguments.texts, random_state=0)
    texts, labels = reviews.text.to_numpy(object), reviews.label.to_numpy()
    options = {"model": arguments.model, "device": arguments.device}
    clf = XLMRXLClassifier(tuning="head", max_epochs=10, random_state=0, callbacks=[StepSeconds()], **options)
    clf.fit(texts[:8], labels[:8])  # loads the model
    feature_cache.clear_features()

    started = time.perf_counter()
    XLMRXLEmbedder(pooling="cls", **options).fit_transform(texts)
    report = {"embed_once_s": time.perf_counter() - started}
    feature_cache.clear_features()
    report["grid_s"], report["heads_s"], report["best_score"] = timed_grid(clf, texts, labels)
    report["ratio"] = report["grid_s"] / (report["embed_once_s"] + report["heads_s"])
    if arguments.no_cache:
        set_feature_cache(0)
        report["grid_without_cache_s"], _, report["best_score_without_cache"] = timed_grid(clf, texts, labels)
        report["times_faster"] = report["grid_without_cache_s"] / report["grid_s"]

    n_candidates = np.prod([len(values) for values in GRID.values()])
    print(f"{arguments.model}, {arguments.texts} texts, {n_candidates} candidates in {FOLDS} folds")
    for name, value in report.items():
        print(f"| {name} | {value:.3f} |")
    device = torch.cuda.get_device_name() if arguments.device.startswith("cuda") else platform.processor() or "cpu"
    report |= {"model": arguments.model, "texts": arguments.texts, "device": device, "threads": torch.get_num_threads()}
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
