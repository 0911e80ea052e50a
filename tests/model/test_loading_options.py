import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_shape import IDS, SHAPE

from skxlmr.checkpoints import layout
from skxlmr.model import (
    XLMRobertaXLConfig,
    XLMRobertaXLForSequenceClassification,
    XLMRobertaXLModel,
)

LABELS = {0: "a", 1: "b", 2: "c"}
IDS_OF_LABELS = {"a": 0, "b": 1, "c": 2}


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden_dropout_prob": 0.0},
        {"attention_probs_dropout_prob": 0.2, "classifier_dropout": 0.3},
        {"output_hidden_states": True},
        {"output_attentions": True},
        {"return_dict": False},
        {"is_decoder": True},
        {"problem_type": "multi_label_classification"},
        {"num_labels": 3},
        {"id2label": LABELS},
        {"id2label": LABELS, "label2id": IDS_OF_LABELS},
        {"id2label": LABELS, "num_labels": 3},
    ],
)
def test_from_pretrained_settings_equal_reference(saved, settings):
    reference = transformers.XLMRobertaXLForSequenceClassification.from_pretrained(saved, **settings)
    model = XLMRobertaXLForSequenceClassification.from_pretrained(saved, **settings)
    for name in {*settings, "id2label", "num_labels"}:
        assert getattr(model.config, name) == getattr(reference.config, name)
    outputs, expected = model(IDS), reference(IDS)
    assert isinstance(outputs, tuple) == isinstance(expected, tuple)
    outputs, expected = ([*output] if isinstance(output, tuple) else output for output in (outputs, expected))
    assert len(outputs) == len(expected)
    logits, right = (output[0] if isinstance(output, list) else output.logits for output in (outputs, expected))
    torch.testing.assert_close(logits, right, rtol=0, atol=1e-5)
    assert {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)} <= {
        module.p for module in reference.modules() if isinstance(module, torch.nn.Dropout)
    }


def test_from_pretrained_label2id_alone_names_outputs(saved):
    model = XLMRobertaXLForSequenceClassification.from_pretrained(saved, label2id=IDS_OF_LABELS)
    assert model.config.id2label == LABELS


def test_from_pretrained_config_with_settings_is_not_changed(saved):
    config = XLMRobertaXLConfig(**SHAPE, num_labels=3)
    model = XLMRobertaXLForSequenceClassification.from_pretrained(saved, config=config, hidden_dropout_prob=0.5)
    assert (config.hidden_dropout_prob, model.config.hidden_dropout_prob) == (0.1, 0.5)
    model.resize_token_embeddings(70)
    assert config.vocab_size == 60


def test_from_pretrained_unlisted_setting_of_config_file(saved):
    file = saved / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "my_setting": 1}))
    assert (
        XLMRobertaXLModel.from_pretrained(saved, my_setting=2, add_pooling_layer=False).config.extra["my_setting"] == 2
    )


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"num_label": 3}, TypeError, r"has no parameter 'num_label' \(did you mean 'num_labels'\?\)"),
        ({"hidden_dropout": 0.0}, TypeError, r"'hidden_dropout' \(did you mean 'hidden_dropout_prob'\?\)"),
        ({"torch_dtyp": 0, "zzz": 1}, TypeError, r"'torch_dtyp' \(did you mean 'torch_dtype'\?\), 'zzz': it takes"),
        ({"add_pooling_layer": True}, TypeError, "'add_pooling_layer'"),
        ({"extra": {}}, TypeError, "'extra'"),
        ({"num_labels": 2, "id2label": LABELS}, ValueError, "num_labels=2 contradicts the names of 3 labels"),
        ({"id2label": LABELS, "label2id": {"x": 0}}, ValueError, r"label2id=\{'x': 0\} contradicts id2label="),
        ({"hidden_dropout_prob": 2}, ValueError, "hidden_dropout_prob must be a probability"),
        ({"dtype": "float33"}, ValueError, "dtype must be a floating-point dtype"),
        ({"dtype": torch.int8}, ValueError, "dtype must be a floating-point dtype"),
        ({"dtype": "float16", "torch_dtype": torch.bfloat16}, ValueError, "contradicts torch_dtype"),
    ],
)
def test_from_pretrained_invalid_setting_raises(saved, settings, error, message):
    with pytest.raises(error, match=message):
        XLMRobertaXLForSequenceClassification.from_pretrained(saved, **settings)


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("value", [torch.bfloat16, "bfloat16", "torch.bfloat16", "auto"])
def test_from_pretrained_dtype_equals_reference(saved, name, value):
    reference_class = transformers.XLMRobertaXLForSequenceClassification
    reference_class.from_pretrained(saved, dtype=torch.bfloat16).save_pretrained(saved)
    model = XLMRobertaXLForSequenceClassification.from_pretrained(saved, **{name: value})
    same = value if isinstance(value, torch.dtype) else value.removeprefix("torch.")
    assert model.dtype == reference_class.from_pretrained(saved, dtype=same).dtype == torch.bfloat16
    assert XLMRobertaXLForSequenceClassification.from_pretrained(saved).dtype == torch.float32


def test_from_pretrained_auto_dtype_without_name_is_that_of_tensors(saved):
    file = saved / "model.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    config = XLMRobertaXLConfig(**SHAPE, num_labels=3)
    model = XLMRobertaXLForSequenceClassification.from_pretrained(saved, config=config, dtype="auto")
    assert model.dtype == torch.float16


def test_from_pretrained_subfolder_of_directory(saved):
    model = XLMRobertaXLForSequenceClassification.from_pretrained(saved.parent, subfolder=saved.name)
    expected = XLMRobertaXLForSequenceClassification.from_pretrained(saved)
    assert torch.equal(model(IDS).logits, expected(IDS).logits)
    assert XLMRobertaXLConfig.from_pretrained(saved.parent, subfolder=saved.name) == expected.config


def test_from_pretrained_passes_hub_options(saved, monkeypatch):
    asked = {}

    def fetch(repo_id, **options):
        asked[repo_id] = options
        return saved

    monkeypatch.setattr("skxlmr.checkpoints.hub.fetch", fetch)
    options = {"revision": "v1", "cache_dir": "here", "token": "t", "local_files_only": True, "subfolder": "en"}
    XLMRobertaXLForSequenceClassification.from_pretrained("organisation/model", **options)
    XLMRobertaXLConfig.from_pretrained("organisation/config", **options)
    assert asked == {
        "organisation/model": {**options, "weights_names": layout.WEIGHTS},
        "organisation/config": {**options, "only": ("config.json", "adapter_config.json")},
    }
