"""Language models whose decoder is not the word embedding, compared with transformers."""

import json

import pytest
import torch
import transformers
from decoders import reference_generate
from tiny_shape import IDS, SHAPE

import skxlmr.model as ours
from skxlmr.checkpoints.errors import CheckpointMismatchError
from skxlmr.checkpoints.resolve import resolve
from skxlmr.model.lm_head import read_lm_head

NAMES = [f"{family}{head}" for family in ("XLMRobertaXL", "XLMRoberta") for head in ("ForMaskedLM", "ForCausalLM")]
BERT = ["BertForMaskedLM", "BertLMHeadModel"]


def untied(name, directory, **settings):
    """An untied model of transformers with random weights, and the same one here, in another directory."""
    cls = getattr(transformers, name)
    is_decoder = not name.endswith("MaskedLM")
    torch.manual_seed(0)
    config = cls.config_class(**SHAPE, pad_token_id=1, tie_word_embeddings=False, is_decoder=is_decoder, **settings)
    reference = cls(config).eval()
    with torch.no_grad():
        for key, parameter in reference.named_parameters():
            if key.endswith("bias"):  # there are two biases of the same logits
                parameter.normal_()
    reference.save_pretrained(directory)
    return reference, load(name, directory)


def load(name, directory, **options):
    causal = "CausalLM" if name.endswith(("CausalLM", "LMHeadModel")) else "MaskedLM"
    return getattr(ours, f"XLMRobertaXLFor{causal}").from_pretrained(directory, **options)


