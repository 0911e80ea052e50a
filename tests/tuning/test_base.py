import pytest
from sklearn.base import clone

from skxlmr import Bias, Full, Head, LoRA


@pytest.mark.parametrize("tuning", [LoRA(rank=3), Bias(layers=1), Head(), Full()], ids=str)
def test_tuning_clone_keeps_the_parameters(tuning):
    assert clone(tuning).get_params() == tuning.get_params()


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
def test_num_frozen_layers_counts_layers_below_trained_ones(tuning, n_frozen, config):
    assert tuning.num_frozen_layers(config) == n_frozen


def test_more_layers_than_the_model_has_raise(config):
    with pytest.raises(ValueError, match="Bias layers=4, but this model has 3 layers"):
        Bias(layers=4).build(config)
