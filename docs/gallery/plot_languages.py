"""
Train in English, predict in Chinese
====================================

A classifier that has seen English reviews only reads Chinese ones.
"""

import pandas as pd

from skxlmr import XLMRXLClassifier
from skxlmr.datasets import load_reviews
from skxlmr.inspection import LanguageConfusionDisplay

df = load_reviews()
english, chinese = (df[df.language == language] for language in ("en", "zh"))
train, test = english[:200], pd.concat([english[200:350], chinese[:150]])
clf = XLMRXLClassifier("e5-small", tuning="head", random_state=0).fit(train.text, train.label)

# %%
# A confusion matrix for each language, on one scale of colours. Each row sums to 1:
_ = LanguageConfusionDisplay.from_estimator(clf, test.text, test.label, groups=test.language)
