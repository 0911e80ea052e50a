import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import skxlmr.model
from skxlmr.checkpoints.errors import CheckpointMismatchError
from skxlmr.model import (
    NewHeadWarning,
    UnusedTensorsWarning,
    XLMRobertaXLForMaskedLM,
    XLMRobertaXLForSequenceClassification,
)

IDS = torch.tensor([[0, 5, 6, 2]])


def edit_weights(directory, **more):
    file = directory / "model.safetensors"
    save_file({**load_file(file), **more}, file, {"format": "pt"})


@pytest.mark.parametrize("settings", [{}, {"load_in_8bit": True}])
def test_from_pretrained_ignore_mismatched_sizes_equals_reference(saved, settings):
    options = {"num_labels": 5, "ignore_mismatched_sizes": True, "output_loading_info": True}
    _, expected = transformers.XLMRobertaXLForSequenceClassification.from_pretrained(saved, **options)
    with pytest.warns(NewHeadWarning, match=r"classifier\.out_proj\.weight is \(3, 16\), not \(5, 16\)"):
        model, info = XLMRobertaXLForSequenceClassification.from_pretrained(saved, **options, **settings)
    assert info == {**expected, "mismatched_keys": {(n, tuple(a), tuple(b)) for n, a, b in expected["mismatched_keys"]}}
    assert model(IDS).logits.shape == (1, 5)
    stored = load_file(saved / "model.safetensors")
    assert torch.equal(model.classifier.dense.weight, stored["classifier.dense.weight"])
    assert model.classifier.out_proj.weight.std() > 0
    assert not model.classifier.out_proj.bias.any()
    model.save_pretrained(saved / "again")
    again = XLMRobertaXLForSequenceClassification.from_pretrained(saved / "again")
    assert torch.equal(again.classifier.out_proj.weight, model.classifier.out_proj.weight)


def test_from_pretrained_ignore_mismatched_sizes_keeps_what_fits(saved):
    options = {"intermediate_size": 24, "ignore_mismatched_sizes": True, "output_loading_info": True}
    _, expected = transformers.XLMRobertaXLForSequenceClassification.from_pretrained(saved, **options)
    with pytest.warns(NewHeadWarning, match=r"intermediate\.dense\.bias is \(32,\), not \(24,\)"):
        model, info = XLMRobertaXLForSequenceClassification.from_pretrained(saved, **options)
    assert info["mismatched_keys"] == {(n, tuple(a), tuple(b)) for n, a, b in expected["mismatched_keys"]}
    stored = load_file(saved / "model.safetensors")["roberta.encoder.layer.0.output.dense.bias"]
    assert torch.equal(model.roberta.layers[0].ffn.down.bias, stored)
    with pytest.raises(CheckpointMismatchError, match="A quantised model needs all of it"):
        XLMRobertaXLForSequenceClassification.from_pretrained(saved, load_in_8bit=True, **options)


@pytest.mark.parametrize("name", ["XLMRobertaXLModel", "XLMRobertaXLForMaskedLM", "XLMRobertaXLForTokenClassification"])
def test_from_pretrained_loading_info_equals_reference(saved, name):
    edit_weights(
        saved,
        **{
            "scorer.weight": torch.ones(2, 16),
            "roberta.embeddings.my_ids": torch.arange(20),
            "classifier.weight": torch.ones(3, 16),
            "classifier.bias": torch.ones(3),
        },
    )
    _, expected = getattr(transformers, name).from_pretrained(saved, output_loading_info=True)
    with pytest.warns((UnusedTensorsWarning, NewHeadWarning)) as caught:
        model, info = getattr(skxlmr.model, name).from_pretrained(saved, output_loading_info=True)
    expected["missing_keys"].discard("lm_head.decoder.bias")  # a second name of lm_head.bias
    assert info == expected
    assert isinstance(model, getattr(skxlmr.model, name))
    (message,) = [str(w.message) for w in caught if w.category is UnusedTensorsWarning]
    assert "scorer.weight" in message
    assert "my_ids" in message
    assert "classifier" not in message


def test_from_pretrained_unknown_head_and_buffer_change_nothing(saved):
    expected = XLMRobertaXLForSequenceClassification.from_pretrained(saved)(IDS).logits
    edit_weights(saved, **{"crf.transitions": torch.ones(3, 3), "roberta.encoder.layer.0.ids": torch.arange(3)})
    with pytest.warns(UnusedTensorsWarning, match=r"not loaded: (crf\.transitions|roberta.*ids), "):
        model = XLMRobertaXLForSequenceClassification.from_pretrained(saved)
    assert torch.equal(model(IDS).logits, expected)


@pytest.mark.parametrize(
    "key",
    [
        "roberta.encoder.layer.2.output.dense.bias",
        "roberta.encoder.layer.0.attention.self.lora_A.weight",
        "roberta.adapter.weight",
        "bert.encoder.layer.0.output.dense.bias",
        "embeddings.other.weight",
    ],
)
def test_from_pretrained_unknown_part_of_encoder_raises(saved, key):
    edit_weights(saved, **{key: torch.ones(16)})
    with pytest.raises(CheckpointMismatchError, match="unexpected: " + key):
        XLMRobertaXLForSequenceClassification.from_pretrained(saved)


@pytest.mark.parametrize("options", [{"num_hidden_layers": 1}, {"num_hidden_layers": 3}])
def test_from_pretrained_other_number_of_layers_raises(saved, options):
    with pytest.raises(CheckpointMismatchError, match=r"(missing|unexpected).*layer\."):
        XLMRobertaXLForMaskedLM.from_pretrained(saved, **options)
