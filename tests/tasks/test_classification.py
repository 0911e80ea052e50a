"""Labels, one or several per row, and their losses."""

import inspect
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight

from skxlmr import XLMRXLClassifier
from skxlmr.columns import check_text_column
from skxlmr.runtime.plan import Windows
from skxlmr.tasks.classification import (
    Classification,
    check_class_weight,
    warn_of_similar_labels,
)
from skxlmr.tasks.probes import logistic_start, one_vs_rest_start
from skxlmr.training.rows import Rows

LISTS = [["sport", "weather"], ["weather"], ["sport"], []]
INDICATOR = np.array([[1, 1], [0, 1], [1, 0], [0, 0]])  # columns sport, weather


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


COLUMN = check_text_column(["text"] * 4)


def test_classification_find_with_one_class_raises():
    with pytest.raises(ValueError, match=r"at least 2 classes.*1 class: 'a'"):
        Classification(Windows()).find(["a"] * 4, COLUMN, np.ones(4))
    with pytest.raises(ValueError, match=r"at least 2 classes.*1 class: 'a'"):
        Classification(Windows()).find(["a", "a", "b", "a"], COLUMN, np.array([1.0, 1.0, 0.0, 1.0]))
    with pytest.raises(ValueError, match=r"at least 2 classes.*1 class: 'b'"):
        Classification(Windows(), class_weight={"a": 0, "b": 1}).find(["a", "b", "b", "a"], COLUMN, np.ones(4))


def test_classification_continued_with_reversed_classes_raises():
    earlier = Classification(classes=np.array(["a", "b"]), form="indicator")
    np.testing.assert_array_equal(earlier.continued(earlier).classes, earlier.classes)
    with pytest.raises(ValueError, match=r"classes_=\['b', 'a'\], but the earlier fit found \['a', 'b'\].*same order"):
        Classification(classes=np.array(["b", "a"]), form="indicator").continued(earlier)
    with pytest.raises(ValueError, match="multilabel_=None, but the earlier fit found 'indicator'"):
        Classification(classes=np.array(["a", "b"])).continued(earlier)


def test_balanced_class_weight_equals_sklearn_on_repeated_rows():
    classes, y = np.array(["a", "b", "c"]), np.array(["a", "b", "a", "c", "b"])
    np.testing.assert_allclose(
        check_class_weight("balanced", classes, y), compute_class_weight("balanced", classes=classes, y=y)
    )
    counts = np.array([2, 1, 3, 5, 0])
    repeated = compute_class_weight("balanced", classes=classes, y=np.repeat(y, counts))
    np.testing.assert_allclose(check_class_weight("balanced", classes, y, counts.astype(float)), repeated)
    without = check_class_weight("balanced", classes, y, np.array([1.0, 1, 1, 0, 1]))
    np.testing.assert_allclose(without, [1, 1, 1])
    task, _ = Classification(class_weight="balanced").find(y, check_text_column(list("vwxyz")), counts)
    np.testing.assert_allclose(task.class_weights, repeated)


@pytest.mark.skipif(
    "sample_weight" not in inspect.signature(compute_class_weight).parameters, reason="needs scikit-learn 1.9"
)
def test_balanced_class_weight_with_sample_weight_equals_that_of_sklearn():
    rng = np.random.RandomState(0)
    y, weights = rng.choice(["a", "b", "c"], 60), rng.choice([0, 0.5, 1, 3], 60)
    expected = compute_class_weight("balanced", classes=np.array(["a", "b", "c"]), y=y, sample_weight=weights)
    task, _ = Classification(class_weight="balanced").find(y, check_text_column(list(map(str, range(60)))), weights)
    np.testing.assert_allclose(task.class_weights, expected)


def test_class_weights_of_labels_count_positives_as_much_as_negatives():
    weights = np.array([1.0, 2.0, 1.0, 0.5])
    task, targets = Classification(class_weight="balanced").find(LISTS, COLUMN, weights)
    entries = np.where(targets > 0, task.class_weights[1], task.class_weights[0]) * weights[:, None]
    for label in range(2):
        positives, negatives = entries[targets[:, label] > 0, label], entries[targets[:, label] == 0, label]
        assert positives.sum() == pytest.approx(negatives.sum()) == pytest.approx(weights.sum() / 2)
    some, _ = Classification(class_weight={"weather": 3.0}).find(LISTS, COLUMN, weights)
    assert some.class_weights.tolist() == [[1, 1], [1, 3]]
    always = np.array([[1, 0], [1, 1], [1, 0], [1, 0]])
    of_always = Classification(class_weight="balanced").find(always, COLUMN, np.ones(4))[0].class_weights
    np.testing.assert_allclose(of_always, [[1, 2 / 3], [1, 2]])


def test_label_losses_with_class_weight_equal_pos_weight_of_torch():
    task, targets = Classification(class_weight={"sport": 2.0, "weather": 0.5}).find(LISTS, COLUMN, np.ones(4))
    outputs, targets = torch.randn(4, 2, dtype=torch.float64), torch.from_numpy(targets)
    pos_weight = torch.tensor([2.0, 0.5], dtype=torch.float64)
    expected = F.binary_cross_entropy_with_logits(outputs, targets, pos_weight=pos_weight, reduction="none").mean(1)
    torch.testing.assert_close(task.row_losses(outputs, targets), expected)


def test_label_constant_with_class_weight_has_the_lowest_loss():
    weights = np.full(400, 1.5)
    column = check_text_column(["a", "b", "c", "d"] * 100)
    task, targets = Classification(class_weight={"sport": 4.0}).find(LISTS * 100, column, weights)
    constant = torch.tensor(task.constant(Rows(None, targets, weights, np.arange(400))), requires_grad=True)
    task.row_losses(constant.expand(400, 2), torch.from_numpy(targets)).mean().backward()
    assert constant.grad.abs().max() < 1e-3
    assert constant[0].item() == pytest.approx(np.log(4), abs=0.01)


def test_one_vs_rest_start_with_weights_of_labels_fits_each_label_with_its_own():
    rng = np.random.RandomState(0)
    features, targets = rng.randn(40, 3), rng.randint(0, 2, (40, 3)).astype(float)
    weights = rng.rand(40, 3)
    weights[:, 2] = 0
    start = one_vs_rest_start(features, targets, weights)
    for label in range(2):
        alone = logistic_start(features, targets[:, label].astype(int), weights[:, label], 2)
        np.testing.assert_allclose(start.weight[label], alone.weight[1] - alone.weight[0])
        assert start.bias[label] == pytest.approx(alone.bias[1] - alone.bias[0])
    assert not start.weight[2].any()


@pytest.mark.parametrize("other", ["pos ", "POS", " pos", "po\u0301s"])
def test_labels_that_differ_in_white_space_or_case_only_are_warned_of(other):
    known = "p\u00f3s" if "\u0301" in other else "pos"
    with pytest.warns(UserWarning, match=r"differ only in white space, in case.*y\.str\.strip\(\)"):
        Classification(Windows()).find([known, "neg", other, "neg"], check_text_column(list("abcd")), np.ones(4))


def test_labels_that_differ_otherwise_are_not_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_similar_labels(np.array(["A", "a", "pos", "post"]))
        warn_of_similar_labels(np.array([0, 1]))
        warn_of_similar_labels(np.array([1, "a"], object))
