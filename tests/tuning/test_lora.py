import pytest
import torch
from sklearn.base import clone

from skxlmr import LoRA, XLMRXLClassifier
from skxlmr.hardware.footprint import num_learned
from skxlmr.model import XLMRobertaConfig, XLMRobertaXLModel
from skxlmr.model.packing import Packing
from skxlmr.runtime.finetuned import Finetuned
from skxlmr.saving.merged import merge
from skxlmr.tuning.adapters import LINEAR_LAYERS

SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")


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
    ],
    ids=str,
)
def test_build_with_invalid_parameters_raises(tuning, message, config):
    with pytest.raises(ValueError, match=message):
        tuning.build(config)


@pytest.mark.parametrize("layers", [None, 1, 3])
def test_lora_with_layers_adapts_the_topmost(layers, config):
    adapter = LoRA(rank=2, targets=list(LINEAR_LAYERS), layers=layers).build(config)
    adapted = [i for i, deltas in enumerate(adapter) if len(deltas)]
    assert adapted == list(range(3))[-(layers or 3) :]
    assert adapter[2].get("up")(torch.randn(4, 16), torch.randn(4, 32)).shape == (4, 32)
    assert adapter[2].get("down")(torch.randn(4, 32), torch.randn(4, 16)).shape == (4, 16)
    assert adapter[0].get("nothing") is None


def test_lora_patterns_set_rank_and_scale_of_layers(config):
    tuning = LoRA(
        rank=2,
        alpha=8,
        targets=("query", "layers.0.up"),
        layers=[0, 2],
        rank_pattern={"layers.0.query": 4, "query": 3},
        alpha_pattern={r"layers.[12].*": 6},
    )
    found = [{name: (len(d.a), d.scale) for name, d in deltas.items()} for deltas in tuning.build(config)]
    assert found == [{"query": (4, 8 / 4), "up": (2, 8 / 2)}, {}, {"query": (3, 6 / 3)}]
    tuning.set_params(rslora=True, alpha_pattern=None)
    scales = [d.scale for deltas in tuning.build(config) for d in deltas.values()]
    assert scales == [8 / 4**0.5, 8 / 2**0.5, 8 / 3**0.5]


def test_options_of_lora_can_be_searched():
    clf = XLMRXLClassifier().set_params(tuning__rank_pattern={"up": 4}, tuning__layers=[0, 2], tuning__rslora=True)
    assert clf.tuning.get_params() == LoRA(rank_pattern={"up": 4}, layers=[0, 2], rslora=True).get_params()
    assert repr(clone(clf)) == repr(clf)


def test_lora_all_linear_is_the_default_targets(config):
    assert str(LoRA(targets="all-linear").build(config)) == str(LoRA().build(config))


@pytest.mark.parametrize("pre_layer_norm", [True, False])
def test_lora_with_all_biases_equals_merged_model(pre_layer_norm, config):
    config = config if pre_layer_norm else XLMRobertaConfig(**{name: vars(config)[name] for name in SIZES})
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
def test_memory_estimate_counts_all_that_lora_trains(tuning, config):
    n_trained = sum(parameter.numel() for parameter in tuning.build(config).parameters())
    plain = LoRA(rank=1, targets=["query"], layers=1)
    n_plain = sum(parameter.numel() for parameter in plain.build(config).parameters())
    assert num_learned(config, tuning) - num_learned(config, plain) == n_trained - n_plain


def test_set_params_with_names_of_peft_suggests_ours():
    with pytest.raises(ValueError, match="Did you mean 'rslora'"):
        LoRA().set_params(use_rslora=True)
    with pytest.raises(TypeError, match="Did you mean 'layers'"):
        LoRA(layers_to_transform=[1])
