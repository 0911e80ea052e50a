"""A grid search on a Ray cluster.

Run with `python examples/grid_on_ray.py`, on a node of the cluster, or without one: then Ray starts on this machine,
with processes that listen on all of its network interfaces. It needs `pip install "skxlmr[scale]"`, and uses "nano",
which comes with this package; with `--model facebook/xlm-roberta-xl` the same lines run the full model.
"""

import argparse
import time

import pandas as pd
from sklearn.model_selection import GridSearchCV

from skxlmr import XLMRXLClassifier
from skxlmr.datasets import load_reviews
from skxlmr.scale import estimate_run, grid_backend


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--address", help="of the Ray cluster; 'auto' is the one that runs on this machine")
    parser.add_argument("--speed", type=float, default=8_000, help="tokens per second of a worker in training")
    arguments = parser.parse_args()

    df = load_reviews()
    df = df[df.language == "en"].sample(arguments.rows, random_state=0)
    clf = XLMRXLClassifier(arguments.model, tuning="lora", max_epochs=2, random_state=0)
    grid, folds = {"tuning__rank": [2, 8], "learning_rate": [1e-3, 3e-3]}, 3

    with grid_backend(clf, address=arguments.address) as workers:
        run = estimate_run(
            arguments.rows * (folds - 1) // folds,
            tokens_per_row=40,
            model=arguments.model,
            tuning="lora",
            epochs=2,
            fits=4 * folds,
            devices=workers.n_jobs,
            tokens_per_second=arguments.speed,
        )
        print(f"{workers}\n\n{run}\n")
        started = time.perf_counter()
        search = GridSearchCV(clf, grid, cv=folds, n_jobs=-1, refit=False).fit(df.text, df.label)
        print(f"{time.perf_counter() - started:.0f} s")
    columns = ["param_tuning__rank", "param_learning_rate", "mean_test_score", "rank_test_score"]
    print(pd.DataFrame(search.cv_results_)[columns].round(3).to_string(index=False))


if __name__ == "__main__":
    main()
