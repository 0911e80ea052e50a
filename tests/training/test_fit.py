"""Fine-tuning from its parts, without an estimator."""

import copy
import types
from dataclasses import replace

import numpy as np
import pytest
import torch

from skxlmr import LoRA, XLMRXLClassifier
from skxlmr.columns import check_text_column
from skxlmr.runtime.backbone import get_backbone
from skxlmr.tasks.classification import Classification
from skxlmr.training import Callback
from skxlmr.training.auto_settings import resolved_schedule
from skxlmr.training.fit import Fit, OneEpoch
from skxlmr.training.settings import TrainingParameters
from skxlmr.tuning import Full, Head

TEXTS = ["good", "bad", "fine", "poor", "nice", "awful", "lovely", "dull", "great", "grim"]
LABELS = ["yes", "no"] * 5
SETTINGS = {"batch_size": 4, "max_epochs": 3, "random_state": 0}
CONSTANT = {"lr_schedule": "constant", "warmup": 0.0}


def make_fit(tuning, texts=TEXTS, labels=LABELS, **parameters):
    backbone, column = get_backbone("nano", device="cpu"), check_text_column(texts)
    task, targets = Classification(pooling="mean", prompt="", pairs="joint").find(labels, column, np.ones(len(texts)))
    fit = Fit(backbone, task, tuning, TrainingParameters(**{**SETTINGS, **parameters}))
    return fit, task.rows(backbone, column, targets, np.ones(len(texts)))


def assert_equal_weights(finetuned, expected):
    weights, others = finetuned.state_dict(), expected.state_dict()
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.mark.parametrize("tuning", [Head(), LoRA(rank=2, dropout=0.1)], ids=str)
def test_learn_equals_fit_of_estimator(tuning):
    clf = XLMRXLClassifier("nano", tuning=tuning, init="random", device="cpu", **SETTINGS).fit(TEXTS, LABELS)
    fit, rows = make_fit(tuning)
    outcome = fit.learn(rows)
    assert_equal_weights(outcome.finetuned, clf._finetuned)
    assert outcome.history["loss"].tolist() == clf.loss_curve_
    assert outcome.validation_scores is None
    assert not outcome.finetuned.training
    assert not any(p.requires_grad for p in outcome.finetuned.parameters())


def test_learn_with_one_epoch_repeated_equals_several_epochs():
    tuning = LoRA(rank=2, dropout=0.1)
    fit, rows = make_fit(tuning, **CONSTANT)
    whole, state, finetuned = fit.learn(rows), None, None
    for number in range(3):
        outcome = fit.learn(rows, start=finetuned, epoch=OneEpoch(state, number))
        finetuned, state = outcome.finetuned, copy.deepcopy(outcome.optimizer_state)
        assert outcome.history["epoch"].tolist() == [number + 1]
    assert_equal_weights(finetuned, whole.finetuned)


def test_learn_with_early_stopping_restores_best_epoch():
    scores = iter([0.5, 0.7, 0.7, 0.6])
    fit, rows = make_fit(Head(), early_stopping=True, validation_fraction=0.2, n_iter_no_change=1, max_epochs=9)
    weights, n_validation_rows = [], []

    class Scripted(Classification):
        """A task with scores that are given."""

        def evaluate(self, finetuned, backbone, rows, batch_tokens, memory=None, keep=None, verbose=0):
            weights.append(copy.deepcopy(finetuned))
            n_validation_rows.append(len(rows.numbers))
            return {"validation_score": next(scores)}

    scripted = Fit(fit.backbone, Scripted(classes=fit.task.classes, pooling="mean"), fit.tuning, fit.settings)
    outcome = scripted.learn(rows)
    assert outcome.validation_scores == [0.5, 0.7, 0.7, 0.6]
    assert outcome.history["validation_score"].tolist() == outcome.validation_scores
    assert n_validation_rows == [2] * 4
    assert_equal_weights(outcome.finetuned, weights[1])


def test_learn_with_held_out_rows_scores_them_without_stopping():
    fit, rows = make_fit(Head())
    outcome = fit.learn(rows, held_out=rows.take(np.arange(4)))
    assert len(outcome.validation_scores) == 3
    without = fit.learn(rows)
    assert_equal_weights(outcome.finetuned, without.finetuned)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # an early epoch is restored
