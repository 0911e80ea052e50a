"""What changes the scores of the next token before it is chosen: penalties, biases, and tokens that must not follow.

Notation: B texts, S their tokens so far, P of them of the prompt, V vocabulary, N length of an n-gram. `real` is False
at padding, which counts nowhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from skxlmr.model.transfer import upload


def penalise_repetition(scores: Tensor, ids: Tensor, real: Tensor, penalty: float) -> Tensor:
    """Divide the positive scores of tokens that a text has already by the penalty, and multiply the negative ones."""
    seen = _marked(scores, ids, real)
    return torch.where(seen, torch.where(scores < 0, scores * penalty, scores / penalty), scores)


def ban_ngrams(scores: Tensor, ids: Tensor, known: Tensor, known_real: Tensor, size: int) -> Tensor:
    """Set the scores of tokens that would end one of the n-grams of known texts to minus infinity.

    `known` and its mask are (B, P): the texts so far, or their prompts.
    """
    length = known.shape[1]
    if length < size:
        return scores
    ngrams = known.unfold(1, size, 1)  # (B, P - N + 1, N)
    begun = ids[:, None, ids.shape[1] - size + 1 :]  # (B, 1, N - 1), the last tokens
    repeated = (ngrams[..., :-1] == begun).all(-1) & known_real.unfold(1, size, 1).all(-1)
    return scores.masked_fill(_marked(scores, ngrams[..., -1], repeated), -torch.inf)


class Biases:
    """What is added to the score of the last token of each sequence of ids, where the others stand before it.

    Parameters
    ----------
    biases : mapping of tuple of int to float
        The last ids are of the vocabulary.
    device : torch.device
    """

    def __init__(self, biases: Mapping[tuple[int, ...], float], device: torch.device) -> None:
        self.groups = []  # of n sequences of the same length N: begins (n, N - 1), last tokens (n,), biases (n,)
        for length in sorted({len(sequence) for sequence in biases}):
            of_length = {sequence: bias for sequence, bias in biases.items() if len(sequence) == length}
            ids = torch.tensor(list(of_length), dtype=torch.int64, device="cpu")
            values = torch.tensor(list(of_length.values()), dtype=torch.float32, device="cpu")
            self.groups.append(upload([ids[:, :-1].contiguous(), ids[:, -1].contiguous(), values], device))

    def add(self, scores: Tensor, ids: Tensor) -> Tensor:
        """Return scores (B, V) with the biases of all sequences that a next token would complete in texts (B, S)."""
        total = torch.zeros_like(scores)
        for begins, last, values in self.groups:
            n_before = begins.shape[1]
            if n_before > ids.shape[1]:
                continue
            begun = (ids[:, None, ids.shape[1] - n_before :] == begins).all(-1)  # (B, n)
            total.index_add_(1, last, torch.where(begun, values, 0.0).to(total.dtype))
        return scores + total


def ban(scores: Tensor, tokens: Tensor) -> Tensor:
    """Set the scores of these tokens (n,) to minus infinity; they may be none of the vocabulary."""
    return scores.masked_fill(_are(tokens, scores), -torch.inf)


def force(scores: Tensor, tokens: Tensor) -> Tensor:
    """Set the scores of these tokens (n,) to 0, and all others to minus infinity."""
    return torch.zeros_like(scores).masked_fill(~_are(tokens, scores), -torch.inf)


def favour(scores: Tensor, tokens: Tensor, factor: float) -> Tensor:
    """Add to the scores of these tokens (n,) their absolute value times `factor - 1`, where it is finite."""
    more = scores.abs() * (factor - 1)
    return torch.where(_are(tokens, scores) & scores.isfinite(), scores + more, scores)


def without_nan(scores: Tensor) -> Tensor:
    """Replace NaN by 0, and infinity by the largest finite number; minus infinity stays, which bans a token."""
    return scores.nan_to_num(0.0, neginf=-torch.inf)


def _are(tokens: Tensor, scores: Tensor) -> Tensor:
    """Return which ids of the vocabulary are among these tokens (n,), (V,) bool."""
    return torch.isin(torch.arange(scores.shape[1], device=scores.device), tokens)


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
