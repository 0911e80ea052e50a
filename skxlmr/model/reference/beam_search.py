"""Beam search: the most probable continuations as a whole.

Notation: B texts, K beams of each, C candidates of each in a step, R sequences of each that are returned, S tokens so
far, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from skxlmr.model.reference.decoding import Decoding
from skxlmr.model.reference.generation_options import GenerationOptions
from skxlmr.model.reference.logits_processors import process
from skxlmr.model.reference.outputs import GenerateOutput
from skxlmr.model.reference.stopping import stopped


@dataclass
class Candidates:
    """The most probable ways to go on with the beams of each text by one token."""

    scores: Tensor  # (B, C), log-probabilities of all new tokens together
    rows: Tensor  # (B, C), the beam that each continues, a row of the batch of B * K
    tokens: Tensor  # (B, C)
    ended: Tensor  # (B, C) bool

    @classmethod
    def of_step(cls, scores: Tensor, options: GenerationOptions, n_ends: int) -> Candidates:
        """Choose them by the scores of all beams and tokens, (B, K, V); enough that K of them do not end."""
        size = scores.shape[2]
        flat = scores.flatten(1)  # (B, K * V)
        n_candidates = min(max(2, n_ends + 1) * options.num_beams, flat.shape[1])
        if options.do_sample:  # the highest with Gumbel noise are samples without replacement (arXiv:1903.06059)
            chosen = (flat - torch.empty_like(flat).exponential_(generator=options.generator).log()).topk(n_candidates)
        else:
            chosen = flat.topk(n_candidates)
        first_row = torch.arange(len(flat), device=flat.device)[:, None] * options.num_beams
        rows, tokens = chosen.indices // size + first_row, chosen.indices % size
        return cls(flat.gather(1, chosen.indices), rows, tokens, torch.zeros_like(rows, dtype=torch.bool))


@dataclass
class Hypotheses:
    """The best ended continuations of each text, best first."""

    scores: Tensor  # (B, K), divided by the length penalty; minus infinity where there is none yet
    ids: Tensor  # (B, K, S + max_new)
    beams: Tensor  # (B, K, max_new), the row of the batch that each token was added to, or -1

    @classmethod
    def none_yet(cls, ids: Tensor, num_beams: int, max_new: int, pad: int) -> Hypotheses:
        """There are none yet for prompts of these ids, (B, S)."""
        ids = F.pad(ids, (0, max_new), value=pad)[:, None].repeat(1, num_beams, 1)
        return cls(
            torch.full(ids.shape[:2], -torch.inf, device=ids.device),
            ids,
            torch.full((*ids.shape[:2], max_new), -1, device=ids.device),
        )

    @property
    def full(self) -> Tensor:
        """Whether a text has K, (B,) bool."""
        return self.scores[:, -1] > -torch.inf

    def add(self, scores: Tensor, ids: Tensor, beams: Tensor, pad: int) -> None:
        """Keep the best of these (B, C) and those before; their ids are (B, C, S), their beams (B, C, n_new)."""
        ids = F.pad(ids, (0, self.ids.shape[2] - ids.shape[2]), value=pad)
        beams = F.pad(beams, (0, self.beams.shape[2] - beams.shape[2]), value=-1)
        self.scores, best = torch.cat([self.scores, scores], 1).topk(self.scores.shape[1])
        self.ids = torch.cat([self.ids, ids], 1).take_along_dim(best[..., None], 1)
        self.beams = torch.cat([self.beams, beams], 1).take_along_dim(best[..., None], 1)


def search_beams(decoding: Decoding, options: GenerationOptions, ends: Tensor, pad: int) -> GenerateOutput:
    """Continue the texts by beam search; in a step each beam is continued by its most probable tokens."""
    n_beams, width = options.num_beams, decoding.mask.shape[1]
    max_new, least = options.new_tokens(width), max(options.min_new_tokens, options.min_length - width)
    hypotheses = Hypotheses.none_yet(decoding.ids, n_beams, max_new, pad)
    running = torch.full_like(hypotheses.scores, -torch.inf)  # (B, K), log-probabilities of the beams
    running[:, 0] = 0  # all beams of a text are alike at first: only one counts
    history = hypotheses.beams.flatten(0, 1)[:, :0]  # (B * K, n_new)
    open_texts = hypotheses.scores[:, 0].isinf()  # (B,), those for which better hypotheses may come
    all_scores: list[Tensor] = []
    for n_new in range(1, max_new + 1):
        logits = decoding.read(n_beams) if n_new == 1 else decoding.logits()
        scores = process(logits.log_softmax(-1), decoding.ids, decoding.real, options, ends, n_new > least)
        if options.output_scores:
            all_scores.append(scores)
        scores = running[..., None] + scores.unflatten(0, (-1, n_beams))  # (B, K, V)
        candidates = Candidates.of_step(scores, options, len(ends))
        ids = torch.cat([decoding.ids[candidates.rows], candidates.tokens[..., None]], 2)  # (B, C, S)
        beams = torch.cat([history[candidates.rows], candidates.rows[..., None]], 2)  # (B, C, n_new)
        candidates.ended = torch.isin(candidates.tokens, ends) | (n_new == max_new)
        candidates.ended |= stopped(ids.flatten(0, 1), all_scores, options).view_as(candidates.ended)

        may_be_kept = candidates.ended & open_texts[:, None]
        may_be_kept[:, n_beams:] = False  # the others are there only so that K beams go on
        ended_scores = candidates.scores / n_new**options.length_penalty
        hypotheses.add(ended_scores.masked_fill(~may_be_kept, -torch.inf), ids, beams, pad)

        running, best = candidates.scores.masked_fill(candidates.ended, -torch.inf).topk(n_beams)
        rows = candidates.rows.gather(1, best).flatten()
        history = beams.take_along_dim(best[..., None], 1).flatten(0, 1)
        open_texts = open_texts & _may_improve(running[:, 0], hypotheses, options, n_new, max_new)
        if not open_texts.any():
            break
        decoding.take(rows)
        decoding.append(candidates.tokens.gather(1, best).flatten(), torch.ones_like(rows, dtype=torch.bool))
    return _best(hypotheses, all_scores, options)


def _may_improve(best: Tensor, hypotheses: Hypotheses, options: GenerationOptions, n_new: int, max_new: int) -> Tensor:
    """Return whether the best beam of each text, of log-probability (B,), may become a better hypothesis, (B,) bool.

    With `early_stopping=True`, not if there are K; otherwise if its score is better than the worst one. Its score is
    that at its length now, or with "never" the best that it can have at any length.
    """
    if options.early_stopping is True:
        best = best.masked_fill(hypotheses.full, -torch.inf)
    at_most = options.early_stopping == "never" and options.length_penalty > 0
    return best / (max_new if at_most else n_new) ** options.length_penalty > hypotheses.scores[:, -1]


def _best(hypotheses: Hypotheses, all_scores: list[Tensor], options: GenerationOptions) -> GenerateOutput:
    """Return the R best hypotheses of each text, without columns that are padding in all of them."""
    chosen = slice(options.num_return_sequences)
    beams = hypotheses.beams[:, chosen].flatten(0, 1)  # (B * R, max_new)
    n_new = int((beams >= 0).sum(1).max())
    sequences = hypotheses.ids[:, chosen].flatten(0, 1)
    return GenerateOutput(
        sequences[:, : sequences.shape[1] - beams.shape[1] + n_new],
        sequences_scores=hypotheses.scores[:, chosen].flatten() if options.output_scores else None,
        scores=tuple(all_scores) if options.output_scores else None,
        beam_indices=beams[:, :n_new],
    )
