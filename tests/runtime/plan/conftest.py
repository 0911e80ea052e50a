import pytest

from skxlmr.model import XLMRobertaXLTokenizer
from skxlmr.runtime.backbone import get_backbone


@pytest.fixture(scope="module")
def tokenizer() -> XLMRobertaXLTokenizer:
    return get_backbone("nano").tokenizer
