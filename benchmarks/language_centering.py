"""How far clusters of vectors follow topics, and how far languages, before and after `LanguageCentering`.

python benchmarks/language_centering.py SIB200 results/language-centering-e5-small-sib.json

SIB200 is the folder of SIB-200 with a folder for each language. The texts are parallel: the first sentences
of the training rows, in several languages. Nothing is chosen by the result: clusters are as many as there are topics.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.cluster import KMeans
from sklearn.metrics import normalized_mutual_info_score

from skxlmr import XLMRXLEmbedder
from skxlmr.search import LanguageCentering, search

LANGUAGES = ("eng_Latn", "deu_Latn", "zho_Hans", "arb_Arab")
SENTENCES = 100  # in each language
SEEDS = range(5)


def load(root: Path) -> pd.DataFrame:
    """Return rows with the columns text, category and language, in the same order in each language."""
    parts = [
        pd.read_csv(root / language / "train.tsv", sep="\t", quoting=3, index_col="index_id").assign(language=language)
        for language in LANGUAGES
    ]
    shared = sorted(set.intersection(*(set(part.index) for part in parts)))[:SENTENCES]
    return pd.concat([part.loc[shared] for part in parts])


def measure(name: str, vectors: np.ndarray, rows: pd.DataFrame) -> dict[str, object]:
    """Cluster vectors; return the agreement with topics and with languages, and how a search crosses languages."""

    def agreement(labels: pd.Series) -> float:
        scores = [
            normalized_mutual_info_score(
                labels, KMeans(rows.category.nunique(), n_init=10, random_state=seed).fit_predict(vectors)
            )
            for seed in SEEDS
        ]
        return round(float(np.mean(scores)), 3)

    codes = pd.factorize(rows.language)[0]
    nearest = search(vectors, vectors, 2)[1][:, 1]  # the first is the text itself
    return {
        "vectors": name,
        "NMI with topics": agreement(rows.category),
        "NMI with languages": agreement(rows.language),
        "nearest in the same language": round(float(np.mean(codes[nearest] == codes)), 3),
        "nearest is a translation": round(float(np.mean(rows.index[nearest] == rows.index)), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sib200", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="e5-small")
    arguments = parser.parse_args()
    rows = load(arguments.sib200)
    vectors = XLMRXLEmbedder(arguments.model).fit_transform(rows.text)
    centred = LanguageCentering().fit_transform(vectors, languages=rows.language)
    results = [measure("as they are", vectors, rows), measure("centred", centred, rows)]
    print(pd.DataFrame(results).to_string(index=False))
    content = {
        "model": arguments.model,
        "languages": list(LANGUAGES),
        "rows": len(rows),
        "topics": int(rows.category.nunique()),
        "seeds": len(SEEDS),
        "results": results,
    }
    arguments.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
