import numpy as np
import pytest
import torch

from skxlmr import Bias, Full, XLMRXLClassifier
from skxlmr.runtime.backbone import get_backbone
from skxlmr.runtime.plan import WindowPlan
from skxlmr.training.loop import Trainer
from skxlmr.training.schedule import Schedule

TEXTS = ["good", "bad", "fine", "poor", "nice", "awful", "lovely", "dull", "great", "grim", "sweet", "sour"]
LABELS = ["yes", "no"] * 6


def classifier(**parameters):
    return XLMRXLClassifier(**{"model": "nano", "tuning": "head", "random_state": 0, **parameters})


def fit_numbers(losses, parameter, n_rows=8, **settings):
    plan = WindowPlan([np.arange(4, dtype=np.int32)] * n_rows, np.arange(n_rows), np.arange(n_rows))
    schedule = Schedule(**{"batch_size": 8, "batch_tokens": 100, "max_epochs": 3, "learning_rate": 0.1, **settings})
    module = torch.nn.ParameterList([parameter])
    return Trainer(losses, module, plan, np.ones(n_rows), schedule, seed=0).run()


def test_trainer_with_an_invalid_loss_names_rows_and_keeps_parameters():
    parameter = torch.nn.Parameter(torch.ones(1))

    def losses(windows, rows, recompute):
        return parameter * torch.from_numpy(np.where(np.isin(rows, [3, 6]), np.nan, 1.0))

    with pytest.raises(FloatingPointError, match="loss became nan at rows 3, 6 of X in step 1 of epoch 1"):
        fit_numbers(losses, parameter)
    assert parameter.item() == 1


def test_trainer_with_an_invalid_gradient_keeps_parameters():
    parameter = torch.nn.Parameter(torch.zeros(1))
    with pytest.raises(FloatingPointError, match="gradient became"):
        fit_numbers(lambda windows, rows, recompute: parameter.abs().sqrt().expand(len(rows)), parameter)
    assert parameter.item() == 0


def test_trainer_out_of_memory_halves_the_batch_and_repeats_the_step():
    def run(most):
        torch.manual_seed(0)
        parameter = torch.nn.Parameter(torch.ones(8, dtype=torch.float64))
        failures, draws = [], []

        def losses(windows, rows, recompute):
            draws.append(torch.rand(1).item())
            if len(windows) > most:
                failures.append(len(windows))
                raise torch.OutOfMemoryError("injected")
            return (parameter[rows] - 3) ** 2

        history = fit_numbers(losses, parameter, batch_tokens=32)
        return parameter.detach(), history, failures, draws

    whole, plain, none, _ = run(8)
    parts, retried, failures, draws = run(4)
    assert not none
    assert failures == [8]
    assert draws[1] == draws[0], "the second attempt draws the same numbers"
    assert len(set(draws)) == len(draws) - 1
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-12)
    assert retried.loss.tolist() == pytest.approx(plain.loss.tolist(), abs=1e-12)


def test_trainer_out_of_memory_with_one_text_raises():
    parameter = torch.nn.Parameter(torch.ones(1))

    def losses(windows, rows, recompute):
        raise torch.OutOfMemoryError("injected")

    with pytest.raises(torch.OutOfMemoryError):
        fit_numbers(losses, parameter)


@pytest.mark.parametrize("after", [0, 2])
def test_trainer_interrupted_after_a_step_keeps_the_model(after):
    parameter, calls = torch.nn.Parameter(torch.ones(1)), []

    def losses(windows, rows, recompute):
        calls.append(1)
        if len(calls) > after:
            raise KeyboardInterrupt
        return (parameter**2).expand(len(rows))

    if not after:
        with pytest.raises(KeyboardInterrupt):
            fit_numbers(losses, parameter)
    else:
        with pytest.warns(UserWarning, match="in epoch 3 of 3, after 2 of 3 steps"):
            fit_numbers(losses, parameter)
        assert parameter.item() < 1


@pytest.mark.parametrize(("name", "half"), [("linear", 0.5), ("cosine", 0.5), ("constant", 1.0)])
def test_schedule_rate_follows_its_shape(name, half):
    schedule = Schedule(8, 100, 1, learning_rate=1.0, lr_schedule=name, warmup=0.0)
    assert schedule.rate(0, 100) == 1
    assert schedule.rate(50, 100) == pytest.approx(half)


