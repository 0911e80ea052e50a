"""The state of a batch of texts while they are continued, token by token.

Notation: B texts, S their tokens so far, P past tokens, V vocabulary, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from skxlmr.model.config import XLMRobertaXLConfig
from skxlmr.model.reference.logits_processors import only_real_tokens
from skxlmr.model.reference.outputs import ModelOutput

# Keys and values of each layer for the past tokens.
Past = tuple[tuple[Tensor, ...], ...]

# Takes the new tokens, as ids (B, S) or embeddings (B, S, H), the mask of all tokens (B, P + S), the position ids of
# the new ones (B, S) and the past. Returns the logits after the last token (B, V), and with other outputs of the
# decoder the new past, or None if the next step takes all ids again, and for contrastive search the last hidden states
# of the new tokens, (B, S, H).
Step = Callable[[Tensor, Tensor, Tensor, Past | None], tuple[Tensor, ModelOutput]]


class Decoding:
    """Texts and what the decoder remembers of them.

    Parameters
    ----------
    step : Step
    config : XLMRobertaXLConfig
    prompt : Tensor of shape (B, S), int64, or (B, S, H)
        Ids or embeddings. The ids of embeddings are unknown, so that `ids` then has only the new tokens.
    mask : Tensor of shape (B, S), bool
        Whether each token is real, and not padding.
    """

    def __init__(self, step: Step, config: XLMRobertaXLConfig, prompt: Tensor, mask: Tensor) -> None:
        self.step, self.config = step, config
        self.inputs, self.mask = prompt, mask
        no_ids = torch.empty(len(prompt), 0, dtype=torch.int64, device=prompt.device)
        self.ids = prompt if prompt.ndim == 2 else no_ids  # (B, S)
        self.past: Past | None = None
        self.last_hidden_state: Tensor | None = None  # (B, S, H), of the tokens that were read in the last step
        self.hidden_states: list[tuple[Tensor, ...]] = []  # of each step, if the decoder returns them
        self.attentions: list[tuple[Tensor, ...]] = []

    @property
    def real(self) -> Tensor:
        """Whether each of the `ids` is real, (B, S) bool."""
        return self.mask[:, self.mask.shape[1] - self.ids.shape[1] :]

    def logits(self) -> Tensor:
        """Run the decoder on the tokens that it has not seen; returns the logits of the next ones, (B, V) float32."""
        mask, config = self.mask, self.config
        positions = torch.where(mask, mask.cumsum(1) + config.first_position - 1, config.pad_token_id)
        positions = positions[:, -self.inputs.shape[1] :]
        logits, outputs = self.step(self.inputs, mask.long(), positions, self.past)
        self.past, self.last_hidden_state = outputs.past_key_values, outputs.last_hidden_state
        for kept, new in ((self.hidden_states, outputs.hidden_states), (self.attentions, outputs.attentions)):
            if new is not None:
                kept.append(new)
        return only_real_tokens(logits.float(), config.real_vocab_size)

    def read(self, times: int) -> Tensor:
        """Read the texts once, and go on with each so many times, next to each other; returns logits (B * times, V)."""
        logits = self.logits()
        rows = torch.arange(len(logits), device=logits.device).repeat_interleave(times)
        self.take(rows, outputs=True)
        return logits[rows]

    def append(self, tokens: Tensor, real: Tensor) -> None:
        """Add a token to each text, (B,); `real` says which are not padding, (B,) bool."""
        self.ids = torch.cat([self.ids, tokens[:, None]], 1)
        self.mask = torch.cat([self.mask, real[:, None]], 1)
        self.inputs = self.ids if self.past is None else tokens[:, None]

    def take(self, rows: Tensor, outputs: bool = False) -> None:
        """Go on with these rows of the batch, in this order, some perhaps repeatedly; (B',) int64.

        With `outputs`, the hidden states and attentions of the last step become those of these rows, too.
        """
        self.ids, self.mask = self.ids[rows], self.mask[rows]
        if self.past is not None:
            self.past = tuple(tuple(x.index_select(0, rows) for x in layer) for layer in self.past)
        for kept in (self.hidden_states, self.attentions):
            if outputs and kept:
                kept[-1] = tuple(layer[rows] for layer in kept[-1])
