"""Each call checks and splits X once."""

import inspect

import pytest

from skxlmr import XLMRXLQA, XLMRXLClassifier, XLMRXLMultipleChoice, XLMRXLTagger
from skxlmr.tasks.choices import Choosing
from skxlmr.tasks.classification import Classification
from skxlmr.tasks.questions import Answering
from skxlmr.tasks.tagging.task import Tagging

SETTINGS = {"model": "nano", "tuning": "head", "max_epochs": 1, "random_state": 0}
CASES = {
    "classifier": (XLMRXLClassifier, Classification, ["good", "bad"], ["yes", "no"], ["predict", "score"]),
    "multilabel": (XLMRXLClassifier, Classification, ["good", "bad"], [["a"], ["a", "b"]], ["predict", "score"]),
    "tagger": (XLMRXLTagger, Tagging, ["a b", "b"], [["X", "Y"], ["Y"]], ["predict", "predict_spans", "score"]),
    "qa": (XLMRXLQA, Answering, [["who?", "ada"], ["who?", "bob"]], ["ada", "bob"], ["predict", "metrics", "score"]),
    "choices": (XLMRXLMultipleChoice, Choosing, [["a", "b", "c"], ["a", "d", "e"]], ["b", "e"], ["predict", "score"]),
}


@pytest.mark.parametrize(("estimator", "task", "X", "y", "methods"), CASES.values(), ids=CASES)
def test_methods_read_column_once(estimator, task, X, y, methods, monkeypatch):
    read, calls = task.read, []

    def counted(*args):
        calls.append(1)
        return read(*args)

    is_static = isinstance(inspect.getattr_static(task, "read"), staticmethod)
    monkeypatch.setattr(task, "read", staticmethod(counted) if is_static else counted)
    fitted = estimator(**SETTINGS).fit(X, y)
    assert len(calls) == 1
    for method in methods:
        calls.clear()
        getattr(fitted, method)(*((X, y) if method in ("score", "metrics") else (X,)))
        assert len(calls) == 1, method
