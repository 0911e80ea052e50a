"""The masked-language-model head, tied to the word embeddings.

Notation: T packed tokens, H hidden size, V vocabulary, V' rows of it that are computed at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skxlmr.checkpoints.checkpoint import open_checkpoint
from skxlmr.checkpoints.errors import CheckpointMismatchError
from skxlmr.checkpoints.resolve import CheckpointFiles
from skxlmr.model.config import XLMRobertaXLConfig
from skxlmr.model.initialisation import initialise
from skxlmr.model.key_maps import LM_HEADS
from skxlmr.model.layers import activation
from skxlmr.model.pretrained_heads import read_head

WORDS_AT_ONCE = 16_384


class LMHead(nn.Module):
    """Dense, exact gelu (BERT: its own activation), LayerNorm, tied decoder; (T, H) and (V, H) -> (T, V)."""

    def __init__(self, config: XLMRobertaXLConfig) -> None:
        super().__init__()
        if config.extra.get("tie_word_embeddings") is False:
            raise ValueError("tie_word_embeddings=False is not supported: the decoder is the word embedding.")
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = activation(config) if config.model_type == "bert" else F.gelu
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.apply(lambda module: initialise(module, config))

    def transform(self, x: Tensor) -> Tensor:
        """Apply all but the decoder, (T, H) -> (T, H)."""
        return self.norm(self.activation(self.dense(x)))

    def losses(self, x: Tensor, word_embeddings: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy of each prediction, without a (T, V) matrix; (T, H), (V, H), (T,) -> (T,)."""
        return TiedCrossEntropy.apply(self.transform(x), word_embeddings, self.bias, targets)

    def forward(self, x: Tensor, word_embeddings: Tensor) -> Tensor:
        x = self.transform(x)
        if word_embeddings.dtype == x.dtype:
            return F.linear(x, word_embeddings, self.bias)
        # A quantised model has the words in another 16-bit dtype; converted at once they would take twice the memory.
        parts = [F.linear(x, words.to(x.dtype)) for _, words in _parts(word_embeddings)]
        return torch.cat(parts, -1) + self.bias


class TiedCrossEntropy(torch.autograd.Function):
    """Cross-entropy over a large vocabulary, one part of it at a time, forward and backward.

    `apply(x, words, bias, targets)` takes (T, H), (V, H), (V,), (T,) and returns (T,). Only (T, WORDS_AT_ONCE) logits
    exist at a time, since all of them take a gigabyte for a thousand tokens of XL; the backward pass recomputes them.
    Words of another dtype than x are converted part by part.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, words: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
        total = x.new_full((len(x),), -torch.inf)
        for first, part in _parts(words):
            logits = F.linear(x, part.to(x.dtype), bias[first : first + len(part)])
            total = torch.logaddexp(total, logits.logsumexp(1))
        true = (x * words[targets].to(x.dtype)).sum(1) + bias[targets]
        ctx.save_for_backward(x, words, bias, targets, total)
        return total - true

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, Tensor, None]:
        x, words, bias, targets, total = ctx.saved_tensors
        grad_x, grad_bias = torch.zeros_like(x), torch.empty_like(bias)
        grad_words = torch.empty_like(words) if ctx.needs_input_grad[1] else None
        for first, part in _parts(words):
            here, part = slice(first, first + len(part)), part.to(x.dtype)
            grad_logits = (F.linear(x, part, bias[here]) - total[:, None]).exp() * grad[:, None]  # (T, V')
            rows = ((targets >= first) & (targets < here.stop)).nonzero()[:, 0]
            grad_logits[rows, targets[rows] - first] -= grad[rows]
            grad_x += grad_logits @ part
            grad_bias[here] = grad_logits.sum(0)
            if grad_words is not None:
                grad_words[here] = grad_logits.T @ x
        return grad_x, grad_words, grad_bias, None


def _parts(words: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield parts of the word embedding (V', H), each with its first id."""
    return ((first, words[first : first + WORDS_AT_ONCE]) for first in range(0, len(words), WORDS_AT_ONCE))


def read_lm_head(files: CheckpointFiles, config: XLMRobertaXLConfig) -> LMHead | None:
    """Read only the language model head of a checkpoint, in float32; None if it has none."""
    with open_checkpoint(files) as checkpoint:
        if not any(key.startswith(LM_HEADS) for key in checkpoint.tensors):
            return None
        with torch.device("meta"):
            head = LMHead(config)
        missing = read_head(checkpoint, config, {"lm_head": head})
    if missing:
        raise CheckpointMismatchError(f"{files.directory}: its head lacks {', '.join(missing)}")
    return head
