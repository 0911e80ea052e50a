"""The tasks of `quality.py`: what is learned from which rows, and tested on which."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from skxlmr.datasets import load_reviews, read_conllu, read_squad
from skxlmr.metrics import squad_scores

Columns = pd.Series | pd.DataFrame
Rows = tuple[Columns, pd.Series]
Size = int | str  # a number of rows, or "all"


def accuracy(y: pd.Series, predicted: np.ndarray, language: str) -> float:
    """Return the share of correct labels."""
    return float(np.mean(predicted == y.to_numpy()))


def token_accuracy(y: pd.Series, predicted: np.ndarray, language: str) -> float:
    """Return the share of correct tags; each token needs one."""
    assert [len(tags) for tags in predicted] == [len(tags) for tags in y], "there is not one tag per token"
    return float(np.mean(np.concatenate(list(predicted)) == np.concatenate(y.to_list())))


def spearman(y: pd.Series, predicted: np.ndarray, language: str) -> float:
    """Return the rank correlation; 0 for constant predictions, where it is not defined."""
    return float(spearmanr(predicted, y).statistic) if np.ptp(predicted) else 0.0


def answer_f1(y: pd.Series, predicted: np.ndarray, language: str) -> float:
    """Return the F1 of the answers, as SQuAD defines it."""
    return squad_scores(list(predicted), [answers["text"] for answers in y], language)["f1"]


# The kinds of targets, with the name and the function of their score.
METRICS: dict[str, tuple[str, Callable[[pd.Series, np.ndarray, str], float]]] = {
    "classes": ("accuracy", accuracy),
    "numbers": ("Spearman", spearman),
    "tags": ("token accuracy", token_accuracy),
    "answers": ("F1", answer_f1),
    "choices": ("accuracy", accuracy),
}


@dataclass(frozen=True)
class Problem:
    """Something to learn: the training rows in one language, and the test rows by language.

    With `per_class`, the sizes are rows per class. `groups` has the name under which the scores of several languages
    are averaged.
    """

    task: str
    kind: str
    trained_on: str
    train: Rows
    tests: dict[str, Rows]
    sizes: tuple[Size, ...] = ("all",)
    per_class: bool = False
    groups: dict[str, str] = field(default_factory=dict)

    def sample(self, size: Size, seed: int, most: int | None = None) -> Rows:
        """Draw training rows: of the size, but no more than `most`. All of them stay in their order."""
        X, y = self.train
        rows = np.random.RandomState(seed).permutation(len(y))
        if size == "all":
            rows = np.sort(rows[:most])
        elif self.per_class:
            rank = y.iloc[rows].groupby(y.iloc[rows]).cumcount().to_numpy()
            rows = rows[rank < size][:most]
        else:
            rows = rows[:size][:most]
        return X.iloc[rows], y.iloc[rows]

    def test_rows(self, most: int | None) -> dict[str, Rows]:
        """Return the test rows by language: all, or `most` of each, drawn at random, since SIB-200 is sorted."""
        drawn = {}
        for language, (X, y) in self.tests.items():
            rows = np.sort(np.random.RandomState(0).permutation(len(y))[:most])
            drawn[language] = X.iloc[rows], y.iloc[rows]
        return drawn

    def score(self, y: pd.Series, predicted: np.ndarray, language: str) -> float:
        """Return the score of predictions in a language."""
        return METRICS[self.kind][1](y, predicted, language)

    @property
    def metric(self) -> str:
        """The name of the score."""
        return METRICS[self.kind][0]


SIB_LANGUAGES = (
    "deu_Latn", "fra_Latn", "spa_Latn", "rus_Cyrl", "zho_Hans",
    "jpn_Jpan", "arb_Arab", "hin_Deva", "swh_Latn", "tur_Latn",
)  # fmt: skip


def sib(data: Path) -> Iterator[Problem]:
    """Topics of sentences (SIB-200), learned from English, tested in English and ten other languages."""

    def read(language: str, part: str) -> Rows:
        frame = pd.read_csv(data / "sib200" / language / f"{part}.tsv", sep="\t", quoting=3)
        return frame.text, frame.category

    tests = {language: read(language, "test") for language in ("eng_Latn", *SIB_LANGUAGES)}
    groups = {"eng_Latn": "en", **dict.fromkeys(SIB_LANGUAGES, "mean of ten others")}
    yield Problem(
        "sib", "classes", "en", read("eng_Latn", "train"), tests, sizes=(8, 32, "all"), per_class=True, groups=groups
    )


def reviews(data: Path) -> Iterator[Problem]:
    """Sentiment of the bundled reviews, learned from 1,000 in English, tested in English and Chinese."""
    df = load_reviews()
    english, chinese = (df[df.language == language].sample(2000, random_state=0) for language in ("en", "zh"))
    train, *tests = ((rows.text, rows.label) for rows in (english[:1000], english[1000:], chinese[1000:]))
    yield Problem("reviews", "classes", "en", train, dict(zip(("en", "zh"), tests, strict=True)))


def jsick(data: Path, task: str, kind: str, target: str) -> Iterator[Problem]:
    """Yield a task on pairs of sentences (JSICK): English, tested in Japanese too, and Japanese."""
    frame = pd.read_csv(data / "jsick" / "jsick.tsv", sep="\t")

    def rows(part: str, language: str) -> Rows:
        chosen = frame[frame.data == part]
        pairs = chosen[[f"sentence_A_{language}", f"sentence_B_{language}"]]
        return pairs.set_axis(["first", "second"], axis=1), chosen[f"{target}_{language}"]

    tests = {"en": rows("test", "En"), "ja": rows("test", "Ja")}
    sizes = (50, 500, "all")
    yield Problem(task, kind, "en", rows("train", "En"), tests, sizes)
    yield Problem(task, kind, "ja", rows("train", "Ja"), {"ja": tests["ja"]}, sizes)


def jsick_relatedness(data: Path) -> Iterator[Problem]:
    """How related two sentences are, from 1 to 5."""
    return jsick(data, "jsick_relatedness", "numbers", "relatedness_score")


def jsick_entailment(data: Path) -> Iterator[Problem]:
    """Whether a sentence entails another, contradicts it, or neither."""
    return jsick(data, "jsick_entailment", "classes", "entailment_label")


def pud(data: Path) -> Iterator[Problem]:
    """Parts of speech (PUD), learned from the first 800 sentences by id; from English tested in German too."""
    frames = {
        language: read_conllu(data / "ud_pud" / f"{language}_pud-ud-test.conllu").sort_values("sent_id")
        for language in ("en", "de", "zh", "ar")
    }
    tests = {language: (frame.tokens[800:], frame.upos[800:]) for language, frame in frames.items()}
    for language, frame in frames.items():
        asked = ("en", "de") if language == "en" else (language,)
        train = frame.tokens[:800], frame.upos[:800]
        yield Problem("pud", "tags", language, train, {name: tests[name] for name in asked})


def xquad(data: Path) -> Iterator[Problem]:
    """Answers to English questions (XQuAD); the last fifth of the articles is for testing."""
    frame = read_squad(data / "xquad" / "xquad.en.json")
    titles = frame.title.unique()
    is_test = frame.title.isin(titles[-len(titles) // 5 :])
    train, test = ((rows[["question", "context"]], rows.answers) for rows in (frame[~is_test], frame[is_test]))
    yield Problem("xquad", "answers", "en", train, {"en": test})


def xcopa(data: Path) -> Iterator[Problem]:
    """The more likely of two causes or effects (XCOPA), learned from the 100 validation questions."""

    def read(language: str, part: str) -> Rows:
        frame = pd.read_json(data / "xcopa" / language / f"{part}.jsonl", lines=True)
        frame["prompt"] = frame.premise + " " + frame.question + ":"
        return frame[["prompt", "choice1", "choice2"]], frame.label

    for language in ("sw", "tr", "zh", "it"):
        yield Problem("xcopa", "choices", language, read(language, "val"), {language: read(language, "test")})


TASKS: dict[str, Callable[[Path], Iterator[Problem]]] = {
    task.__name__: task for task in (sib, reviews, jsick_relatedness, jsick_entailment, pud, xquad, xcopa)
}


def together(tests: dict[str, Rows]) -> Columns:
    """Concatenate the test rows of all languages."""
    return pd.concat([X for X, _ in tests.values()], ignore_index=True)


def apart(predicted: np.ndarray, tests: dict[str, Rows]) -> dict[str, Any]:
    """Split predictions on the concatenated rows by language."""
    assert len(predicted) == sum(len(y) for _, y in tests.values()), "there is not one prediction per row"
    ends = np.cumsum([len(y) for _, y in tests.values()])
    return dict(zip(tests, np.split(predicted, ends[:-1]), strict=True))
