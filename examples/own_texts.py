"""Adapt to your texts first: continue the pretraining, then train a classifier on few labels.

Run with `python examples/own_texts.py`; the reviews are bundled. It uses "nano", the small checkpoint that is bundled
for tests and examples, as e5-small does not predict words; with `model="facebook/xlm-roberta-xl"` the same lines run
the full model.
"""

import argparse
import tempfile

import numpy as np
import pandas as pd

from skxlmr import LoRA, XLMRXLClassifier, XLMRXLMaskedLM
from skxlmr.datasets import load_reviews

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--rows", type=int, default=3000, help="number of unlabelled reviews")
arguments = parser.parse_args()

reviews = load_reviews().sample(frac=1, random_state=0)
reviews = reviews[reviews.language == "en"]
unlabelled, held_out = reviews.text[: arguments.rows], reviews.text[-500:]
few, test = reviews[-1000:-800], reviews[-800:]  # 200 labels

# Predict masked words; each epoch masks others.
lm = XLMRXLMaskedLM(
    model="nano",
    tuning=LoRA(rank=32, layers=None),
    learning_rate=1e-3,
    max_epochs=3,
    random_state=0,
    verbose=1,
)
before = lm.score(held_out)  # without fit, the checkpoint is used
gaps = ["The plot is <mask>.", "I would <mask> recommend this film."]
guesses = {"before": lm.fill_mask(gaps, top_k=4)}
lm.fit(unlabelled)
guesses["after"] = lm.fill_mask(gaps, top_k=4)
print(f"Perplexity of masked words: {np.exp(-before):.0f} before, {np.exp(-lm.score(held_out)):.0f} after\n")
for when, found in guesses.items():
    for row, gap in enumerate(gaps):
        print(f"{when:7} {gap:40} {', '.join(found.token[found.row == row])}")

# Words in the wrong order are less likely.
sentences = pd.Series(["It was a very good film.", "film very good It a was."])
print("\n", pd.DataFrame({"text": sentences, "log-likelihood": lm.pseudo_log_likelihood(sentences).round(1)}), sep="")

# The exported model is the base model of the classifier.
adapted = tempfile.mkdtemp()
lm.export_pretrained(adapted)
for name, model in (("nano", "nano"), ("nano, adapted", adapted)):
    clf = XLMRXLClassifier(model, tuning="head", max_epochs=20, random_state=0).fit(few.text, few.label)
    print(f"Accuracy with {len(few)} labels, {name}: {clf.score(test.text, test.label):.3f}")
