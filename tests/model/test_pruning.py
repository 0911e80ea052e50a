"""Removal of attention heads, compared with transformers, whose pruned heads have output weights of zero."""

import numpy as np
import pytest
import torch
import transformers

import skxlmr.model
from skxlmr import XLMRXLClassifier
from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.checkpoints.resolve import resolve
from skxlmr.hardware.footprint import weight_bytes
from skxlmr.model import NewHeadWarning, XLMRobertaXLConfig, XLMRobertaXLModel
from skxlmr.model.int8 import Int8

SHAPE = {
    "vocab_size": 60,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "max_position_embeddings": 20,
}
IDS = torch.tensor([[0, 5, 6, 2, 9], [0, 7, 2, 1, 1]])
MASK = (IDS != 1).long()
HEADS = {0: [0, 1, 2], 2: [3]}
CLASSES = [
    *("XLMRobertaXLModel", "XLMRobertaXLForMaskedLM", "XLMRobertaXLForCausalLM", "XLMRobertaXLForTokenClassification"),
    *("XLMRobertaXLForSequenceClassification", "XLMRobertaXLForQuestionAnswering", "XLMRobertaXLForMultipleChoice"),
    *("XLMRobertaModel", "BertModel"),
]


def first(outputs, mask=MASK):
    """Return the first of the outputs that is not the loss, without padding."""
    value = next(value for name, value in outputs.items() if name != "loss")
    return value[mask.bool()] if value.shape[:2] == mask.shape else value


def pair(name, directory, **config):
    """A model of transformers and the same one here, in float64."""
    torch.manual_seed(0)
    reference = getattr(transformers, name)
    reference = reference(reference.config_class(**SHAPE, **config)).double().eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    reference.save_pretrained(directory)
    return reference, getattr(skxlmr.model, name).from_pretrained(directory, dtype=torch.float64)


def zero_heads(reference, heads, size=6):
    """Remove heads from the outputs of attention of a model of transformers."""
    with torch.no_grad():
        for layer, numbers in heads.items():
            weight = reference.base_model.encoder.layer[layer].attention.output.dense.weight
            for head in numbers:
                weight[:, head * size : (head + 1) * size] = 0


@pytest.mark.parametrize("name", CLASSES)
def test_prune_heads_equals_reference_without_them(name, tmp_path):
    reference, model = pair(name, tmp_path, **({"is_decoder": True} if "Causal" in name else {}))
    n_parameters, ids, mask = model.num_parameters(), IDS, MASK
    if "Choice" in name:
        ids, mask = ids[None], mask[None]
    zero_heads(reference, HEADS)
    model.prune_heads(HEADS)
    expected = first(reference(ids, attention_mask=mask), mask)
    for options in ({}, {"output_attentions": True}, {"head_mask": torch.ones(3, 4)}):
        outputs = model(ids, attention_mask=mask, **options)
        torch.testing.assert_close(first(outputs, mask), expected, rtol=0, atol=1e-9)
    assert [part.shape[1] for part in model(ids, attention_mask=mask, output_attentions=True).attentions] == [1, 4, 3]
    assert model.num_parameters() == n_parameters - 4 * (4 * 6 * 24 + 3 * 6)
    assert model.config.num_layer_parameters == sum(
        part.weight.numel() + part.bias.numel()
        for part in model.base_model.layers.modules()
        if type(part) is torch.nn.Linear
    )

    model.save_pretrained(tmp_path / "pruned")
    again = type(model).from_pretrained(tmp_path / "pruned", dtype=torch.float64)
    assert again.config.pruned_heads == HEADS
    assert torch.equal(first(again(ids, attention_mask=mask), mask), first(model(ids, attention_mask=mask), mask))
    again.prune_heads({1: [2]})
    zero_heads(reference, {1: [2]})
    torch.testing.assert_close(
        first(again(ids, attention_mask=mask), mask),
        first(reference(ids, attention_mask=mask), mask),
        rtol=0,
        atol=1e-9,
    )


