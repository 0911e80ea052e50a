from pathlib import Path

import pytest
import torch
from tiny_shape import SHAPE


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A sequence classification model with three labels, written by transformers."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.XLMRobertaXLConfig(**SHAPE, num_labels=3)
    transformers.XLMRobertaXLForSequenceClassification(config).save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture
def threads():
    """Set the number of threads of torch, and reset it in the end."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
