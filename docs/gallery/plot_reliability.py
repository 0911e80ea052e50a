"""
Are 90 % really 90 %?
=====================

A reliability diagram shows how often predictions of some confidence are right. It works for any number of classes.
"""

from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator

from skxlmr import XLMRXLClassifier
from skxlmr.datasets import load_reviews
from skxlmr.inspection import ReliabilityDisplay

df = load_reviews()
english, chinese = (df[df.language == language] for language in ("en", "zh"))
clf = XLMRXLClassifier("e5-small", tuning="head", random_state=0).fit(english.text[:200], english.label[:200])

# %%
# Trained in English, it reads Chinese; can its probabilities be trusted there? Below the diagonal it is too sure of
# itself, above it not sure enough. :class:`~sklearn.calibration.CalibratedClassifierCV` corrects the probabilities on
# some Chinese rows. The error in the legend is the expected calibration error.
held_out, test = chinese[:150], chinese[150:400]
calibrated = CalibratedClassifierCV(FrozenEstimator(clf)).fit(held_out.text, held_out.label)
display = ReliabilityDisplay.from_estimator(clf, test.text, test.label, n_bins=5, name="as trained")
_ = ReliabilityDisplay.from_estimator(calibrated, test.text, test.label, n_bins=5, name="calibrated", ax=display.axes_)
