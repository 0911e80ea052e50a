from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import skxlmr
from skxlmr import Full, LoRA, Processes, XLMRXLClassifier, memory_estimate
from skxlmr.checkpoints.resolve import ModelNotFoundError
from skxlmr.hardware.advice import NotEnoughMemoryError, check_memory
from skxlmr.hardware.estimate import find_config, in_gigabytes
from skxlmr.hardware.footprint import default_batch_tokens
from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLModel
from skxlmr.model.int8 import Int8

XL, XXL = "facebook/xlm-roberta-xl", "facebook/xlm-roberta-xxl"
GB = 10**9


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skxlmr.hardware.estimate.resolve_config", lambda model: pytest.fail(f"looked for {model}"))


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(("model", "billions"), [(XL, 3.48), (XXL, 10.7)])
def test_memory_estimate_of_preset_models_needs_no_connection(model, billions):
    estimate = memory_estimate(model, load_in_8bit=False, dtype="float32", device="cpu")
    assert estimate.weights / 4 / GB == pytest.approx(billions, rel=0.002)
    assert memory_estimate(model, load_in_4bit=True).weights < memory_estimate(model, load_in_8bit=True).weights


def test_memory_estimate_of_xl_in_8_bits_is_4_gigabytes():
    estimate = memory_estimate(load_in_8bit=True, device="cpu")
    assert estimate.weights == pytest.approx(4.1 * GB, rel=0.01)
    assert (estimate.quantization, estimate.learned, estimate.optimizer) == ("int8", 0, 0)
    assert estimate.total == estimate.weights + estimate.tokenizer + estimate.activations


def test_memory_estimate_auto_equals_what_an_estimator_loads():
    clf = XLMRXLClassifier(model="nano", tuning="head", pooling="cls", max_epochs=1).fit(["a", "b"], [0, 1])
    base = clf._fitted_backbone().model
    estimate = memory_estimate("nano", tuning="head")
    assert estimate.batch_tokens == default_batch_tokens(base.config, torch.float32, base.device)
    assert estimate.weights == sum(p.nbytes for p in base.parameters())
    assert estimate.learned == sum(p.nbytes for p in clf._finetuned.parameters())
    assert estimate.device == str(base.device)
    assert estimate.dtype == str(base.dtype).removeprefix("torch.")


def test_memory_estimate_with_tuning_counts_learned_and_optimizer():
    plain, head, lora, full = (memory_estimate("nano", tuning=tuning) for tuning in (None, "head", "lora", "full"))
    assert head.activations == plain.activations < lora.activations < full.activations
    assert 0 == plain.learned < head.learned < lora.learned < plain.weights < full.learned
    for estimate in (head, lora, full):
        assert estimate.optimizer == 3 * estimate.learned
        trained = estimate.learned + estimate.optimizer
        assert estimate.total == estimate.weights + estimate.tokenizer + trained + estimate.activations
    assert memory_estimate("nano", tuning=LoRA(rank=16)).learned > lora.learned
    assert memory_estimate("nano", tuning="lora", batch_tokens=512).activations < lora.activations / 5


def test_memory_estimate_of_processes_on_a_cpu_shares_the_memory_and_weights_in_8_bits(with_memory):
    one, four = (memory_estimate(XL, tuning="lora", device="cpu", processes=n) for n in (None, Processes(4)))
    assert one.quantization == "int8"
    assert (one.processes, four.processes, one.needed, four.total) == (1, 4, one.total, one.total)
    assert four.needed == one.weights + 4 * (one.tokenizer + one.learned + one.optimizer + one.activations)
    with_memory(four.needed)
    assert memory_estimate(XL, tuning="lora", device="cpu", processes=4).fits
    with_memory(four.needed - 1)
    assert not memory_estimate(XL, tuning="lora", device="cpu", processes=4).fits
    lines = [line.split() for line in str(four).splitlines()]
    assert [*lines[-3][:1], *lines[-3][3:]] == ["total", "each", "of", "4", "processes"]
    assert lines[-2] == ["needed", in_gigabytes(four.needed), "GB", "all", "4", "processes"]
    whole = memory_estimate("nano", tuning="full", device="cpu", processes=4)
    assert whole.quantization is None
    assert whole.needed == 4 * whole.total
    assert memory_estimate("nano", device="cpu", processes=Processes("auto")).processes == 1


