from __future__ import annotations

import re

import pytest
import torch

from skxlmr import Processes, XLMRXLClassifier, memory_estimate, release_models
from skxlmr.hardware.advice import NotEnoughMemoryError, check_memory, training_budget
from skxlmr.hardware.estimate import in_gigabytes
from skxlmr.model import XLMRobertaXLConfig

XL = "facebook/xlm-roberta-xl"
GB = 10**9


@pytest.fixture
def a_gpu(monkeypatch: pytest.MonkeyPatch):
    """Pretend that there is a GPU of 80 GB; nothing runs on it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (80 * GB, 80 * GB))


def refusal(**parameters: object) -> str:
    with pytest.raises(NotEnoughMemoryError) as caught:
        check_memory(memory_estimate(XL, **{"device": "cpu", **parameters}), model=XL)
    assert isinstance(caught.value, MemoryError)
    return str(caught.value)


def check_advice(message: str, available: float, **parameters: object) -> list[str]:
    """Check that each suggestion needs what it says, and fits. Return the suggestions."""
    advice = message.partition("It fits with ")[2].removesuffix(").").split("); or with ")
    assert advice
    for way in advice:
        changes, _, needed = way.partition(" (needs ")
        estimate = memory_estimate(XL, **{"device": "cpu", **parameters, **eval(f"dict({changes})")})
        assert f"{in_gigabytes(estimate.total)} GB" == needed
        assert estimate.total <= available
    return [way.partition(" (needs ")[0] for way in advice]


def test_check_memory_that_fits_does_not_raise(with_memory):
    estimate = memory_estimate(XL, load_in_8bit=True, device="cpu")
    with_memory(estimate.total)
    check_memory(memory_estimate(XL, load_in_8bit=True, device="cpu"), model=XL)
    with_memory(estimate.total - 1)
    with pytest.raises(NotEnoughMemoryError):
        check_memory(memory_estimate(XL, load_in_8bit=True, device="cpu"), model=XL)
    with_memory(None)
    check_memory(memory_estimate(XL, load_in_8bit=True, device="cpu"), model=XL)


@pytest.mark.parametrize(
    ("parameters", "available", "expected"),
    [
        (
            {"load_in_8bit": False, "dtype": "float32"},
            8.0,
            ["load_in_8bit=True", "load_in_4bit=True", "dtype='bfloat16'"],
        ),
        ({"load_in_8bit": False, "dtype": "bfloat16"}, 4.5, ["load_in_8bit=True", "load_in_4bit=True"]),
        ({"load_in_8bit": True, "dtype": "bfloat16"}, 3.5, ["load_in_8bit=False, load_in_4bit=True"]),
        (
            {"load_in_8bit": True, "dtype": "bfloat16", "tuning": "lora", "batch_tokens": 8192},
            10.0,
            ["batch_tokens=1024", "tuning='head'"],
        ),
        ({"tuning": "full", "dtype": "bfloat16"}, 20.0, ["tuning='lora'", "tuning='head'"]),
        (
            {"tuning": "full", "dtype": "float32", "load_in_8bit": False},
            5.0,
            ["load_in_8bit=True, tuning='head'", "load_in_4bit=True, tuning='head'"],
        ),
    ],
)
def test_check_memory_suggests_changes_that_fit(with_memory, parameters, available, expected):
    with_memory(available * GB)
    message = refusal(**parameters)
    assert f"{available:.{1 if available >= 10 else 2}f} GB are available" in message
    assert f"needs {in_gigabytes(memory_estimate(XL, device='cpu', **parameters).total)} GB on cpu" in message
    assert check_advice(message, available * GB, **parameters) == expected


def test_check_memory_without_a_fitting_change_names_the_smallest(with_memory):
    with_memory(1 * GB)
    message = refusal(load_in_8bit=False, dtype="float32", tuning="lora")
    found = re.search(r"No parameters make it fit; the smallest choice is (.*) \(needs (.*) GB\)\.$", message)
    least = memory_estimate(XL, **eval(f"dict({found[1]})"), device="cpu")
    assert found[2] == in_gigabytes(least.total)
    assert found[1] == "load_in_4bit=True, batch_tokens=512, tuning='head', dtype='bfloat16'"
    smallest = refusal(load_in_4bit=True, dtype="bfloat16", batch_tokens=512)
    assert "No parameter makes it smaller." in smallest


def test_check_memory_of_processes_suggests_one(with_memory):
    parameters = {"tuning": "full", "batch_tokens": 512, "dtype": "float32", "processes": 2}
    estimate = memory_estimate(XL, device="cpu", **parameters)
    with_memory(1.5 * estimate.total)
    message = refusal(**parameters)
    assert f"needs {in_gigabytes(2 * estimate.total)} GB on cpu (2 processes, each with weights" in message
    assert "processes=None (needs" in message
    with_memory(2 * estimate.total)
    check_memory(memory_estimate(XL, device="cpu", **parameters), model=XL)


def test_check_memory_suggests_shards_on_several_gpus(emulate, with_memory):
    emulate("H100", None, 8)
    with_memory(cpu=0, cuda=24 * GB)
    parameters = {"device": "cuda", "tuning": "full", "batch_tokens": 512}
    assert "processes=Processes(n=8, strategy='fsdp') (needs 20.9 GB" in refusal(**parameters)
    check_memory(memory_estimate(XL, **parameters, processes=Processes(8, strategy="fsdp")), model=XL)


@pytest.mark.usefixtures("a_gpu")
def test_check_memory_on_a_small_gpu_suggests_the_cpu(with_memory):
    with_memory(cpu=20 * GB, cuda=1 * GB)
    parameters = {"device": "cuda", "load_in_4bit": True, "batch_tokens": 512}
    message = refusal(**parameters)
    assert "on cuda:0" in message
    assert check_advice(message, 20 * GB, **parameters) == ["device='cpu'"]


@pytest.mark.usefixtures("a_gpu")
@pytest.mark.parametrize(("has_bfloat16", "half"), [(True, "bfloat16"), (False, "float16")])
def test_check_memory_on_a_gpu_suggests_its_half_precision(with_memory, monkeypatch, has_bfloat16, half):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: has_bfloat16)
    with_memory(cpu=0, cuda=9 * GB)
    message = refusal(device="cuda", dtype="float32", load_in_8bit=False, batch_tokens=512)
    assert f"dtype='{half}'" in message
    assert "device='cpu'" not in message


def test_training_budget_shrinks_batches_before_checkpointing(monkeypatch):
    config = XLMRobertaXLConfig.xl()
    options = {"tuning": "lora", "load_in_8bit": True, "device": "cpu"}

    def budget(batch_tokens, available):
        monkeypatch.setattr("skxlmr.hardware.estimate.available_memory", lambda device: available)
        return training_budget(config, batch_tokens, **options)

    assert budget(1600, 10**15) == (1600, False)
    whole, least, twice = (
        memory_estimate(config, batch_tokens=n, gradient_checkpointing=twice, **options)
        for n, twice in ((1600, False), (512, False), (512, True))
    )
    assert whole.activations > least.activations > 2 * twice.activations
    assert budget(1600, whole.total - whole.weights - 1) == (800, False)
    assert budget(1600, least.total - least.weights) == (512, False)
    assert budget(1600, least.total - least.weights - 1) == (1600, True)
    assert budget(1600, twice.total - twice.weights) == (512, True)
    assert budget(1600, 0) == (512, True)
    assert budget(100, 0) == (100, True)
    assert budget(1600, None) == (1600, False)
    options["processes"] = 2
    assert budget(1600, 2 * (whole.total - whole.weights)) == (1600, False)
    assert budget(1600, 2 * (whole.total - whole.weights) - 1) == (800, False)


def test_fit_without_enough_memory_raises(monkeypatch):

    release_models()
    monkeypatch.setattr("skxlmr.hardware.estimate.available_memory", lambda device: 10**6)
    with pytest.raises(NotEnoughMemoryError, match=r"'nano' needs .* GB on cpu"):
        XLMRXLClassifier(model="nano", dtype="float16").fit(["a", "b"], [0, 1])
