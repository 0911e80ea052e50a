"""Tagging of words: parts of speech in English and German.

Run with `python examples/tagging.py FOLDER`, where FOLDER holds the PUD treebanks of Universal Dependencies (CC BY-SA
3.0): en_pud-ud-test.conllu and de_pud-ud-test.conllu. It uses "e5-small", which comes with pip; with
`model="facebook/xlm-roberta-xl"` the same lines run the full model.
"""

import argparse
from collections import Counter, defaultdict
from pathlib import Path

import pandas as pd

from skxlmr import LoRA, XLMRXLTagger
from skxlmr.datasets import read_conllu

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("folder", type=Path, help="folder of the PUD treebanks of Universal Dependencies")
parser.add_argument("--rows", type=int, default=500, help="use only this many sentences per language")
arguments = parser.parse_args()

# The columns tokens and upos hold a list of words per sentence, and their tags.
df = pd.concat(
    [
        read_conllu(arguments.folder / f"{language}_pud-ud-test.conllu")[: arguments.rows].assign(language=language)
        for language in ("en", "de")
    ]
)
is_test = df.groupby("language").cumcount() % 5 == 4
train, test = df[~is_test], df[is_test]
print(f"{len(train)} training sentences, {len(test)} test sentences\n")

tagger = XLMRXLTagger(
    model="e5-small",
    tuning=LoRA(rank=16, layers=None),
    learning_rate=3e-3,
    max_epochs=4,
    random_state=0,
    verbose=1,
)
tagger.fit(train.tokens, train.upos)

# Baseline: the most frequent tag of each word, or of all words if the word is unknown.
counts = defaultdict(Counter)
for words, tags in zip(train.tokens, train.upos, strict=True):
    for word, tag in zip(words, tags, strict=True):
        counts[word][tag] += 1
most_frequent = Counter(tag for tags in train.upos for tag in tags).most_common(1)[0][0]


def accuracy_by_word(rows):
    """Return the accuracy of the most frequent tag of each word."""
    pairs = [pair for words, tags in zip(rows.tokens, rows.upos, strict=True) for pair in zip(words, tags, strict=True)]
    guesses = [counts[word].most_common(1)[0][0] if word in counts else most_frequent for word, _ in pairs]
    return sum(guess == tag for guess, (_, tag) in zip(guesses, pairs, strict=True)) / len(pairs)


table = {
    language: {
        "most frequent tag of the word": accuracy_by_word(rows),
        "XLMRXLTagger": tagger.score(rows.tokens, rows.upos),
    }
    for language, rows in test.groupby("language")
}
print("Accuracy on the test sentences")
print(pd.DataFrame(table).round(3).to_string(), "\n")

# Strings are split into words; start and end are positions in the string.
print(
    tagger.predict_spans(["Ada wrote the first program.", "Wir fahren morgen nach Köln!"])
    .round(2)
    .to_string(index=False)
)
