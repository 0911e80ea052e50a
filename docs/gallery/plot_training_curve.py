"""
The course of a training
========================

Loss, validation score and learning rate of each epoch: is the learning rate too high, and how many epochs are enough?
"""

from skxlmr import XLMRXLClassifier
from skxlmr.datasets import load_reviews
from skxlmr.inspection import TrainingCurveDisplay

df = load_reviews(language="en").sample(300, random_state=0)
train, validation = df[:200], df[200:]

# %%
# With rows for validation, `fit` scores the model after each epoch. Here only the head is trained, from random weights:
clf = XLMRXLClassifier("e5-small", tuning="head", init="random", max_epochs=8, random_state=0)
clf.fit(train.text, train.label, X_val=validation.text, y_val=validation.label)
_ = TrainingCurveDisplay.from_estimator(clf)

# %%
# A dict of fits compares them. Where the validation loss rises while the training loss falls, the model learns its rows
# by heart; a lower learning rate or fewer epochs help.
fits = {
    f"learning rate {rate:g}": XLMRXLClassifier(
        "e5-small", tuning="head", init="random", max_epochs=8, learning_rate=rate, random_state=0
    ).fit(train.text, train.label, X_val=validation.text, y_val=validation.label)
    for rate in (1e-3, 1e-2)
}
_ = TrainingCurveDisplay.from_estimator(fits)
