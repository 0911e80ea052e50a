import pytest
import torch
from sklearn.base import clone

from skxlmr import Bias, Full, Head, LoRA, XLMRXLClassifier
from skxlmr.hardware.footprint import num_learned
from skxlmr.model import XLMRobertaConfig, XLMRobertaXLConfig, XLMRobertaXLModel
from skxlmr.model.packing import Packing
from skxlmr.runtime.finetuned import Finetuned
from skxlmr.saving.merged import merge
from skxlmr.tuning import LINEAR_LAYERS, LowRank, as_tuning

CONFIG = XLMRobertaXLConfig(
    vocab_size=50, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32
)
SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")


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
        (LoRA(targets=["layers.3.up"]), "of one layer such as 'layers.0.query', .* got 'layers.3.up'. .* has 3 layers"),
        (LoRA(targets=["layers.0.up"], layers=1), r"LoRA targets=\['layers.0.up'\] are not in any of the layers=1"),
        (LoRA(targets="all"), "'targets' parameter of LoRA must be an array-like or a str among {'all-linear'}"),
        (LoRA(layers=[0, 3]), "LoRA layers has 3, but this model has layers 0 to 2"),
        (LoRA(layers=[-1]), r"LoRA layers must be numbers of layers, from 0, got \[-1\]"),
        (LoRA(layers=[]), "LoRA layers must be numbers of layers"),
        (LoRA(layers=[True]), "LoRA layers must be numbers of layers"),
        (
            LoRA(rank_pattern={"queries": 4}),
            "rank_pattern: the key 'queries' matches none .* These are layers.1.query, ",
        ),
        (LoRA(rank_pattern={"layers.0.up": 4}), "rank_pattern: the key 'layers.0.up' matches none of the adapted"),
        (LoRA(rank_pattern={"up": 0}), r"LoRA rank_pattern\['up'\] must be an int in the range .*, got 0"),
        (LoRA(rank_pattern={"up": 2.5}), r"LoRA rank_pattern\['up'\] must be an int in the range .*, got 2.5"),
        (LoRA(rank_pattern={3: 2}), "LoRA rank_pattern: the key 3 must be a str"),
        (LoRA(rank_pattern=[4]), "'rank_pattern' parameter of LoRA must be an instance of"),
        (LoRA(alpha_pattern={"up": -1.0}), r"LoRA alpha_pattern\['up'\] must be a float in the range .*, got -1.0"),
        (LoRA(alpha_pattern={"(u|p)+": 1.0}), r"LoRA alpha_pattern: the key '\(u\|p\)\+' repeats a group"),
        (LoRA(bias="some"), "'bias' parameter of LoRA must be a str among"),
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
        (LoRA(layers=[1, 2]), 1),
        (LoRA(layers=None, targets=["layers.2.up"]), 2),
        (LoRA(layers=1, bias="lora_only"), 2),
        (LoRA(layers=1, bias="all"), 0),
        (Bias(layers=3), 0),
        (Head(), 3),
        (Full(layers=2), 1),
    ],
    ids=str,
)
def test_num_frozen_layers_counts_layers_below_trained_ones(tuning, n_frozen):
    assert tuning.num_frozen_layers(CONFIG) == n_frozen


def test_lora_patterns_set_rank_and_scale_of_layers():
    tuning = LoRA(
        rank=2,
        alpha=8,
        targets=("query", "layers.0.up"),
        layers=[0, 2],
        rank_pattern={"layers.0.query": 4, "query": 3},
        alpha_pattern={r"layers.[12].*": 6},
    )
    found = [{name: (len(d.a), d.scale) for name, d in deltas.items()} for deltas in tuning.build(CONFIG)]
    assert found == [{"query": (4, 8 / 4), "up": (2, 8 / 2)}, {}, {"query": (3, 6 / 3)}]
    tuning.set_params(rslora=True, alpha_pattern=None)
    scales = [d.scale for deltas in tuning.build(CONFIG) for d in deltas.values()]
    assert scales == [8 / 4**0.5, 8 / 2**0.5, 8 / 3**0.5]


def test_options_of_lora_can_be_searched():
    clf = XLMRXLClassifier().set_params(tuning__rank_pattern={"up": 4}, tuning__layers=[0, 2], tuning__rslora=True)
    assert clf.tuning.get_params() == LoRA(rank_pattern={"up": 4}, layers=[0, 2], rslora=True).get_params()
    assert repr(clone(clf)) == repr(clf)


def test_lora_all_linear_is_the_default_targets():
    assert str(LoRA(targets="all-linear").build(CONFIG)) == str(LoRA().build(CONFIG))


@pytest.mark.parametrize("pre_layer_norm", [True, False])
def test_lora_with_all_biases_equals_merged_model(pre_layer_norm):
    config = CONFIG if pre_layer_norm else XLMRobertaConfig(**{name: vars(CONFIG)[name] for name in SIZES})
    base = XLMRobertaXLModel(config, add_pooling_layer=False).eval()
    tuning = LoRA(rank=2, layers=[1], targets=["query"], bias="all")
    finetuned = Finetuned(tuning, base, torch.nn.Identity()).eval()
    n_biases = sum(name.endswith("bias") for name, _ in base.named_parameters())
    assert sum(name.endswith("bias") for name, _ in finetuned.named_parameters()) == n_biases
    for parameter in finetuned.parameters():
        torch.nn.init.normal_(parameter)
    ids, positions = torch.tensor([0, 5, 6, 2]), torch.arange(2, 6)
    packing = Packing.from_lengths([4])
    with torch.no_grad():
        (expected,) = base.encode(ids, positions, packing, adapter=finetuned.adapter)
        (merged,) = merge(finetuned, base).encode(ids, positions, packing)
    torch.testing.assert_close(expected, merged)


@pytest.mark.parametrize(
    "tuning", [LoRA(rank=3, rank_pattern={"up": 5}, layers=[1], bias="all"), LoRA(bias="lora_only")]
)
def test_memory_estimate_counts_all_that_lora_trains(tuning):
    n_trained = sum(parameter.numel() for parameter in tuning.build(CONFIG).parameters())
    plain = LoRA(rank=1, targets=["query"], layers=1)
    n_plain = sum(parameter.numel() for parameter in plain.build(CONFIG).parameters())
    assert num_learned(CONFIG, tuning) - num_learned(CONFIG, plain) == n_trained - n_plain


def test_set_params_with_names_of_peft_suggests_ours():
    with pytest.raises(ValueError, match="Did you mean 'rslora'"):
        LoRA().set_params(use_rslora=True)
    with pytest.raises(TypeError, match="Did you mean 'layers'"):
        LoRA(layers_to_transform=[1])


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
