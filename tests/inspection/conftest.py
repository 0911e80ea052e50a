"""Small fitted estimators for displays and reports."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from skxlmr import XLMRXLClassifier

TEXTS = ["what a lovely film", "很好看", "dreadful and dull", "难看死了", "a wonderful, long and moving story"] * 4
LABELS = ["good", "good", "bad", "bad", "good"] * 4
LANGUAGES = ["en", "zh", "en", "zh", "en"] * 4


@pytest.fixture(autouse=True)
def _closed_figures() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def reviews() -> pd.DataFrame:
    """Texts with labels, languages and a number."""
    score = np.where(np.array(LABELS) == "good", 4.0, 1.0)
    return pd.DataFrame({"text": TEXTS, "label": LABELS, "language": LANGUAGES, "score": score}, index=range(100, 120))


@pytest.fixture(scope="module")
def classifier(reviews: pd.DataFrame) -> XLMRXLClassifier:
    """Fitted with validation scores, two epochs."""
    clf = XLMRXLClassifier("nano", tuning="head", max_epochs=2, random_state=0)
    return clf.fit(reviews.text, reviews.label, X_val=reviews.text, y_val=reviews.label)
