"""First floor: XLM-RoBERTa-XL in torch, with the names and the files of Hugging Face's reference."""

from skxlmr.model.config import XLMRobertaXLConfig
from skxlmr.model.encoder import XLMRobertaXLModel
from skxlmr.model.heads import XLMRobertaXLForMaskedLM, XLMRobertaXLForSequenceClassification
from skxlmr.model.pretrained import NewHeadWarning
from skxlmr.text.tokenizer import XLMRobertaXLTokenizer

__all__ = [
    "NewHeadWarning",
    "XLMRobertaXLConfig",
    "XLMRobertaXLForMaskedLM",
    "XLMRobertaXLForSequenceClassification",
    "XLMRobertaXLModel",
    "XLMRobertaXLTokenizer",
]
