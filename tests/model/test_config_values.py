import pytest
import torch
from transformers.activations import ACT2FN

from skxlmr.model import XLMRobertaXLConfig
from skxlmr.model.config_values import ACTIVATIONS, checked_heads


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": 65}, "hidden_size .65. must be a multiple of num_attention_heads"),
        ({"vocab_size": 0}, "vocab_size must be an integer from 1 to 4000000, got 0"),
        ({"num_labels": True}, "num_labels must be an integer"),
        ({"hidden_dropout_prob": 1.0}, "hidden_dropout_prob must be a probability"),
        ({"layer_norm_eps": float("inf")}, "layer_norm_eps must be a positive number"),
        ({"hidden_act": "cubic"}, "hidden_act must be one of"),
        ({"pad_token_id": -1}, "pad_token_id must be an id of the vocabulary"),
        ({"add_cross_attention": True}, "add_cross_attention=True needs is_decoder=True"),
        ({"max_position_embeddings": 4}, "max_position_embeddings must be at least 5"),
    ],
)
def test_invalid_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        XLMRobertaXLConfig(**settings)


def test_checked_heads_counts_layers_from_the_end_and_sorts_heads():
    assert checked_heads({"0": [3, 1, 1], -1: (0,), 2: [2]}, n_layers=3, n_heads=4) == {0: [1, 3], 2: [0, 2]}


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ([0], "must map layers to lists of their heads"),
        ({"a": [0]}, "in place of the number of a layer"),
        ({3: [0]}, "has layer 3, and there are 3"),
        ({0: [4]}, "must be integers from 0 to 3"),
        ({0: [0, 1, 2, 3]}, "has all heads of layer 0"),
    ],
)
def test_checked_heads_names_what_is_wrong(heads, message):
    with pytest.raises(ValueError, match=message):
        checked_heads(heads, n_layers=3, n_heads=4)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_equals_that_of_transformers(name):
    x = torch.linspace(-6, 6, 1001, dtype=torch.float64)
    torch.testing.assert_close(ACTIVATIONS[name](x), ACT2FN[name](x), rtol=0, atol=1e-6)
