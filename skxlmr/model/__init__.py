"""XLM-RoBERTa-XL in torch, with the class names, arguments and checkpoint files of Hugging Face transformers."""

from skxlmr.model.config import BertConfig, XLMRobertaConfig, XLMRobertaXLConfig
from skxlmr.model.generation_config import GenerationConfig
from skxlmr.model.loading_report import NewHeadWarning, UnusedTensorsWarning
from skxlmr.model.pretrained import PretrainedModel as XLMRobertaXLPreTrainedModel
from skxlmr.model.reference.causal_language_model import XLMRobertaXLForCausalLM
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
from skxlmr.model.reference.language_models import XLMRobertaXLForMaskedLM
from skxlmr.model.reference.outputs import GenerateOutput, ModelOutput
from skxlmr.model.reference.padded import XLMRobertaXLModel
from skxlmr.model.reference.tasks import (
    XLMRobertaXLForMultipleChoice,
    XLMRobertaXLForQuestionAnswering,
    XLMRobertaXLForSequenceClassification,
    XLMRobertaXLForTokenClassification,
)
from skxlmr.system.forks import torch_threads
from skxlmr.text.tokenizer import XLMRobertaXLTokenizer

__all__ = [
    "BertConfig",
    "BertForSequenceClassification",
    "BertModel",
    "GenerateOutput",
    "GenerationConfig",
    "ModelOutput",
    "NewHeadWarning",
    "UnusedTensorsWarning",
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
    "XLMRobertaXLPreTrainedModel",
    "XLMRobertaXLTokenizer",
]

torch_threads.note_imports(since=__name__)
