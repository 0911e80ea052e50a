"""What an estimator learns: an adapter and a head on a shared base, or a base of its own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from skxlmr.inference import Plan, encode, run
from skxlmr.model import XLMRobertaXLModel
from skxlmr.model.packing import Packing
from skxlmr.training.adapters import Tuning

# From the hidden states of a batch to one row of features per window.
Pooling = Callable[[list[Tensor], Packing], Tensor]


def first_token(hidden: list[Tensor], packing: Packing) -> Tensor:
    """The state of `<s>`, which the reference's sequence head reads; float32 (B, H)."""
    return hidden[-1][packing.first].float()


class Learned(nn.Module):
    """An adapter and a head; with `tuning="full"` a whole base in the adapter's place.

    Parameters
    ----------
    tuning : Tuning
    base : XLMRobertaXLModel
        The shared base, which is never changed.
    head : Module
    """

    def __init__(self, tuning: Tuning, base: XLMRobertaXLModel, head: nn.Module) -> None:
        super().__init__()
        self.adapter = tuning.build(base.config)
        self.base = copy.deepcopy(base).float().requires_grad_() if tuning.trains_base else None
        self.head = head
        self.to(base.device)

    def features(
        self, base: XLMRobertaXLModel, plan: Plan, pooling: Pooling, batch_tokens: int, verbose: int = 0
    ) -> Callable[[np.ndarray], Tensor]:
        """Return a function from window indices to their features, (n,) -> (n, d), for training the head on.

        Where only the head learns, the base runs over all windows now, once.
        """
        if self.base is None and self.adapter is None:
            cached = torch.from_numpy(run(base, plan.windows, pooling, batch_tokens=batch_tokens, verbose=verbose))
            cached = cached.to(base.device)
            return lambda windows: cached[torch.from_numpy(windows)]

        def features(windows: np.ndarray) -> Tensor:
            chosen = [plan.windows[i] for i in windows]
            return pooling(*encode(self.base or base, chosen, adapter=self.adapter))

        return features

    def run(
        self,
        base: XLMRobertaXLModel,
        windows: Sequence[np.ndarray],
        pooling: Pooling,
        batch_tokens: int,
        verbose: int = 0,
    ) -> np.ndarray:
        """Return the head's output for each window, (n_windows, d) float32."""
        self.to(base.device)
        return run(
            self.base or base,
            windows,
            lambda hidden, packing: self.head(pooling(hidden, packing)),
            adapter=self.adapter,
            batch_tokens=batch_tokens,
            verbose=verbose,
            description="predict",
        )


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw torch's random numbers from a seed, and leave the caller's generators as they were."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
