"""XLM-RoBERTa and BERT by their class names in the reference.

Their configs differ from those of XL: layers normalise their outputs instead of their inputs, and there is a LayerNorm
on the embeddings. The classes of XL also load their checkpoints, except BERT's sequence classification head.
"""

from __future__ import annotations

from torch import Tensor, nn

from skxlmr.model.config import BertConfig, XLMRobertaConfig
from skxlmr.model.heads import head_dropout
from skxlmr.model.initialisation import linear_head
from skxlmr.model.pretrained import PretrainedModel
from skxlmr.model.reference.causal_language_model import XLMRobertaXLForCausalLM
from skxlmr.model.reference.language_models import XLMRobertaXLForMaskedLM
from skxlmr.model.reference.padded import XLMRobertaXLModel
from skxlmr.model.reference.tasks import (
    XLMRobertaXLForMultipleChoice,
    XLMRobertaXLForQuestionAnswering,
    XLMRobertaXLForSequenceClassification,
    XLMRobertaXLForTokenClassification,
)


class XLMRobertaModel(XLMRobertaXLModel):
    """The XLM-RoBERTa encoder without a head; see `XLMRobertaXLModel`.

    Parameters
    ----------
    config : XLMRobertaConfig
    add_pooling_layer : bool, default=True
        Whether to have the pooler.

    Examples
    --------
    >>> import torch
    >>> from skxlmr.model import XLMRobertaConfig, XLMRobertaModel
    >>> config = XLMRobertaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
    ...                           intermediate_size=32)
    >>> XLMRobertaModel(config).eval()(torch.tensor([[0, 7, 8, 2]])).last_hidden_state.shape
    torch.Size([1, 4, 16])
    """

    config_class = XLMRobertaConfig


class BertModel(XLMRobertaXLModel):
    """The BERT encoder without a head, such as multilingual-e5-small; see `XLMRobertaXLModel`.

    Parameters
    ----------
    config : BertConfig
    add_pooling_layer : bool, default=True
        Whether to have the pooler.
    """

    config_class = BertConfig


class BertForSequenceClassification(XLMRobertaXLForSequenceClassification):
    """BERT with a linear layer on the pooled first token; see `XLMRobertaXLForSequenceClassification`.

    Parameters
    ----------
    config : BertConfig
    """

    config_class = BertConfig

    new_heads: tuple[str, ...] = ("roberta.pooler.", "classifier.")

    def __init__(self, config: BertConfig) -> None:
        PretrainedModel.__init__(self, config)
        self.roberta = XLMRobertaXLModel(config)
        self.dropout = nn.Dropout(head_dropout(config))
        self.classifier = linear_head(config, config.num_labels)

    def score(self, first_tokens: Tensor) -> Tensor:
        assert self.roberta.pooler is not None
        return self.classifier(self.dropout(self.roberta.pooler(first_tokens)))


class XLMRobertaForCausalLM(XLMRobertaXLForCausalLM):
    """XLM-RoBERTa that predicts the next token; see `XLMRobertaXLForCausalLM`."""

    config_class = XLMRobertaConfig


class XLMRobertaForMaskedLM(XLMRobertaXLForMaskedLM):
    """XLM-RoBERTa with a masked language modelling head; see `XLMRobertaXLForMaskedLM`."""

    config_class = XLMRobertaConfig


class XLMRobertaForMultipleChoice(XLMRobertaXLForMultipleChoice):
    """XLM-RoBERTa with a score for each of several texts; see `XLMRobertaXLForMultipleChoice`."""

    config_class = XLMRobertaConfig


class XLMRobertaForQuestionAnswering(XLMRobertaXLForQuestionAnswering):
    """XLM-RoBERTa for extractive question answering; see `XLMRobertaXLForQuestionAnswering`."""

    config_class = XLMRobertaConfig


class XLMRobertaForSequenceClassification(XLMRobertaXLForSequenceClassification):
    """XLM-RoBERTa with a head on the first token; see `XLMRobertaXLForSequenceClassification`."""

    config_class = XLMRobertaConfig


class XLMRobertaForTokenClassification(XLMRobertaXLForTokenClassification):
    """XLM-RoBERTa with a classifier on every token; see `XLMRobertaXLForTokenClassification`."""

    config_class = XLMRobertaConfig