def test_learn_with_score_uses_it_in_place_of_that_of_the_task():
    fit, rows = make_fit(Head(), early_stopping=True, validation_fraction=0.4, n_iter_no_change=1, max_epochs=9)
    scripted, seen = iter([0.5, 0.7, 0.7, 0.6]), []

    def score(finetuned, rows, batch_tokens):
        assert not finetuned.training
        seen.append((copy.deepcopy(finetuned), rows.numbers.tolist()))
        return next(scripted)

    outcome = replace(fit, task=replace(fit.task, pooling="mean"), score=score).learn(rows)
    assert outcome.validation_scores == [0.5, 0.7, 0.7, 0.6]
    assert outcome.history["validation_loss"].between(0, 10).all()
    assert all(numbers == seen[0][1] and len(numbers) == 4 for _, numbers in seen)
    assert_equal_weights(outcome.finetuned, seen[1][0])


def test_identity_of_a_training_depends_on_scoring_if_it_validates():
    def one(estimator, X, y):
        return 1.0

    def other(estimator, X, y):
        return 1.0

    def identity(scoring, **parameters):
        fit, rows = make_fit(Head(), scoring=scoring, **parameters)
        schedule = resolved_schedule(fit.settings, fit.backbone, fit.tuning, len(rows.numbers))
        return repr(fit._identity(schedule, rows, None, None, 0))

    known = identity(one, early_stopping=True)
    assert "at 0x" not in known, "addresses differ between processes"
    assert known == identity(one, early_stopping=True)
    assert len({known, *(identity(scoring, early_stopping=True) for scoring in (other, "accuracy", None))}) == 4
    assert identity("accuracy") == identity(None)


def test_learn_with_start_continues_from_its_weights():
    fit, rows = make_fit(Head(), learning_rate=1e-2, max_epochs=10)
    first = fit.learn(rows)
    weights = copy.deepcopy(first.finetuned)
    second = fit.learn(rows, start=first.finetuned)
    assert second.history["loss"][0] < first.history["loss"][0]
    assert_equal_weights(first.finetuned, weights)
    other, _ = make_fit(LoRA(rank=2))
    with pytest.raises(ValueError, match="earlier fit cannot be continued"):
        fit.learn(rows, start=other.learn(rows).finetuned)


@pytest.mark.parametrize("tuning", [LoRA(rank=2), Full(layers=1)], ids=str)
def test_learn_of_more_weights_continues_from_head_alone(tuning):
    fit, rows = make_fit(Head(), learning_rate=1e-2, max_epochs=10)
    first = fit.learn(rows)
    weights = copy.deepcopy(first.finetuned)
    other, _ = make_fit(tuning, learning_rate=1e-6, max_epochs=1)
    second = other.learn(rows, start=first.finetuned)
    assert not second.finetuned.only_head
    assert second.history["loss"][0] == pytest.approx(first.history["loss"].iloc[-1], rel=0.5)  # both with dropout
    for name, value in second.finetuned.head.state_dict().items():
        torch.testing.assert_close(value, weights.head.state_dict()[name], atol=1e-4, rtol=0)
    assert_equal_weights(first.finetuned, weights)


def test_learn_calls_given_callbacks_after_those_of_the_settings():
    calls = []

    def recorder(name):
        callback = Callback()
        callback.on_epoch_end = types.MethodType(lambda self, trainer: calls.append((name, trainer.epoch)), callback)
        return callback

    fit, rows = make_fit(Head(), max_epochs=2, callbacks=[recorder("settings")])
    fit.learn(rows, callbacks=[recorder("given")])
    assert calls == [("settings", 1), ("given", 1), ("settings", 2), ("given", 2)]


def test_learn_with_too_few_rows_to_hold_out_raises():
    fit, rows = make_fit(Head(), early_stopping=True, validation_fraction=0.05)
    with pytest.raises(ValueError, match=r"cannot set validation_fraction=0.05 of 10 rows aside.*X_val and y_val"):
        fit.learn(rows)


def test_learn_does_not_change_backbone():
    fit, rows = make_fit(LoRA(rank=2))
    before = {name: p.clone() for name, p in fit.backbone.model.named_parameters()}
    fit.learn(rows)
    for name, parameter in fit.backbone.model.named_parameters():
        assert torch.equal(parameter, before[name]), name