@pytest.mark.parametrize("kind", ["absolute", "relative_key_query"])
def test_prune_heads_of_decoder_keeps_cache_and_cross_attention(kind, tmp_path):
    torch.manual_seed(0)
    config = XLMRobertaXLConfig(**SHAPE, is_decoder=True, add_cross_attention=True, position_embedding_type=kind)
    whole = skxlmr.model.XLMRobertaXLForCausalLM(config).double().eval()
    whole.save_pretrained(tmp_path)
    pruned = type(whole).from_pretrained(tmp_path, dtype=torch.float64)
    pruned.prune_heads(HEADS)
    states, mask = torch.randn(2, 3, 24).double(), torch.ones(3, 4)
    with torch.no_grad():
        for layer, heads in HEADS.items():
            for head in heads:
                whole.roberta.layers[layer].attention.output.weight[:, 6 * head : 6 * head + 6] = 0
    mask[1, 2] = 0.5  # of both attentions of a layer
    options = {"encoder_hidden_states": states, "head_mask": mask}
    expected, got = (model(IDS, **options) for model in (whole, pruned))
    torch.testing.assert_close(got.logits, expected.logits)
    assert [past[0].shape[1] for past in got.past_key_values] == [1, 4, 3]
    assert [past[2].shape[1] for past in got.past_key_values] == [4, 4, 4]
    pasts = (expected.past_key_values, got.past_key_values)
    expected, got = (
        model(torch.tensor([[8], [9]]), past_key_values=past, **options)
        for model, past in zip((whole, pruned), pasts, strict=True)
    )
    torch.testing.assert_close(got.logits, expected.logits)


def test_prune_heads_has_gradients_of_masked_heads(tmp_path):
    _, model = pair("XLMRobertaXLForSequenceClassification", tmp_path)
    whole = type(model).from_pretrained(tmp_path, dtype=torch.float64)
    model.prune_heads(HEADS)
    mask = torch.ones(3, 4)
    mask[0, :3] = mask[2, 3] = 0
    labels = torch.tensor([0, 1])
    model(IDS, MASK, labels=labels).loss.backward()
    whole(IDS, MASK, head_mask=mask, labels=labels).loss.backward()
    torch.testing.assert_close(
        model.roberta.layers[0].attention.value.weight.grad, whole.roberta.layers[0].attention.value.weight.grad[18:]
    )
    torch.testing.assert_close(
        model.roberta.layers[2].attention.output.weight.grad,
        whole.roberta.layers[2].attention.output.weight.grad[:, :18],
    )


def test_prune_heads_twice_and_from_the_end():
    model = XLMRobertaXLModel(XLMRobertaXLConfig(**SHAPE))
    model.prune_heads({0: [1], -1: (0, 2)})
    kept = model.layers[0].attention.query.weight.clone()
    model.prune_heads({0: {1}, 1: [], np.int64(2): np.array([0])})
    assert torch.equal(model.layers[0].attention.query.weight, kept)
    model.prune_heads({0: [0]})
    assert torch.equal(model.layers[0].attention.query.weight, kept[6:])
    assert model.config.pruned_heads == {0: [0, 1], 2: [0, 2]}
    other = XLMRobertaXLModel(XLMRobertaXLConfig(**SHAPE, pruned_heads={0: [0, 1], -1: [2, 0]}))
    assert [p.shape for p in other.parameters()] == [p.shape for p in model.parameters()]


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ({3: [0]}, "pruned_heads has layer 3, and there are 3"),
        ({0: [4]}, "of layer 0 must be integers from 0 to 3"),
        ({0: [True]}, "of layer 0 must be integers from 0 to 3"),
        ({1: [0, 1, 2, 3]}, "all heads of layer 1; at least one must remain"),
        ({0: [2, 3]}, "all heads of layer 0"),
        ({"first": [0]}, "'first' in place of the number of a layer"),
        ([0, 1], "must map layers to lists"),
    ],
)
def test_prune_heads_invalid_heads_raise(heads, message):
    model = XLMRobertaXLModel(XLMRobertaXLConfig(**SHAPE))
    model.prune_heads({0: [0, 1]})
    with pytest.raises(ValueError, match=message):
        model.prune_heads(heads)
    assert model.config.pruned_heads == {0: [0, 1]}
    assert model(IDS).last_hidden_state.isfinite().all()
    if heads != {0: [2, 3]}:
        with pytest.raises(ValueError, match=message):
            XLMRobertaXLConfig(**SHAPE, pruned_heads=heads)


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    """The directory of "nano" without some heads, and its model in float32."""
    directory = tmp_path_factory.mktemp("pruned")
    model = XLMRobertaXLModel.from_pretrained("nano", add_pooling_layer=False)
    model.prune_heads({0: [1], 3: [0, 2]})
    skxlmr.model.XLMRobertaXLTokenizer.from_pretrained("nano").save_pretrained(directory)
    model.save_pretrained(directory)
    return directory, model


