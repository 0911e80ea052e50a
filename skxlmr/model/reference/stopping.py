"""When texts stop: the caller's stopping criteria, texts that occur, and a limit of time.

Notation: B texts, S tokens of each.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from skxlmr.model.reference.generation_options import GenerationOptions, StoppingCriterion, Vocabulary
from skxlmr.text.offsets import SPACE


def stopped(ids: Tensor, scores: Sequence[Tensor], options: GenerationOptions) -> Tensor:
    """Return whether a criterion says that each text, of ids (B, S), stops here; (B,) bool."""
    found = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    for criterion in options.criteria:
        result = torch.as_tensor(criterion(ids, tuple(scores) if options.output_scores else None), device=ids.device)
        if result.numel() not in (1, len(ids)):
            raise ValueError(
                f"stopping_criteria must return a bool, or one for each of the {len(ids)} texts that they are given; "
                f"{criterion!r:.60} returned a tensor of shape {tuple(result.shape)}."
            )
        found = found | result.bool().flatten()
    return found


def after_seconds(seconds: float) -> StoppingCriterion:
    """Return a criterion that stops all texts when so much time has passed since this call."""
    start = time.monotonic()
    return lambda ids, scores: time.monotonic() - start > seconds


def at_strings(strings: Sequence[str], tokenizer: Vocabulary) -> StoppingCriterion:
    """Return a criterion that stops texts whose last token completes one of these strings, or has one in it."""
    longest = max(map(len, strings))  # each token has a character at least

    def criterion(ids: Tensor, scores: object) -> Tensor:
        found = []
        for row in ids[:, -longest:].tolist():
            pieces = [piece.replace(SPACE, " ") for piece in tokenizer.convert_ids_to_tokens(row)]
            end = "".join(pieces)
            before = len(end) - len(pieces[-1]) if pieces else 0
            found.append(any(end.find(string, max(before - len(string) + 1, 0)) >= 0 for string in strings))
        return torch.tensor(found, dtype=torch.bool, device=ids.device)

    return criterion
