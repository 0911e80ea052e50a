from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from quantized_layers import quantized_layer
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from x86_kernels import kernels
from x86_models import ROBERTA, SIZES, model_of
from x86_models import encode as encode_small

from skxlmr.hardware.footprint import (
    LANGUAGE_MODELS,
    activation_bytes,
    default_batch_tokens,
    num_learned,
    num_sharded,
    packed_bytes,
    weight_bytes,
)
from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLModel, blocks, fused_encoder
from skxlmr.model.avx import library as module_of_library
from skxlmr.model.config import XLMRobertaConfig
from skxlmr.model.float8 import Float8
from skxlmr.model.heads import ClassificationHead
from skxlmr.model.int8 import Int8, Int8Linear
from skxlmr.model.int8_engines import choice, int_mm
from skxlmr.model.lm_head import LMHead
from skxlmr.model.packing import Packing
from skxlmr.model.quantized import linear_layers, quantize_structure, quantized_layers
from skxlmr.model.storage import Storage, quantization_settings
from skxlmr.runtime.finetuned import Finetuned
from skxlmr.system import triton
from skxlmr.training import Bias, Full, Head, LoRA

NANO, XL = XLMRobertaXLConfig.from_pretrained("nano"), XLMRobertaXLConfig.xl()
DECODER = XLMRobertaXLConfig(num_hidden_layers=2, is_decoder=True, add_cross_attention=True)
WIDE = XLMRobertaXLConfig(
    vocab_size=500, hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024,
    max_position_embeddings=258,
)  # fmt: skip
N_TEXTS, LENGTH = 2, 256
N_TOKENS = N_TEXTS * LENGTH
DTYPES = (torch.float32, torch.bfloat16)


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of all living tensors that operations created."""

    def __init__(self) -> None:
        super().__init__()
        self.peak, self.living = 0, {}

    def __torch_dispatch__(self, function: Callable, types: object, args: tuple = (), kwargs: dict | None = None):
        given = {id(x.untyped_storage()) for x in tree_iter((args, kwargs)) if isinstance(x, Tensor)}
        result = function(*args, **(kwargs or {}))
        for x in tree_iter(result):
            if isinstance(x, Tensor) and not {id(x.untyped_storage())} & (given | self.living.keys()):
                storage = x.untyped_storage()
                self.living[id(storage)] = storage.nbytes()
                weakref.finalize(storage, self.living.pop, id(storage))
        self.peak = max(self.peak, sum(self.living.values()))
        return result


def peak_of(run: Callable[[], object]) -> int:
    run()  # what is allocated only once is not counted
    int_mm._workspace._take(0)  # but the workspace that the products keep is
    with PeakMemory() as counter:
        run()
    return counter.peak


def base_of(config: XLMRobertaXLConfig, dtype: torch.dtype, settings: Storage | None = None) -> XLMRobertaXLModel:
    torch.manual_seed(0)
    base = XLMRobertaXLModel(config, add_pooling_layer=False)
    for name, layer in linear_layers(base).items() if settings else ():
        base.set_submodule(name, quantized_layer(layer, settings))
    return base.to(dtype).eval().requires_grad_(False)


def encode(base: XLMRobertaXLModel, adapter: nn.ModuleList | None = None, recompute: bool = False) -> Tensor:
    ids = torch.arange(N_TOKENS) % 400 + 4
    positions = torch.arange(LENGTH).repeat(N_TEXTS) + 2
    return base.encode(ids, positions, Packing.from_lengths([LENGTH] * N_TEXTS), adapter=adapter, recompute=recompute)[
        -1
    ]


def test_peak_memory_counts_living_tensors():
    def run() -> None:
        a = torch.ones(1000)
        b = (a.view(10, 100) + 1).flatten()  # a view takes no memory
        del a
        torch.cat([b, b])

    assert peak_of(run) == 4 * (1000 + 2000)


@pytest.mark.parametrize("config", [NANO, XL, DECODER], ids=["nano", "xl", "decoder"])
@pytest.mark.parametrize("settings", [None, Int8(), Float8(), "nf4"], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_weight_bytes_equals_the_model_structure(config, settings, dtype):
    with torch.device("meta"):
        model = XLMRobertaXLModel(config, add_pooling_layer=False)
        if settings:
            quantize_structure(model, settings)
    kept = {
        p for layer in quantized_layers(model).values() for p in (getattr(layer, n) for n in layer.quantized_parameters)
    }
    held = sum(p.nbytes for p in kept) + sum(p.numel() * dtype.itemsize for p in model.parameters() if p not in kept)
    if settings:  # the word embedding has 16 bits
        held += model.embeddings.word.weight.numel() * (2 - dtype.itemsize)
    assert weight_bytes(config, settings, dtype) == held


@pytest.mark.parametrize(
    "load", [{}, {"load_in_8bit": True}, {"load_in_8bit": Float8()}, {"load_in_4bit": True}], ids=str
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_weight_bytes_equals_the_loaded_model(load, dtype):
    model = XLMRobertaXLModel.from_pretrained("nano", dtype=dtype, add_pooling_layer=False, **load)
    settings = quantization_settings(load.get("load_in_8bit", False), "load_in_4bit" in load)
    assert weight_bytes(NANO, settings, dtype) == sum(p.nbytes for p in model.parameters())
    extra = sum(b.nbytes for b in model.buffers())  # the outliers
    assert extra < 0.02 * weight_bytes(NANO, settings, dtype)


@pytest.mark.parametrize("variant", ["avx512", "avx2"])
@pytest.mark.parametrize("change", [{}, {"hidden_size": 44, "intermediate_size": 150}], ids=str)
def test_packed_bytes_equals_what_is_packed(variant, change, monkeypatch):
    used = kernels(variant)
    for module, name in ((module_of_library, "library"), (choice, "avx_library")):
        monkeypatch.setattr(module, name, lambda: used)
    config = XLMRobertaConfig(**SIZES | change)
    model = model_of(config)
    for layer in quantized_layers(model).values():
        assert isinstance(layer, Int8Linear)
        layer.set_outliers(torch.empty(0, dtype=torch.int64))
    with torch.inference_mode():
        encode_small(model)
    packed = [layer._derived[fused_encoder.PACKED].tensor.nbytes for layer in quantized_layers(model).values()]
    assert packed_bytes(config, Int8(), "cpu") == sum(packed)
    monkeypatch.setattr("skxlmr.hardware.footprint.MOST_PACKED", sum(packed) - 1)
    assert packed_bytes(config, Int8(), "cpu") == 0


def test_packed_bytes_of_what_is_not_packed_are_zero(monkeypatch):
    monkeypatch.setattr(choice, "avx_library", lambda: SimpleNamespace(variant="avx512"))
    assert packed_bytes(ROBERTA, Int8(), "cpu") > 0
    for settings in (None, "nf4", Int8(engine="int_mm"), Int8(outliers="dynamic")):
        assert packed_bytes(ROBERTA, settings, "cpu") == 0
    assert packed_bytes(ROBERTA, Int8(), "meta") == 0
    assert packed_bytes(replace(ROBERTA, hidden_act="relu"), Int8(), "cpu") == 0
    assert packed_bytes(XL, Int8(), "cpu") == 0  # too large
    monkeypatch.setattr(choice, "avx_library", lambda: None)
    assert packed_bytes(ROBERTA, Int8(), "cpu") == 0


@pytest.mark.parametrize("language_model", LANGUAGE_MODELS)
@pytest.mark.parametrize("tuning", [LoRA(layers=None), Full(), Full(layers=2)], ids=str)
def test_head_of_a_language_model_is_learned_and_tied_words_are_not_sharded(tuning, language_model):
    base = base_of(NANO, torch.float32)
    learned = Finetuned(tuning, base, LMHead(NANO))
    assert num_learned(NANO, tuning, language_model) == sum(p.numel() for p in learned.parameters())
    words = 0 if tuning.num_frozen_layers(NANO) else base.embeddings.word.weight.numel()
    assert num_sharded(NANO, tuning) - num_sharded(NANO, tuning, language_model) == words


@pytest.mark.parametrize("tuning", [LoRA(), Full()], ids=str)
@pytest.mark.parametrize("language_model", LANGUAGE_MODELS)
def test_activation_bytes_of_a_language_model_is_near_the_peak(tuning, language_model):
    config = replace(WIDE, vocab_size=30_000, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    learned = Finetuned(tuning, base_of(config, torch.float32), LMHead(config)).train()
    base, head = learned.model(base_of(config, torch.float32)), learned.head
    n_predicted = int(LANGUAGE_MODELS[language_model] * N_TOKENS)
    targets = torch.arange(n_predicted)

    def run() -> None:
        hidden = encode(base, learned.adapter)[:n_predicted]
        head.losses(hidden, base.embeddings.word.weight, targets).sum().backward()

    measured = peak_of(run)
    estimated = activation_bytes(config, N_TOKENS, torch.float32, tuning=tuning, language_model=language_model)
    assert near(estimated, measured)


@pytest.mark.parametrize(
    "tuning", [LoRA(), LoRA(rank=3, layers=2, targets=["up"]), Bias(), Head(), Full(), Full(layers=2)], ids=str
)
def test_num_learned_equals_the_learned_parameters(tuning):
    base = base_of(NANO, torch.float32)
    learned = Finetuned(tuning, base, ClassificationHead(NANO, NANO.num_labels))
    assert num_learned(NANO, tuning) == sum(p.numel() for p in learned.parameters())


def test_num_learned_without_tuning_is_zero():
    assert num_learned(NANO, None) == 0


SETTINGS = [None, Int8(engine="int_mm"), Int8(engine="dequantize"), Float8(), "nf4"]


def near(estimated: int, measured: int) -> bool:
    return measured / 1.25 < estimated < 1.6 * measured


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_activation_bytes_of_prediction_is_near_the_peak(settings, dtype, monkeypatch):
    base = base_of(WIDE, dtype, settings)
    run, estimated = torch.inference_mode()(lambda: encode(base)), activation_bytes(WIDE, N_TOKENS, dtype, settings)
    assert peak_of(run) < 1.25 * estimated  # in one call for all layers it is less
    monkeypatch.setattr(type(base), "_fuse", lambda *_: None)
    assert near(estimated, peak_of(run))
    assert activation_bytes(WIDE, N_TOKENS, dtype, settings, Head()) == activation_bytes(
        WIDE, N_TOKENS, dtype, settings
    )


@pytest.mark.parametrize(
    "lora", [LoRA(), LoRA(layers=2), LoRA(dropout=0.1, targets=["query", "up", "down", "output"])], ids=str
)
@pytest.mark.parametrize("settings", [None, Int8(), "nf4"], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_activation_bytes_of_lora_is_near_the_peak(lora, settings, dtype):
    base, adapter = base_of(WIDE, dtype, settings), lora.build(WIDE).train()
    measured = peak_of(lambda: encode(base, adapter).float().sum().backward())
    assert near(activation_bytes(WIDE, N_TOKENS, dtype, settings, lora), measured)


def test_activation_bytes_of_lora_over_float8_is_near_the_peak():
    base, adapter = base_of(WIDE, torch.bfloat16, Float8()), LoRA().build(WIDE).train()
    measured = peak_of(lambda: encode(base, adapter).float().sum().backward())
    assert near(activation_bytes(WIDE, N_TOKENS, torch.bfloat16, Float8(), LoRA()), measured)


@pytest.mark.parametrize("settings", [None, Int8(), "nf4"], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_activation_bytes_with_checkpointing_is_near_the_peak(settings, dtype):
    base, adapter = base_of(WIDE, dtype, settings), LoRA().build(WIDE).train()
    measured = peak_of(lambda: encode(base, adapter, recompute=True).float().sum().backward())
    estimated = activation_bytes(WIDE, N_TOKENS, dtype, settings, LoRA(), gradient_checkpointing=True)
    assert near(estimated, measured)
    assert estimated < activation_bytes(WIDE, N_TOKENS, dtype, settings, LoRA())


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_activation_bytes_of_full_is_near_the_peak(dropout):
    config = replace(WIDE, attention_probs_dropout_prob=dropout)
    base = base_of(config, torch.float32).requires_grad_().train()
    measured = peak_of(lambda: encode(base).sum().backward())  # the first run has allocated the gradients
    assert near(activation_bytes(config, N_TOKENS, torch.float32, tuning=Full()), measured)


@pytest.mark.parametrize(
    "settings",
    [
        None,
        Int8(engine="int_mm"),
        Int8(engine="triton"),
        Int8(engine="bitsandbytes"),
        Int8(engine="dequantize"),
        Float8(),
        Float8(engine="dequantize"),
        "nf4",
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "dtype",
    [
        pytest.param(torch.float32, marks=pytest.mark.slow),
        torch.bfloat16,
        pytest.param(torch.float16, marks=pytest.mark.slow),
    ],
)
@pytest.mark.usefixtures("gpu")
def test_activation_bytes_of_prediction_on_cuda_is_near_the_peak(settings, dtype, monkeypatch):
    needs_int8 = isinstance(settings, Int8) and settings.engine != "dequantize"
    if needs_int8 and torch.cuda.get_device_capability() < (7, 5):
        pytest.skip("this GPU does not multiply integers")
    if settings == Int8(engine="triton") and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("Triton compiles no integer products for this GPU")
    monkeypatch.setattr(blocks, "LARGE_BLOCK", 2**17)
    base = base_of(WIDE, dtype, settings)
    for layer in quantized_layers(base).values() if needs_int8 else ():
        layer.set_outliers(torch.arange(layer.in_features // 64))
    base.to("cuda")
    ids = (torch.arange(LENGTH).repeat(N_TEXTS) + 2).cuda()

    def run() -> int:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        with torch.inference_mode():
            base.encode(ids, ids, Packing.from_lengths([LENGTH] * N_TEXTS, "cuda"))
        return torch.cuda.max_memory_allocated() - before

    run()  # what is allocated only once is not counted
    estimated, measured = activation_bytes(WIDE, N_TOKENS, dtype, settings, device="cuda"), run()
    assert measured / 1.05 < estimated < 1.35 * measured


def test_activation_bytes_grows_with_tokens_and_layers():
    def needed(n_tokens: int, lora: LoRA | None) -> int:
        return activation_bytes(XL, n_tokens, torch.bfloat16, Int8(engine="int_mm"), lora)

    assert needed(1024, LoRA()) == pytest.approx(2 * needed(512, LoRA()), rel=0.05)
    one_layer = needed(512, LoRA(layers=2)) - needed(512, LoRA(layers=1))
    assert needed(512, LoRA(layers=None)) - needed(512, LoRA(layers=1)) == 35 * one_layer
    assert needed(512, LoRA(layers=0.5)) - needed(512, LoRA(layers=1)) == 17 * one_layer
    assert needed(512, None) < needed(512, LoRA()) / 20


def test_activation_bytes_with_bitsandbytes_counts_int32_products(emulate):
    """On CUDA the products are int32 before scaling; the input is held in 16 and in 8 bits."""
    emulate("H100")
    settings = Int8(engine="bitsandbytes")
    plain = activation_bytes(XL, 1000, torch.bfloat16)
    assert plain < activation_bytes(XL, 1000, torch.bfloat16, settings, device="cuda") < 2 * plain


def test_activation_bytes_of_kernels_for_cpus_has_no_int32_products(monkeypatch):
    """Only a few rows for each thread are held in 32 bits."""
    monkeypatch.setattr(choice, "avx_library", lambda: object())
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    avx, int_mm = (activation_bytes(XL, 4000, torch.bfloat16, Int8(engine=name)) for name in ("avx", "int_mm"))
    assert 3 * 4000 * XL.intermediate_size < int_mm - avx < 5 * 4000 * XL.intermediate_size


def test_activation_bytes_with_triton_has_no_int32_products(monkeypatch):
    monkeypatch.setattr(triton, "missing", lambda: None)

    def needed(engine: str) -> int:
        return activation_bytes(XL, 1000, torch.bfloat16, Int8(engine=engine), device="cuda")

    plain = activation_bytes(XL, 1000, torch.bfloat16)
    assert 0.7 * plain < needed("triton") < plain < needed("bitsandbytes")


def test_default_batch_tokens_is_smaller_for_wider_models():
    of_wide, of_nano = (
        default_batch_tokens(config, torch.float32, torch.device("cpu")) for config in (XLMRobertaXLConfig.xl(), NANO)
    )
    assert 512 <= of_wide < of_nano
