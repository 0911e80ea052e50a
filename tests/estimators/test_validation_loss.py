"""The loss of validation rows equals what their probabilities give."""

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import log_loss
from validation_rows import (
    ANSWERS,
    CHOICES,
    LABELS,
    QUESTIONS,
    QUICK,
    RIGHT,
    TAGS,
    TEXTS,
    WEIGHTS,
    X_VAL,
    Y_VAL,
    classifier,
    last,
)

from skxlmr import (
    XLMRXLQA,
    XLMRXLGenerator,
    XLMRXLMaskedLM,
    XLMRXLMultipleChoice,
    XLMRXLRegressor,
    XLMRXLTagger,
)
from skxlmr.columns import check_text_column
from skxlmr.model import XLMRobertaXLForCausalLM, XLMRobertaXLForMaskedLM, XLMRobertaXLForQuestionAnswering
from skxlmr.runtime.backbone import get_backbone
from skxlmr.tasks.answers import first_span
from skxlmr.tasks.spans import target_units

# One epoch is enough to compare scores and losses with others.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.mark.parametrize("class_weight", [None, "balanced", {"yes": 3.0, "no": 0.5}], ids=str)
def test_validation_loss_of_classifier_equals_weighted_log_loss(class_weight):
    clf = classifier(class_weight=class_weight, max_epochs=1)
    clf.fit(TEXTS, LABELS, X_val=X_VAL, y_val=Y_VAL, sample_weight_val=WEIGHTS)
    shares = {"yes": 8 / 20, "no": 8 / 20, "perhaps": 4 / 20}
    balanced = {label: 1 / (3 * share) for label, share in shares.items()}
    of_classes = (
        {None: {}, "balanced": balanced}.get(class_weight) if not isinstance(class_weight, dict) else class_weight
    )
    weights = WEIGHTS * [of_classes.get(label, 1.0) for label in Y_VAL]
    expected = log_loss(Y_VAL, clf.predict_proba(X_VAL), sample_weight=weights, labels=clf.classes_)
    assert last(clf).validation_loss == pytest.approx(expected, rel=1e-5)
    assert last(clf).validation_score == pytest.approx(clf.score(X_VAL, Y_VAL, WEIGHTS)), "without class weights"
    assert abs(log_loss(Y_VAL, clf.predict_proba(X_VAL), labels=clf.classes_) - expected) > 1e-4


def test_validation_loss_of_long_texts_equals_mean_over_windows():
    texts = ["good " * 3, "bad " * 20, "fine"]
    clf = classifier(max_epochs=1, max_length=8, stride=0)
    clf.fit(TEXTS, LABELS, X_val=texts, y_val=["yes", "no", "no"], sample_weight_val=[1, 2, 3])
    task, backbone = clf._task(), get_backbone("nano", device="cpu")
    plan = task.plan(backbone, check_text_column(texts))
    logits = clf._finetuned.run(backbone, plan, 1000)
    each = F.cross_entropy(torch.from_numpy(logits), torch.tensor([2, 0, 0])[plan.text_of_window], reduction="none")
    of_texts = [each[plan.text_of_window == i].mean().item() for i in range(3)]
    assert max(plan.windows_per_text) > 1
    assert clf.classes_.tolist() == ["no", "perhaps", "yes"]
    assert last(clf).validation_loss == pytest.approx(np.average(of_texts, weights=[1, 2, 3]), rel=1e-5)


@pytest.mark.parametrize("class_weight", [None, "balanced", {"b": 5.0}], ids=str)
def test_validation_loss_of_several_labels_equals_weighted_mean_over_entries(class_weight):
    indicator = np.stack([np.array(LABELS) == "yes", np.arange(20) % 4 == 0], axis=1).astype(int)
    y, y_val = pd.DataFrame(indicator, columns=["a", "b"]), pd.DataFrame(indicator[3:10], columns=["a", "b"])
    clf = classifier(class_weight=class_weight, max_epochs=1)
    clf.fit(TEXTS, y, X_val=X_VAL, y_val=y_val, sample_weight_val=WEIGHTS)
    entries = np.ones((7, 2))
    if class_weight == "balanced":
        shares = indicator.mean(axis=0)
        entries = np.where(y_val, 1 / (2 * shares), 1 / (2 * (1 - shares)))
    elif class_weight is not None:
        entries[:, 1] = np.where(y_val["b"], 5.0, 1.0)
    p = clf.predict_proba(X_VAL).astype(float)
    each = -np.where(y_val, np.log(p), np.log(1 - p))
    expected = np.average((entries * each).mean(axis=1), weights=WEIGHTS)
    assert last(clf).validation_loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", ["squared_error", "absolute_error"])
def test_validation_loss_of_regressor_equals_mean_error_in_standard_deviations(loss):
    y = np.stack([np.arange(20.0), np.arange(20.0) ** 2], axis=1)
    reg = XLMRXLRegressor(**QUICK, loss=loss)
    reg.fit(TEXTS, y, X_val=X_VAL, y_val=y[3:10], sample_weight_val=WEIGHTS)
    errors = abs(reg.predict(X_VAL) - y[3:10]) / y.std(axis=0)
    each = (errors**2 if loss == "squared_error" else errors).mean(axis=1)
    assert last(reg).validation_loss == pytest.approx(np.average(each, weights=WEIGHTS), rel=1e-5)


