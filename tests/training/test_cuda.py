"""Training on a CUDA device."""

import numpy as np
import pytest
import torch

from skxlmr import Bias, Full, Head, LoRA, XLMRXLClassifier
from skxlmr.model import attention
from skxlmr.training import Callback
from skxlmr.training.randomness import Randomness

TEXTS = ["good", "bad", "fine", "poor", "nice film", "awful", "lovely", "dull day", "great", "grim", "sweet", "sour"]
LABELS = ["yes", "no"] * 6

pytestmark = pytest.mark.usefixtures("gpu")
slow = pytest.mark.slow  # in `make test-gpu` only


def classifier(**parameters):
    settings = {"model": "nano", "random_state": 0, "batch_size": 4, "max_epochs": 3, "learning_rate": 2e-3}
    return XLMRXLClassifier(**(settings | parameters))


@pytest.fixture
def no_dropout(monkeypatch):
    """Nothing is dropped: the random numbers of a device are not those of the CPU."""
    attend = attention.attend
    monkeypatch.setattr(attention, "attend", lambda q, k, v, packing, dropout_p: attend(q, k, v, packing))
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda self, x: x)


ON_CPU = {}  # loss curves by tuning


@pytest.mark.parametrize("tuning", [LoRA(), Head(), Bias(), LoRA(layers=2), Full(layers=1)], ids=str)
@pytest.mark.parametrize(
    "dtype", [pytest.param("float32", marks=slow), pytest.param("bfloat16", marks=slow), "float16"]
)
@pytest.mark.usefixtures("no_dropout")
def test_fit_on_cuda_has_losses_near_the_cpu(tuning, dtype):
    if str(tuning) not in ON_CPU:
        on_cpu = classifier(tuning=tuning, device="cpu", dtype="float32").fit(TEXTS, LABELS)
        ON_CPU[str(tuning)] = on_cpu.loss_curve_
    losses = classifier(tuning=tuning, device="cuda", dtype=dtype).fit(TEXTS, LABELS).loss_curve_
    tolerance = 1e-3 if dtype == "float32" else 0.03
    np.testing.assert_allclose(losses, ON_CPU[str(tuning)], rtol=tolerance, atol=tolerance)
    assert losses[-1] < losses[0]


class Kill(Callback):
    """Ends the process of a training, as far as the test is concerned, after some steps."""

    def on_step_end(self, trainer):
        if trainer.step == 4:
            raise ZeroDivisionError


@pytest.mark.parametrize(
    "optimizer", [pytest.param("adamw", marks=slow), "adamw8bit", pytest.param("paged_adamw8bit", marks=slow)]
)
def test_fit_resumed_from_a_checkpoint_equals_uninterrupted_fit(optimizer, tmp_path):
    parameters = {"optimizer": optimizer, "device": "cuda", "dtype": "float32"}
    whole = classifier(**parameters).fit(TEXTS, LABELS)
    parameters |= {"checkpoint_dir": tmp_path, "checkpoint_steps": 1}
    with pytest.raises(ZeroDivisionError):
        classifier(**parameters, callbacks=[Kill()]).fit(TEXTS, LABELS)
    resumed = classifier(**parameters).fit(TEXTS, LABELS)
    np.testing.assert_allclose(resumed.loss_curve_, whole.loss_curve_, rtol=1e-3)
    assert whole.loss_curve_[-1] < whole.loss_curve_[0]


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


@slow
def test_repeated_fits_do_not_leak_gpu_memory():
    seen = []
    for i in range(12):
        classifier(tuning=["head", "lora", LoRA(layers=2)][i % 3], device="cuda", max_epochs=1).fit(TEXTS, LABELS)
        seen.append(torch.cuda.memory_allocated())
    assert max(seen[6:]) <= max(seen[:6]) + 2**20