@pytest.mark.parametrize("name", NAMES + BERT)
def test_untied_model_equals_transformers_and_saves(name, tmp_path):
    reference, model = untied(name, tmp_path)
    expected = reference(IDS).logits
    torch.testing.assert_close(model(IDS).logits, expected, rtol=0, atol=1e-5)
    model.save_pretrained(tmp_path / "saved", max_shard_size="5KB")
    model.save_pretrained(tmp_path / "binary", safe_serialization=False)
    for directory in (tmp_path / "saved", tmp_path / "binary"):
        again, info = type(reference).from_pretrained(directory, output_loading_info=True)
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]
        torch.testing.assert_close(again.eval()(IDS).logits, expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(load(name, directory)(IDS).logits, model(IDS).logits, rtol=0, atol=0)


@pytest.mark.parametrize("name", [NAMES[0], BERT[0]])
def test_load_state_dict_of_untied_model_of_transformers(name, tmp_path):
    reference, model = untied(name, tmp_path)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    model.load_state_dict(reference.state_dict())
    torch.testing.assert_close(model(IDS).logits, reference(IDS).logits, rtol=0, atol=1e-5)


def test_config_that_says_tied_gives_way_to_another_decoder(tmp_path):
    """As in transformers 5, which warns; a decoder that is the word embedding is read as its second name."""
    reference, _ = untied("XLMRobertaForMaskedLM", tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tie_word_embeddings": True}))
    model = load("XLMRobertaForMaskedLM", tmp_path)
    again = transformers.XLMRobertaForMaskedLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(model(IDS).logits, reference(IDS).logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(model(IDS).logits, again(IDS).logits, rtol=0, atol=1e-5)
    assert model.config.tie_word_embeddings is False
    with torch.no_grad():
        reference.lm_head.decoder.weight.copy_(reference.roberta.embeddings.word_embeddings.weight)
    reference.config.tie_word_embeddings = True
    reference.save_pretrained(tmp_path / "equal")
    assert load("XLMRobertaForMaskedLM", tmp_path / "equal").lm_head.decoder is None


def test_fingerprint_of_another_decoder_differs(tmp_path):
    reference, _ = untied("XLMRobertaForMaskedLM", tmp_path / "first")
    reference.save_pretrained(tmp_path / "same")
    with torch.no_grad():
        reference.lm_head.decoder.weight[3, 3] += 1
    reference.save_pretrained(tmp_path / "other")
    first, same, other = (resolve(tmp_path / name).fingerprint for name in ("first", "same", "other"))
    assert first == same != other


@pytest.mark.parametrize("options", [{"load_in_8bit": True}, {"load_in_4bit": True}], ids=str)
@pytest.mark.parametrize("name", NAMES[:2])
def test_quantised_untied_model_is_near_the_exact_one(name, options, tmp_path):
    _, model = untied(name, tmp_path)
    quantised = load(name, tmp_path, **options)
    assert torch.equal(quantised.lm_head.decoder, model.lm_head.decoder)
    difference = (quantised(IDS).logits - model(IDS).logits).abs().max()
    assert 0 < difference < 0.1
    if "load_in_8bit" in options:
        quantised.save_pretrained(tmp_path / "eight")
        assert torch.equal(load(name, tmp_path / "eight")(IDS).logits, quantised(IDS).logits)


def test_generate_of_untied_model_equals_transformers(tmp_path):
    reference, model = untied("XLMRobertaXLForCausalLM", tmp_path, initializer_range=0.5)
    with torch.no_grad():
        reference.lm_head.decoder.bias[1] = model.lm_head.bias[1] = -30  # padding
    ids = IDS[:, :3]
    for options in ({}, {"num_beams": 3}):
        options |= {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
        expected = reference_generate(reference, ids, torch.ones_like(ids), **options)
        assert torch.equal(model.generate(ids, **options), expected)


@pytest.mark.parametrize("name", [NAMES[1], NAMES[2]])
def test_gradients_of_untied_model_equal_transformers(name, tmp_path):
    reference, model = untied(name, tmp_path)
    for each in (reference, model):
        each(IDS, labels=IDS).loss.backward()
    decoder = model.get_output_embeddings()
    expected = reference.get_output_embeddings()
    torch.testing.assert_close(decoder.weight.grad, expected.weight.grad, rtol=0, atol=1e-6)
    torch.testing.assert_close(decoder.bias.grad, expected.bias.grad, rtol=0, atol=1e-6)
    words = [each.get_input_embeddings().weight.grad for each in (model, reference)]
    torch.testing.assert_close(*words, rtol=0, atol=1e-6)


def test_resize_token_embeddings_of_untied_model_equals_transformers(tmp_path):
    reference, model = untied(NAMES[0], tmp_path)
    for n_tokens in (72, 40):
        reference.resize_token_embeddings(n_tokens)
        model.resize_token_embeddings(n_tokens)
        decoder, expected = model.get_output_embeddings(), reference.get_output_embeddings()
        n_old = min(n_tokens, 60)
        assert torch.equal(decoder.weight[:n_old], expected.weight[:n_old])
        torch.testing.assert_close(decoder.weight, expected.weight, rtol=0, atol=1e-4)
    torch.testing.assert_close(model(IDS).logits, reference(IDS).logits, rtol=0, atol=1e-5)


def test_embeddings_of_untied_model_are_set_apart(tmp_path):
    _, model = untied(NAMES[0], tmp_path)
    words = model.get_input_embeddings().weight.clone()
    layer = torch.nn.Linear(16, 60)
    model.set_output_embeddings(layer)
    assert model.get_output_embeddings().weight is layer.weight
    assert model.lm_head.bias is layer.bias
    assert torch.equal(model.get_input_embeddings().weight, words)
    with pytest.raises(ValueError, match=r"61 outputs, and there are 60 word embeddings: call resize_token_embeddings"):
        model.set_output_embeddings(torch.nn.Linear(16, 61))
    model.tie_weights()
    assert model.get_output_embeddings().weight is layer.weight
    model.config.tie_word_embeddings = True
    model.tie_weights()
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_head_of_untied_checkpoint_without_decoder_raises(tmp_path):
    reference, _ = untied(NAMES[2], tmp_path)
    state = {key: tensor for key, tensor in reference.state_dict().items() if "decoder.weight" not in key}
    reference.save_pretrained(tmp_path, state_dict=state)
    files = resolve(tmp_path)
    with pytest.raises(CheckpointMismatchError, match=r"its head lacks lm_head\.decoder\.weight"):
        read_lm_head(files, ours.XLMRobertaXLConfig.from_pretrained(tmp_path))
