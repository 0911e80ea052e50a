from pathlib import Path

import pytest
import torch

SHAPE = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 20,
}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A sequence classification model with three labels, written by transformers."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.XLMRobertaXLConfig(**SHAPE, num_labels=3)
    transformers.XLMRobertaXLForSequenceClassification(config).save_pretrained(tmp_path)
    return tmp_path
