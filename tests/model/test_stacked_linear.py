"""Query, key and value as one product, on a CUDA device or an emulated one."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from skxlmr import XLMRXLClassifier, XLMRXLEmbedder
from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLModel
from skxlmr.model.packing import Packing
from skxlmr.model.stacked_linear import StackedLinear, can_stack

CONFIG = XLMRobertaXLConfig(
    vocab_size=50, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96,
    max_position_embeddings=40,
)  # fmt: skip
TEXTS = ["good", "bad", "a nice film, it was", "poor"]


@pytest.fixture
def model(gpu):
    torch.manual_seed(0)
    return XLMRobertaXLModel(CONFIG, add_pooling_layer=False).eval().requires_grad_(False).to("cuda")


def encode(model):
    ids, positions = torch.arange(9, device=model.device) + 4, torch.arange(9, device=model.device) + 2
    return model.encode(ids, positions, Packing.from_lengths([9], model.device))[-1]


def projections(model):
    attention = model.layers[0].attention
    return attention.query, attention.key, attention.value


def are_stacked(model):
    query, key, value = (layer.weight.data_ptr() for layer in projections(model))
    n_bytes = model.layers[0].attention.query.weight.nbytes
    return (key, value) == (query + n_bytes, query + 2 * n_bytes)


def test_stacked_product_equals_layers_one_by_one():
    torch.manual_seed(0)
    layers = [nn.Linear(8, 6) for _ in range(3)]
    x = torch.randn(5, 8)
    expected = [layer(x) for layer in layers]
    stacked = StackedLinear(layers)
    assert_close(stacked(x).chunk(3, 1), tuple(expected))
    assert stacked.holds(layers)
    with torch.no_grad():
        layers[1].weight.mul_(2)
    assert_close(stacked(x).chunk(3, 1)[1], layers[1](x), msg="changed in place")
    layers[1].weight = nn.Parameter(layers[1].weight.detach().clone())
    assert not stacked.holds(layers)


def test_never_stack_leaves_weights_where_they_are(model):
    places = [layer.weight.data_ptr() for layer in projections(model)]
    for layer in model.layers:
        layer.attention.never_stack()
    with torch.inference_mode():
        expected = encode(model)
    assert [layer.weight.data_ptr() for layer in projections(model)] == places
    again = copy.deepcopy(model)
    with torch.inference_mode():
        assert_close(encode(again), expected)
    assert not are_stacked(again)


def test_stacked_in_inference_mode_can_be_trained_later():
    layers = [nn.Linear(8, 6) for _ in range(3)]
    with torch.inference_mode():
        StackedLinear(layers)
    layers[0](torch.randn(5, 8)).sum().backward()
    torch.optim.SGD(layers[0].parameters(), lr=0.1).step()
    assert layers[0].weight.grad.shape == (6, 8)


def test_layers_on_a_cpu_are_not_stacked():
    model = XLMRobertaXLModel(CONFIG, add_pooling_layer=False).eval()
    with torch.inference_mode():
        encode(model)
    assert not are_stacked(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_on_cuda_are_stacked_without_more_memory(model, dtype, gpu):
    model = model.to(dtype)
    expected = encode(copy.deepcopy(model).to("cpu", torch.float32))
    before = torch.cuda.memory_allocated()
    with torch.inference_mode():
        y = encode(model)
    assert are_stacked(model)
    assert_close(y.float().cpu(), expected, rtol=0.05, atol=0.05 if dtype == torch.bfloat16 else 1e-4)
    del y
    assert torch.cuda.memory_allocated() <= before + 4096


def test_layers_that_train_or_have_hooks_are_not_stacked(model):
    layers, x = projections(model), torch.ones(2, 64, device="cuda")
    assert not can_stack(layers, x)  # gradients are enabled
    with torch.no_grad():
        assert can_stack(layers, x)
        assert not can_stack(layers, x.bfloat16())
        handle = layers[1].register_forward_hook(lambda *_: None)
        assert not can_stack(layers, x)
        handle.remove()
        assert not can_stack([*layers[:2], nn.Identity()], x)


def test_stacked_layers_moved_and_copied_are_their_own(model):
    with torch.inference_mode():
        expected = encode(model)
    for twin in (copy.deepcopy(model), copy.copy(model).to("cpu")):
        assert not are_stacked(twin)
        with torch.inference_mode():
            assert_close(encode(twin).cpu(), expected.cpu(), rtol=1e-4, atol=1e-4)
    assert pickle.loads(pickle.dumps(model.to("cpu"))).layers[0].attention._stacked is None


def test_stacked_layers_with_other_weights_are_stacked_again(model):
    with torch.inference_mode():
        before = encode(model)
    other = nn.Parameter(torch.randn(64, 64).to("cuda"), requires_grad=False)
    model.layers[0].attention.key.weight = other
    with torch.inference_mode():
        after = encode(model)
    assert are_stacked(model)
    assert not torch.equal(before.cpu(), after.cpu())
    with torch.no_grad():
        assert_close(after.cpu(), encode(model.to("cpu")), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", [torch.inference_mode])
def test_layer_in_16_bits_runs_at_most_14_operators(model, mode, gpu):
    if gpu is None or gpu.capability < (8, 0):
        pytest.skip("operators are counted on an emulated device that has the attention of packed tokens")
    model = model.to(torch.bfloat16)
    with mode():
        encode(model)
        with gpu.counting() as counts:
            encode(model)
    assert [layer.total() for layer in counts.operators_of_layers] == [13, 13]


@pytest.mark.parametrize(("settings", "most"), [({}, 14), ({"load_in_8bit": True}, 12)], ids=["16 bits", "8 bits"])
def test_estimators_predict_with_few_operators_per_layer(settings, most, emulate):
    gpu = emulate("H100")
    settings = {"model": "nano", "device": "cuda", "dtype": "bfloat16"} | settings
    embedder = XLMRXLEmbedder(**settings).fit(TEXTS)
    classifier = XLMRXLClassifier(**settings, max_epochs=1, random_state=0).fit(TEXTS, ["yes", "no"] * 2)
    embedder.transform(["another text"])
    with gpu.counting() as counts:
        embedder.transform(["one more text", "and another"])
    assert counts.operators_of_layers
    assert max(layer.total() for layer in counts.operators_of_layers) <= most
    assert classifier.predict(TEXTS).shape == (4,)
