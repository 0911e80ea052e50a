"""Compare the scores of the estimators, with their defaults, to those of other libraries, in one run and one table.

    python benchmarks/quality.py [MODEL] --data FOLDER [--tasks sib ...] [--systems ours ...] [--out FILE]

FOLDER holds sib200/, ud_pud/, xquad/, jsick/ and xcopa/: SIB-200 and XQuAD (CC BY-SA 4.0), PUD of Universal
Dependencies (CC BY-SA 3.0), JSICK and XCOPA (CC BY 4.0). All systems get the same weights and the same rows. Each score
is the mean over the seeds, which also draw the rows; in brackets are the seconds to fit, reading the weights included.

ours        the estimator of the task; only its model and random_state are set
ours_head   the same with tuning="head"
pipeline    LogisticRegression on the vectors of XLMRXLEmbedder; of two sentences u and v on u, v, |u - v| and u * v;
            for relatedness the cosine of u and v, which is not trained
ridge       relatedness only: Ridge on u, v, |u - v| and u * v
tfidf       LogisticRegression or Ridge on TF-IDF of characters; the choice that is nearest by TF-IDF;
            for tags the most frequent one of the word, for questions the first sentence
setfit      SetFit with its defaults, on about 2,240 pairs; topics only
trainer     all weights fine-tuned by transformers' Trainer, ten epochs at a rate of 5e-5; classes and numbers only

Our estimators are pickled after the fit and predict from the pickle. The numbers of rows, and for taggers of tags, are
checked. XCOPA and questions are scored for our estimators and the baselines alone.
"""

from __future__ import annotations

import argparse
import json
import pickle
import re
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from quality_tasks import TASKS, Columns, Problem, Rows, Size, apart, together
from scipy import sparse
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import normalize

import skxlmr
from skxlmr import XLMRXLQA, XLMRXLClassifier, XLMRXLEmbedder, XLMRXLMultipleChoice, XLMRXLRegressor, XLMRXLTagger
from skxlmr.columns import as_objects
from skxlmr.runtime.feature_cache import clear_features

ESTIMATORS = {
    "classes": XLMRXLClassifier,
    "numbers": XLMRXLRegressor,
    "tags": XLMRXLTagger,
    "answers": XLMRXLQA,
    "choices": XLMRXLMultipleChoice,
}
Predict = Callable[[Columns], np.ndarray]


@dataclass(frozen=True)
class Result:
    """The score of one fit in one language; `group` is the name in the table."""

    task: str
    trained_on: str
    size: Size
    system: str
    seed: int
    tested_on: str
    group: str
    metric: str
    score: float
    n_train: int
    n_test: int
    fit_seconds: float
    predict_seconds: float


@dataclass(frozen=True)
class Setup:
    """The settings of all systems."""

    model: str
    device: str | None
    folder: Path

    @property
    def parameters(self) -> dict[str, str]:
        """The parameters of all estimators."""
        return {"model": self.model, **({"device": self.device} if self.device else {})}

    @property
    def peer_device(self) -> str:
        """The device of other libraries."""
        return self.device or ("cuda" if torch.cuda.is_available() else "cpu")

    @cached_property
    def exported(self) -> Path:
        """The model as a directory of transformers and sentence-transformers."""
        import peers

        return peers.export(self.model, self.folder / "model")

    @cached_property
    def prompt(self) -> str:
        """What our embedder puts before each text."""
        return self.embedder().fit(["a"]).prompt_ or ""

    def embedder(self) -> XLMRXLEmbedder:
        """Return an embedder with its defaults."""
        return XLMRXLEmbedder(**self.parameters)


def ours(kind: str, X: Columns, y: pd.Series, setup: Setup, seed: int, **parameters: Any) -> Predict:
    """Fit our estimator with its defaults."""
    return ESTIMATORS[kind](**setup.parameters, random_state=seed, **parameters).fit(X, y).predict


