"""Threads, half precision and gradient checkpointing do not change what is learned."""

import threading

import numpy as np
import pytest
import torch

from skxlmr import Full, LoRA, XLMRXLClassifier
from skxlmr.model.heads import ClassificationHead
from skxlmr.runtime.backbone import get_backbone
from skxlmr.runtime.finetuned import Finetuned
from skxlmr.runtime.plan import WindowPlan
from skxlmr.training.loop import Trainer
from skxlmr.training.randomness import Randomness
from skxlmr.training.schedule import Schedule

TEXTS = ["good", "bad", "fine", "poor", "nice film", "awful", "lovely", "dull day", "great", "grim", "sweet", "sour"]
LABELS = ["yes", "no"] * 6


def classifier(**parameters):
    settings = {"model": "nano", "tuning": "lora", "random_state": 0, "batch_size": 4, "max_epochs": 3}
    return XLMRXLClassifier(**(settings | parameters))


def test_fit_in_two_threads_equals_fit_alone():
    estimators = [
        classifier(tuning=LoRA(rank=2, dropout=0.2), random_state=seed, learning_rate=1e-3 * (seed + 1))
        for seed in range(2)
    ]
    alone = [estimator.fit(TEXTS, LABELS).predict_proba(TEXTS) for estimator in estimators]
    together, errors = [None, None], []

    def work(i):
        try:
            for _ in range(2):
                together[i] = estimators[i].fit(TEXTS, LABELS).predict_proba(TEXTS)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert not np.array_equal(*alone)
    for i in range(2):
        np.testing.assert_array_equal(together[i], alone[i])


def test_fit_does_not_change_the_global_generator():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    classifier(max_epochs=1).fit(TEXTS, LABELS)
    assert torch.equal(torch.rand(2), expected)


def test_randomness_after_an_error_draws_the_same_again():
    randomness = Randomness(0, torch.device("cpu"))
    drawn = []
    for fails in (True, False, False):
        try:
            with randomness.drawing():
                drawn.append(torch.rand(1).item())
                if fails:
                    raise RuntimeError
        except RuntimeError:
            pass
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(
    "tuning", [LoRA(rank=2, dropout=0.3, layers=2), LoRA(rank=2, dropout=0.3), Full(layers=1)], ids=str
)
def test_gradient_checkpointing_gives_the_same_gradients(tuning):
    backbone = get_backbone("nano")
    windows = [np.array([0, 7, 9 + i, 2]) for i in range(3)]
    gradients = []
    for recompute in (False, True):
        randomness = Randomness(0, torch.device("cpu"))
        with randomness.drawing():
            learned = Finetuned(tuning, backbone.model, ClassificationHead(backbone.model.config, 2)).train()
            for parameter in learned.parameters():
                torch.nn.init.normal_(parameter, std=0.1)
            learned.head(learned.embed(backbone, windows, recompute=recompute)).square().sum().backward()
        gradients.append([parameter.grad for parameter in learned.parameters()])
    assert any(bool(gradient.any()) for gradient in gradients[0])
    for plain, twice in zip(*gradients, strict=True):
        torch.testing.assert_close(twice, plain, rtol=1e-5, atol=1e-6)
    assert not backbone.model.gradient_checkpointing


@pytest.mark.parametrize("tuning", ["lora", Full(layers=2)], ids=str)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_fit_in_half_precision_is_close_to_float32(tuning, dtype):
    parameters = {"tuning": tuning, "learning_rate": 2e-3, "device": "cpu"}
    whole, half = (classifier(dtype=d, **parameters).fit(TEXTS, LABELS) for d in ("float32", dtype))
    assert half.loss_curve_ != whole.loss_curve_
    assert half.loss_curve_ == pytest.approx(whole.loss_curve_, abs=0.03)
    assert {p.dtype for p in half._finetuned.parameters()} == {torch.float32}
    np.testing.assert_allclose(half.predict_proba(TEXTS), whole.predict_proba(TEXTS), atol=0.05)


def train_numbers(losses, half):
    parameter = torch.nn.Parameter(torch.full((4,), 0.5))
    plan = WindowPlan([np.arange(4, dtype=np.int32)] * 4, np.arange(4), np.arange(4))
    schedule = Schedule(batch_size=4, batch_tokens=8, max_epochs=4, learning_rate=0.1)
    module = torch.nn.ParameterList([parameter])
    trainer = Trainer(
        lambda windows, rows, _: losses(parameter, rows), module, plan, np.ones(4), schedule, 0, half=half
    )
    return trainer, trainer.run(), parameter.detach()


def test_loss_scale_shrinks_until_float16_fits():
    def losses(parameter, rows):
        return (parameter[rows].half() * 100).square().float() / 100

    trainer, history, scaled = train_numbers(losses, half=True)
    _, plain_history, plain = train_numbers(losses, half=False)
    assert 1 < trainer.position.loss_scale < 2.0**16, "it started too high, and no step was skipped"
    assert trainer.step == 4
    torch.testing.assert_close(scaled, plain, rtol=1e-3, atol=1e-4)
    assert history.loss.tolist() == pytest.approx(plain_history.loss.tolist(), rel=1e-3)


def test_loss_scale_keeps_small_float16_gradients():
    def losses(parameter, rows):
        return (parameter[rows].half() * 1e-4).float() * 1e-4  # a gradient of 1e-8, which is zero in float16

    _, _, scaled = train_numbers(losses, half=True)
    assert (scaled < 0.5).all()


def test_loss_scale_with_an_invalid_gradient_raises():
    with pytest.raises(FloatingPointError, match="gradient became"):
        train_numbers(lambda parameter, rows: (parameter[rows] - 0.5).abs().sqrt(), half=True)


def test_trainer_with_a_foreign_overflow_error_raises_it():
    def losses(parameter, rows):
        raise OverflowError("my own")

    with pytest.raises(OverflowError, match="my own"):
        train_numbers(losses, half=True)


def test_trainer_out_of_memory_turns_checkpointing_on_last():
    asked = []

    def losses(parameter, windows, recompute):
        asked.append((len(windows), recompute))
        if len(windows) > 1 or not recompute:
            raise torch.OutOfMemoryError("injected")
        return parameter[windows] ** 2

    parameter = torch.nn.Parameter(torch.ones(2))
    plan = WindowPlan([np.arange(4, dtype=np.int32)] * 2, np.arange(2), np.arange(2))
    schedule = Schedule(batch_size=2, batch_tokens=8, max_epochs=1, learning_rate=0.1)
    module = torch.nn.ParameterList([parameter])
    Trainer(lambda w, rows, recompute: losses(parameter, w, recompute), module, plan, np.ones(2), schedule, 0).run()
    assert asked == [(2, False), (1, False), (1, True), (1, True)]
