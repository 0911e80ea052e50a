"""Sentence pairs: entailment and relatedness; and zero-shot classification.

Run with `python examples/sentence_pairs.py FILE`, where FILE is jsick.tsv of JSICK (CC BY 4.0), pairs in English and
Japanese. It uses "e5-small", which comes with pip; with `model="facebook/xlm-roberta-xl"` the same lines run the full
model.
"""

import argparse
from pathlib import Path

import pandas as pd
from scipy.stats import spearmanr

from skxlmr import XLMRXLClassifier, XLMRXLRegressor

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("file", type=Path, help="jsick.tsv of JSICK")
parser.add_argument("--rows", type=int, default=1500, help="use only this many training pairs and test pairs")
arguments = parser.parse_args()

df = pd.read_csv(arguments.file, sep="\t")
train, test = (df[df.data == part][: arguments.rows] for part in ("train", "test"))
pair = ["sentence_A_En", "sentence_B_En"]
settings = {"model": "e5-small", "max_epochs": 3, "random_state": 0}

# Two columns are text pairs.
clf = XLMRXLClassifier(**settings).fit(train[pair], train.entailment_label_En)
majority = train.entailment_label_En.mode()[0]
print(f"Entailment, accuracy on {len(test)} pairs")
print(f"  majority class    {(test.entailment_label_En == majority).mean():.3f}")
print(f"  XLMRXLClassifier  {clf.score(test[pair], test.entailment_label_En):.3f}\n")

reg = XLMRXLRegressor(**settings).fit(train[pair], train.relatedness_score_En)
overlap = [
    len(set(a.lower().split()) & set(b.lower().split())) / len(set(a.lower().split()) | set(b.lower().split()))
    for a, b in zip(test[pair[0]], test[pair[1]], strict=True)
]
print("Relatedness from 1 to 5, rank correlation")
print(f"  words in common   {spearmanr(overlap, test.relatedness_score_En).statistic:.3f}")
print(f"  XLMRXLRegressor   {spearmanr(reg.predict(test[pair]), test.relatedness_score_En).statistic:.3f}\n")

# Zero-shot classification with the entailment classifier: does the text entail "This is about music."?
# A model as small as nano is no better than chance.
sentences = ["A man is playing the guitar on a stage.", "Two dogs run across the snow."]
answers = clf.zero_shot(sentences, ["music", "animals"], template="This is about {}.")
print(pd.concat([pd.Series(sentences, name="text"), answers.round(2)], axis=1).to_string(index=False))