class PairVectors(TransformerMixin, BaseEstimator):
    """Turn two columns of texts into u, v, |u - v| and u * v."""

    def __init__(self, embedder: XLMRXLEmbedder) -> None:
        self.embedder = embedder

    def fit(self, X: pd.DataFrame, y: Any = None) -> PairVectors:
        """Fit the embedder on the first column."""
        self.embedder_ = self.embedder.fit(X.iloc[:, 0])
        return self

    def transform(self, X: pd.DataFrame) -> np.ndarray:
        """Return the vectors, (n, 4 * hidden_size)."""
        u, v = (self.embedder_.transform(X[name].to_numpy()) for name in X)
        return np.hstack([u, v, np.abs(u - v), u * v])


def pipeline(kind: str, X: Columns, y: pd.Series, setup: Setup, seed: int) -> Predict:
    """Fit LogisticRegression on vectors; for numbers return the cosine."""
    if kind == "numbers":
        embedder = setup.embedder().fit(X.iloc[:, 0].to_numpy())
        return partial(cosine, embedder)
    embedder = setup.embedder() if isinstance(X, pd.Series) else PairVectors(setup.embedder())
    return make_pipeline(embedder, LogisticRegression(max_iter=1000)).fit(X, y).predict


def cosine(embedder: XLMRXLEmbedder, X: pd.DataFrame) -> np.ndarray:
    """Return the cosine of the vectors of two columns."""
    u, v = (normalize(embedder.transform(X[name].to_numpy())) for name in X)
    return (u * v).sum(1)


def ridge(kind: str, X: Columns, y: pd.Series, setup: Setup, seed: int) -> Predict:
    """Fit Ridge on the vectors of pairs."""
    return make_pipeline(PairVectors(setup.embedder()), Ridge()).fit(X, y).predict


def tfidf(kind: str, X: Columns, y: pd.Series, setup: Setup, seed: int) -> Predict:
    """Fit the baseline that needs no model."""
    if kind == "tags":
        return frequent_tags(X, y)
    if kind == "answers":
        return first_sentences
    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4))
    if kind == "choices":
        return partial(nearest_choice, vectorizer.fit(X.to_numpy().ravel()))
    if isinstance(X, pd.Series):
        return make_pipeline(vectorizer, linear_classifier(y)).fit(X, y).predict
    vectorizer.fit(X.to_numpy().ravel())
    linear = LogisticRegression(max_iter=2000) if kind == "classes" else Ridge(solver="sparse_cg")
    linear.fit(pair_features(vectorizer, X), y)
    return lambda pairs: linear.predict(pair_features(vectorizer, pairs))


def linear_classifier(y: pd.Series) -> GridSearchCV:
    """Return LogisticRegression with C chosen by cross-validation on the training rows."""
    folds = max(2, min(5, y.value_counts().max()))
    return GridSearchCV(LogisticRegression(max_iter=2000), {"C": [1, 10, 100]}, cv=folds)


def pair_features(vectorizer: TfidfVectorizer, pairs: pd.DataFrame) -> sparse.csr_matrix:
    """Concatenate the element-wise product and the absolute difference of two vectors."""
    a, b = (vectorizer.transform(pairs[column]) for column in pairs)
    return sparse.hstack([a.multiply(b), abs(a - b)]).tocsr()


def nearest_choice(vectorizer: TfidfVectorizer, X: pd.DataFrame) -> np.ndarray:
    """Return the index of the choice that is nearest to the first column."""
    prompt, *choices = (vectorizer.transform(X[column]) for column in X)
    return np.stack([np.asarray(prompt.multiply(choice).sum(1))[:, 0] for choice in choices]).argmax(0)


def frequent_tags(X: pd.Series, y: pd.Series) -> Predict:
    """Return a function that gives each word its most frequent tag; unknown words the most frequent of all."""
    words = defaultdict(Counter)
    for tokens, tags in zip(X, y, strict=True):
        for token, tag in zip(tokens, tags, strict=True):
            words[token][tag] += 1
    most = Counter(tag for tags in y for tag in tags).most_common(1)[0][0]
    best = {token: tags.most_common(1)[0][0] for token, tags in words.items()}
    return lambda rows: as_objects([[best.get(token, most) for token in row] for row in rows])


def first_sentences(X: pd.DataFrame) -> np.ndarray:
    """Return the first sentence of each context."""
    return as_objects([re.split(r"(?<=[.!?])\s|(?<=[。！？])", context)[0] for context in X["context"]])


