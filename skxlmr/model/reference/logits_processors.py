"""What changes the scores of the next token before it is chosen: penalties, tokens that must not follow, and sampling.

Notation: B texts, S their tokens so far, V vocabulary, N length of an n-gram. `real` is False at padding, which counts
nowhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from skxlmr.model.reference.generation_options import GenerationOptions

ONE = 2**40  # the probability 1 as a whole number


def process(
    scores: Tensor,
    ids: Tensor,
    real: Tensor,
    options: GenerationOptions,
    ends: Tensor,
    *,
    may_end: bool,
    is_first: bool,
) -> Tensor:
    """Apply all that the options request, in the order of the reference.

    Parameters
    ----------
    scores : Tensor of shape (B, V)
        Logits or log-probabilities.
    ids : Tensor of shape (B, S), int64
    real : Tensor of shape (B, S), bool
    options : GenerationOptions
    ends : Tensor of shape (n,), int64
        Ids that end a text.
    may_end : bool
        Whether the texts are long enough to end.
    is_first : bool
        Whether this is the first new token.

    Returns
    -------
    Tensor of shape (B, V)
    """
    if options.repetition_penalty != 1:
        scores = penalise_repetition(scores, ids, real, options.repetition_penalty)
    if options.no_repeat_ngram_size:
        scores = ban_repeated_ngrams(scores, ids, real, options.no_repeat_ngram_size)
    if options.bad_words_ids:
        scores = ban_words(scores, ids, options.bad_words_ids)
    if not may_end:
        every = torch.arange(scores.shape[1], device=scores.device)
        scores = scores.masked_fill(torch.isin(every, ends), -torch.inf)  # ids may be none of the vocabulary
    if options.prefix_allowed_tokens_fn is not None:
        rows_per_text = options.num_beams // options.num_beam_groups
        scores = keep_allowed(scores, ids, options.prefix_allowed_tokens_fn, rows_per_text)
    for tokens in (options.suppress_tokens, options.begin_suppress_tokens if is_first else None):
        if tokens:
            scores = ban_words(scores, ids, [[token] for token in tokens])
    for processor in options.processors:
        scores = processor(ids, scores)
    if options.do_sample:
        at_least = 1 if options.num_beams == 1 else max(2, len(ends) + 1)  # as in the reference, for beams that go on
        scores = keep_likeliest(scores / options.temperature, options.top_k, options.top_p, at_least)
        if options.min_p:
            scores = keep_above(scores, options.min_p, at_least)
        if options.typical_p is not None and options.typical_p < 1:
            scores = keep_typical(scores, options.typical_p, at_least)
    return scores


def penalise_repetition(scores: Tensor, ids: Tensor, real: Tensor, penalty: float) -> Tensor:
    """Divide the positive scores of tokens that a text has already by the penalty, and multiply the negative ones."""
    seen = _marked(scores, ids, real)
    return torch.where(seen, torch.where(scores < 0, scores * penalty, scores / penalty), scores)


def ban_repeated_ngrams(scores: Tensor, ids: Tensor, real: Tensor, size: int) -> Tensor:
    """Set the scores of tokens that would end an n-gram that a text has already to minus infinity."""
    length = ids.shape[1]
    if length < size:
        return scores
    ngrams = ids.unfold(1, size, 1)  # (B, S - N + 1, N)
    begun = ids[:, None, length - size + 1 :]  # (B, 1, N - 1), the last tokens
    repeated = (ngrams[..., :-1] == begun).all(-1) & real.unfold(1, size, 1).all(-1)
    return scores.masked_fill(_marked(scores, ngrams[..., -1], repeated), -torch.inf)


def ban_words(scores: Tensor, ids: Tensor, words: Sequence[Sequence[int]]) -> Tensor:
    """Set the scores of tokens that would complete one of these sequences of ids to minus infinity."""
    banned = torch.zeros_like(scores, dtype=torch.bool)
    for *begin, last in words:
        if len(begin) > ids.shape[1]:
            continue
        begun = torch.ones_like(banned[:, 0])  # (B,)
        for column, token in enumerate(begin, start=ids.shape[1] - len(begin)):
            begun &= ids[:, column] == token
        banned[:, last] |= begun
    return scores.masked_fill(banned, -torch.inf)


def _marked(scores: Tensor, tokens: Tensor, where: Tensor) -> Tensor:
    """Return a mask of the tokens (B, n) that are chosen by a mask (B, n), as large as the scores (B, V).

    No index depends on how many are chosen, for which the host would wait for a GPU.
    """
    size = scores.shape[1]
    marked = torch.zeros(len(scores), size + 1, dtype=torch.bool, device=scores.device)  # the last column is cut off
    return marked.scatter_(1, tokens.masked_fill(~where, size), True)[:, :size]


def only_real_tokens(logits: Tensor, vocab_size: int) -> Tensor:
    """Set the logits of ids without a token, from `vocab_size` on, to minus infinity; (..., V) -> (..., V)."""
    if vocab_size >= logits.shape[-1]:
        return logits
    unreal = torch.arange(logits.shape[-1], device=logits.device) >= vocab_size
    return logits.masked_fill(unreal, -torch.inf)


def keep_likeliest(scores: Tensor, top_k: int | None, top_p: float | None, at_least: int = 1) -> Tensor:
    """Set the scores of all but the most likely tokens, `at_least` some, to minus infinity; (B, V) -> (B, V)."""
    if top_k:
        least = scores.topk(min(max(top_k, at_least), scores.shape[-1])).values[:, -1:]
        scores = scores.masked_fill(scores < least, -torch.inf)
    if top_p is not None and top_p < 1:
        ordered, order = scores.sort(descending=True)
        # As whole numbers, whose sums are the same in any order. On CUDA torch has no other cumulative sums that are
        # deterministic.
        probabilities = (ordered.softmax(-1, torch.promote_types(ordered.dtype, torch.float32)) * ONE).long()
        before = probabilities.cumsum(-1) - probabilities  # of those that are more likely
        unlikely = before >= math.ceil(top_p * ONE)
        unlikely[:, :at_least] = False
        scores = scores.masked_fill(unlikely.scatter(1, order, unlikely), -torch.inf)
    return scores


def keep_above(scores: Tensor, min_p: float, at_least: int = 1) -> Tensor:
    """Set the scores of tokens less probable than `min_p` times the most probable one to minus infinity, (B, V)."""
    probabilities = scores.softmax(-1)
    unlikely = probabilities < min_p * probabilities.amax(-1, keepdim=True)
    best = scores.topk(min(at_least, scores.shape[-1])).indices
    return scores.masked_fill(unlikely.scatter(1, best, False), -torch.inf)


def keep_typical(scores: Tensor, typical_p: float, at_least: int = 1) -> Tensor:
    """Keep the tokens whose information is nearest to the entropy, of this total probability; (B, V) -> (B, V)."""
    information = -scores.log_softmax(-1)
    probabilities = (-information).exp()
    entropy = (information * probabilities).nan_to_num(0.0).sum(-1, keepdim=True)
    order = (information - entropy).abs().argsort(-1)
    nearer = probabilities.gather(1, order).cumsum(-1)
    last = (nearer < typical_p).sum(-1, keepdim=True).clamp(max=scores.shape[-1] - 1)
    left_out = torch.arange(scores.shape[-1], device=scores.device) > last.clamp(min=at_least - 1)  # (B, V), in order
    return scores.masked_fill(torch.zeros_like(left_out).scatter(1, order, left_out), -torch.inf)


def keep_allowed(
    scores: Tensor, ids: Tensor, allowed: Callable[[int, Tensor], Sequence[int]], rows_per_text: int
) -> Tensor:
    """Set the scores of tokens that a function of a text's number and ids does not return to minus infinity.

    Raises ValueError if it returns none.
    """
    kept = torch.zeros_like(scores, dtype=torch.bool)
    for row, of_row in enumerate(ids):
        tokens = torch.as_tensor(allowed(row // rows_per_text, of_row), device=scores.device)
        if not tokens.numel():
            raise ValueError(
                f"prefix_allowed_tokens_fn returned no token for text {row // rows_per_text}: return at least one, "
                f"such as that of </s>."
            )
        kept[row, tokens.long()] = True
    return scores.masked_fill(~kept, -torch.inf)
