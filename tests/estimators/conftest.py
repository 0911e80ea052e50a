"""Checkpoints that transformers writes."""

import pytest
import torch
from hub_server import Hub

from skxlmr.model import XLMRobertaXLTokenizer
from skxlmr.runtime.backbone import _find_on_hub, _hub_options


@pytest.fixture(scope="module")
def oracle(tiny_spm):
    """The tokenizer of transformers."""
    return pytest.importorskip("transformers").XLMRobertaTokenizer.from_pretrained(tiny_spm)


@pytest.fixture(scope="module")
def make(tiny_spm, tmp_path_factory):
    """A function that writes a checkpoint with transformers; it returns the directory, and the model."""
    transformers = pytest.importorskip("transformers")
    tokenizer, made = XLMRobertaXLTokenizer.from_directory(tiny_spm), {}

    def write(name, **config):
        key = name, repr(config)
        if key not in made:
            made[key] = new(name, **config)
        return made[key]

    def new(name, id2label=None, **config):
        directory, cls = tmp_path_factory.mktemp(name), getattr(transformers, name)
        if id2label is not None:
            config |= {"id2label": id2label, "label2id": {label: i for i, label in id2label.items()}}
        shape = {
            "vocab_size": len(tokenizer), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 32, "max_position_embeddings": 66, "pad_token_id": 1, "bos_token_id": 0,
            "eos_token_id": 2, "type_vocab_size": 2 if name.startswith("Bert") else 1,
        }  # fmt: skip
        torch.manual_seed(0)
        model = cls(cls.config_class(**shape, **config)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        return directory, model

    return write


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub on this machine, and an empty cache."""
    server = Hub()
    monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    _find_on_hub.cache_clear()
    yield server
    server.stop()
    _find_on_hub.cache_clear()
    _hub_options.clear()
