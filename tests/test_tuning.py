import pytest
import torch
from sklearn.base import clone

from skxlmr import Bias, Full, Head, LoRA
from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLModel
from skxlmr.tuning import LINEAR_LAYERS, LowRank, as_tuning

CONFIG = XLMRobertaXLConfig(
    vocab_size=50, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32
)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_low_rank_adds_the_product_of_its_matrices(dtype):
    delta = LowRank(16, 32, rank=4, scale=2.0, dropout=0.0)
    delta = delta.double() if dtype == torch.float64 else delta
    x, y = torch.randn(5, 16, dtype=dtype), torch.randn(5, 32, dtype=dtype)
    assert torch.equal(delta(x, y), y), "it starts as zero"
    torch.nn.init.normal_(delta.b)
    term = 2.0 * x.to(delta.a) @ (delta.b @ delta.a).T
    assert delta(x, y).dtype == dtype
    torch.testing.assert_close(delta(x, y), y + term.to(dtype))


def test_low_rank_gradients_equal_numerical_ones():
    delta = LowRank(6, 4, rank=2, scale=3.0, dropout=0.0).double()
    torch.nn.init.normal_(delta.b)
    x, y = torch.randn(5, 6, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    arguments = [t.requires_grad_() for t in (x, y, delta.a, delta.b)]
    torch.autograd.gradcheck(lambda x, y, a, b: delta(x, y), arguments)


@pytest.mark.parametrize("layers", [None, 1, 3])
def test_lora_with_layers_adapts_the_topmost(layers):
    adapter = LoRA(rank=2, targets=list(LINEAR_LAYERS), layers=layers).build(CONFIG)
    adapted = [i for i, deltas in enumerate(adapter) if len(deltas)]
    assert adapted == list(range(3))[-(layers or 3) :]
    assert adapter[2].get("up")(torch.randn(4, 16), torch.randn(4, 32)).shape == (4, 32)
    assert adapter[2].get("down")(torch.randn(4, 32), torch.randn(4, 16)).shape == (4, 16)
    assert adapter[0].get("nothing") is None


@pytest.mark.parametrize("tuning", [LoRA(rank=3), Bias(layers=1), Head(), Full()], ids=str)
def test_tuning_clone_keeps_the_parameters(tuning):
    assert clone(tuning).get_params() == tuning.get_params()


def test_as_tuning_of_a_name_returns_its_defaults():
    tunings = [as_tuning(name) for name in ("lora", "bias", "head", "full")]
    assert [type(tuning) for tuning in tunings] == [LoRA, Bias, Head, Full]
    assert tunings[0].get_params() == LoRA().get_params()
    assert as_tuning(tunings[0]) is tunings[0]


@pytest.mark.parametrize(
    ("tuning", "message"),
    [
        (LoRA(rank=0), "'rank' parameter of LoRA must be an int in the range"),
        (LoRA(layers=4), "LoRA layers=4, but this model has 3 layers"),
        (LoRA(targets=["query", "dense"]), "LoRA targets must be among"),
        (LoRA(targets=[]), "LoRA targets must be among"),
        (Bias(layers=4), "Bias layers=4, but this model has 3 layers"),
    ],
    ids=str,
)
def test_build_with_invalid_parameters_raises(tuning, message):
    with pytest.raises(ValueError, match=message):
        tuning.build(CONFIG)


@pytest.mark.parametrize(
    ("tuning", "n_frozen"),
    [
        (LoRA(), 1),
        (LoRA(layers=None), 0),
        (LoRA(layers=0.1), 2),
        (LoRA(layers=1.0), 0),
        (LoRA(layers=1), 2),
        (Bias(layers=3), 0),
        (Head(), 3),
        (Full(layers=2), 1),
    ],
    ids=str,
)
def test_num_frozen_layers_counts_layers_below_trained_ones(tuning, n_frozen):
    assert tuning.num_frozen_layers(CONFIG) == n_frozen


def test_bias_adds_one_to_each_linear_layer_and_merges_into_it():
    (delta,) = {type(delta) for deltas in Bias().build(CONFIG) for delta in deltas.values()}
    assert [len(deltas) for deltas in Bias().build(CONFIG)] == [len(LINEAR_LAYERS)] * 3
    layer, bias, x = torch.nn.Linear(4, 3), delta(3), torch.randn(2, 4)
    torch.nn.init.normal_(bias.bias)
    expected = bias(x, layer(x))
    with torch.no_grad():
        bias.merge_into(layer)
    torch.testing.assert_close(layer(x), expected)


def test_full_copies_weights_without_changing_base():
    base = XLMRobertaXLModel(CONFIG, add_pooling_layer=False)
    assert sorted(Full().copy_weights(base)) == ["embeddings", "layers", "norm"]
    copied = Full(layers=1).copy_weights(base)
    assert sorted(copied) == ["layers", "norm"]
    assert len(copied["layers"]) == 1
    (ours, theirs) = (next(layers[-1].parameters()) for layers in (copied["layers"], base.layers))
    assert torch.equal(ours, theirs)
    with torch.no_grad():
        ours.zero_()
    assert theirs.any()
    assert LoRA().copy_weights(base) is Head().copy_weights(base) is None
