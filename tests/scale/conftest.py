"""A fitted classifier, its directory, and a table of rows."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from skxlmr import XLMRXLClassifier, XLMRXLEmbedder

WORDS = ["good", "bad", "fine", "awful", "great", "poor", "nice", "boring"]


@pytest.fixture(scope="module")
def clf() -> XLMRXLClassifier:
    model = XLMRXLClassifier("nano", tuning="head", max_epochs=1, random_state=0)
    return model.fit(WORDS * 2, ["yes", "no"] * len(WORDS))


@pytest.fixture(scope="module")
def embedder() -> XLMRXLEmbedder:
    return XLMRXLEmbedder("nano", n_dims=3).fit(WORDS)


@pytest.fixture(scope="module")
def saved(clf: XLMRXLClassifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("saved") / "clf"
    clf.save(directory)
    return directory


@pytest.fixture
def table() -> pd.DataFrame:
    texts = [f"{word} {i}" for i in range(5) for word in WORDS]
    return pd.DataFrame({"id": range(100, 100 + len(texts)), "text": texts})