def test_memory_estimate_of_processes_counts_the_copy_of_exchanged_gradients():
    few = {"tuning": Full(), "load_in_8bit": False, "device": "cpu", "batch_tokens": 512}
    one, two = (memory_estimate(XL, **few, gradient_checkpointing=True, processes=n) for n in (1, 2))
    assert one.activations < two.activations == 4 * 250_880 * 2560  # the gradient of the word embedding
    top = memory_estimate(XL, **few | {"tuning": Full(layers=1), "batch_tokens": 1}, processes=2)
    assert top.activations == 4 * 2560 * 10_240  # that of a matrix of the feed-forward network


def test_memory_estimate_of_processes_on_gpus_is_that_of_the_gpu_with_the_least_memory(emulate, monkeypatch):
    emulate("H100", None, 4)
    free = [40, 30, 20, 10]
    monkeypatch.setattr("skxlmr.hardware.estimate.available_memory", lambda device: free[device.index] * GB)
    two, every = (memory_estimate(XL, tuning="full", processes=Processes(n)) for n in (2, "auto"))
    assert (two.device, two.available, two.processes) == ("cuda:1", 30 * GB, 2)
    assert (every.device, every.available, every.processes) == ("cuda:3", 10 * GB, 4)
    assert two.needed == two.total == every.total > 55 * GB
    assert memory_estimate(XL, processes=1).available == 40 * GB
    assert "needed" not in str(two)


def test_memory_estimate_of_full_xl_in_shards_on_8_gpus_is_what_arithmetic_says(emulate):
    emulate("H100", 24 * 10**9, 8)
    shards = Processes(8, strategy="fsdp")
    estimate = memory_estimate(XL, tuning="full", dtype="bfloat16", batch_tokens=512, processes=shards)
    layers = 36 * (4 * 2560**2 + 2 * 2560 * 10_240 + 4 * 2560 + 10_240 + 2560 + 4 * 2560)
    words = 250_880 * 2560
    rest = 514 * 2560 + 2560 + 2 * 2560  # positions, token type, final LayerNorm
    head = 2560 * 2560 + 2560 + 2 * 2560 + 2
    assert estimate.weights == pytest.approx(2 * ((layers + words) / 8 + rest), rel=1e-4)
    assert estimate.learned == pytest.approx(4 * ((layers + words) / 8 + rest + head), rel=1e-4)
    assert estimate.optimizer == 3 * estimate.learned
    whole = 6 * (layers + words + rest) + 4 * head  # in 16 bits, and the copy in 32 bits, before they are sharded
    assert estimate.total == pytest.approx(whole, rel=0.01)
    assert 20.9 * GB < estimate.total < 21.1 * GB
    assert memory_estimate(XL, tuning="full", dtype="bfloat16", batch_tokens=512).total > 60 * GB
    least = memory_estimate("nano", tuning="full", batch_tokens=8192, processes=shards)
    assert least.total < memory_estimate("nano", tuning="full", batch_tokens=8192).total


@pytest.mark.parametrize("language_model", ["masked", "causal"])
def test_memory_estimate_of_a_language_model_in_shards_has_the_whole_word_embedding(emulate, language_model):
    emulate("H100", 24 * 10**9, 8)
    options = {"tuning": "full", "dtype": "bfloat16", "batch_tokens": 512, "processes": Processes(8, strategy="fsdp")}
    plain, tied = (memory_estimate(XL, **options, language_model=name) for name in (None, language_model))
    words = 250_880 * 2560
    assert tied.weights - plain.weights == pytest.approx(2 * words * 7 / 8, rel=1e-3)
    assert tied.learned - plain.learned == pytest.approx(4 * words * 7 / 8, rel=1e-3)
    of_head = 4 * (250_880 + 2 * 2560 - 2 * 2561)  # biases of words and a LayerNorm, in place of two outputs
    whole, more = (memory_estimate(XL, tuning="head", language_model=name) for name in (None, language_model))
    assert more.learned - whole.learned == of_head
    with pytest.raises(ValueError, match="'language_model' parameter of memory_estimate"):
        memory_estimate(XL, language_model="some")


