import json
import warnings

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_shape import IDS, SHAPE

from skxlmr.checkpoints.errors import CheckpointError, CheckpointMismatchError, ModelNotFoundError
from skxlmr.model import (
    BertForSequenceClassification,
    BertModel,
    NewHeadWarning,
    XLMRobertaConfig,
    XLMRobertaModel,
    XLMRobertaXLConfig,
    XLMRobertaXLForMaskedLM,
    XLMRobertaXLForSequenceClassification,
    XLMRobertaXLModel,
)


@pytest.fixture
def checkpoint(tmp_path):
    """A masked language model written by transformers."""
    torch.manual_seed(0)
    transformers.XLMRobertaXLForMaskedLM(transformers.XLMRobertaXLConfig(**SHAPE)).save_pretrained(tmp_path)
    return tmp_path


def edit_config(directory, **changes):
    file = directory / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def edit_weights(directory, edit):
    file = directory / "model.safetensors"
    save_file(edit(load_file(file)), file, {"format": "pt"})


def test_from_pretrained_recognises_xl_by_keys(checkpoint):
    expected = XLMRobertaXLForMaskedLM.from_pretrained(checkpoint)(IDS).logits
    edit_config(checkpoint, model_type="xlm-roberta")
    assert torch.equal(XLMRobertaXLForMaskedLM.from_pretrained(checkpoint)(IDS).logits, expected)


def test_from_pretrained_every_class_loads_every_architecture(tmp_path):
    reference = transformers.XLMRobertaModel(transformers.XLMRobertaConfig(**SHAPE)).eval()
    reference.save_pretrained(tmp_path)
    for cls in (XLMRobertaXLModel, XLMRobertaModel):
        model = cls.from_pretrained(tmp_path)
        assert type(model.config) is XLMRobertaConfig
        torch.testing.assert_close(model(IDS).last_hidden_state, reference(IDS).last_hidden_state)
    model.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["architectures"] == ["XLMRobertaModel"]
    again = transformers.AutoModel.from_pretrained(tmp_path / "again")
    assert type(again) is transformers.XLMRobertaModel
    torch.testing.assert_close(again(IDS).last_hidden_state, reference(IDS).last_hidden_state)


def test_bert_round_trip_through_transformers(tmp_path):
    reference = transformers.BertModel(transformers.BertConfig(**SHAPE)).eval()
    reference.save_pretrained(tmp_path)
    model = BertModel.from_pretrained(tmp_path)
    assert model.config.first_position == 0
    model.save_pretrained(tmp_path / "again")
    again = transformers.BertModel.from_pretrained(tmp_path / "again")
    for key, value in reference.state_dict().items():
        torch.testing.assert_close(again.state_dict()[key], value, rtol=0, atol=0)


def test_sequence_classification_with_bert_config_raises(tmp_path):
    transformers.BertForSequenceClassification(transformers.BertConfig(**SHAPE)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="use BertForSequenceClassification"):
        XLMRobertaXLForSequenceClassification.from_pretrained(tmp_path)
    BertModel.from_pretrained(tmp_path).save_pretrained(tmp_path / "base")
    with pytest.warns(
        NewHeadWarning, match=r"no weights for classifier\.weight, classifier\.bias"
    ):  # it has the pooler
        BertForSequenceClassification.from_pretrained(tmp_path / "base")


def test_from_pretrained_unsupported_architecture_raises(checkpoint):
    edit_config(checkpoint, model_type="roberta")
    with pytest.raises(CheckpointError, match="model_type is 'roberta'; this package runs xlm-roberta-xl, xlm-roberta"):
        XLMRobertaXLModel.from_pretrained(checkpoint)
    edit_config(checkpoint, model_type="bert")
    with pytest.raises(CheckpointError, match=r"missing: bert\.embeddings\.LayerNorm\.weight"):
        XLMRobertaXLModel.from_pretrained(checkpoint)


def test_from_pretrained_new_head_warns(checkpoint):
    with pytest.warns(NewHeadWarning, match=r"no weights for classifier\.dense\.weight.*random"):
        model = XLMRobertaXLForSequenceClassification.from_pretrained(checkpoint, num_labels=5)
    assert model(IDS).logits.shape == (1, 5)
    assert model.classifier.dense.weight.std() > 0
    assert not model.classifier.dense.bias.any()
    assert not any(p.is_meta for p in model.parameters())
    with pytest.warns(NewHeadWarning, match="pooler.dense"):
        XLMRobertaXLModel.from_pretrained(checkpoint)


