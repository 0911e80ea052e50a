"""When texts stop: the caller's stopping criteria, and a limit of time.

Notation: B texts, S tokens of each.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from skxlmr.model.reference.generation_options import GenerationOptions, StoppingCriterion


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
