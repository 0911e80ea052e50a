"""The graph that is exported for serving: from token ids to what the estimator returns.

Notation: B rows, L tokens with padding, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from skxlmr.model.heads import Head
from skxlmr.model.padded_encoder import PaddedEncoder
from skxlmr.saving.serving.libraries import quiet

INPUTS = ("input_ids", "attention_mask")  # (B, L), int64


class ServingGraph(nn.Module):
    """An encoder, a pooling, and what makes the results of pooled vectors, or of the hidden states of each token.

    Parameters
    ----------
    encoder : PaddedEncoder
    finish : Module
        From vectors (B, H), from pairs of them (B, 2, H), or from hidden states (B, L, H), to results.
    pooling : str or None
        As in `skxlmr.runtime.features.POOLINGS`; None for results of each token.
    left_out : int
        The first tokens of each text that the pooling does not take.
    of_pairs : bool
        Whether the rows are pairs: first and second texts alternate in the inputs, (2 * B, L).
    """

    def __init__(
        self, encoder: PaddedEncoder, finish: nn.Module, pooling: str | None, left_out: int, of_pairs: bool
    ) -> None:
        super().__init__()
        self.encoder, self.finish = encoder, finish
        self.pooling, self.left_out, self.of_pairs = pooling, left_out, of_pairs

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.encoder(input_ids, attention_mask)
        if self.pooling is None:
            return self.finish(hidden[-1])
        x = pool(self.pooling, hidden, attention_mask, self.left_out)
        return self.finish(x.unflatten(0, (-1, 2)) if self.of_pairs else x)


class HeadResults(nn.Module):
    """The outputs of a head without dropout, and what is made of them."""

    def __init__(self, head: Head, finish: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.head, self.finish = head, finish

    def forward(self, x: Tensor) -> Tensor:
        return self.finish(self.head.last(self.head.project(x)))


def pool(pooling: str, hidden: list[Tensor], attention_mask: Tensor, left_out: int = 0) -> Tensor:
    """Turn hidden states (B, L, H) of padded texts into vectors, without the first `left_out` tokens of each.

    The last token of a text, `</s>`, is always taken.
    """
    counts = attention_mask.sum(1, keepdim=True)  # (B, 1)
    places = torch.arange(attention_mask.shape[1])[None]  # (1, L)
    first = (counts - 1).clamp(max=left_out)  # (B, 1)
    taken = ((places >= first) & (places < counts))[..., None]  # (B, L, 1)
    modes = {
        "mean": lambda: _mean(hidden[-1], taken),
        "max": lambda: hidden[-1].masked_fill(~taken, torch.finfo(torch.float32).min).amax(1),
        "cls": lambda: (hidden[-1] * (places == first)[..., None]).sum(1),
        "first_last_mean": lambda: _mean((hidden[0] + hidden[-1]) / 2, taken),
        "mean_sqrt_len_tokens": lambda: (hidden[-1] * taken).sum(1) / taken.float().sum(1).sqrt(),
        "weightedmean": lambda: _mean(hidden[-1], taken * (places[..., None] + 1)),
        "lasttoken": lambda: (hidden[-1] * (places == counts - 1)[..., None]).sum(1),
    }
    return torch.cat([modes[mode]() for mode in pooling.split("+")], 1)


def _mean(x: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean over tokens, (B, L, H) and (B, L, 1) -> (B, H)."""
    weights = weights.float()
    return (x * weights).sum(1) / weights.sum(1)


@torch.no_grad()
def trace(graph: ServingGraph) -> ExportedProgram:
    """Record the operators of a graph for any number of texts and tokens."""
    batch, tokens = Dim("batch", min=1), Dim("tokens", min=2)
    rows = 2 * batch if graph.of_pairs else batch
    ids = torch.tensor([[0, 4, 5, 2], [0, 4, 2, 1]] * 2)
    shapes = ({0: rows, 1: tokens},) * len(INPUTS)
    graph(ids, (ids != 1).long())  # places constants, which must not be made while operators are recorded
    with quiet():
        return torch.export.export(graph.eval().requires_grad_(False), (ids, (ids != 1).long()), dynamic_shapes=shapes)
