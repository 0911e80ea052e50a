"""All layers with 8-bit weights in one call against one call for each step, which give the same to the last bit."""

import copy
import gc
import pickle
import threading
import weakref

import pytest
import torch
from torch import nn
from x86_kernels import kernels
from x86_models import ROBERTA, SIZES, XL, encode, model_of

from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLModel, fused_encoder
from skxlmr.model.avx import library as module_of_library
from skxlmr.model.avx import operators
from skxlmr.model.avx.library import VARIANTS
from skxlmr.model.fused_encoder import PACKED, FusedEncoder
from skxlmr.model.packing import Packing
from skxlmr.model.quantized import int8_layers

BATCHES = [[1], [20, 4, 1], [31, 2, 31, 9] * 5]


@pytest.fixture(autouse=True)
def no_gradients():
    kernels("avx2")
    with torch.no_grad():
        yield


def step_by_step(model, monkeypatch, **arguments):
    with monkeypatch.context() as patch:
        patch.setattr(XLMRobertaXLModel, "_fuse", lambda model, x: None)
        return encode(model, **arguments)


def is_fused(model):
    """Whether one call runs all layers."""
    encode(model)
    return model._fused is not None


@pytest.mark.parametrize("variant", VARIANTS.values())
@pytest.mark.parametrize("config", [XL, ROBERTA], ids=["XL", "RoBERTa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_to_one_call_for_each_step(variant, config, dtype, threads, monkeypatch):
    library = kernels(variant)
    monkeypatch.setattr(module_of_library, "library", lambda: library)
    model = model_of(config, dtype)
    assert is_fused(model)
    for n_threads in (1, 2, 5):
        threads(n_threads)
        for lengths in BATCHES:
            expected = step_by_step(model, monkeypatch, lengths=lengths)
            assert torch.equal(encode(model, lengths=lengths), expected), (n_threads, lengths)


@pytest.mark.parametrize(
    "change",
    [{"hidden_size": 72}, {"num_attention_heads": 2}, {"intermediate_size": 150}, {"hidden_size": 44}],
    ids=str,
)
@pytest.mark.parametrize("outliers", [[], [0, 3, 7, 11, 12]], ids=len)
def test_other_sizes(change, outliers, threads, monkeypatch):
    model = model_of(XLMRobertaXLConfig(**SIZES | change))
    for layer in int8_layers(model).values():
        layer.set_outliers(torch.tensor(outliers, dtype=torch.int64))
    assert is_fused(model)
    for n_threads in (1, 2):
        threads(n_threads)
        for lengths in BATCHES:
            assert torch.equal(encode(model, lengths=lengths), step_by_step(model, monkeypatch, lengths=lengths))


def test_text_is_independent_of_batch_and_threads(threads):
    model, lengths = model_of(ROBERTA, torch.bfloat16), [30, 30, 4, 1, 20] * 8
    threads(3)
    together, start = encode(model, lengths=lengths), 0
    for length in lengths:
        threads(1 + start % 4)
        assert torch.equal(encode(model, None, [length], start), together[start : start + length])
        start += length


@pytest.mark.parametrize("config", [XL, ROBERTA], ids=["XL", "RoBERTa"])
def test_hidden_states_of_several_layers_from_any_on(config, monkeypatch):
    model, packing = model_of(config), Packing.from_lengths([9, 2])
    ids, positions = torch.arange(11) + 4, torch.arange(11) + 2

    def states():
        found = model.encode(ids, positions, packing, layers=(0, 2, 1, -1))
        return [*found, *model.encode(found[2], None, packing, layers=(1, 2), start=1)]

    found = states()
    assert model._fused is not None
    monkeypatch.setattr(XLMRobertaXLModel, "_fuse", lambda model, x: None)
    for state, expected in zip(found, states(), strict=True):
        assert torch.equal(state, expected)


def test_causal_and_padding_after_the_last_text(monkeypatch):
    model, ids = model_of(XL), torch.arange(14) + 4
    for causal in (True, False):
        packing = Packing.from_lengths([5, 6], causal=causal)  # three tokens belong to no text

        def run(packing=packing):
            return model.encode(ids, ids, packing)[0]

        found = run()
        with monkeypatch.context() as patch:
            patch.setattr(XLMRobertaXLModel, "_fuse", lambda model, x: None)
            assert torch.equal(found, run())


def replace_weight(model):
    layer = model.layers[1].ffn.up
    layer.load("weight", torch.randn(layer.out_features, layer.in_features))


def set_settings(model):
    model.layers[0].ffn.up.settings.engine = "int_mm"


CHANGES = {
    "weight loaded": replace_weight,
    "weight in place": lambda model: model.layers[0].attention.key.weight.neg_(),
    "another weight": lambda model: setattr(
        model.layers[0].ffn.up, "weight", nn.Parameter(-model.layers[0].ffn.up.weight, requires_grad=False)
    ),
    "another storage": lambda model: setattr(model.layers[0].ffn.up.weight, "data", -model.layers[0].ffn.up.weight),
    "scales in place": lambda model: model.layers[1].ffn.down.SCB.mul_(2),
    "bias": lambda model: setattr(model.layers[1].attention.output, "bias", None),
    "outliers": lambda model: model.layers[0].ffn.down.set_outliers(torch.tensor([2])),
    "norm": lambda model: model.layers[0].ffn_norm.weight.data.mul_(2),
    "another norm": lambda model: setattr(model.layers[1], "ffn_norm", nn.LayerNorm(SIZES["hidden_size"])),
    "dtype": lambda model: model.to(torch.bfloat16),
    "dtype of a layer": lambda model: model.layers[0].to(torch.bfloat16).to(torch.float32),
    "state dict": lambda model: model.load_state_dict({k: v / 2 for k, v in model.state_dict().items()}, strict=False),
    "layers exchanged": lambda model: setattr(model, "layers", nn.ModuleList([*model.layers][::-1])),
    "fewer layers": lambda model: model.layers.__delitem__(1),
    "another activation": lambda model: setattr(model.layers[0].ffn, "activation", torch.relu),
    "engine": set_settings,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_change_of_a_part_is_noticed(change, monkeypatch):
    model = model_of(ROBERTA)
    assert is_fused(model)
    before = encode(model)
    change(model)
    found = encode(model)
    assert torch.equal(found, step_by_step(model, monkeypatch))
    if change in (CHANGES["weight in place"], CHANGES["another storage"], CHANGES["norm"], CHANGES["weight loaded"]):
        assert not torch.equal(found, before)


@pytest.mark.parametrize("where", ["layer", "ffn", "linear", "everywhere"])
def test_hooks_run(where):
    model, seen = model_of(XL), []
    assert is_fused(model)
    modules = {"layer": model.layers[1], "ffn": model.layers[0].ffn, "linear": model.layers[0].attention.query}

    def hook(module, *_):
        seen.append(module)

    if where == "everywhere":
        handle = nn.modules.module.register_module_forward_hook(hook)
    else:
        handle = modules[where].register_forward_hook(hook)
    try:
        encode(model)
        assert where == "everywhere" or modules[where] in seen
        assert seen
    finally:
        handle.remove()
    assert is_fused(model)


def test_observer_sees_inputs():
    model, seen = model_of(XL), []
    assert is_fused(model)
    model.layers[1].ffn.up.observer = seen.append
    encode(model)
    assert len(seen) == 1


def test_training_and_gradients_take_the_layers():
    model = model_of(XL)
    assert is_fused(model)
    with torch.enable_grad():
        assert model._fuse(torch.zeros(1, SIZES["hidden_size"])) is None
    model.layers[1].train()
    assert not is_fused(model)
    assert is_fused(model.eval())


def test_large_weights_are_not_packed(monkeypatch):
    model = model_of(XL)
    monkeypatch.setattr(fused_encoder, "MOST_PACKED", 1000)
    assert not is_fused(model)
    assert not any(layer._derived for layer in int8_layers(model).values())


def test_packed_weights_are_of_the_expected_size_and_leave_with_the_model():
    model = model_of(XL)
    assert is_fused(model)
    packed = [weakref.ref(layer._derived[PACKED].tensor) for layer in int8_layers(model).values()]
    layers = int8_layers(model).values()
    assert sum(ref().nbytes for ref in packed) == sum(
        operators.packed_size(layer.out_features, layer.in_features, 2) for layer in layers
    )
    assert len(packed) == 12
    del model, layers
    gc.collect()
    assert not any(ref() is not None for ref in packed)


def test_copies_have_addresses_of_their_own(monkeypatch):
    model = model_of(XL)
    before = encode(model)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert copied._fused is None
        copied.layers[0].ffn.up.weight.neg_()
        assert torch.equal(encode(copied), step_by_step(copied, monkeypatch))
        assert not torch.equal(encode(copied), before)
    assert torch.equal(encode(model), before)
    words = model.with_words(torch.randn(50, SIZES["hidden_size"]))
    fused = model._fused
    assert is_fused(words)
    encode(model)
    assert model._fused is fused  # both read the same packed weights
    assert torch.equal(encode(words), step_by_step(words, monkeypatch))


def test_buffer_of_a_thread_is_bounded(monkeypatch):
    monkeypatch.setattr(fused_encoder, "MOST_KEPT", 2**16)
    monkeypatch.setattr(fused_encoder, "_buffer", fused_encoder.Buffer())
    model = model_of(XL)
    encode(model, lengths=[1])
    assert 0 < len(fused_encoder._buffer.kept) <= 2**16
    kept = fused_encoder._buffer.kept
    encode(model, lengths=[30] * 30)
    assert fused_encoder._buffer.kept is kept


def test_threads_run_one_model_at_once():
    model, batches = model_of(ROBERTA), [[20], [3, 4], [30] * 6, [1]]
    alone = [encode(model, lengths=lengths) for lengths in batches]
    model._fused = None
    failed: list[object] = []
    barrier = threading.Barrier(len(batches))

    def work(i):
        try:
            with torch.no_grad():
                barrier.wait()
                for _ in range(20):
                    assert torch.equal(encode(model, lengths=batches[i]), alone[i])
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(batches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert FusedEncoder.can_run(list(model.layers))


def test_no_tokens():
    model, packing = model_of(XL), Packing.from_lengths([3])
    model.encode(torch.arange(3) + 4, torch.arange(3) + 2, packing)
    x = torch.empty(0, SIZES["hidden_size"])
    assert model._fused.run(x, Packing.from_lengths([1]), 0, 2).shape == x.shape
