"""The encoder over padded texts computes the hidden states of the packed one."""

import copy

import pytest
import torch

from skxlmr.model import XLMRobertaXLModel
from skxlmr.model.packing import Packing
from skxlmr.model.padded_encoder import PaddedEncoder
from skxlmr.runtime.backbone import find_checkpoint

TEXTS = [[0, 5, 6, 7, 8, 9, 2], [0, 2], [0, 50, 2]]
PADDED = torch.tensor([ids + [1] * (7 - len(ids)) for ids in TEXTS])


@pytest.fixture(scope="module")
def encoder():
    model = XLMRobertaXLModel.from_pretrained(find_checkpoint("nano"), dtype=torch.float32, add_pooling_layer=False)
    return model.eval().requires_grad_(False)


def post_layer_norm(encoder):
    """An encoder with LayerNorms after the parts of each layer, as XLM-RoBERTa and BERT have."""
    config = copy.copy(encoder.config)
    config.pre_layer_norm, config.num_hidden_layers = False, 2
    torch.manual_seed(0)
    return XLMRobertaXLModel(config, add_pooling_layer=False).eval().requires_grad_(False)


def packed_states(encoder, layers):
    ids = torch.tensor([token for text in TEXTS for token in text])
    positions = torch.cat([torch.arange(len(text)) for text in TEXTS]) + encoder.config.first_position
    with torch.inference_mode():
        return encoder.encode(ids, positions, Packing.from_lengths(list(map(len, TEXTS))), layers=layers)


@pytest.mark.parametrize("kind", ["pre", "post"])
def test_padded_encoder_at_any_layer_equals_packed_encoder(encoder, kind):
    model = encoder if kind == "pre" else post_layer_norm(encoder)
    layers = (0, 1, -1)
    padded = PaddedEncoder(model, layers)(PADDED, (PADDED != 1).long())
    for ours, expected in zip(padded, packed_states(model, layers), strict=True):
        torch.testing.assert_close(ours[PADDED != 1], expected, atol=2e-5, rtol=1e-5)


def test_padded_encoder_does_not_depend_on_padding(encoder):
    padded = PaddedEncoder(encoder)
    (more,) = padded(PADDED, (PADDED != 1).long())
    (alone,) = padded(PADDED[2:, :3], torch.ones(1, 3, dtype=torch.long))
    torch.testing.assert_close(more[2:, :3], alone, atol=1e-5, rtol=0)


def test_prepare_int8_keeps_products_and_rounds_word_embedding_by_rows(encoder):
    padded = PaddedEncoder(encoder)
    mask = (PADDED != 1).long()
    (expected,) = padded(PADDED, mask)
    words = padded.word
    padded.prepare_int8()
    rounded = padded.word(PADDED)
    steps = encoder.embeddings.word(PADDED).abs().amax(-1, keepdim=True) / 127
    assert ((rounded - encoder.embeddings.word(PADDED)).abs() <= steps / 2 + 1e-6).all()
    assert padded.word.weight.dtype == torch.int8
    padded.word = words
    torch.testing.assert_close(padded(PADDED, mask)[0], expected, atol=1e-4, rtol=1e-4)
    assert isinstance(encoder.layers[0].ffn.up, torch.nn.Linear)  # the model itself stays as it is
