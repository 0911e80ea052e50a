"""The language models of the reference, masked and causal, on padded batches.

Notation: B texts, S padded length, T packed tokens, H hidden size, V vocabulary. The parameters that all forward passes
share are described at `XLMRobertaXLModel.forward`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from skxlmr.model.config import XLMRobertaXLConfig
from skxlmr.model.lm_head import LMHead
from skxlmr.model.pretrained import PretrainedModel
from skxlmr.model.reference.generation import Past, generate
from skxlmr.model.reference.outputs import ModelOutput, returned
from skxlmr.model.reference.padded import XLMRobertaXLModel, labels_on_padding


class LanguageModel(PretrainedModel):
    """Base class of the two language models."""

    new_heads: tuple[str, ...] = ("lm_head.",)

    def __init__(self, config: XLMRobertaXLConfig) -> None:
        super().__init__(config)
        self.roberta = XLMRobertaXLModel(config, add_pooling_layer=False)
        self.lm_head = LMHead(config)

    def predict_tokens(self, hidden: Tensor) -> Tensor:
        """Return the logits over the vocabulary, (T, H) -> (T, V)."""
        return self.lm_head(hidden, self.roberta.embeddings.word.weight)


class XLMRobertaXLForMaskedLM(LanguageModel):
    """XLM-RoBERTa-XL with a masked language modelling head, tied to the word embeddings.

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
        labels : Tensor of shape (B, S), int64, default=None
            Token ids; -100 is ignored by the mean loss. Where padding has other labels, its states are computed.

        Returns
        -------
        ModelOutput or tuple
            loss, logits (B, S, V), hidden_states, attentions.
        """
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


class XLMRobertaXLForCausalLM(LanguageModel):
    """XLM-RoBERTa-XL that predicts the next token; set `config.is_decoder` for causal attention.

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
        past_key_values: Sequence[tuple[Tensor, ...]] | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> ModelOutput | tuple:
        """Predict the token after every position of a padded batch.

        Parameters
        ----------
        labels : Tensor of shape (B, S), int64, default=None
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
            outputs.loss = F.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return returned(outputs, return_dict, self.config)

    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        max_new_tokens: int = 20,
        do_sample: bool = False,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        eos_token_id: int | Sequence[int] | None = None,
        use_cache: bool = True,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Continue the texts of a batch, greedily or by sampling.

        Parameters
        ----------
        input_ids : Tensor of shape (B, S), int64
            Texts, padded on the left.
        attention_mask : Tensor of shape (B, S), default=None
            One at real tokens; None is one everywhere except at pads.
        max_new_tokens : int, default=20
        do_sample : bool, default=False
            Whether to sample each token instead of taking the most likely one.
        temperature : float, default=1.0
            Divides the logits before sampling; below 1 it favours likely tokens.
        top_k : int, default=None
            Sample from this many most likely tokens.
        top_p : float, default=None
            Sample from the fewest most likely tokens with this total probability (Holtzman et al., 2020).
        eos_token_id : int or list of int, default=None
            Ids that end a text, after which it is padded; None takes those of the config. If this has none either, all
            new tokens are generated.
        use_cache : bool, default=True
            Whether to keep keys and values instead of recomputing them; the result is the same.
        generator : torch.Generator, default=None
            Random numbers for sampling.

        Returns
        -------
        Tensor of shape (B, S + n), int64
            The texts with up to `max_new_tokens` new tokens.

        Raises
        ------
        ValueError
            If the model is not a decoder, texts are padded on the right, there would be more tokens than positions, or
            a sampling parameter is invalid.
        """

        def step(ids: Tensor, mask: Tensor, positions: Tensor, past: Past | None) -> tuple[Tensor, Past | None]:
            encoded = self.roberta.encode_padded(
                ids, mask, position_ids=positions, past_key_values=past, use_cache=use_cache
            )
            return self.predict_tokens(encoded.batch.unpack(encoded.last)[:, -1]), encoded.more.past_key_values

        return generate(
            step, self.config, input_ids, attention_mask, max_new_tokens=max_new_tokens, do_sample=do_sample,
            temperature=temperature, top_k=top_k, top_p=top_p, eos_token_id=eos_token_id, generator=generator,
        )  # fmt: skip