@pytest.mark.parametrize("settings", [{"load_in_8bit": True}, {"load_in_4bit": True}], ids=["8 bits", "4 bits"])
@pytest.mark.usefixtures("own_cache")
def test_pruned_checkpoint_is_loaded_quantised(pruned, settings, tmp_path):
    directory, model = pruned
    ids = torch.tensor([[0, 500, 60, 2]])
    for _ in range(2):  # built, and then from the cache
        quantised = XLMRobertaXLModel.from_pretrained(directory, add_pooling_layer=False, **settings)
        got, expected = (m(ids).last_hidden_state.flatten() for m in (quantised, model))
        assert torch.cosine_similarity(got, expected, dim=0) > (0.999 if "load_in_8bit" in settings else 0.95)
        assert quantised.num_parameters() == model.num_parameters()
    with pytest.raises(ValueError, match="8 or 4 bits cannot be pruned"):
        quantised.prune_heads({1: [0]})
    if "load_in_8bit" in settings:
        quantised.save_pretrained(tmp_path)
        again = XLMRobertaXLModel.from_pretrained(tmp_path, add_pooling_layer=False)
        assert torch.equal(again(ids).last_hidden_state, quantised(ids).last_hidden_state)
        matrices = sum(
            p.nbytes for n, p in quantised.named_parameters() if n.endswith((".SCB",)) or p.dtype == torch.int8
        )
        whole = weight_bytes(XLMRobertaXLConfig.from_pretrained("nano"), Int8(), torch.float32)
        removed = whole - weight_bytes(quantised.config, Int8(), torch.float32)
        of_head = model.config.head_size * (4 * model.config.hidden_size + 3 * 4 + 3 * 4)
        assert removed == 3 * of_head
        assert matrices < whole


@pytest.mark.parametrize("tuning", ["lora", "bias", "full"])
def test_estimator_trains_pruned_model(pruned, tuning, tmp_path):
    texts, labels = ["good film", "bad film", "a great book", "an awful book"] * 2, [1, 0, 1, 0] * 2
    model = XLMRXLClassifier(str(pruned[0]), tuning=tuning, max_epochs=1, random_state=0).fit(texts, labels)
    model.save(tmp_path / "estimator")
    assert (skxlmr.load(tmp_path / "estimator").predict_proba(texts) == model.predict_proba(texts)).all()
    model.export_pretrained(tmp_path / "exported")
    exported = XLMRobertaXLModel.from_pretrained(tmp_path / "exported", add_pooling_layer=False)
    assert exported.config.pruned_heads == {0: [1], 3: [0, 2]}
    assert resolve(tmp_path / "exported").fingerprint != resolve(pruned[0]).fingerprint


def test_config_with_pruned_heads_of_whole_checkpoint(pruned):
    with pytest.raises(CheckpointError, match=r"shape: .*attention\.self\.query\.weight"):
        XLMRobertaXLModel.from_pretrained("nano", pruned_heads={0: [1]})
    with pytest.warns(NewHeadWarning, match="pooler"):
        assert XLMRobertaXLModel.from_pretrained(pruned[0]).config.kept_heads(3) == [1, 3, 4, 5]