@pytest.mark.parametrize("class_weight", [None, {"N": 3.0, "V": 0.5}], ids=str)
def test_validation_loss_of_tagger_equals_weighted_mean_over_tokens(class_weight):
    X, y = [text.split() * (1 + i % 3) for i, text in enumerate(TEXTS)], [t * (1 + i % 3) for i, t in enumerate(TAGS)]
    tagger = XLMRXLTagger(**QUICK, scheme="plain", class_weight=class_weight)
    tagger.fit(X, y, X_val=[*X[3:9], []], y_val=[*y[3:9], []], sample_weight_val=WEIGHTS)
    losses, weights = [], []
    for row, tags, weight in zip(tagger.predict_proba(X[3:9]), y[3:9], WEIGHTS[:6], strict=True):
        of_tokens = tagger.classes_.searchsorted(tags)
        losses += (-np.log(row[range(len(tags)), of_tokens])).tolist()
        weights += [weight * (class_weight or {}).get(tag, 1.0) for tag in tags]
    assert last(tagger).validation_loss == pytest.approx(np.average(losses, weights=weights), rel=1e-5)
    assert last(tagger).validation_score == pytest.approx(tagger.score(X[3:9], y[3:9], WEIGHTS[:6]))


def test_validation_loss_of_qa_equals_mean_over_windows(tmp_path):
    qa = XLMRXLQA(**QUICK, max_length=24, stride=4)
    weights = [1.0, 2.0, 0.5, 3.0]
    qa.fit(QUESTIONS, ANSWERS, X_val=QUESTIONS[:4], y_val=ANSWERS[:4], sample_weight_val=weights)
    qa.export_pretrained(tmp_path)
    model = XLMRobertaXLForQuestionAnswering.from_pretrained(tmp_path).eval()
    task, column = qa._task(), qa._check_column(QUESTIONS[:4])
    plan = task.plan(get_backbone("nano", device="cpu"), column)
    ends = target_units(plan, [first_span(row) for row in task.targets(ANSWERS[:4], column)])
    of_windows = []
    for window, at, (start, end) in zip(plan.windows, plan.positions, ends, strict=True):
        with torch.no_grad():
            output = model(input_ids=torch.from_numpy(window)[None].long())
        log_p = [logits[0, at].log_softmax(0) for logits in (output.start_logits, output.end_logits)]
        of_windows.append(-(log_p[0][start] + log_p[1][end]).item() / 2)
    of_rows = np.bincount(plan.text_of_window, of_windows) / plan.windows_per_text
    assert max(plan.windows_per_text) > 1
    assert last(qa).validation_loss == pytest.approx(np.average(of_rows, weights=weights), rel=1e-4)
    assert last(qa).validation_score == pytest.approx(qa.score(QUESTIONS[:4], ANSWERS[:4], weights))


def test_validation_loss_of_multiple_choice_equals_weighted_log_loss():
    chooser = XLMRXLMultipleChoice(**QUICK)
    weights = [1.0, 2.0, 0.5, 3.0]
    chooser.fit(CHOICES, RIGHT, X_val=CHOICES[:4], y_val=RIGHT[:4], sample_weight_val=weights)
    each = -np.log(chooser.predict_proba(CHOICES[:4])[range(4), RIGHT[:4]])
    assert last(chooser).validation_loss == pytest.approx(np.average(each, weights=weights), rel=1e-5)
    assert last(chooser).validation_score == pytest.approx(chooser.score(CHOICES[:4], RIGHT[:4], weights))


@pytest.mark.parametrize(
    ("estimator", "model_class"),
    [(XLMRXLMaskedLM, XLMRobertaXLForMaskedLM), (XLMRXLGenerator, XLMRobertaXLForCausalLM)],
    ids=["masked", "generator"],
)
def test_validation_loss_of_language_models_equals_weighted_mean_over_tokens(estimator, model_class, tmp_path):
    texts, weights = [*X_VAL, "a much longer text than all of the others, " * 3, ""], [*WEIGHTS, 2.0, 5.0]
    lm = estimator(**QUICK).fit(TEXTS, X_val=texts, sample_weight_val=weights)
    lm.export_pretrained(tmp_path)
    model = model_class.from_pretrained(tmp_path).eval()
    kept = [i for i, weight in enumerate(weights) if weight and texts[i]]
    backbone, task = get_backbone("nano", device="cpu"), lm._new_task()
    plan = task.plan(backbone, check_text_column([texts[i] for i in kept]))
    examples = task.examples(plan, backbone.tokenizer, np.random.RandomState(0))
    losses, of_tokens = [], []
    for i, window, at, targets in zip(kept, examples.windows, examples.positions, examples.targets, strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.from_numpy(window)[None].long()).logits[0, at]
        losses += F.cross_entropy(logits, torch.from_numpy(targets), reduction="none").tolist()
        of_tokens += [weights[i]] * len(at)
    expected = np.average(losses, weights=of_tokens)
    assert abs(expected - np.mean(losses)) > 1e-3
    assert last(lm).validation_loss == pytest.approx(expected, rel=1e-4)
    assert last(lm).validation_score == -last(lm).validation_loss
    assert lm.score(texts, sample_weight=weights) == pytest.approx(-expected, rel=1e-4)