def test_memory_estimate_has_16_bits_for_a_word_embedding_that_is_mapped(emulate):
    config = XLMRobertaXLConfig(vocab_size=50_000, hidden_size=1024, num_hidden_layers=1, num_attention_heads=2)
    options = {"device": "cpu", "dtype": "float32", "load_in_8bit": False}
    words = config.vocab_size * config.hidden_size
    whole = memory_estimate(config, **options).weights
    assert whole == 4 * config.num_parameters
    for entry in ("torch_dtype", "dtype"):
        config.extra = {entry: "float16"}
        assert whole - memory_estimate(config, **options).weights == 2 * words
    emulate("H100")
    assert memory_estimate(config, **options | {"device": "cuda"}).weights == whole
    config.extra = {"torch_dtype": "float32"}
    assert memory_estimate(config, **options).weights == whole


def test_memory_estimate_counts_the_tokenizer_on_a_cpu(emulate):
    emulate("H100")
    assert memory_estimate(XL, device="cpu").tokenizer == 200 * 250_880
    assert memory_estimate(XL, device="cuda").tokenizer == 0


def test_memory_estimate_takes_name_path_and_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = XLMRobertaXLConfig(vocab_size=100, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    config.save_pretrained(tmp_path / XL)
    for model in (tmp_path / XL, str(tmp_path / XL), config):
        assert memory_estimate(model, dtype="float32").weights == 4 * config.num_parameters
    assert find_config(XL) == XLMRobertaXLConfig.xl()
    monkeypatch.chdir(tmp_path)  # a directory goes before the hub
    assert find_config(XL) == config
    with pytest.raises(ModelNotFoundError, match="Did you mean 'nano'"):
        memory_estimate("nanno")


def test_memory_estimate_of_an_8_bit_checkpoint_equals_the_loaded_model(tmp_path: Path, with_memory):
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
        ({"processes": 0}, "'processes' parameter of memory_estimate must be"),
        ({"processes": "two"}, "'processes' parameter of memory_estimate must be"),
        ({"processes": Processes(0)}, "number n >= 1, or n='auto', got n=0"),
        ({"load_in_8bit": Int8(outliers="some")}, "Int8 outliers"),
    ],
    ids=str,
)
def test_memory_estimate_with_invalid_parameters_raises(wrong, message):
    with pytest.raises(ValueError, match=message):
        memory_estimate("nano", **wrong)


def test_memory_estimate_str_lists_the_parts(with_memory):
    with_memory(12.34 * GB)
    lines = str(memory_estimate(XL, load_in_8bit=True, dtype="bfloat16", tuning="lora", device="cpu")).splitlines()
    assert [line.split()[0] for line in lines] == [
        "weights", "tokenizer", "learned", "optimizer", "activations", "total", "available",
    ]  # fmt: skip
    assert lines[0].split() == ["weights", "4.12", "GB", "8-bit"]
    assert lines[-1].split() == ["available", "12.3", "GB", "on", "cpu"]
    with_memory(None)
    assert [line.split()[0] for line in str(memory_estimate("nano", device="cpu")).splitlines()] == [
        "weights",
        "tokenizer",
        "activations",
        "total",
    ]


def test_in_gigabytes_rounds_to_significant_digits():
    assert [in_gigabytes(int(n * GB)) for n in (0.0123, 0.123, 1.236, 12.34, 123.4)] == [
        "0.012", "0.12", "1.24", "12.3", "123.4",
    ]  # fmt: skip


def test_import_skxlmr_does_not_import_optional_libraries():
    assert skxlmr.memory_estimate is memory_estimate
    late = ("bitsandbytes", "huggingface_hub", "transformers")
    program = f"import sys, skxlmr; print([name for name in {late} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
