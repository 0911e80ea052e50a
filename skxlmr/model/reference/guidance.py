"""Classifier-free guidance: next tokens that a prompt makes more likely than another prompt does.

Notation: B texts, R rows of the batch, V vocabulary, S tokens.
"""

from __future__ import annotations

from torch import Tensor

from skxlmr.model.reference.decoding import Decoding


class Guidance:
    """Compares the probabilities of each next token with those after another prompt.

    Sanchez et al., "Stay on topic with Classifier-Free Guidance" (arXiv:2306.17806).

    Parameters
    ----------
    scale : float
        How many times the difference of both counts; with 1 only the texts themselves do.
    decoding : Decoding
        The other prompts, one of each text, not read yet.
    times : int
        Rows of each text.
    """

    def __init__(self, scale: float, decoding: Decoding, times: int) -> None:
        self.scale, self.decoding, self.times = scale, decoding, times
        self.is_read = False

    def guided(self, scores: Tensor) -> Tensor:
        """Return the log-probabilities after the other prompts plus `scale` times the difference, (R, V)."""
        logits = self.decoding.logits() if self.is_read else self.decoding.read(self.times)
        self.is_read = True
        without = logits.log_softmax(-1)
        difference = scores.log_softmax(-1) - without
        guided = self.scale * difference + without
        return guided.masked_fill(scores == -float("inf"), -float("inf"))  # ids without a token

    def append(self, tokens: Tensor, real: Tensor, rows: Tensor | None = None) -> None:
        """Add the tokens of the texts (R,), after going on with these rows of the batch; see `Decoding`."""
        if rows is not None:
            self.decoding.take(rows)
        self.decoding.append(tokens, real)