def setfit(kind: str, X: Columns, y: pd.Series, setup: Setup, seed: int) -> Predict:
    """Fit SetFit, with the prompt that our embedder takes."""
    import peers

    return peers.setfit(setup.exported, X, y, device=setup.peer_device, seed=seed, prompt=setup.prompt)


def trainer(kind: str, X: Columns, y: pd.Series, setup: Setup, seed: int) -> Predict:
    """Fine-tune all weights with transformers."""
    import peers

    return peers.fine_tuned(setup.exported, X, y, device=setup.peer_device, seed=seed)


def is_importable(name: str) -> bool:
    """Whether a package can be imported."""
    try:
        import_module(name)
    except ImportError:
        return False
    return True


@dataclass(frozen=True)
class System:
    """A way to solve the tasks: what fits it, the kinds of targets and the tasks it is for, and what it needs.

    `is_random` says whether the seed matters where the rows are the same.
    """

    fit: Callable[..., Predict]
    kinds: tuple[str, ...] = tuple(ESTIMATORS)
    tasks: tuple[str, ...] = tuple(TASKS)
    needs: tuple[str, ...] = ()
    is_random: bool = False

    def missing(self) -> list[str]:
        """Return the packages that cannot be imported; the others are imported now, so that no fit has to wait."""
        return [name for name in self.needs if not is_importable(name)]

    def learns(self, problem: Problem) -> bool:
        """Whether the fit depends on the rows."""
        return self.fit is not pipeline or problem.kind != "numbers"


SYSTEMS = {
    "ours": System(ours, is_random=True),
    "ours_head": System(partial(ours, tuning="head"), is_random=True),
    "pipeline": System(pipeline, ("classes", "numbers")),
    "ridge": System(ridge, ("numbers",)),
    "tfidf": System(tfidf),
    "setfit": System(
        setfit, ("classes",), ("sib",), ("setfit", "datasets", "sentence_transformers", "transformers"), is_random=True
    ),
    "trainer": System(trainer, ("classes", "numbers"), needs=("transformers", "accelerate"), is_random=True),
}


def measure(
    problem: Problem, train: Rows, tests: dict[str, Rows], name: str, setup: Setup, **about: Any
) -> list[Result]:
    """Fit a system once, from the files of the model on, and score it in each language."""
    if SYSTEMS[name].needs:
        _ = setup.exported, setup.prompt  # written and read once, not timed
    skxlmr.release_models()
    clear_features()
    began = time.perf_counter()
    predict = SYSTEMS[name].fit(problem.kind, *train, setup, about["seed"])
    learned = time.perf_counter()
    texts = together(tests)
    if name.startswith("ours"):
        predict = pickle.loads(pickle.dumps(predict))
    predicted = predict(texts)
    seconds = {"fit_seconds": learned - began, "predict_seconds": time.perf_counter() - learned}
    if name.startswith("ours"):
        check_order(predict, texts, predicted)
    return [
        Result(
            task=problem.task, trained_on=problem.trained_on, system=name, metric=problem.metric, tested_on=language,
            group=problem.groups.get(language, language), score=problem.score(tests[language][1], part, language),
            n_train=len(train[1]), n_test=len(part), **about, **seconds,
        )
        for language, part in apart(predicted, tests).items()
    ]  # fmt: skip


def check_order(predict: Predict, texts: Columns, predicted: np.ndarray) -> None:
    """Check that the last rows alone have the same predictions."""
    alike = np.allclose if predicted.dtype.kind == "f" else np.array_equal
    assert all(map(alike, predict(texts[-5:]), predicted[-5:])), "rows have changed places"


