"""The language models, masked and causal, as the reference names them.

Notation: B texts, S padded length, T packed tokens, H hidden size, V vocabulary. The parameters that all forward passes
share are described at `XLMRobertaXLModel.forward`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skxlmr.model.config import XLMRobertaXLConfig
from skxlmr.model.encoder import XLMRobertaXLModel
from skxlmr.model.generation import generate
from skxlmr.model.heads import without_padding
from skxlmr.model.outputs import ModelOutput
from skxlmr.model.pretrained import PretrainedModel, initialise

WORDS_AT_ONCE = 16_384


class LMHead(nn.Module):
    """Dense, exact gelu, LayerNorm, and a decoder tied to the word embeddings; (T, H) -> (T, V)."""

    def __init__(self, config: XLMRobertaXLConfig) -> None:
        super().__init__()
        if config.extra.get("tie_word_embeddings") is False:
            raise ValueError("tie_word_embeddings=False is not supported: the decoder is the word embedding.")
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.apply(lambda module: initialise(module, config))

    def forward(self, x: Tensor, word_embeddings: Tensor) -> Tensor:
        x = self.norm(F.gelu(self.dense(x)))
        if word_embeddings.dtype == x.dtype:
            return F.linear(x, word_embeddings, self.bias)
        # A quantised model has its words in other 16 bits: converted in parts, or they would be there twice.
        parts = [F.linear(x, words.to(x.dtype)) for words in word_embeddings.split(WORDS_AT_ONCE)]
        return torch.cat(parts, -1) + self.bias


class LanguageModel(PretrainedModel):
    """Base of the two language models."""

    new_heads = ("lm_head.",)

    def __init__(self, config: XLMRobertaXLConfig) -> None:
        super().__init__(config)
        self.roberta = XLMRobertaXLModel(config, add_pooling_layer=False)
        self.lm_head = LMHead(config)

    def predict_tokens(self, hidden: Tensor) -> Tensor:
        """Logits over the vocabulary for packed hidden states; (T, H) -> (T, V)."""
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
            Token ids; -100 is left out of the mean loss, and so is padding.

        Returns
        -------
        ModelOutput or tuple
            loss, logits (B, S, V), hidden_states, attentions.
        """
        encoded = self.roberta.encode_padded(
            input_ids, attention_mask, token_type_ids, position_ids, head_mask, inputs_embeds, encoder_hidden_states,
            encoder_attention_mask, use_cache=False, output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
        )  # fmt: skip
        logits, outputs = self.predict_tokens(encoded.last), encoded.more
        outputs.logits, outputs.cross_attentions = encoded.batch.unpack(logits), None
        if labels is not None:
            outputs.loss = F.cross_entropy(logits, encoded.batch.pack(without_padding(labels, attention_mask)))
        return self.returned(outputs, return_dict)


class XLMRobertaXLForCausalLM(LanguageModel):
    """XLM-RoBERTa-XL that predicts the next token; `config.is_decoder` makes each token see only those before it.

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
            Token ids, the same as `input_ids` or -100; the loss compares each with the prediction one place before.

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
        return self.returned(outputs, return_dict)

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
        eos_token_id: int | None = None,
        use_cache: bool = True,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Continue texts; see `skxlmr.model.generation.generate`."""
        return generate(
            self, input_ids, attention_mask, max_new_tokens=max_new_tokens, do_sample=do_sample,
            temperature=temperature, top_k=top_k, top_p=top_p, eos_token_id=eos_token_id, use_cache=use_cache,
            generator=generator,
        )  # fmt: skip
