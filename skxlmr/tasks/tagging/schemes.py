"""Decoding of tags under the constraints of their scheme, and their score."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from skxlmr.tags.schemes import OUTSIDE, get_scheme, split_tag
from skxlmr.tags.scores import count_entities, micro_f1

SENTENCES_AT_ONCE = 1024  # that are decoded together
UNCONSTRAINED = ("IO", "plain")
FORBIDDEN = -1e4  # far below any log-probability: such a transition is taken only if there is no other


def transitions(tags: Sequence[str], scheme: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what may follow what: 0 if it may, `FORBIDDEN` if it may not.

    The first array is (n_tags, n_tags), from the tag of the row to that of the column; the other two are for the first
    and for the last tag of a sentence, (n_tags,) each.
    """
    if scheme in UNCONSTRAINED:
        return np.zeros((len(tags), len(tags))), np.zeros(len(tags)), np.zeros(len(tags))
    of_scheme, parts = get_scheme(scheme), [split_tag(tag) for tag in tags]
    allowed = np.array([[of_scheme.may_follow(a, b) for b in [*parts, OUTSIDE]] for a in [*parts, OUTSIDE]])
    costs = np.where(allowed, 0.0, FORBIDDEN)
    return costs[:-1, :-1], costs[-1, :-1], costs[:-1, -1]


def decode(logits: Sequence[np.ndarray] | np.ndarray, tags: Sequence[str], scheme: str) -> list[np.ndarray]:
    """Return the most probable tag numbers of each sentence among those that the scheme allows (Viterbi).

    Logits are (n_tokens, n_tags) per sentence, results (n_tokens,) int64.
    """
    if scheme in UNCONSTRAINED:
        return [of_sentence.argmax(axis=1) for of_sentence in logits]
    between, first, last = transitions(tags, scheme)
    lengths = np.fromiter(map(len, logits), np.int64, len(logits))
    decoded: list[np.ndarray] = [np.empty(0, np.int64)] * len(logits)
    for length in np.unique(lengths[lengths > 0]):  # sentences of one length at once
        of_length = np.flatnonzero(lengths == length)
        for chosen in np.split(of_length, np.arange(SENTENCES_AT_ONCE, len(of_length), SENTENCES_AT_ONCE)):
            scores = log_softmax(np.stack([logits[i] for i in chosen]))
            for i, of_sentence in zip(chosen, best_paths(scores, between, first, last), strict=True):
                decoded[i] = of_sentence
    return decoded


def best_paths(scores: np.ndarray, between: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Return the tags with the highest sums of scores, (sentences, tokens, tags) -> (sentences, tokens)."""
    best, back = scores[:, 0] + first, []
    for token in range(1, scores.shape[1]):
        steps = best[:, :, None] + between  # (sentences, tag before, tag)
        back.append(steps.argmax(axis=1))
        best = steps.max(axis=1) + scores[:, token]
    path = [(best + last).argmax(axis=1)]
    for pointers in reversed(back):
        path.append(np.take_along_axis(pointers, path[-1][:, None], axis=1)[:, 0])
    return np.stack(path[::-1], axis=1)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def tag_score(
    true: Sequence[Sequence[str]],
    predicted: Sequence[Sequence[str]] | np.ndarray,
    scheme: str,
    weights: np.ndarray,
    strict: bool = False,
) -> float:
    """Compute the entity F1, or the accuracy of tags without a scheme."""
    if scheme != "plain":
        names = ("y", "the predictions")
        return micro_f1(count_entities(true, predicted, strict, scheme_of_score(scheme, strict), weights, names))
    right = [sum(a == b for a, b in zip(*rows, strict=True)) for rows in zip(true, predicted, strict=True)]
    n_tokens = np.fromiter(map(len, true), np.float64, len(true))
    total = (n_tokens * weights).sum()
    return float((np.array(right) * weights).sum() / total) if total else 0.0


def scheme_of_score(scheme: str, strict: bool) -> str | None:
    """Return the scheme that tags must be in to be scored; None for any, since without `strict` all are read alike."""
    return scheme if strict or scheme == "IO" else None
