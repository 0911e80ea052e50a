"""Sampling: which tokens it leaves out, and how one is drawn.

Notation: B texts, R rows of the batch, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from skxlmr.model.transfer import upload_one

# One for all texts, or one for each.
Generators = torch.Generator | Sequence[torch.Generator]

ONE = 2**40  # the probability 1 as a whole number
ROWS_AT_ONCE = 64  # each has a whole number for every piece of the vocabulary: two megabytes for XL
CANDIDATES_OF_TOP_H = 100  # as in the reference


def draw(probabilities: Tensor, generators: Generators | None) -> Tensor:
    """Draw a token of each row, (R, V) -> (R,).

    With a generator for each text, those of a text do not depend on the other texts.
    """
    if generators is None or isinstance(generators, torch.Generator):
        return torch.multinomial(probabilities, 1, generator=generators)[:, 0]
    n_each = len(probabilities) // len(generators)
    uniform = [torch.rand(n_each, generator=g, device=g.device, dtype=torch.float64) for g in generators]
    on_device = upload_one(torch.cat(uniform).cpu(), probabilities.device)
    chunks = zip(probabilities.split(ROWS_AT_ONCE), on_device.split(ROWS_AT_ONCE), strict=True)
    return torch.cat([_at(*chunk) for chunk in chunks])


def _at(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Return the token at which the cumulative probability passes this share of the total, (R, V), (R,) -> (R,)."""
    cumulative = cumulative_sums(probabilities)
    total = cumulative[:, -1:]
    target = (uniform[:, None] * total).long().minimum(total - 1)
    return torch.searchsorted(cumulative, target, right=True)[:, 0]


def exponential_noise(like: Tensor, generators: Generators | None) -> Tensor:
    """Return noise of the exponential distribution for each text, (B, n), as `like` is."""
    if generators is None or isinstance(generators, torch.Generator):
        return torch.empty_like(like).exponential_(generator=generators)
    of_texts = [torch.empty(like.shape[1], device=g.device).exponential_(generator=g) for g in generators]
    return upload_one(torch.stack(of_texts).cpu(), like.device)


def cumulative_sums(values: Tensor) -> Tensor:
    """Return the cumulative sums of numbers from 0 to 1 along the last dimension, as whole numbers of which `ONE` is 1.

    Whole numbers have the same sum in any order. On CUDA torch has no other cumulative sums that are deterministic.
    """
    return (values * ONE).long().cumsum(-1)


def keep_likeliest(scores: Tensor, top_k: int | None, top_p: float | None, at_least: int = 1) -> Tensor:
    """Set the scores of all but the most likely tokens, `at_least` some, to minus infinity; (B, V) -> (B, V)."""
    if top_k:
        least = scores.topk(min(max(top_k, at_least), scores.shape[-1])).values[:, -1:]
        scores = scores.masked_fill(scores < least, -torch.inf)
    if top_p is not None and top_p < 1:
        ordered, order = scores.sort(descending=True)
        probabilities = ordered.softmax(-1, torch.promote_types(ordered.dtype, torch.float32))
        before = cumulative_sums(probabilities) - (probabilities * ONE).long()  # of those that are more likely
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
    nearer = cumulative_sums(probabilities.gather(1, order))
    last = (nearer < math.ceil(typical_p * ONE)).sum(-1, keepdim=True).clamp(max=scores.shape[-1] - 1)
    left_out = torch.arange(scores.shape[-1], device=scores.device) > last.clamp(min=at_least - 1)  # (B, V), in order
    return scores.masked_fill(torch.zeros_like(left_out).scatter(1, order, left_out), -torch.inf)


def keep_probable(scores: Tensor, least: float | Tensor, at_least: int = 1) -> Tensor:
    """Set the scores of tokens that are less probable than `least` to minus infinity; (B, V) -> (B, V).

    `at_least` so many stay, with those that are as probable as the last of them.
    """
    kept = scores.topk(min(at_least, scores.shape[-1])).values[:, -1:]
    return scores.masked_fill((scores.softmax(-1) < least) & (scores < kept), -torch.inf)


def keep_above_eta(scores: Tensor, eta: float, at_least: int = 1) -> Tensor:
    """Keep the tokens more probable than `eta`, or than sqrt(eta) * exp(-entropy) if this is less; (B, V) -> (B, V)."""
    least = (math.sqrt(eta) * (-_entropy(scores)).exp()).clamp(max=eta)
    return keep_probable(scores, least, at_least)


def keep_share_of_entropy(scores: Tensor, top_h: float) -> Tensor:
    """Keep the most likely tokens whose terms of the entropy sum to at most `top_h` times it, and the first.

    The entropy is that of the 100 most likely tokens; the others are left out.
    """
    best = scores.topk(min(CANDIDATES_OF_TOP_H, scores.shape[-1]))
    log_p = best.values.log_softmax(-1)
    terms = (-log_p.exp() * log_p).nan_to_num(0.0)
    kept = (cumulative_sums(terms) <= top_h * ONE * _entropy(best.values)) & best.values.isfinite()
    kept[:, 0] = True
    return scores.masked_fill(~torch.zeros_like(scores, dtype=torch.bool).scatter(1, best.indices, kept), -torch.inf)


def _entropy(scores: Tensor) -> Tensor:
    """Return the entropy of the next token, (B, V) -> (B, 1)."""
    log_p = scores.log_softmax(-1)
    return -(log_p.exp() * log_p).nan_to_num(0.0).sum(-1, keepdim=True)
