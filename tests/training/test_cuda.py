"""Training on a CUDA device."""

import numpy as np
import pytest
import torch

from skxlmr import Full, LoRA, XLMRXLClassifier
from skxlmr.training.randomness import Randomness

TEXTS = ["good", "bad", "fine", "poor", "nice film", "awful", "lovely", "dull day", "great", "grim", "sweet", "sour"]
LABELS = ["yes", "no"] * 6

pytestmark = pytest.mark.usefixtures("gpu")


def classifier(**parameters):
    settings = {"model": "nano", "random_state": 0, "batch_size": 4, "max_epochs": 3, "learning_rate": 2e-3}
    return XLMRXLClassifier(**(settings | parameters))


@pytest.mark.parametrize("tuning", ["lora", "head", "bias", LoRA(layers=2), Full(layers=1)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_fit_on_cuda_has_losses_near_the_cpu(tuning, dtype):
    on_cpu = classifier(tuning=tuning, device="cpu", dtype="float32").fit(TEXTS, LABELS)
    on_gpu = classifier(tuning=tuning, device="cuda", dtype=dtype).fit(TEXTS, LABELS)
    # The first step has the same rows and initial weights; only dropout differs.
    assert on_gpu.loss_curve_[0] == pytest.approx(on_cpu.loss_curve_[0], abs=0.1)
    assert on_gpu.loss_curve_[-1] < on_gpu.loss_curve_[0]


@pytest.mark.parametrize("optimizer", ["adamw8bit", "paged_adamw8bit"])
def test_fit_with_8_bit_optimizers_learns(optimizer, tmp_path):
    clf = classifier(optimizer=optimizer, device="cuda", max_epochs=10, checkpoint_dir=tmp_path, checkpoint_steps=2)
    losses = clf.fit(TEXTS, LABELS).loss_curve_
    assert losses[-1] < losses[0]


def test_predict_on_the_cpu_after_fit_on_cuda_is_close():
    clf = classifier(device="cuda", dtype="float32").fit(TEXTS, LABELS)
    expected = clf.predict_proba(TEXTS)
    np.testing.assert_allclose(clf.set_params(device="cpu").predict_proba(TEXTS), expected, atol=1e-3)


def test_randomness_restores_the_cuda_generator():
    device = torch.device("cuda", torch.cuda.current_device())
    randomness, drawn = Randomness(0, device), []
    before = torch.cuda.get_rng_state()
    for fails in (True, False, False):
        try:
            with randomness.drawing():
                drawn.append(torch.rand(1, device=device).item())
                if fails:
                    raise RuntimeError
        except RuntimeError:
            pass
    assert drawn[0] == drawn[1] != drawn[2]
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_repeated_fits_do_not_leak_gpu_memory():
    seen = []
    for i in range(20):
        classifier(tuning=["head", "lora", LoRA(layers=2)][i % 3], device="cuda", max_epochs=1).fit(TEXTS, LABELS)
        seen.append(torch.cuda.memory_allocated())
    assert max(seen[10:]) <= max(seen[:10]) + 2**20