@dataclass(frozen=True)
class Plan:
    """What is to be measured."""

    tasks: list[str]
    systems: list[str]
    sizes: list[str] | None
    seeds: int
    rows: int | None
    test_rows: int | None

    def problems(self, data: Path) -> Iterator[tuple[Problem, Size]]:
        """Yield the tasks with the sizes that were asked for."""
        for name in self.tasks:
            for problem in TASKS[name](data):
                for size in problem.sizes:
                    if self.sizes is None or str(size) in self.sizes:
                        yield problem, size

    def run(self, data: Path, setup: Setup) -> Iterator[list[Result]]:
        """Measure all; yield the results of each system for each problem and size."""
        untrained: dict[tuple[str, str, str], list[Result]] = {}
        for problem, size in self.problems(data):
            tests = problem.test_rows(self.test_rows)
            for name in self.systems:
                system, key = SYSTEMS[name], (problem.task, problem.trained_on, name)
                if problem.kind not in system.kinds or problem.task not in system.tasks:
                    continue
                if key in untrained:
                    yield [replace(result, size=size) for result in untrained[key]]
                    continue
                drawn = size != "all" or self.rows is not None
                n_seeds = self.seeds if system.learns(problem) and (system.is_random or drawn) else 1
                results = []
                for seed in range(n_seeds):
                    train = problem.sample(size, seed, self.rows)
                    results += measure(problem, train, tests, name, setup, size=size, seed=seed)
                    print(progress(results[-len(tests) :]), file=sys.stderr, flush=True)
                if not system.learns(problem):
                    untrained[key] = results
                yield results


def progress(results: list[Result]) -> str:
    """Describe one fit in a line."""
    one = results[0]
    scores = " ".join(f"{result.tested_on} {result.score:.3f}" for result in results)
    return (
        f"{one.task}, {one.trained_on}, {one.size}, {one.system}, seed {one.seed}: {scores} ({one.fit_seconds:.1f} s)"
    )


def table(results: list[Result], systems: list[str]) -> str:
    """Return a table with a row per task, size and tested language, and a column per system."""
    frame = pd.DataFrame([asdict(result) for result in results])
    keys = ["task", "trained_on", "size", "group", "metric"]
    lines = ["| task | learned in | rows | tested in | metric | " + " | ".join(systems) + " |"]
    lines.append("|---" * (5 + len(systems)) + "|")
    for (task, trained_on, size, group, metric), rows in frame.groupby(keys, sort=False):
        cells = []
        for system in systems:
            mine = rows[rows.system == system]
            cells.append(f"{mine.score.mean():.3f} ({mine.fit_seconds.mean():.1f})" if len(mine) else "")
        n_train = rows.n_train.max()
        shown = f"{n_train} ({size} per class)" if task == "sib" and size != "all" else n_train
        lines.append(f"| {task} | {trained_on} | {shown} | {group} | {metric} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def installed(systems: list[str]) -> list[str]:
    """Return the systems whose packages are installed; name the others."""
    missing = {name: SYSTEMS[name].missing() for name in systems}
    for name, packages in missing.items():
        if packages:
            print(f"{name} is left out; it needs to import {', '.join(packages)}.", file=sys.stderr)
    return [name for name in systems if not missing[name]]


def describe(setup: Setup, plan: Plan) -> dict[str, Any]:
    """Return what the results depend on."""
    packages = sorted({name.replace("_", "-") for system in plan.systems for name in SYSTEMS[system].needs})
    return {
        "model": setup.model,
        "device": setup.peer_device,
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("torch", "scikit-learn", *packages)},
    }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="e5-small")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--sizes", nargs="+", help="only these of the sizes 8, 32 (sib), 50, 500 (jsick) and all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, help="train on no more than this many rows, to try it out")
    parser.add_argument("--test-rows", type=int, help="test on no more than this many rows of each language")
    parser.add_argument("--device", help="the default is that of each library")
    parser.add_argument("--out", type=Path, help="a JSON file for all single results, written after each system")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    systems = installed(arguments.systems)
    plan = Plan(arguments.tasks, systems, arguments.sizes, arguments.seeds, arguments.rows, arguments.test_rows)
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder:
        setup = Setup(arguments.model, arguments.device, Path(folder))
        about = describe(setup, plan)
        for new in plan.run(arguments.data, setup):
            results += new
            if arguments.out:  # after each system, since all take hours
                everything = about | {"results": [asdict(result) for result in results]}
                arguments.out.write_text(json.dumps(everything, indent=2) + "\n")
    if not results:
        sys.exit("Nothing was measured: none of the systems and sizes is for these tasks.")
    print(table(results, systems))


if __name__ == "__main__":
    main()
