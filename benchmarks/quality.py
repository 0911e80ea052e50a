"""Compare scores on real data with trivial baselines, in one table.

    python benchmarks/quality.py [MODEL] --data FOLDER [--tasks pud xquad ...] [--rows N] [--out FILE]

FOLDER holds sib200/, ud_pud/, xquad/, jsick/ and xcopa/: SIB-200 and XQuAD (CC BY-SA 4.0), PUD of Universal
Dependencies (CC BY-SA 3.0), JSICK and XCOPA (CC BY 4.0). Every estimator is fitted, pickled, and predicts from the
pickle. The numbers of rows, and for taggers of tags, are checked.
"""

from __future__ import annotations

import argparse
import json
import pickle
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from scipy.stats import spearmanr
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline

from skxlmr import (
    XLMRXLQA,
    LoRA,
    XLMRXLClassifier,
    XLMRXLEmbedder,
    XLMRXLMultipleChoice,
    XLMRXLRegressor,
    XLMRXLTagger,
)
from skxlmr.datasets import load_reviews, read_conllu, read_squad
from skxlmr.metrics import squad_scores
from skxlmr.tuning import LINEAR_LAYERS

# A small model needs LoRA on all matrices and a high learning rate.
EVERYWHERE = LoRA(rank=16, targets=tuple(LINEAR_LAYERS))
SMALL = {
    "nano": {"tuning": EVERYWHERE, "learning_rate": 3e-3},
    "e5-small": {"tuning": EVERYWHERE, "learning_rate": 1e-3},
}


@dataclass(frozen=True)
class Result:
    """One row of the table."""

    task: str
    language: str
    metric: str
    score: float
    baseline: str
    baseline_score: float
    n_train: int
    n_test: int
    fit_seconds: float
    predict_seconds: float