def test_early_stopping_restores_the_best_epoch():
    clf = classifier(early_stopping=True, validation_fraction=0.25, max_epochs=30, n_iter_no_change=2)
    clf.fit(TEXTS, LABELS, X_val=TEXTS, y_val=LABELS)
    assert clf.best_validation_score_ == max(clf.validation_scores_) == clf.history_.validation_score.max()
    assert clf.score(TEXTS, LABELS) == pytest.approx(clf.best_validation_score_)
    own = classifier(early_stopping=True, validation_fraction=0.25, max_epochs=30, n_iter_no_change=2)
    assert own.fit(TEXTS, LABELS).n_iter_ < 30
    with pytest.raises(ValueError, match="y_val has labels that y has not"):
        clf.fit(TEXTS, LABELS, X_val=TEXTS, y_val=[*LABELS[:-1], "perhaps"])
    with pytest.raises(ValueError, match="go together"):
        clf.fit(TEXTS, LABELS, X_val=TEXTS)


def test_bias_and_full_with_layers_change_only_those():
    base = get_backbone("nano").model
    biased = classifier(tuning=Bias(layers=1), max_epochs=2, learning_rate=1e-2).fit(TEXTS, LABELS)
    moved = [any(bool(p.any()) for p in layer.parameters()) for layer in biased._finetuned.adapter]
    assert moved == [False] * (len(moved) - 1) + [True]
    full = classifier(tuning=Full(layers=1), max_epochs=1, learning_rate=1e-3).fit(TEXTS, LABELS)._finetuned
    full = full.model(base)
    before = base.state_dict()
    changed = {name for name, value in full.state_dict().items() if not torch.equal(value, before[name].float())}
    assert changed
    assert all(name.startswith((f"layers.{len(base.layers) - 1}.", "norm.")) for name in changed)


def test_eight_bit_optimizer_on_a_cpu_raises():
    with pytest.raises(ValueError, match="needs a CUDA device"):
        classifier(optimizer="adamw8bit", device="cpu").fit(TEXTS, LABELS)


def test_label_smoothing_lowers_the_largest_probability():
    plain, smooth = (
        classifier(label_smoothing=s, max_epochs=30, learning_rate=1e-2).fit(TEXTS, LABELS).predict_proba(TEXTS)
        for s in (0.0, 0.5)
    )
    assert smooth.max() < plain.max()


def test_fit_with_an_invalid_loss_names_the_rows_of_x(monkeypatch):
    clf = classifier(max_epochs=2, batch_size=12).fit(TEXTS, LABELS)
    before = clf.predict_proba(TEXTS)
    cross_entropy = torch.nn.functional.cross_entropy

    def broken(logits, targets, **settings):
        loss = cross_entropy(logits, targets, **settings)
        return torch.where(targets == 0, torch.nan, loss)  # "no", the odd rows

    monkeypatch.setattr("skxlmr.tasks.classification.F.cross_entropy", broken)
    weights = np.ones(12)
    weights[[0, 1]] = 0  # rows of weight 0 are dropped; the messages still count all rows
    with pytest.raises(FloatingPointError, match=r"at rows 3, 5, 7, 9, 11 of X in step 1"):
        clf.fit(TEXTS, LABELS, sample_weight=weights)
    assert np.array_equal(clf.predict_proba(TEXTS), before), "the earlier fit is still usable"


def test_fit_interrupted_is_fitted(monkeypatch):
    from skxlmr.training import loop

    clip, calls = loop.clip_gradients, []

    def interrupted(parameters, max_norm, loss_scale):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return clip(parameters, max_norm, loss_scale)

    monkeypatch.setattr(loop, "clip_gradients", interrupted)
    with pytest.warns(UserWarning, match="interrupted in epoch 2 of 5, after 2 of 10 steps"):
        clf = classifier(max_epochs=5, batch_size=6).fit(TEXTS, LABELS)
    assert clf.n_iter_ == 1  # the second epoch completed no step
    assert set(clf.predict(TEXTS)) <= {"yes", "no"}


def test_fit_with_validation_rows_scores_them():
    clf = classifier(max_epochs=2).fit(TEXTS, LABELS, X_val=TEXTS[:4], y_val=LABELS[:4])
    assert len(clf.validation_scores_) == 2
    assert clf.best_validation_score_ == max(clf.validation_scores_)
    assert clf.history_.validation_score.tolist() == clf.validation_scores_
    assert clf.validation_scores_[-1] == clf.score(TEXTS[:4], LABELS[:4])
    with pytest.raises(ValueError, match="go together"):
        classifier().fit(TEXTS, LABELS, X_val=TEXTS)
    with pytest.raises(ValueError, match=r"labels that y has not: \['maybe'\]"):
        classifier().fit(TEXTS, LABELS, X_val=["a", "b"], y_val=["maybe", "no"])
    one_class = classifier(max_epochs=1).fit(TEXTS, LABELS, X_val=["good"], y_val=["yes"])
    assert one_class.validation_scores_[0] in (0, 1)
