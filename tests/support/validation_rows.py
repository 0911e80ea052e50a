"""Rows for each estimator to learn and to validate on."""

import numpy as np

from skxlmr import XLMRXLClassifier

TEXTS = [
    f"{word} {n}" for n in ("one", "two") for word in "good bad fine poor nice awful lovely dull great grim".split()
]
LABELS = [label for _ in range(4) for label in ("yes", "no", "no", "perhaps", "yes")]
X_VAL, Y_VAL = TEXTS[3:10], LABELS[3:10]
WEIGHTS = np.array([1.0, 0.5, 3.0, 0.0, 2.0, 1.0, 0.25])
TAGS = [["N" if word < "h" else "V", "Z" if n == "one" else "N"] for word, n in map(str.split, TEXTS)]
NAMES = ["Ada", "Bob", "Eve", "Li Wei"] * 2
QUESTIONS = [[f"Who is {i}?", f"Number {i} is {name}. " + "And so on. " * 3] for i, name in enumerate(NAMES)]
ANSWERS = ["Ada", "Bob", ["Eve"], "Li Wei"] * 2
CHOICES = [[f"It is {i}.", ["one", "two", "three"][: 2 + i % 2]] for i in range(8)]
RIGHT = [i % 2 for i in range(8)]
QUICK = {"model": "nano", "random_state": 0, "max_epochs": 1, "device": "cpu"}


def classifier(**parameters):
    return XLMRXLClassifier(**(QUICK | {"tuning": "head", "max_epochs": 3} | parameters))


def last(estimator):
    return estimator.history_.iloc[-1]
