"""The trained part of a model, in each precision, and with gradient checkpointing."""

import numpy as np
import pytest
import torch

from skxlmr import Bias, Full, LoRA, XLMRXLClassifier
from skxlmr.model.heads import ClassificationHead
from skxlmr.runtime.backbone import get_backbone
from skxlmr.runtime.finetuned import Finetuned
from skxlmr.training.randomness import Randomness

TEXTS = ["good", "bad", "fine", "poor", "nice film", "awful", "lovely", "dull day", "great", "grim", "sweet", "sour"]
LABELS = ["yes", "no"] * 6


def classifier(**parameters):
    settings = {"model": "nano", "tuning": "lora", "random_state": 0, "batch_size": 4, "max_epochs": 3}
    return XLMRXLClassifier(**(settings | parameters))


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
            batch = learned.batch(backbone, windows).to(backbone.model.device)
            learned.head(learned.embed(backbone, batch, recompute=recompute)).square().sum().backward()
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
