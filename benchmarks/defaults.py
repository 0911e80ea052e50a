"""Repeat the study behind the default settings of training, on train and dev splits only.

    python benchmarks/defaults.py [MODEL] --data FOLDER --task topics --sizes 8 32 0 --settings '{}' '{"max_epochs": 5}'

One row per size and settings: means over `--seeds` draws of the training rows. FOLDER is that of
`benchmarks/quality.py`. Test splits are not read. Rows that are not drawn for training, and those of the dev split, are
scored:

* topics: SIB-200, trained in English; English, and the mean of Chinese, Arabic and Swahili. Sizes are rows per class.
* sentiment: bundled reviews, trained in English; English and Chinese. Sizes are rows per class.
* similarity, entailment: JSICK, trained in English; English and Japanese of the trial split. Sizes are rows.
* tags: PUD, trained in English; English and German, 200 of the first 800 sentences. Sizes are sentences.

Size 0 stands for all rows but those that are scored.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

import skxlmr
from skxlmr import LoRA, XLMRXLClassifier, XLMRXLRegressor, XLMRXLTagger
from skxlmr.datasets import load_reviews, read_conllu

OTHERS = ("zho_Hans", "arb_Arab", "swh_Latn")


class Split(NamedTuple):
    """Rows to train on, and rows to score by group."""

    estimator: type
    X: Any
    y: Any
    held_out: dict[str, tuple[Any, Any]]
    score: Callable[[Any, Any, Any], float]


def accuracy(estimator: Any, X: Any, y: Any) -> float:
    return float(np.mean(estimator.predict(X) == np.asarray(y)))


def spearman(estimator: Any, X: Any, y: Any) -> float:
    return float(spearmanr(estimator.predict(X), y).statistic)


def token_accuracy(estimator: Any, X: Any, y: Any) -> float:
    return float(np.mean(np.concatenate(list(estimator.predict(X))) == np.concatenate(list(y))))


def read_sib(data: Path, language: str, part: str) -> pd.DataFrame:
    """Read sentences of SIB-200 and their topics."""
    return pd.read_csv(data / "sib200" / language / f"{part}.tsv", sep="\t", quoting=3)


def draw_per_class(labels: pd.Series, size: int, seed: int) -> np.ndarray:
    """Draw positions of `size` rows per class; all but a fifth of the rows if `size` is 0."""
    order = np.random.RandomState(seed).permutation(len(labels))
    if not size:
        return order[: len(labels) * 4 // 5]
    rank = labels.iloc[order].groupby(labels.iloc[order]).cumcount().to_numpy()
    return order[rank < size]


def topics(data: Path, size: int, seed: int) -> Split:
    train = {name: read_sib(data, name, "train").set_index("index_id") for name in ("eng_Latn", *OTHERS)}
    dev = {name: read_sib(data, name, "dev").set_index("index_id") for name in train}
    english = train["eng_Latn"]
    drawn = english.iloc[draw_per_class(english.category, size, seed)]
    left = english.index.difference(drawn.index)[:150]
    scored = {name: pd.concat([dev[name], of.loc[of.index.intersection(left)]]) for name, of in train.items()}
    held_out = {name: (frame.text, frame.category) for name, frame in scored.items()}
    return Split(XLMRXLClassifier, drawn.text, drawn.category, held_out, accuracy)


def sentiment(data: Path, size: int, seed: int) -> Split:
    df = load_reviews()
    english, chinese = (df[df.language == language].sample(2000, random_state=0) for language in ("en", "zh"))
    train, dev = english[:600], english[600:1000]  # the second thousand is the test split of benchmarks/quality.py
    drawn = train.iloc[draw_per_class(train.label, size, seed)]
    held_out = {"en": (dev.text, dev.label), "zh": (chinese[:400].text, chinese[:400].label)}
    return Split(XLMRXLClassifier, drawn.text, drawn.label, held_out, accuracy)


def pairs(column: str, estimator: type, score: Callable) -> Callable[[Path, int, int], Split]:
    def split(data: Path, size: int, seed: int) -> Split:
        frame = pd.read_csv(data / "jsick" / "jsick.tsv", sep="\t")
        train, trial = frame[frame.data == "train"], frame[frame.data == "trial"]
        drawn = train.sample(size or len(train), random_state=seed)

        def columns(of: pd.DataFrame, language: str) -> tuple[pd.DataFrame, pd.Series]:
            texts = of[[f"sentence_A_{language}", f"sentence_B_{language}"]].set_axis(["a", "b"], axis=1)
            return texts, of[f"{column}_{language}"]

        return Split(estimator, *columns(drawn, "En"), {name: columns(trial, name) for name in ("En", "Ja")}, score)

    return split


def tags(data: Path, size: int, seed: int) -> Split:
    en, de = (
        read_conllu(data / "ud_pud" / f"{language}_pud-ud-test.conllu").sort_values("sent_id")[:800]
        for language in ("en", "de")
    )
    order = np.random.RandomState(seed).permutation(800)
    drawn, left = en.iloc[order[: size or 600]], order[600:]
    held_out = {"en": (en.iloc[left].tokens, en.iloc[left].upos), "de": (de.iloc[left].tokens, de.iloc[left].upos)}
    return Split(XLMRXLTagger, drawn.tokens, drawn.upos, held_out, token_accuracy)


TASKS = {
    "topics": topics,
    "sentiment": sentiment,
    "similarity": pairs("relatedness_score", XLMRXLRegressor, spearman),
    "entailment": pairs("entailment_label", XLMRXLClassifier, accuracy),
    "tags": tags,
}


def run(split: Split, model: str, settings: dict[str, Any], seed: int) -> dict[str, float]:
    """Fit and score; returns the scores of the trained language and of the others, the seconds and the last loss."""
    skxlmr.set_feature_cache(0)  # no fit reuses the features of another
    skxlmr.set_feature_cache()
    lora = {key.removeprefix("lora_"): value for key, value in settings.items() if key.startswith("lora_")}
    others = {key: value for key, value in settings.items() if not key.startswith("lora_")}
    estimator = split.estimator(model, random_state=seed, **({"tuning": LoRA(**lora)} if lora else {}), **others)
    began = time.perf_counter()
    estimator.fit(split.X, split.y)
    seconds = time.perf_counter() - began
    own, *other = [split.score(estimator, X, y) for X, y in split.held_out.values()]
    last = estimator.loss_curve_[-1] if estimator.loss_curve_ else np.nan
    return {"own": own, "others": float(np.mean(other)), "fit s": seconds, "loss": last, "epochs": estimator.n_iter_}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="e5-small")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--task", choices=TASKS, default="topics")
    parser.add_argument("--sizes", nargs="+", type=int, default=[8, 32, 0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--settings", nargs="+", type=json.loads, default=[{}], help='JSON; "lora_rank" is of LoRA')
    arguments = parser.parse_args()
    print("| task | size | settings | own language | other languages | fit s | last loss | epochs |")
    print("|---|---|---|---|---|---|---|---|")
    for size in arguments.sizes:
        for settings in arguments.settings:
            runs = [
                run(TASKS[arguments.task](arguments.data, size, seed), arguments.model, settings, seed)
                for seed in range(arguments.seeds)
            ]
            mean = pd.DataFrame(runs).mean()
            print(
                f"| {arguments.task} | {size or 'all'} | {json.dumps(settings)} | {mean.own:.3f} | {mean.others:.3f} "
                f"| {mean['fit s']:.1f} | {mean.loss:.3f} | {mean.epochs:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
