"""Distillation: a large model decides, a small one learns from it and serves.

Run with `python examples/distillation.py`; the reviews are bundled. The teacher is "e5-small" here, and the student the
same model without fine-tuning, whose head alone is trained: the base model then runs once per text and is shared with
every other estimator of the process. With `--teacher facebook/xlm-roberta-xl` the same lines teach e5-small what XL
says of texts that nobody has labelled.
"""

import argparse

import pandas as pd

from skxlmr import XLMRXLClassifier
from skxlmr.datasets import load_reviews

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--teacher", default="e5-small")
parser.add_argument("--student", default="e5-small")
parser.add_argument("--rows", type=int, default=600, help="number of unlabelled reviews")
arguments = parser.parse_args()

reviews = load_reviews().sample(frac=1, random_state=0)
reviews = reviews[reviews.language == "en"]
few, unlabelled, test = reviews[:100], reviews.text[100 : 100 + arguments.rows], reviews[-400:]

teacher = XLMRXLClassifier(arguments.teacher, random_state=0, verbose=1).fit(few.text, few.label)
alone = XLMRXLClassifier(arguments.student, tuning="head", random_state=0).fit(few.text, few.label)

# The columns of the DataFrame name the classes.
probabilities = pd.DataFrame(teacher.predict_proba(unlabelled), columns=teacher.classes_)
student = XLMRXLClassifier(arguments.student, tuning="head", random_state=0).fit(unlabelled, probabilities)

print(f"\nAccuracy on {len(test)} reviews, from {len(few)} labels")
for name, clf in (("teacher", teacher), ("student alone", alone), ("student, taught", student)):
    print(f"{name:16} {type(clf).__name__}(tuning={clf.tuning!r}): {clf.score(test.text, test.label):.3f}")
