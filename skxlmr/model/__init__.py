"""First floor: XLM-RoBERTa-XL in torch, with the names and the files of Hugging Face's reference."""

from skxlmr.model.config import BertConfig, XLMRobertaConfig, XLMRobertaXLConfig
from skxlmr.model.encoder import XLMRobertaXLModel
from skxlmr.model.heads import (
    XLMRobertaXLForMultipleChoice,
    XLMRobertaXLForQuestionAnswering,
    XLMRobertaXLForSequenceClassification,
    XLMRobertaXLForTokenClassification,
)
from skxlmr.model.pretrained import NewHeadWarning
from skxlmr.model.reference.family import (
    BertForSequenceClassification,
    BertModel,
    XLMRobertaForCausalLM,
    XLMRobertaForMaskedLM,
    XLMRobertaForMultipleChoice,
    XLMRobertaForQuestionAnswering,
    XLMRobertaForSequenceClassification,
    XLMRobertaForTokenClassification,
    XLMRobertaModel,
)
from skxlmr.model.reference.language_models import XLMRobertaXLForCausalLM, XLMRobertaXLForMaskedLM
from skxlmr.model.reference.outputs import ModelOutput
from skxlmr.text.tokenizer import XLMRobertaXLTokenizer

__all__ = [
    "BertConfig",
    "BertForSequenceClassification",
    "BertModel",
    "ModelOutput",
    "NewHeadWarning",
    "XLMRobertaConfig",
    "XLMRobertaForCausalLM",
    "XLMRobertaForMaskedLM",
    "XLMRobertaForMultipleChoice",
    "XLMRobertaForQuestionAnswering",
    "XLMRobertaForSequenceClassification",
    "XLMRobertaForTokenClassification",
    "XLMRobertaModel",
    "XLMRobertaXLConfig",
    "XLMRobertaXLForCausalLM",
    "XLMRobertaXLForMaskedLM",
    "XLMRobertaXLForMultipleChoice",
    "XLMRobertaXLForQuestionAnswering",
    "XLMRobertaXLForSequenceClassification",
    "XLMRobertaXLForTokenClassification",
    "XLMRobertaXLModel",
    "XLMRobertaXLTokenizer",
]