def test_from_pretrained_complete_checkpoint_does_not_warn(tmp_path):
    XLMRobertaXLForSequenceClassification(XLMRobertaXLConfig(**SHAPE, num_labels=3)).save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = XLMRobertaXLForSequenceClassification.from_pretrained(tmp_path)
    assert model.config.num_labels == 3


def test_from_pretrained_mismatched_num_labels_raises(tmp_path):
    XLMRobertaXLForSequenceClassification(XLMRobertaXLConfig(**SHAPE, num_labels=3)).save_pretrained(tmp_path)
    with pytest.raises(CheckpointMismatchError, match="out_proj"):
        XLMRobertaXLForSequenceClassification.from_pretrained(tmp_path, num_labels=4)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: {k: v for k, v in t.items() if "layer.1.intermediate.dense.weight" not in k},
         r"missing.*layer\.1\.intermediate\.dense\.weight"),
        (lambda t: {**t, "roberta.encoder.layer.2.output.dense.bias": torch.zeros(16)}, r"unexpected.*layer\.2"),
        (lambda t: {k.replace("roberta.", "0.auto_model."): v for k, v in t.items()},
         r"missing: roberta\.embeddings(.|\n)*unexpected: 0\.auto_model\.embeddings"),
        (lambda t: {**t, "roberta.encoder.LayerNorm.bias": torch.zeros(8)}, r"LayerNorm\.bias.*8.*16"),
        (lambda t: {**t, "roberta.encoder.LayerNorm.bias": torch.full((16,), float("nan"))}, r"LayerNorm\.bias"),
    ],
    ids=["missing", "unexpected", "prefix", "shape", "nan"],
)  # fmt: skip
def test_from_pretrained_wrong_tensors_raise(checkpoint, edit, message):
    edit_weights(checkpoint, edit)
    with pytest.raises(CheckpointError, match=message):
        XLMRobertaXLForMaskedLM.from_pretrained(checkpoint)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 10**9}, "hidden_size must be an integer from 1 to"),
        ({"num_hidden_layers": "many"}, "num_hidden_layers"),
        ({"hidden_size": 17}, "multiple of num_attention_heads"),
        ({"id2label": ["a", "b"]}, "config.json"),
    ],
)
def test_from_pretrained_invalid_config_raises_before_allocation(checkpoint, changes, message, monkeypatch):
    edit_config(checkpoint, **changes)
    monkeypatch.setattr("skxlmr.model.pretrained.load_into", None)
    with pytest.raises(CheckpointError, match=message):
        XLMRobertaXLForMaskedLM.from_pretrained(checkpoint)


def test_from_pretrained_missing_model_raises(tmp_path):
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        XLMRobertaXLModel.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(ModelNotFoundError, match="nano"):
        XLMRobertaXLModel.from_pretrained("nanno")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_from_pretrained_dtype(checkpoint, dtype):
    model = XLMRobertaXLForMaskedLM.from_pretrained(checkpoint, dtype=dtype)
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert not model.training


def test_from_pretrained_bin_files_and_shards_are_equal(checkpoint, tmp_path):
    model = transformers.XLMRobertaXLForMaskedLM.from_pretrained(checkpoint)
    expected = XLMRobertaXLForMaskedLM.from_pretrained(checkpoint)(IDS).logits
    shards, binary = tmp_path / "shards", tmp_path / "binary"
    model.save_pretrained(shards, max_shard_size="5KB")
    binary.mkdir()
    (binary / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    torch.save(model.state_dict(), binary / "pytorch_model.bin")
    assert len(list(shards.glob("*.safetensors"))) > 1
    for directory in (shards, binary):
        assert torch.equal(XLMRobertaXLForMaskedLM.from_pretrained(directory)(IDS).logits, expected)


def test_save_pretrained_replaces_whole_checkpoint(checkpoint):
    first = XLMRobertaXLForMaskedLM.from_pretrained(checkpoint)
    second = XLMRobertaXLForMaskedLM(XLMRobertaXLConfig(**{**SHAPE, "hidden_size": 32})).eval()
    second.save_pretrained(checkpoint)
    assert torch.equal(XLMRobertaXLForMaskedLM.from_pretrained(checkpoint)(IDS).logits, second(IDS).logits)
    first.save_pretrained(checkpoint)
    assert torch.equal(XLMRobertaXLForMaskedLM.from_pretrained(checkpoint)(IDS).logits, first(IDS).logits)


def test_from_pretrained_untied_without_decoder_warns(checkpoint):
    edit_config(checkpoint, tie_word_embeddings=False)
    with pytest.warns(NewHeadWarning, match=r"no weights for lm_head\.decoder"):
        model = XLMRobertaXLForMaskedLM.from_pretrained(checkpoint)
    assert 0 < model.lm_head.decoder.std() < 0.1
