import pytest
import torch
import transformers
from tiny_shape import IDS, SHAPE
from torch import nn

import skxlmr.model

CLASSES = [
    f"{family}{head}"
    for family in ("XLMRobertaXL", "XLMRoberta")
    for head in (
        "Model",
        "ForMaskedLM",
        "ForCausalLM",
        "ForSequenceClassification",
        "ForTokenClassification",
        "ForQuestionAnswering",
        "ForMultipleChoice",
    )
] + ["BertModel", "BertForSequenceClassification"]
LANGUAGE_MODELS = [name for name in CLASSES if name.endswith("LM")]


def pair(name, directory):
    """A model of transformers and the same one here."""
    torch.manual_seed(0)
    reference = getattr(transformers, name)(getattr(transformers, name).config_class(**SHAPE)).eval()
    reference.save_pretrained(directory)
    return reference, getattr(skxlmr.model, name).from_pretrained(directory)


@pytest.mark.parametrize("name", CLASSES)
def test_properties_equal_reference(name, tmp_path):
    reference, model = pair(name, tmp_path)
    assert (model.dtype, model.device) == (reference.dtype, reference.device)
    assert torch.equal(model.get_input_embeddings().weight, reference.get_input_embeddings().weight)
    for part in (reference.base_model.embeddings.word_embeddings, model.base_model.embeddings.word):
        part.weight.requires_grad_(False)
    for only_trainable in (False, True):
        for exclude_embeddings in (False, True):
            arguments = {"only_trainable": only_trainable, "exclude_embeddings": exclude_embeddings}
            expected = reference.num_parameters(**arguments)
            if name in ("XLMRobertaForMaskedLM", "XLMRobertaForCausalLM") and exclude_embeddings and not only_trainable:
                expected -= 60 * 16  # the reference finds the tied weight first in these decoders, and so counts it
            assert model.num_parameters(**arguments) == expected


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("arguments", [(63,), (50,), (61, 8), (None, 32), (None,)])
def test_resize_token_embeddings_equals_reference(name, arguments, tmp_path):
    reference, model = pair(name, tmp_path)
    before = model.get_input_embeddings()
    expected = reference.resize_token_embeddings(*arguments)
    assert model.resize_token_embeddings(*arguments) is before
    assert before.weight.shape == expected.weight.shape
    assert model.config.vocab_size == reference.config.vocab_size
    assert model.num_parameters() == reference.num_parameters()
    torch.testing.assert_close(before.weight, expected.weight, rtol=0, atol=1e-3)  # new rows have a deviation of 1e-6
    assert before.weight.requires_grad

    model.save_pretrained(tmp_path / "resized")
    ids = torch.tensor([[0, 5, len(before.weight) - 1, 2]])
    if "Choice" in name:
        ids = ids[None]
    outputs = model(ids).to_tuple()
    again = type(model).from_pretrained(tmp_path / "resized")
    loaded = getattr(transformers, name).from_pretrained(tmp_path / "resized")
    assert torch.equal(again(ids).to_tuple()[0], outputs[0])
    torch.testing.assert_close(loaded(ids).to_tuple()[0], outputs[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_resize_token_embeddings_keeps_decoder_tied(name, tmp_path):
    reference, model = pair(name, tmp_path)
    assert torch.equal(model.get_output_embeddings().weight, reference.get_output_embeddings().weight)
    with torch.no_grad():
        for decoder in (model.get_output_embeddings(), reference.get_output_embeddings()):
            decoder.bias.copy_(torch.arange(60.0))
    reference.resize_token_embeddings(64)
    model.resize_token_embeddings(64)
    decoder, expected = model.get_output_embeddings(), reference.get_output_embeddings()
    assert decoder.weight is model.get_input_embeddings().weight
    assert torch.equal(decoder.bias, expected.bias)
    torch.testing.assert_close(model(IDS).logits, reference(IDS).logits, rtol=0, atol=1e-3)
    with torch.no_grad():
        model.get_input_embeddings().weight.zero_()
    torch.testing.assert_close(model(IDS).logits, decoder.bias.expand(1, 4, 64))


def test_resize_token_embeddings_without_mean_draws_as_new_model(tmp_path):
    model = pair("XLMRobertaXLForMaskedLM", tmp_path)[1].to(torch.float64)
    torch.manual_seed(1)
    new = model.resize_token_embeddings(5_000, mean_resizing=False).weight[60:]
    assert new.dtype == torch.float64
    assert new.std().item() == pytest.approx(0.02, rel=0.02)
    assert not model.lm_head.bias[60:].any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "new_num_tokens must be a positive integer"),
        ((3.5,), "new_num_tokens must be a positive integer"),
        ((60, 0), "pad_to_multiple_of must be a positive integer"),
        ((1,), "pad_token_id=1"),
    ],
)
def test_resize_token_embeddings_invalid_number_raises(arguments, message):
    model = skxlmr.model.XLMRobertaXLModel(skxlmr.model.XLMRobertaXLConfig(**SHAPE))
    with pytest.raises(ValueError, match=message):
        model.resize_token_embeddings(*arguments)
    assert model.config.vocab_size == 60


@pytest.mark.parametrize("name", ["XLMRobertaXLModel", "XLMRobertaXLForSequenceClassification", *LANGUAGE_MODELS])
def test_set_input_embeddings_equals_reference(name, tmp_path):
    reference, model = pair(name, tmp_path)
    words = nn.Embedding(60, 16)
    reference.set_input_embeddings(words)
    reference.tie_weights()
    model.set_input_embeddings(words)
    assert model.get_input_embeddings() is words
    torch.testing.assert_close(model(IDS).to_tuple()[0], reference(IDS).to_tuple()[0], rtol=0, atol=1e-5)


def test_set_input_embeddings_of_other_sizes():
    config = skxlmr.model.XLMRobertaXLConfig(**SHAPE)
    model, language_model = skxlmr.model.XLMRobertaXLModel(config), skxlmr.model.XLMRobertaXLForMaskedLM(config)
    with pytest.raises(ValueError, match=r"resize_token_embeddings\(70\)"):
        language_model.set_input_embeddings(nn.Embedding(70, 16))
    with pytest.raises(ValueError, match="rows of 8, not 16"):
        model.set_input_embeddings(nn.Embedding(60, 8))
    with pytest.raises(TypeError, match=r"nn\.Embedding, not Linear"):
        model.set_input_embeddings(nn.Linear(16, 60))
    model.set_input_embeddings(nn.Embedding(70, 16))
    assert model.config.vocab_size == 70


@pytest.mark.parametrize("settings", [{"load_in_8bit": True}, {"load_in_4bit": True}])
def test_quantised_model_is_resized_and_counted(settings):
    plain = skxlmr.model.XLMRobertaXLForMaskedLM.from_pretrained("nano")
    model = skxlmr.model.XLMRobertaXLForMaskedLM.from_pretrained("nano", **settings)
    assert model.num_parameters() == plain.num_parameters()
    n_tokens = model.config.vocab_size
    model.resize_token_embeddings(n_tokens + 3)
    assert model(IDS).logits.shape == (1, 4, n_tokens + 3)
    assert model.get_input_embeddings().weight.dtype.itemsize == 2
