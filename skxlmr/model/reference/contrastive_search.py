"""Contrastive search: next tokens that are probable, and whose hidden states differ from those of the text so far.

Notation: B texts, K candidates of each, S tokens so far, H hidden size, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from skxlmr.model.reference.decoding import Decoding
from skxlmr.model.reference.generation_options import GenerationOptions


class ContrastiveSearch:
    """Chooses the next tokens (Su et al., arXiv:2202.06417).

    Parameters
    ----------
    decoding : Decoding
        The texts, which it has read.
    options : GenerationOptions
    pad : int
        Id of texts that have ended.
    """

    def __init__(self, decoding: Decoding, options: GenerationOptions, pad: int) -> None:
        self.decoding, self.pad = decoding, pad
        self.alpha, self.top_k = options.penalty_alpha, options.top_k or 1
        self.context = _directions(decoding)  # (B, S, H)

    def append(self, scores: Tensor, running: Tensor) -> tuple[Tensor, Tensor]:
        """Add to each text the best token by (1 - alpha) * p - alpha * similarity, of the K of largest probability p.

        The similarity is the largest cosine of its last hidden state and those of the tokens before, without padding.

        Parameters
        ----------
        scores : Tensor of shape (B, V)
            Logits of the next token.
        running : Tensor of shape (B,), bool
            Whether each text goes on; the others are padded.

        Returns
        -------
        tokens : Tensor of shape (B,), int64
        logits : Tensor of shape (B, V)
            Those of the token after it.
        """
        decoding, real = self.decoding, self.decoding.mask  # (B, S)
        scores, tokens = scores.log_softmax(-1).topk(min(self.top_k, scores.shape[1]))  # (B, K)
        tokens = torch.where(running[:, None], tokens, self.pad)
        n_texts, n_candidates = tokens.shape
        first_rows = torch.arange(n_texts, device=tokens.device) * n_candidates
        decoding.take((first_rows // n_candidates).repeat_interleave(n_candidates))
        decoding.append(tokens.flatten(), running.repeat_interleave(n_candidates))
        logits = decoding.logits()  # (B * K, V)

        candidates = _directions(decoding)[:, -1].unflatten(0, (n_texts, n_candidates))  # (B, K, H)
        cosines = candidates @ self.context.mT  # (B, K, S)
        similarity = cosines.masked_fill(~real[:, None], -torch.inf).amax(-1)
        objective = (1 - self.alpha) * scores.exp() - self.alpha * similarity
        best = objective.masked_fill(scores.isinf(), -torch.inf).argmax(1)  # (B,), without tokens that are banned
        rows = first_rows + best
        decoding.take(rows, outputs=True)
        chosen = candidates.flatten(0, 1)[rows]
        self.context = torch.cat([self.context, chosen[:, None]], 1)
        return decoding.ids[:, -1], logits[rows]


def _directions(decoding: Decoding) -> Tensor:
    """Return the last hidden states of the tokens that were read in the last step, of length 1, (B, S, H) float32."""
    assert decoding.last_hidden_state is not None
    return F.normalize(decoding.last_hidden_state.float(), dim=-1)
