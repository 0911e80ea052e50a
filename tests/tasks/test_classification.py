"""Forms of labels, one or several per row."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import torch

from skxlmr import XLMRXLClassifier
from skxlmr.columns import check_text_column
from skxlmr.runtime.plan import Windows
from skxlmr.tasks.classification import Classification, check_multilabel, find_labels, multilabel_form

LISTS = [["sport", "weather"], ["weather"], ["sport"], []]
INDICATOR = np.array([[1, 1], [0, 1], [1, 0], [0, 0]])  # columns sport, weather


def test_multilabel_form_tells_single_labels_indicators_and_lists_apart():
    assert multilabel_form(pd.DataFrame({"y": [0, 1]})) is None
    assert multilabel_form(np.array(["a", "b"])) is None
    assert multilabel_form([[0, 1], [1, 1]]) == "indicator"
    assert multilabel_form([[0, 1], [1]]) == "lists"
    assert multilabel_form([["a"], []]) == "lists"


def test_multilabel_form_with_sets_of_0_and_1_is_lists():
    assert multilabel_form([{0, 1}, {0, 1}]) == "lists"
    assert multilabel_form([[True, False], [False, True]]) == "indicator"


def test_check_multilabel_with_frames_of_any_library_equals_indicator():
    columns = {"sport": INDICATOR[:, 0].tolist(), "weather": INDICATOR[:, 1].tolist()}
    texts = check_text_column(["text"] * len(LISTS))
    for y in (pd.DataFrame(columns, dtype="Int64"), pl.DataFrame(columns), pa.table(columns)):
        assert multilabel_form(y) == "indicator"
        classes = find_labels(y, texts, "indicator")
        assert classes.tolist() == ["sport", "weather"]
        np.testing.assert_array_equal(check_multilabel(y, texts, classes, "indicator"), INDICATOR)
    for y in (pl.Series(LISTS), pa.array(LISTS), list(map(np.array, LISTS)), [*LISTS[:-1], np.array([], str)]):
        assert multilabel_form(y) == "lists"
        classes = find_labels(y, texts, "lists")
        assert classes.tolist() == ["sport", "weather"]
        np.testing.assert_array_equal(check_multilabel(y, texts, classes, "lists"), INDICATOR)


def test_label_smoothing_lowers_the_largest_probability():
    texts, labels = ["good", "bad", "fine", "poor"], ["yes", "no"] * 2
    settings = {"tuning": "head", "max_epochs": 30, "learning_rate": 1e-2, "random_state": 0}
    plain, smooth = (
        XLMRXLClassifier("nano", label_smoothing=s, **settings).fit(texts, labels).predict_proba(texts)
        for s in (0.0, 0.5)
    )
    assert smooth.max() < plain.max()


def test_classification_losses_of_several_labels_equal_mean_over_labels():
    outputs, targets = torch.randn(3, 4, dtype=torch.float64), torch.randint(0, 2, (3, 4)).double()
    task = Classification(Windows(), label_smoothing=0.2, classes=np.arange(4), form="indicator")
    smooth = targets * 0.8 + 0.1
    expected = -(smooth * outputs.sigmoid().log() + (1 - smooth) * (-outputs).sigmoid().log()).mean(1)
    torch.testing.assert_close(task.row_losses(outputs, targets), expected)
