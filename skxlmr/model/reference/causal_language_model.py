"""The causal language model of the reference, on padded batches.

Notation: B texts, S padded length, H hidden size, V vocabulary. The parameters that all forward passes share are
described at `XLMRobertaXLModel.forward`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from skxlmr.model.config import XLMRobertaXLConfig
from skxlmr.model.generation_config import GenerationConfig
from skxlmr.model.reference.generation_mixin import GenerationMixin
from skxlmr.model.reference.labels import class_ids
from skxlmr.model.reference.language_models import LanguageModel
from skxlmr.model.reference.outputs import ModelOutput, returned


class XLMRobertaXLForCausalLM(GenerationMixin, LanguageModel):
    """XLM-RoBERTa-XL that predicts the next token; set `config.is_decoder` for causal attention.

    Parameters
    ----------
    config : XLMRobertaXLConfig

    Attributes
    ----------
    generation_config : GenerationConfig
        Defaults of the arguments of `generate`.
    """

    def __init__(self, config: XLMRobertaXLConfig) -> None:
        super().__init__(config)
        self.generation_config = GenerationConfig.from_model_config(config)

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
        past_key_values: Sequence[tuple[Tensor, ...]] | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> ModelOutput | tuple:
        """Predict the token after every position of a padded batch.

        Parameters
        ----------
        labels : Tensor of shape (B, S), integers, default=None
            Token ids, the same as `input_ids` or -100; the loss compares each with the prediction one position before.

        Returns
        -------
        ModelOutput or tuple
            loss, logits (B, S, V), past_key_values, hidden_states, attentions, cross_attentions.
        """
        encoded = self.roberta.encode_padded(
            input_ids, attention_mask, token_type_ids, position_ids, head_mask, inputs_embeds, encoder_hidden_states,
            encoder_attention_mask, past_key_values, False if labels is not None else use_cache, output_attentions,
            output_hidden_states, every_position=True,
        )  # fmt: skip
        outputs = encoded.more
        outputs.logits = encoded.batch.unpack(self.predict_tokens(encoded.last))
        if labels is not None:
            logits = outputs.logits[:, :-1].flatten(0, 1)
            wide = logits if logits.dtype == torch.float64 else logits.float()  # a loss in 16 bits would be rounded
            labels = class_ids(labels, outputs.logits.shape[:2])
            outputs.loss = F.cross_entropy(wide, labels[:, 1:].flatten())
        return returned(outputs, return_dict, self.config)
