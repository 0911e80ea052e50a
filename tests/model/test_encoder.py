import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from skxlmr.model import BertConfig, XLMRobertaXLConfig, XLMRobertaXLModel
from skxlmr.model.encoder import Encoder
from skxlmr.model.key_maps import key_map
from skxlmr.model.packing import Packing

CONFIG = XLMRobertaXLConfig(
    vocab_size=50, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return XLMRobertaXLModel(CONFIG).eval()


def test_encoder_has_the_parameters_and_results_of_the_padded_model(tmp_path, model):
    model.save_pretrained(tmp_path)
    encoder = Encoder.from_pretrained(tmp_path)
    assert encoder.state_dict().keys() == model.state_dict().keys()
    arguments = torch.tensor([0, 7, 2]), torch.arange(2, 5), Packing.from_lengths([3])
    with torch.no_grad():
        assert torch.equal(encoder.encode(*arguments)[0], model(torch.tensor([[0, 7, 2]])).last_hidden_state[0])


def test_encode_layers_equal_hidden_states(model):
    ids = torch.randint(4, 50, (1, 7))
    with torch.no_grad():
        expected = model(ids, output_hidden_states=True).hidden_states
        positions = torch.arange(2, 9)
        got = model.encode(ids[0], positions, Packing.from_lengths([7]), layers=(0, 2, -1, 3, 1))
    for state, i in zip(got, (0, 2, 3, 3, 1), strict=True):
        assert torch.equal(state, expected[i][0])


def test_embeddings_first_position_is_trained_only_in_bert():
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    for config, unused in ((BertConfig(vocab_size=50, **shape), []), (CONFIG, [0, 1])):
        model = XLMRobertaXLModel(config)
        assert (model.embeddings.position.weight == 0).all(1).nonzero().flatten().tolist() == unused[1:]
        model(torch.tensor([[0, 7, 2]])).last_hidden_state[..., 0].sum().backward()
        learned = model.embeddings.position.weight.grad.any(1).nonzero().flatten().tolist()
        assert learned == [len(unused), len(unused) + 1, len(unused) + 2]


def test_encode_lower_layer_does_not_run_upper_ones(model):
    def forbidden(*args):
        raise AssertionError("layer 3 was run")

    model.layers[2].register_forward_hook(forbidden)
    model.encode(torch.tensor([0, 7, 2]), torch.arange(2, 5), Packing.from_lengths([3]), layers=(2,))


@pytest.mark.parametrize("position_type", ["relative_key", "relative_key_query"])
def test_encode_relative_positions_packed_raises(position_type):
    model = XLMRobertaXLModel(replace(CONFIG, position_embedding_type=position_type)).eval()
    with pytest.raises(
        NotImplementedError, match=f"position_embedding_type='{position_type}' runs only in the forward"
    ):
        model.encode(torch.tensor([0, 7, 2]), torch.arange(2, 5), Packing.from_lengths([3]))
    with torch.no_grad():
        states = model(torch.tensor([[0, 7, 2], [2, 7, 0]])).last_hidden_state
    assert not torch.allclose(states[0, 1], states[1, 1]), "the order of tokens counts"


def test_encode_with_adapter_adds_to_layer_and_keeps_encoder(model):
    class Shift(nn.Module):
        def forward(self, x, y):
            return y + x * 0.5

    inputs = torch.tensor([0, 7, 2]), torch.arange(2, 5), Packing.from_lengths([3])
    before = {k: v.clone() for k, v in model.state_dict().items()}
    names = ("query", "key", "value", "output")
    square = {name: Shift() for name in names}
    with torch.no_grad():
        plain = model.encode(*inputs)[0]
        adapted = model.encode(*inputs, adapter=[square, {}, {}])[0]
        again = model.encode(*inputs)[0]
        for name in names:  # the same as changed weights: W x + x / 2
            getattr(model.layers[0].attention, name).weight += 0.5 * torch.eye(16)
        changed = model.encode(*inputs)[0]
    assert torch.equal(plain, again)
    assert not torch.allclose(plain, adapted)
    torch.testing.assert_close(adapted, changed)
    model.load_state_dict(before)


@pytest.mark.parametrize("causal", [False, True])
def test_encode_in_16_bits_is_independent_of_batch_with_float32_gradients(model, causal):
    """The rows that `few_sizes` adds do not affect results."""
    lengths = [3, 3, 5, 9, 17, 30]
    ids, wide = torch.randint(4, 40, (sum(lengths),)), copy.deepcopy(model)
    half, gradients = copy.deepcopy(model).bfloat16(), {}
    for each in (wide, half):
        packing = Packing.from_lengths(lengths, causal=causal)
        positions = torch.cat([torch.arange(length) for length in lengths]) + 2
        (hidden,) = each.encode(ids, positions, packing)
        assert hidden.shape == (sum(lengths), model.config.hidden_size)
        (hidden.float() ** 2).sum().backward()
        gradients[each] = torch.cat([p.grad.float().flatten() for p in each.layers.parameters()])
        with torch.no_grad():
            together = each.encode(ids, positions, packing)[0].split(lengths)
            for text, at, expected in zip(ids.split(lengths), positions.split(lengths), together, strict=True):
                (alone,) = each.encode(text, at, Packing.from_lengths([len(text)], causal=causal))
                torch.testing.assert_close(alone, expected, rtol=0, atol=0 if each is half else 1e-6)
    assert torch.cosine_similarity(gradients[half], gradients[wide], dim=0) > 0.99


def test_initialise_has_zero_pad_row_and_configured_std(model):
    assert not model.embeddings.word.weight[1].any()
    assert abs(model.layers[0].ffn.up.weight.std().item() - 0.02) < 0.005
    assert not model.layers[0].ffn.up.bias.any()


def test_encode_causal_packing_equals_decoder_of_transformers():
    torch.manual_seed(0)
    theirs = transformers.XLMRobertaXLModel(
        transformers.XLMRobertaXLConfig(**{**_shape(CONFIG), "is_decoder": True}), add_pooling_layer=False
    )
    theirs = theirs.double().eval()
    ours = XLMRobertaXLModel(CONFIG, add_pooling_layer=False).double().eval()
    _copy_weights(theirs, ours)
    rows = [torch.randint(4, 50, (n,)) for n in (1, 7, 7, 3, 12)]
    packing = Packing.from_lengths([len(row) for row in rows], causal=True)
    positions = torch.cat([torch.arange(len(row)) + 2 for row in rows])
    (got,) = ours.encode(torch.cat(rows), positions, packing)
    for ours_of_row, row in zip(got.split([len(row) for row in rows]), rows, strict=True):
        expected = theirs(row[None]).last_hidden_state[0]
        torch.testing.assert_close(ours_of_row, expected, rtol=0, atol=1e-9)
        shorter = ours.encode(
            row[:2], torch.arange(len(row[:2])) + 2, Packing.from_lengths([len(row[:2])], causal=True)
        )
        torch.testing.assert_close(ours_of_row[:2], shorter[0], rtol=0, atol=1e-9)


def _shape(config):
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    return {name: getattr(config, name) for name in names}


def _copy_weights(theirs, ours):
    state = {key_map("xlm-roberta-xl").to_ours(f"roberta.{key}"): value for key, value in theirs.state_dict().items()}
    ours.load_state_dict({key.removeprefix("roberta."): value for key, value in state.items() if key is not None})
    assert np.isclose(ours.norm.weight.sum().item(), theirs.encoder.LayerNorm.weight.sum().item())


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_encode_with_varlen_kernel_equals_padded_attention(model, dtype):
    ids = torch.randint(4, 50, (64,))
    lengths = [5, 40, 1, 18]
    positions = torch.cat([torch.arange(n) + 2 for n in lengths])
    with torch.no_grad():
        expected = model.double().encode(ids, positions, Packing.from_lengths(lengths))[0]
        fast = model.to("cuda", dtype)
        got = fast.encode(ids.cuda(), positions.cuda(), Packing.from_lengths(lengths, "cuda"))[0]
    torch.testing.assert_close(got.double().cpu(), expected, rtol=0, atol=0.1)
