"""
Train in English, predict in Chinese
====================================

A classifier that has seen English reviews only reads Chinese ones.
"""

from sklearn.metrics import ConfusionMatrixDisplay

from skxlmr import XLMRXLClassifier
from skxlmr.datasets import load_reviews

df = load_reviews()
english, chinese = (df[df.language == language].sample(200, random_state=0) for language in ("en", "zh"))
clf = XLMRXLClassifier("e5-small", tuning="head", random_state=0).fit(english.text, english.label)

# %%
# The confusion matrix of the Chinese reviews:
ConfusionMatrixDisplay.from_estimator(clf, chinese.text, chinese.label, cmap="Blues", colorbar=False)