@dataclass(frozen=True)
class Setup:
    """The settings of all tasks."""

    model: str
    data: Path
    rows: int | None
    parameters: dict[str, Any]
    languages: list[str] | None = None

    def run(
        self, cls: type, X: Any, y: Any, X_test: Any, **parameters: Any
    ) -> tuple[np.ndarray, dict[str, float | int]]:
        """Fit, pickle and predict; return the predictions and the columns of the table for this run."""
        X, y = X[: self.rows], y[: self.rows]
        began = time.perf_counter()
        fitted = cls(self.model, random_state=0, **{**self.parameters, **parameters}).fit(X, y)
        learned = time.perf_counter()
        again = pickle.loads(pickle.dumps(fitted))
        predicted = again.predict(X_test)
        seconds = {"fit_seconds": learned - began, "predict_seconds": time.perf_counter() - learned}
        assert len(predicted) == len(X_test)
        some = X_test[-5:]
        alike = np.allclose if predicted.dtype.kind == "f" else np.array_equal
        assert all(map(alike, again.predict(some), predicted[-5:])), "rows have changed places"
        return predicted, {"n_train": len(X), "n_test": len(X_test), **seconds}

    def test(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return the test rows: all, or the requested number."""
        return frame[: self.rows]


SIB_LANGUAGES = (
    "deu_Latn", "fra_Latn", "spa_Latn", "rus_Cyrl", "zho_Hans",
    "jpn_Jpan", "arb_Arab", "hin_Deva", "swh_Latn", "tur_Latn",
)  # fmt: skip


SIB_TUNED = ("eng_Latn", "deu_Latn", "zho_Hans", "arb_Arab", "swh_Latn")


def sib(setup: Setup) -> Iterator[Result]:
    """Classify topics with embeddings and LogisticRegression, trained on English, tested in ten other languages."""

    train = read_sib(setup, "eng_Latn", "train")[: setup.rows]
    precisions, strength = {"": {}, ", 8-bit": {"load_in_8bit": True}}, None
    for name, precision in precisions.items():
        began = time.perf_counter()
        embedder = XLMRXLEmbedder(setup.model, normalize=True, device=setup.parameters["device"], **precision)
        # Chosen once, so that only the vectors differ between the precisions, not the regularisation.
        linear = LogisticRegression(C=strength, max_iter=2000) if strength else linear_classifier()
        pipeline = make_pipeline(embedder, linear).fit(train.text, train.category)
        strength = strength or linear.best_params_["C"]
        learned = time.perf_counter()
        baseline = tfidf_classifier().fit(train.text, train.category)
        scores, theirs = [], []
        for language in SIB_LANGUAGES:
            test = setup.test(read_sib(setup, language, "test"))
            scores.append(pipeline.score(test.text, test.category))
            theirs.append(baseline.score(test.text, test.category))
            seconds = {"fit_seconds": learned - began, "predict_seconds": time.perf_counter() - learned}
            run = {"n_train": len(train), "n_test": len(test), **seconds}
            yield Result(f"topics{name}", language, "accuracy", scores[-1], "TF-IDF", theirs[-1], **run)
        yield Result(f"topics{name}", "mean of ten", "accuracy", np.mean(scores), "TF-IDF", np.mean(theirs), **run)


def sib_tuned(setup: Setup) -> Iterator[Result]:
    """Classify topics by fine-tuning, within single languages and from English to the ten others."""
    inside, theirs = [], []
    for language in SIB_TUNED:
        train = read_sib(setup, language, "train")[: setup.rows]
        others = SIB_LANGUAGES if language == "eng_Latn" else ()
        tests = {name: setup.test(read_sib(setup, name, "test")) for name in (language, *others)}
        texts = pd.concat([test.text for test in tests.values()])
        predicted, run = setup.run(XLMRXLClassifier, train.text, train.category, texts, max_epochs=5)
        baseline = tfidf_classifier().fit(train.text, train.category)
        parts = np.split(predicted, np.cumsum([len(test) for test in tests.values()])[:-1])
        pairs = [
            (float(np.mean(part == test.category.to_numpy())), baseline.score(test.text, test.category))
            for part, test in zip(parts, tests.values(), strict=True)
        ]
        inside.append(pairs[0][0])
        theirs.append(pairs[0][1])
        yield Result("topics, fine-tuned", language, "accuracy", inside[-1], "TF-IDF", theirs[-1], **run)
        for name, (score, tfidf) in zip(others, pairs[1:], strict=True):
            yield Result("topics, fine-tuned on English", name, "accuracy", score, "TF-IDF", tfidf, **run)
        if others:
            ours, tfidf = np.mean(pairs[1:], axis=0).tolist()
            yield Result("topics, fine-tuned on English", "mean of ten", "accuracy", ours, "TF-IDF", tfidf, **run)
    name = f"mean of {len(SIB_TUNED)}"
    yield Result("topics, fine-tuned", name, "accuracy", np.mean(inside), "TF-IDF", np.mean(theirs), **run)


def read_sib(setup: Setup, language: str, part: str) -> pd.DataFrame:
    """Read sentences of SIB-200 and their topics."""
    return pd.read_csv(setup.data / "sib200" / language / f"{part}.tsv", sep="\t", quoting=3)


def tfidf_classifier() -> Pipeline:
    """Return the usual baseline: TF-IDF and LogisticRegression."""
    return make_pipeline(TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4)), linear_classifier())


def linear_classifier() -> GridSearchCV:
    """Return LogisticRegression with C chosen by cross-validation on the training rows."""
    return GridSearchCV(LogisticRegression(max_iter=2000), {"C": [1, 10, 100]}, cv=5)


def reviews(setup: Setup) -> Iterator[Result]:
    """Classify sentiment, trained on 1,000 English reviews, tested in English and Chinese."""
    df = load_reviews()
    english, chinese = (df[df.language == language].sample(2000, random_state=0) for language in ("en", "zh"))
    train, tests = english[:1000][: setup.rows], {"en": setup.test(english[1000:]), "zh": setup.test(chinese[1000:])}
    texts = pd.concat([test.text for test in tests.values()])
    predicted, run = setup.run(XLMRXLClassifier, train.text, train.label, texts, max_epochs=3)
    baseline = tfidf_classifier().fit(train.text, train.label)
    for (language, test), part in zip(tests.items(), np.split(predicted, [len(tests["en"])]), strict=True):
        ours, theirs = float(np.mean(part == test.label.to_numpy())), baseline.score(test.text, test.label)
        yield Result("reviews, learned in English", language, "accuracy", ours, "TF-IDF", theirs, **run)


def pud(setup: Setup) -> Iterator[Result]:
    """Tag parts of speech, trained on the first 800 sentences by id, tested on the last 200."""
    frames = {
        language: read_conllu(setup.data / "ud_pud" / f"{language}_pud-ud-test.conllu").sort_values("sent_id")
        for language in ("en", "de", "zh", "ar")
    }
    tests = {language: setup.test(frame[800:]) for language, frame in frames.items()}
    settings = {"max_epochs": 5, **({"learning_rate": 3e-3} if setup.model in SMALL else {})}
    for language, frame in frames.items():
        train, test = frame[:800], tests[language]
        asked = tests if language == "en" else {language: test}
        tokens = pd.concat([rows.tokens for rows in asked.values()])
        predicted, run = setup.run(XLMRXLTagger, train.tokens, train.upos, tokens, **settings)
        assert [len(tags) for tags in predicted] == [len(row) for row in tokens]
        parts = np.split(predicted, np.cumsum([len(rows) for rows in asked.values()])[:-1])
        words = defaultdict(Counter)
        for tokens, tags in zip(train.tokens, train.upos, strict=True):
            for token, tag in zip(tokens, tags, strict=True):
                words[token][tag] += 1
        most = Counter(tag for tags in train.upos for tag in tags).most_common(1)[0][0]
        for (name, rows), part in zip(asked.items(), parts, strict=True):
            frequent = [[words[t].most_common(1)[0][0] if t in words else most for t in row] for row in rows.tokens]
            true = np.concatenate(rows.upos.to_list())
            ours, theirs = (float(np.mean(np.concatenate(list(tags)) == true)) for tags in (part, frequent))
            task = "part of speech" + (", learned in English" if name != language else "")
            yield Result(task, name, "accuracy", ours, "most frequent tag of the word", theirs, **run)


def xquad(setup: Setup) -> Iterator[Result]:
    """Answer questions; the last fifth of the articles is for testing."""
    for language in setup.languages or ("en", "zh"):
        frame = read_squad(setup.data / "xquad" / f"xquad.{language}.json")
        titles = frame.title.unique()
        is_test = frame.title.isin(titles[-len(titles) // 5 :])
        train, test = frame[~is_test], setup.test(frame[is_test])
        columns, truth = ["question", "context"], [answers["text"] for answers in test.answers]
        predicted, run = setup.run(XLMRXLQA, train[columns], train.answers, test[columns], max_epochs=3)
        assert all(answer in context for answer, context in zip(predicted, test.context, strict=True))
        first = [re.split(r"(?<=[.!?])\s|(?<=[。！？])", context)[0] for context in test.context]
        ours, theirs = (squad_scores(list(answers), truth, language)["f1"] for answers in (predicted, first))
        yield Result("answers", language, "F1", ours, "first sentence", theirs, **run)


def jsick(setup: Setup) -> Iterator[Result]:
    """Predict entailment and relatedness of pairs of sentences."""
    frame = pd.read_csv(setup.data / "jsick" / "jsick.tsv", sep="\t")
    train, test = frame[frame.data == "train"], setup.test(frame[frame.data == "test"])
    for language in setup.languages or ("En", "Ja"):
        columns = [f"sentence_A_{language}", f"sentence_B_{language}"]
        X, X_test = train[columns], test[columns]
        tfidf = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4)).fit(X.to_numpy().ravel()[: _twice(setup.rows)])
        features, features_test = (_pair_features(tfidf, pairs) for pairs in (X[: setup.rows], X_test))

        label = f"entailment_label_{language}"
        predicted, run = setup.run(XLMRXLClassifier, X, train[label], X_test, max_epochs=4)
        truth = test[label].to_numpy()
        linear = LogisticRegression(max_iter=2000).fit(features, train[label][: setup.rows]).predict(features_test)
        majority = train[label].mode()[0]
        for name, baseline in (("majority class", majority), ("TF-IDF", linear)):
            ours, theirs = (float(np.mean(labels == truth)) for labels in (predicted, baseline))
            yield Result("entailment", language.lower(), "accuracy", ours, name, theirs, **run)

        score = f"relatedness_score_{language}"
        predicted, run = setup.run(XLMRXLRegressor, X, train[score], X_test, max_epochs=4)
        ridge = Ridge(solver="sparse_cg").fit(features, train[score][: setup.rows]).predict(features_test)
        ours, theirs = (float(spearmanr(numbers, test[score]).statistic) for numbers in (predicted, ridge))
        yield Result("relatedness", language.lower(), "Spearman", ours, "TF-IDF", theirs, **run)


def _twice(rows: int | None) -> int | None:
    return None if rows is None else 2 * rows


def _pair_features(tfidf: TfidfVectorizer, pairs: pd.DataFrame) -> sparse.csr_matrix:
    """Concatenate the element-wise product and the absolute difference of two vectors."""
    a, b = (tfidf.transform(pairs[column]) for column in pairs)
    return sparse.hstack([a.multiply(b), abs(a - b)]).tocsr()


def xcopa(setup: Setup) -> Iterator[Result]:
    """Choose the more likely of two causes or effects, trained on the 100 validation questions."""
    for language in ("sw", "tr", "zh", "it"):
        train, test = (
            pd.read_json(setup.data / "xcopa" / language / f"{part}.jsonl", lines=True) for part in ("val", "test")
        )
        test = setup.test(test)
        for frame in (train, test):
            frame["prompt"] = frame.premise + " " + frame.question + ":"
        columns = ["prompt", "choice1", "choice2"]
        predicted, run = setup.run(XLMRXLMultipleChoice, train[columns], train.label, test[columns], max_epochs=5)
        assert set(predicted) <= {0, 1}
        truth = test.label.to_numpy()
        texts = pd.concat([train.premise, train.choice1, train.choice2])
        tfidf = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4)).fit(texts)
        premise, *choices = (tfidf.transform(test[column]) for column in ("premise", "choice1", "choice2"))
        nearest = np.stack([np.asarray(premise.multiply(choice).sum(1))[:, 0] for choice in choices]).argmax(0)
        majority = train.label.mode()[0]
        for name, baseline in (("majority index", majority), ("TF-IDF, nearest choice", nearest)):
            ours, theirs = (float(np.mean(labels == truth)) for labels in (predicted, baseline))
            yield Result("multiple choice", language, "accuracy", ours, name, theirs, **run)


TASKS: dict[str, Callable[[Setup], Iterator[Result]]] = {
    "sib": sib,
    "sib_tuned": sib_tuned,
    "reviews": reviews,
    "pud": pud,
    "xquad": xquad,
    "jsick": jsick,
    "xcopa": xcopa,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="nano")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--rows", type=int, help="use only this many rows, to try it out")
    parser.add_argument("--languages", nargs="+", help="only these languages of xquad and jsick")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    parameters = {"device": arguments.device, **SMALL.get(arguments.model, {})}
    setup = Setup(arguments.model, arguments.data, arguments.rows, parameters, arguments.languages)
    print("| task | language | metric | score | baseline | its score | training, test rows | fit s | predict s |")
    print("|---|---|---|---|---|---|---|---|---|")
    about = {"model": arguments.model, "torch": torch.__version__, "threads": torch.get_num_threads()}
    results = []
    for name in arguments.tasks:
        for result in TASKS[name](setup):
            results.append(result)
            print(
                f"| {result.task} | {result.language} | {result.metric} | {result.score:.3f} | {result.baseline} "
                f"| {result.baseline_score:.3f} | {result.n_train}, {result.n_test} "
                f"| {result.fit_seconds:.1f} | {result.predict_seconds:.1f} |",
                flush=True,
            )
            if arguments.out:  # after each task, since all take hours
                arguments.out.write_text(json.dumps(about | {"results": [asdict(r) for r in results]}, indent=2) + "\n")


if __name__ == "__main__":
    main()
