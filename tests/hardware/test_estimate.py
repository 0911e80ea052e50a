from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import skxlmr
from skxlmr import LoRA, XLMRXLClassifier, memory_estimate
from skxlmr.checkpoints.resolve import ModelNotFoundError
from skxlmr.hardware.advice import NotEnoughMemoryError, check_memory, training_budget
from skxlmr.hardware.estimate import find_config, in_gigabytes
from skxlmr.hardware.footprint import default_batch_tokens
from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLModel
from skxlmr.model.int8 import Int8

XL, XXL = "facebook/xlm-roberta-xl", "facebook/xlm-roberta-xxl"
GB = 10**9


@pytest.fixture
def with_memory(monkeypatch: pytest.MonkeyPatch):
    """Sets what is available, by the device's type."""

    def set_available(cpu: float | None, cuda: float = 0) -> None:
        sizes = {"cpu": cpu if cpu is None else int(cpu), "cuda": int(cuda)}
        monkeypatch.setattr("skxlmr.hardware.estimate.available_memory", lambda device: sizes[device.type])

    return set_available


@pytest.fixture
def a_gpu(monkeypatch: pytest.MonkeyPatch):
    """A GPU of 80 GB that is there for the asking; nothing runs on it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (80 * GB, 80 * GB))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skxlmr.hardware.estimate.resolve_config", lambda model: pytest.fail(f"looked for {model}"))


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(("model", "billions"), [(XL, 3.48), (XXL, 10.7)])
def test_well_known_models_need_no_connection(model, billions):
    estimate = memory_estimate(model, load_in_8bit=False, dtype="float32", device="cpu")
    assert estimate.weights / 4 / GB == pytest.approx(billions, rel=0.002)
    assert memory_estimate(model, load_in_4bit=True).weights < memory_estimate(model, load_in_8bit=True).weights


def test_xl_in_8_bits():
    estimate = memory_estimate(load_in_8bit=True, device="cpu")
    assert estimate.weights == pytest.approx(4.1 * GB, rel=0.01)
    assert (estimate.quantization, estimate.learned, estimate.optimizer) == ("int8", 0, 0)
    assert estimate.total == estimate.weights + estimate.activations


def test_auto_is_what_the_estimators_take():
    clf = XLMRXLClassifier(model="nano", tuning="head", max_epochs=1).fit(["a", "b"], [0, 1])
    base = clf._fitted_backbone().model
    estimate = memory_estimate("nano", tuning="head")
    assert estimate.batch_tokens == default_batch_tokens(base.config, torch.float32, base.device)
    assert estimate.weights == sum(p.nbytes for p in base.parameters())
    assert estimate.learned == sum(p.nbytes for p in clf._finetuned.parameters())
    assert estimate.device == str(base.device)
    assert estimate.dtype == str(base.dtype).removeprefix("torch.")


def test_training():
    plain, head, lora, full = (memory_estimate("nano", tuning=tuning) for tuning in (None, "head", "lora", "full"))
    assert head.activations == plain.activations < lora.activations < full.activations
    assert 0 == plain.learned < head.learned < lora.learned < plain.weights < full.learned
    for estimate in (head, lora, full):
        assert estimate.optimizer == 3 * estimate.learned
        assert estimate.total == sum((estimate.weights, estimate.learned, estimate.optimizer, estimate.activations))
    assert memory_estimate("nano", tuning=LoRA(rank=16)).learned > lora.learned
    assert memory_estimate("nano", tuning="lora", batch_tokens=512).activations < lora.activations / 10


def test_ways_to_name_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = XLMRobertaXLConfig(vocab_size=100, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    config.save_pretrained(tmp_path / XL)
    for model in (tmp_path / XL, str(tmp_path / XL), config):
        assert memory_estimate(model, dtype="float32").weights == 4 * config.num_parameters
    assert find_config(XL) == XLMRobertaXLConfig.xl()
    monkeypatch.chdir(tmp_path)  # a directory goes before the hub
    assert find_config(XL) == config
    with pytest.raises(ModelNotFoundError, match="Did you mean 'nano'"):
        memory_estimate("nanno")


def test_checkpoint_that_is_in_8_bits_already(tmp_path: Path, with_memory):
    model = XLMRobertaXLModel.from_pretrained("nano", load_in_8bit=True, add_pooling_layer=False)
    model.save_pretrained(tmp_path)
    loaded = XLMRobertaXLModel.from_pretrained(tmp_path, add_pooling_layer=False)
    estimate = memory_estimate(tmp_path, dtype="float32")
    assert estimate.quantization == "int8"
    assert estimate.weights == sum(p.nbytes for p in loaded.parameters())
    for wrong in ({"load_in_4bit": True}, {"tuning": "full"}):
        with pytest.raises(ValueError, match="holds 8-bit weights"):
            memory_estimate(tmp_path, **wrong)
    with_memory(1)
    with pytest.raises(NotEnoughMemoryError) as caught:
        check_memory(memory_estimate(tmp_path), model=tmp_path)
    assert "load_in" not in str(caught.value)
    (tmp_path / "config.json").write_text(
        json.dumps(json.loads((tmp_path / "config.json").read_text()) | {"quantization_config": "yes"})
    )
    assert memory_estimate(tmp_path).quantization is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tuning": "some"}, "'tuning' parameter of memory_estimate must be"),
        ({"dtype": "int8"}, "'dtype' parameter"),
        ({"batch_tokens": 0}, "'batch_tokens' parameter"),
        ({"load_in_8bit": "yes"}, "'load_in_8bit' parameter"),
        ({"device": "gpu"}, "device='gpu'"),
        ({"load_in_8bit": True, "load_in_4bit": True}, "exclude each other"),
        ({"load_in_8bit": True, "tuning": "full"}, "tuning='full' trains every weight"),
        ({"load_in_4bit": True, "tuning": "full"}, "tuning='full' trains every weight"),
        ({"load_in_8bit": Int8(outliers="some")}, "Int8 outliers"),
    ],
    ids=str,
)
def test_wrong_parameters(wrong, message):
    with pytest.raises(ValueError, match=message):
        memory_estimate("nano", **wrong)


def test_printed(with_memory):
    with_memory(12.34 * GB)
    lines = str(memory_estimate(XL, load_in_8bit=True, dtype="bfloat16", tuning="lora", device="cpu")).splitlines()
    assert [line.split()[0] for line in lines] == [
        "weights", "learned", "optimizer", "activations", "total", "available",
    ]  # fmt: skip
    assert lines[0].split() == ["weights", "4.12", "GB", "8-bit"]
    assert lines[-1].split() == ["available", "12.3", "GB", "on", "cpu"]
    with_memory(None)
    assert [line.split()[0] for line in str(memory_estimate("nano", device="cpu")).splitlines()] == [
        "weights",
        "activations",
        "total",
    ]


def test_numbers_for_people():
    assert [in_gigabytes(int(n * GB)) for n in (0.0123, 0.123, 1.236, 12.34, 123.4)] == [
        "0.012", "0.12", "1.24", "12.3", "123.4",
    ]  # fmt: skip


def refusal(**parameters: object) -> str:
    with pytest.raises(NotEnoughMemoryError) as caught:
        check_memory(memory_estimate(XL, **{"device": "cpu", **parameters}), model=XL)
    assert isinstance(caught.value, MemoryError)
    return str(caught.value)


def check_advice(message: str, available: float, **parameters: object) -> list[str]:
    """Follow each piece of advice: it must need what it says, which must be there. Returns what is advised."""
    advice = message.partition("It fits with ")[2].removesuffix(").").split("); or with ")
    assert advice
    for way in advice:
        changes, _, needed = way.partition(" (needs ")
        estimate = memory_estimate(XL, **{"device": "cpu", **parameters, **eval(f"dict({changes})")})
        assert f"{in_gigabytes(estimate.total)} GB" == needed
        assert estimate.total <= available
    return [way.partition(" (needs ")[0] for way in advice]


def test_enough_memory(with_memory):
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
            8.0,
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
def test_advice_is_true(with_memory, parameters, available, expected):
    with_memory(available * GB)
    message = refusal(**parameters)
    assert f"{available:.{1 if available >= 10 else 2}f} GB are available" in message
    assert f"needs {in_gigabytes(memory_estimate(XL, device='cpu', **parameters).total)} GB on cpu" in message
    assert check_advice(message, available * GB, **parameters) == expected


def test_nothing_helps(with_memory):
    with_memory(1 * GB)
    message = refusal(load_in_8bit=False, dtype="float32", tuning="lora")
    found = re.search(r"Nothing makes it fit: the least is with (.*) \(needs (.*) GB\)\.$", message)
    least = memory_estimate(XL, **eval(f"dict({found[1]})"), device="cpu")
    assert found[2] == in_gigabytes(least.total)
    assert found[1] == "load_in_4bit=True, batch_tokens=512, tuning='head', dtype='bfloat16'"
    smallest = refusal(load_in_4bit=True, dtype="bfloat16", batch_tokens=512)
    assert "nothing to switch on" in smallest


@pytest.mark.usefixtures("a_gpu")
def test_a_gpu_that_is_too_small(with_memory):
    with_memory(cpu=20 * GB, cuda=1 * GB)
    parameters = {"device": "cuda", "load_in_4bit": True, "batch_tokens": 512}
    message = refusal(**parameters)
    assert "on cuda:0" in message
    assert check_advice(message, 20 * GB, **parameters) == ["device='cpu'"]


@pytest.mark.usefixtures("a_gpu")
@pytest.mark.parametrize(("has_bfloat16", "half"), [(True, "bfloat16"), (False, "float16")])
def test_16_bits_of_the_gpu(with_memory, monkeypatch, has_bfloat16, half):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: has_bfloat16)
    with_memory(cpu=0, cuda=9 * GB)
    message = refusal(device="cuda", dtype="float32", load_in_8bit=False, batch_tokens=512)
    assert f"dtype='{half}'" in message
    assert "device='cpu'" not in message


def test_public_and_light():
    assert skxlmr.memory_estimate is memory_estimate
    late = ("bitsandbytes", "huggingface_hub", "transformers")
    program = f"import sys, skxlmr; print([name for name in {late} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_training_takes_no_larger_batches_than_fit(monkeypatch):
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


def test_an_estimator_that_does_not_fit_says_so(monkeypatch):
    from skxlmr import release_models

    release_models()
    monkeypatch.setattr("skxlmr.hardware.estimate.available_memory", lambda device: 10**6)
    with pytest.raises(NotEnoughMemoryError, match=r"'nano' needs .* GB on cpu"):
        XLMRXLClassifier(model="nano", dtype="float16").fit(["a", "b"], [0, 1])
