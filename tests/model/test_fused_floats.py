"""All layers in floating point in one call, against torch's operators and float64."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from x86_kernels import kernels
from x86_models import ROBERTA, SIZES, XL, encode

from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLModel, fused_encoder
from skxlmr.model.avx import library as module_of_library
from skxlmr.model.config import XLMRobertaConfig
from skxlmr.model.packing import Packing

BATCHES = [[1], [20, 4, 1], [31, 2, 31, 9] * 5]
CONFIGS = pytest.mark.parametrize("config", [XL, ROBERTA], ids=["XL", "RoBERTa"])
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


@pytest.fixture(autouse=True)
def no_gradients():
    kernels("avx512")
    with torch.no_grad():
        yield


def model_of(config, dtype=torch.float32):
    """Return the same model each time; skip the test where the kernels do not multiply in its dtype."""
    library = module_of_library.library()
    if dtype not in (*library.float_dtypes, torch.float64, torch.float16):
        pytest.skip(f"the kernels do not multiply {dtype} on this CPU")
    torch.manual_seed(0)
    model = XLMRobertaXLModel(copy.deepcopy(config), add_pooling_layer=False)
    for parameter in model.parameters():
        parameter += 0.05 * torch.randn_like(parameter)
    return model.eval().requires_grad_(False).to(dtype)


def by_torch(model, monkeypatch, **arguments):
    with monkeypatch.context() as patch:
        patch.setattr(XLMRobertaXLModel, "_fuse", lambda model, x: None)
        return encode(model, **arguments)


def is_fused(model):
    """Whether one call runs all layers."""
    encode(model)
    return model._fused is not None


def error(found, exact):
    return float((found.double() - exact).norm() / exact.norm())


def assert_as_exact_as_torch(model, monkeypatch, lengths):
    exact = copy.deepcopy(model).double().encode(*inputs(lengths))[0]
    found, expected = encode(model, lengths=lengths), by_torch(model, monkeypatch, lengths=lengths)
    limit = 1e-6 if model.layers[0].ffn.up.weight.dtype == torch.float32 else 0.03
    assert error(found, exact) < limit
    assert error(found, exact) < 1.5 * error(expected, exact) + limit / 10


def inputs(lengths):
    positions = torch.cat([torch.arange(n) for n in lengths]) + 2
    return torch.arange(sum(lengths)) % 40 + 4, positions, Packing.from_lengths(lengths)


@CONFIGS
@DTYPES
def test_as_exact_as_operators_of_torch(config, dtype, threads, monkeypatch):
    model = model_of(config, dtype)
    assert is_fused(model)
    for n_threads in (1, 2, 5):
        threads(n_threads)
        for lengths in BATCHES:
            assert_as_exact_as_torch(model, monkeypatch, lengths)


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": 72},
        {"num_attention_heads": 2},
        {"intermediate_size": 150},
        {"hidden_size": 44},
        {"hidden_size": 45, "num_attention_heads": 3, "intermediate_size": 67},
        {"intermediate_size": 1603},  # wider than what is multiplied at a time
    ],
    ids=str,
)
@DTYPES
def test_other_sizes(change, dtype, monkeypatch):
    model = model_of(XLMRobertaConfig(**SIZES | change), dtype)
    assert is_fused(model)
    assert_as_exact_as_torch(model, monkeypatch, BATCHES[1])


@DTYPES
def test_pruned_heads(dtype, monkeypatch):
    model = model_of(XL, dtype)
    assert is_fused(model)
    model.prune_heads({0: [1, 2, 3], 1: [0]})
    assert is_fused(model)
    assert_as_exact_as_torch(model, monkeypatch, BATCHES[1])


@CONFIGS
@DTYPES
def test_text_is_independent_of_batch_and_threads(config, dtype, threads):
    model, lengths = model_of(config, dtype), [30, 30, 4, 1, 20] * 8
    threads(3)
    together, start = encode(model, lengths=lengths), 0
    for length in lengths:
        threads(1 + start % 4)
        assert torch.equal(encode(model, None, [length], start), together[start : start + length])
        start += length


@pytest.mark.parametrize("config_class", [XLMRobertaXLConfig, XLMRobertaConfig])
def test_large_weights_are_read_once_for_all_tokens(config_class, threads, monkeypatch):
    wide = {"hidden_size": 256, "intermediate_size": 8000, "num_hidden_layers": 1}  # 17 MB in float32
    model, lengths = model_of(config_class(**SIZES | wide)), [30, 30, 4, 31, 20]
    threads(1)
    expected = encode(model, lengths=lengths)
    assert model._fused is not None
    threads(2)
    assert torch.equal(encode(model, lengths=lengths), expected)
    assert error(expected, by_torch(model, monkeypatch, lengths=lengths).double()) < 2e-6


@CONFIGS
def test_hidden_states_of_several_layers_from_any_on(config):
    model, packing = model_of(config), Packing.from_lengths([9, 2])
    ids, positions = torch.arange(11) + 4, torch.arange(11) + 2
    found = model.encode(ids, positions, packing, layers=(0, 2, 1, -1))
    upper = model.encode(found[2], None, packing, layers=(1, 2), start=1)
    assert model._fused is not None
    assert torch.equal(upper[0], found[2])
    assert torch.equal(upper[1], found[1])
    halved = model.encode(ids, positions, packing, layers=(0, 1), through=(lambda x: x / 2, lambda x: x * 2))
    assert torch.equal(halved[0], found[0] / 2)
    assert torch.equal(halved[1], found[2] / 2)


@DTYPES
def test_causal_and_padding_after_the_last_text(dtype):
    model, ids = model_of(XL, dtype), torch.arange(14) + 4
    packing = Packing.from_lengths([5, 6], causal=True)  # three tokens belong to no text
    whole = model.encode(ids, ids, packing)[0]
    assert model._fused is not None
    assert whole.isfinite().all()
    beginning = model.encode(ids[:3], ids[:3], Packing.from_lengths([3], causal=True))[0]
    assert torch.equal(beginning, whole[:3])


@DTYPES
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_stays_in_its_text(bad, dtype):
    model = model_of(ROBERTA, dtype)
    x = torch.randn(12, SIZES["hidden_size"]).to(dtype)
    packing = Packing.from_lengths([7, 5])
    expected = model.encode(x, torch.arange(12), packing, start=0)[0]
    x[2, 3] = bad
    found = model.encode(x, torch.arange(12), packing, start=0)[0]
    assert found[2].isnan().all()
    assert torch.equal(found[7:], expected[7:])


CHANGES = {
    "weight in place": lambda model: model.layers[0].attention.key.weight.neg_(),
    "data in place": lambda model: model.layers[0].attention.value.weight.data.neg_(),
    "another weight": lambda model: setattr(
        model.layers[0].ffn.up, "weight", nn.Parameter(-model.layers[0].ffn.up.weight, requires_grad=False)
    ),
    "another storage": lambda model: setattr(model.layers[0].ffn.up.weight, "data", -model.layers[0].ffn.up.weight),
    "bias": lambda model: setattr(model.layers[1].attention.output, "bias", None),
    "norm": lambda model: model.layers[0].ffn_norm.weight.data.mul_(2),
    "another norm": lambda model: setattr(model.layers[1], "ffn_norm", nn.LayerNorm(SIZES["hidden_size"])),
    "state dict": lambda model: model.load_state_dict({k: v / 2 for k, v in model.state_dict().items()}),
    "layers exchanged": lambda model: setattr(model, "layers", nn.ModuleList([*model.layers][::-1])),
    "fewer layers": lambda model: model.layers.__delitem__(1),
    "another activation": lambda model: setattr(model.layers[0].ffn, "activation", torch.relu),
    "parametrised": lambda model: parametrizations.weight_norm(model.layers[0].ffn.up).parametrizations.weight[0],
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_change_of_a_part_is_noticed(change, monkeypatch):
    model = model_of(ROBERTA)
    assert is_fused(model)
    before = encode(model)
    change(model)
    found = encode(model)
    assert error(found, by_torch(model, monkeypatch).double()) < 1e-6
    assert change in (CHANGES["another norm"], CHANGES["parametrised"]) or error(found, before.double()) > 1e-3


def weight_of_a_subclass(model):
    class Marked(nn.Parameter):
        pass

    linear = model.layers[1].ffn.up
    linear.weight = linear.weight.as_subclass(Marked)


def linear_of_a_subclass(model):
    class Negative(nn.Linear):
        def forward(self, x):
            return -super().forward(x)

    model.layers[0].ffn.up.__class__ = Negative


UNKNOWN = {
    "subclass of Linear": linear_of_a_subclass,
    "subclass of Parameter": weight_of_a_subclass,
    "transposed weight": lambda model: setattr(
        model.layers[0].attention.key,
        "weight",
        nn.Parameter(model.layers[0].attention.key.weight.t().contiguous().t(), requires_grad=False),
    ),
    "norm without weight": lambda model: setattr(
        model.layers[0], "ffn_norm", nn.LayerNorm(SIZES["hidden_size"], elementwise_affine=False)
    ),
    "another activation": lambda model: setattr(model.layers[1].ffn, "activation", torch.relu),
    "a layer in float64": lambda model: model.layers[1].double(),
    "float64": lambda model: model.double(),
    "float16": lambda model: model.half(),
    "training": lambda model: model.layers[1].train(),
}


@pytest.mark.parametrize("change", UNKNOWN.values(), ids=UNKNOWN)
def test_what_the_kernels_do_not_know_takes_the_layers(change):
    model = model_of(ROBERTA)
    assert is_fused(model)
    change(model)
    assert model._fuse(torch.zeros(1, SIZES["hidden_size"])) is None


@pytest.mark.parametrize("where", ["layer", "ffn", "linear", "norm"])
def test_hooks_run(where):
    model, seen = model_of(XL), []
    assert is_fused(model)
    layer = model.layers[1]
    module = {"layer": layer, "ffn": layer.ffn, "linear": layer.attention.query, "norm": layer.ffn_norm}[where]
    handle = module.register_forward_hook(lambda *_: seen.append(where))
    encode(model)
    handle.remove()
    assert seen == [where]
    assert is_fused(model)


def test_gradients_autocast_and_tracing_take_the_layers(monkeypatch):
    model, x = model_of(XL), torch.zeros(3, SIZES["hidden_size"])
    assert model._fuse(x) is not None
    with torch.enable_grad():
        assert model._fuse(x) is None
    with torch.autocast("cpu", torch.bfloat16):
        assert model._fuse(x) is None
    assert model._fuse(x.double()) is None
    monkeypatch.setattr(torch.jit, "is_tracing", lambda: True)
    assert model._fuse(x) is None


@pytest.mark.parametrize(("variant", "expected"), [("avx2", []), ("avx512", [torch.float32])])
def test_older_instructions_multiply_fewer_dtypes(variant, expected, monkeypatch):
    library = kernels(variant)
    monkeypatch.setattr(module_of_library, "library", lambda: library)
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        model = XLMRobertaXLModel(XL, add_pooling_layer=False).eval().to(dtype)
        assert is_fused(model) == (dtype in expected)


def test_float32_is_the_same_with_and_without_instructions_for_bfloat16(monkeypatch):
    found = []
    for variant in ("avx512", "avx512bf16"):
        library = kernels(variant)
        monkeypatch.setattr(module_of_library, "library", lambda library=library: library)
        found.append(encode(model_of(ROBERTA)))
    assert torch.equal(*found)


def test_torch_multiplies_large_weights_in_bfloat16(monkeypatch):
    model = model_of(XL, torch.bfloat16)
    size = sum(p.nbytes for name, p in model.layers[0].named_parameters() if p.ndim == 2)
    monkeypatch.setattr(fused_encoder, "MOST_BFLOAT16", size - 1)
    assert not is_fused(model)
    monkeypatch.setattr(fused_encoder, "MOST_BFLOAT16", size)
    assert is_fused(model)


def test_matrix_instructions_of_the_cpu_are_preferred(monkeypatch):
    library = kernels("avx512bf16")
    monkeypatch.setattr(module_of_library, "library", lambda: library)
    for amx, expected in ((True, (torch.float32,)), (False, (torch.float32, torch.bfloat16))):
        monkeypatch.setattr(module_of_library, "has_amx", lambda amx=amx: amx)
        assert library.float_dtypes == expected


def test_copies_have_addresses_of_their_own_and_weights_leave_with_the_model(monkeypatch):
    model = model_of(XL)
    before = encode(model)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert copied._fused is None
        copied.layers[0].ffn.up.weight.neg_()
        assert not torch.equal(encode(copied), before)
        assert copied._fused is not None
    assert torch.equal(encode(model), before)
    weight = weakref.ref(model.layers[0].ffn.up.weight)
    del model
    gc.collect()
    assert weight() is None


def test_no_tokens():
    model = model_of(XLMRobertaXLConfig(**SIZES))
    assert is_fused(model)
    x = torch.empty(0, SIZES["hidden_size"])
    assert model._fused.run(x, Packing.from_lengths([1]), 0, 2).shape == x.shape
