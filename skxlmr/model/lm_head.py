"""The head of language models, tied to the word embeddings in most of them.

Notation: T packed tokens, H hidden size, V vocabulary, V' rows of it that are computed at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skxlmr.checkpoints.checkpoint import open_checkpoint
from skxlmr.checkpoints.decoders import HEADS
from skxlmr.checkpoints.errors import CheckpointMismatchError
from skxlmr.checkpoints.resolve import CheckpointFiles
from skxlmr.model.config import XLMRobertaXLConfig
from skxlmr.model.initialisation import initialise
from skxlmr.model.layers import activation
from skxlmr.model.pretrained_heads import read_head

WORDS_AT_ONCE = 16_384
GRADIENT_SCALE = 1024.0


class LMHead(nn.Module):
    """Dense, exact gelu (BERT: its own activation), LayerNorm, decoder; (T, H) and (V, H) -> (T, V).

    The decoder is the word embedding, which each call is given; or, if the config has tie_word_embeddings=False, a
    matrix of its own, `decoder`.
    """

    decoder: nn.Parameter | None  # (V, H)

    def __init__(self, config: XLMRobertaXLConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = activation(config) if config.model_type == "bert" else F.gelu
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        is_tied = config.tie_word_embeddings is not False
        self.decoder = None if is_tied else nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))
        self.apply(lambda module: initialise(module, config))

    def transform(self, x: Tensor) -> Tensor:
        """Apply all but the decoder, (T, H) -> (T, H)."""
        return self.norm(self.activation(self.dense(x)))

    def words(self, word_embeddings: Tensor) -> Tensor:
        """Return the weights of the decoder, (V, H)."""
        return word_embeddings if self.decoder is None else self.decoder

    def losses(self, x: Tensor, word_embeddings: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy of each prediction, without a (T, V) matrix; (T, H), (V, H), (T,) -> (T,)."""
        return DecoderCrossEntropy.apply(self.transform(x), self.words(word_embeddings), self.bias, targets)

    def forward(self, x: Tensor, word_embeddings: Tensor) -> Tensor:
        x, words = self.transform(x), self.words(word_embeddings)
        if words.dtype == x.dtype:
            return F.linear(x, words, self.bias)
        if in_halves(x, words) and not (torch.is_grad_enabled() and x.requires_grad):
            return product(x, words.t()).add_(self.bias)
        # A quantised model has the words in another 16-bit dtype; converted at once they would take twice the memory.
        parts = [F.linear(x, part.to(x.dtype)) for _, part in _parts(words)]
        return torch.cat(parts, -1) + self.bias


class DecoderCrossEntropy(torch.autograd.Function):
    """Cross-entropy over a large vocabulary, one part of it at a time, forward and backward.

    `apply(x, words, bias, targets)` takes (T, H), (V, H), (V,), (T,) and returns (T,). Only (T, WORDS_AT_ONCE) logits
    exist at a time, since all of them take a gigabyte for a thousand tokens of XL; the backward pass recomputes them.
    Words of another dtype than x are converted part by part; for those of 16 bits on CUDA see `product`. The host waits
    for nothing.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, words: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
        total = x.new_full((len(x),), -torch.inf)
        for first, part in _parts(words):
            logits = _logits(x, part, bias[first : first + len(part)])
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
            here = slice(first, first + len(part))
            grad_logits = (_logits(x, part, bias[here]) - total[:, None]).exp() * grad[:, None]  # (T, V')
            _subtract_at(grad_logits, targets - first, grad)
            if in_halves(x, part):
                grad_x += _product_of_gradient(grad_logits, part, grad)
            else:
                grad_x += grad_logits @ part.to(x.dtype)
            grad_bias[here] = grad_logits.sum(0)
            if grad_words is not None:
                grad_words[here] = grad_logits.T @ x
        return grad_x, grad_words, grad_bias, None


def _logits(x: Tensor, words: Tensor, bias: Tensor) -> Tensor:
    """Return the logits of a part of the words, (T, H), (V', H), (V',) -> (T, V')."""
    if in_halves(x, words):
        return product(x, words.t()).add_(bias)
    return F.linear(x, words.to(x.dtype), bias)


def _subtract_at(x: Tensor, columns: Tensor, values: Tensor) -> None:
    """Subtract one value from each row of x (T, V'), at a column of its own if there is such a one; (T,) each.

    A selection of the rows that have one would make the host wait for their number.
    """
    is_here = (columns >= 0) & (columns < x.shape[1])
    columns = columns.clamp(0, x.shape[1] - 1)[:, None]
    x.scatter_(1, columns, x.gather(1, columns) - torch.where(is_here, values, 0)[:, None])


def in_halves(x: Tensor, words: Tensor) -> bool:
    """Whether `product` multiplies x, in float32, with words of 16 bits: on CUDA, whose float32 products are slow."""
    return words.is_cuda and words.dtype.itemsize == 2 and x.dtype == torch.float32


def product(x: Tensor, y: Tensor) -> Tensor:
    """Multiply x (T, K), float32, by y (K, N) of 16 bits on CUDA, in y's dtype with sums in float32; (T, N) float32.

    x is the sum of two numbers of 16 bits, so that hardly anything of it is rounded: its error is 2**-16 at most in
    bfloat16, 2**-22 in float16 (where its numbers must be below 65504). An H100 multiplies 16 bits sixteen times as
    fast as float32, so that two products take an eighth of the time. y is read once, and not converted.
    """
    high = x.to(y.dtype)
    low = (x - high.float()).to(y.dtype)
    of_high, of_low = torch.mm(torch.cat([high, low]), y, out_dtype=torch.float32).split(len(x))
    return of_high + of_low


def _product_of_gradient(gradient: Tensor, words: Tensor, row_factors: Tensor) -> Tensor:
    """Multiply a gradient (T, V') by words (V', H) of 16 bits; its rows are multiples of `row_factors`, (T,).

    Without these its numbers are at most 1. Probabilities below 6e-5 have fewer digits in float16, so they are scaled.
    """
    factors = row_factors[:, None] / GRADIENT_SCALE
    scaled = torch.where(factors == 0, 0, gradient / factors)
    return product(scaled, words) * factors


def _parts(words: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield parts of the word embedding (V', H), each with its first id."""
    return ((first, words[first : first + WORDS_AT_ONCE]) for first in range(0, len(words), WORDS_AT_ONCE))


def read_lm_head(files: CheckpointFiles, config: XLMRobertaXLConfig) -> LMHead | None:
    """Read only the language model head of a checkpoint, in float32; None if it has none."""
    with open_checkpoint(files) as checkpoint:
        if not any(key.startswith(HEADS) for key in checkpoint.tensors):
            return None
        with torch.device("meta"):
            head = LMHead(config)
        missing = read_head(checkpoint, config, {"lm_head": head})
    if missing:
        raise CheckpointMismatchError(f"{files.directory}: its head lacks {', '.join(missing)}")
    return head
