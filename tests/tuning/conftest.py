import pytest

from skxlmr.model import XLMRobertaXLConfig


@pytest.fixture(scope="session")
def config() -> XLMRobertaXLConfig:
    return XLMRobertaXLConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32
    )
