"""Weights by the names of this package, without a config."""

import pytest
import torch
from safetensors.torch import save_file
from tiny_shape import IDS, SHAPE

import skxlmr.model
from skxlmr.checkpoints.errors import CheckpointError

CONFIGS = {"XLMRobertaXL": "XLMRobertaXLConfig", "XLMRoberta": "XLMRobertaConfig", "Bert": "BertConfig"}


def make(family, ending, **settings):
    torch.manual_seed(0)
    config = getattr(skxlmr.model, CONFIGS[family])(**SHAPE, **settings)
    cls = getattr(skxlmr.model, family + ending, getattr(skxlmr.model, f"XLMRobertaXL{ending}"))
    return cls(config).eval()


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("ending", ["Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification"])
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_state_dict_in_a_file_is_loaded_with_a_config(family, ending, kind, tmp_path):
    model = make(family, ending)
    if kind == "bin":
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    else:
        save_file(model.state_dict(), tmp_path / "model.safetensors", {"format": "pt"})
    loaded = type(model).from_pretrained(tmp_path, config=model.config)
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)
    model.config.save_pretrained(tmp_path)
    torch.testing.assert_close(type(model).from_pretrained(tmp_path)(IDS)[0], model(IDS)[0], rtol=0, atol=0)


def test_encoder_of_a_state_dict_with_a_head(tmp_path):
    model = make("XLMRobertaXL", "ForSequenceClassification")
    save_file(model.state_dict(), tmp_path / "model.safetensors", {"format": "pt"})
    encoder = skxlmr.model.XLMRobertaXLModel.from_pretrained(tmp_path, config=model.config, add_pooling_layer=False)
    torch.testing.assert_close(encoder.state_dict(), model.roberta.state_dict(), rtol=0, atol=0)


def test_weights_without_config_raise_what_to_do(tmp_path):
    model = make("XLMRobertaXL", "Model")
    save_file(model.state_dict(), tmp_path / "model.safetensors", {"format": "pt"})
    for load in (type(model).from_pretrained, skxlmr.load):
        with pytest.raises((CheckpointError, FileNotFoundError), match=r"Trainer saves .*config=model\.config"):
            load(tmp_path)
    with pytest.raises(ValueError, match=r"no config\.json, which 8 and 4 bits need"):
        type(model).from_pretrained(tmp_path, config=model.config, load_in_8bit=True)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="has no weights; looked for"):
        type(model).from_pretrained(tmp_path, config=model.config)
