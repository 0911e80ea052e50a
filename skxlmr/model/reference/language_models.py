"""What language models of the reference have in common, and the masked one, on padded batches.

Notation: B texts, S padded length, T packed tokens, H hidden size, V vocabulary. The parameters that all forward passes
share are described at `XLMRobertaXLModel.forward`.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from skxlmr.model.config import XLMRobertaXLConfig
from skxlmr.model.lm_head import LMHead
from skxlmr.model.pretrained import PretrainedModel
from skxlmr.model.reference.labels import class_ids, labels_on_padding
from skxlmr.model.reference.outputs import ModelOutput, returned
from skxlmr.model.reference.padded import XLMRobertaXLModel, either


class LanguageModel(PretrainedModel):
    """Base class of the two language models."""

    new_heads: tuple[str, ...] = ("lm_head.", "lm_head.decoder")

    def __init__(self, config: XLMRobertaXLConfig) -> None:
        super().__init__(config)
        self.roberta = XLMRobertaXLModel(config, add_pooling_layer=False)
        self.lm_head = LMHead(config)

    def predict_tokens(self, hidden: Tensor) -> Tensor:
        """Return the logits over the vocabulary, (T, H) -> (T, V)."""
        return self.lm_head(hidden, self.roberta.embeddings.word.weight)


class XLMRobertaXLForMaskedLM(LanguageModel):
    """XLM-RoBERTa-XL with a masked language modelling head, tied to the word embeddings unless the config differs.

    Parameters
    ----------
    config : XLMRobertaXLConfig
    """

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> ModelOutput | tuple:
        """Predict the token at every position of a padded batch.

        Parameters
        ----------
        labels : Tensor of shape (B, S), integers, default=None
            Token ids; -100 is ignored by the mean loss. Where padding has other labels, its states are computed.

        Returns
        -------
        ModelOutput or tuple
            loss, logits (B, S, V), hidden_states, attentions.
        """
        if labels is not None:
            labels = class_ids(labels, either(input_ids, inputs_embeds).shape[:2])
        encoded = self.roberta.encode_padded(
            input_ids, attention_mask, token_type_ids, position_ids, head_mask, inputs_embeds, encoder_hidden_states,
            encoder_attention_mask, use_cache=False, output_attentions=output_attentions,
            output_hidden_states=output_hidden_states, every_position=labels_on_padding(labels, attention_mask),
        )  # fmt: skip
        logits, outputs = self.predict_tokens(encoded.last), encoded.more
        outputs.logits, outputs.cross_attentions = encoded.batch.unpack(logits), None
        if labels is not None:
            outputs.loss = F.cross_entropy(logits, encoded.batch.pack(labels))
        return returned(outputs, return_dict, self.config)
