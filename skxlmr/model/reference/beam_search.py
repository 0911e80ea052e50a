"""Beam search: the most probable continuations as a whole, or those of groups of beams that differ.

Notation: B texts, G groups of beams of each, K beams of a group, C candidates of a group in a step, R sequences of each
text that are returned, S tokens so far, V vocabulary. The batch has B * G * K rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from skxlmr.model.reference.decoding import Decoding
from skxlmr.model.reference.generation_options import GenerationOptions
from skxlmr.model.reference.guidance import Guidance
from skxlmr.model.reference.outputs import GenerateOutput
from skxlmr.model.reference.sampling import exponential_noise
from skxlmr.model.reference.scoring import Scoring
from skxlmr.model.reference.stopping import stopped


@dataclass
class Candidates:
    """The most probable ways to go on with the beams of a group by one token."""

    scores: Tensor  # (B, C), log-probabilities of all new tokens together, less the penalties
    rows: Tensor  # (B, C), the beam that each continues, a row of the batch
    tokens: Tensor  # (B, C)
    ids: Tensor  # (B, C, S), with the new token
    beams: Tensor  # (B, C, n_new), the row of the batch that each new token was added to
    ended: Tensor  # (B, C) bool


@dataclass
class Hypotheses:
    """The best ended continuations of each text, best first."""

    scores: Tensor  # (B, K), divided by the length penalty; minus infinity where there is none yet
    ids: Tensor  # (B, K, S + max_new)
    beams: Tensor  # (B, K, max_new), the row of the batch that each token was added to, or -1

    @classmethod
    def none_yet(cls, ids: Tensor, n_beams: int, max_new: int, pad: int) -> Hypotheses:
        """There are none yet for prompts of these ids, (B, S)."""
        ids = F.pad(ids, (0, max_new), value=pad)[:, None].repeat(1, n_beams, 1)
        return cls(
            torch.full(ids.shape[:2], -torch.inf, device=ids.device),
            ids,
            torch.full((*ids.shape[:2], max_new), -1, device=ids.device),
        )

    @classmethod
    def joined(cls, groups: list[Hypotheses]) -> Hypotheses:
        """Those of several groups of beams."""
        scores, best = torch.cat([group.scores for group in groups], 1).sort(dim=1, descending=True, stable=True)
        ids, beams = (torch.cat([getattr(group, name) for group in groups], 1) for name in ("ids", "beams"))
        return cls(scores, ids.take_along_dim(best[..., None], 1), beams.take_along_dim(best[..., None], 1))

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


@dataclass
class Group:
    """The beams of each text that are searched together."""

    rows: Tensor  # (B, K), their rows of the batch
    running: Tensor  # (B, K), log-probabilities of the beams
    hypotheses: Hypotheses
    open_texts: Tensor  # (B,) bool, those for which better hypotheses may come

    @classmethod
    def all_of(cls, ids: Tensor, options: GenerationOptions, max_new: int, pad: int) -> list[Group]:
        """Return the G groups for prompts of these ids, (B, S)."""
        rows = torch.arange(len(ids) * options.num_beams, device=ids.device).view(len(ids), options.num_beam_groups, -1)
        groups = []
        for of_group in rows.unbind(1):
            hypotheses = Hypotheses.none_yet(ids, of_group.shape[1], max_new, pad)
            running = torch.full_like(hypotheses.scores, -torch.inf)
            running[:, 0] = 0  # all beams of a text are alike at first: only one counts
            groups.append(cls(of_group, running, hypotheses, hypotheses.scores[:, 0].isinf()))
        return groups

    def candidates(
        self, scores: Tensor, ids: Tensor, beams: Tensor, options: GenerationOptions, ends: Tensor
    ) -> Candidates:
        """Choose candidates by the scores of the next token, (B * K, V); enough that K of them do not end.

        `ids` (B * G * K, S) and `beams` (B * G * K, n_new) are those of the whole batch.
        """
        n_beams, size = self.rows.shape[1], scores.shape[1]
        flat = (self.running[..., None] + scores.unflatten(0, (-1, n_beams))).flatten(1)  # (B, K * V)
        n_candidates = min(max(2, len(ends) + 1) * n_beams, flat.shape[1])
        if options.do_sample:  # the highest with Gumbel noise are samples without replacement (arXiv:1903.06059)
            chosen = (flat - exponential_noise(flat, options.generator).log()).topk(n_candidates)
        else:
            chosen = flat.topk(n_candidates)
        rows, tokens = self.rows.gather(1, chosen.indices // size), chosen.indices % size
        return Candidates(
            flat.gather(1, chosen.indices),
            rows,
            tokens,
            ids=torch.cat([ids[rows], tokens[..., None]], 2),
            beams=torch.cat([beams[rows], rows[..., None]], 2),
            ended=torch.isin(tokens, ends),
        )

    def counts(self, candidates: Candidates, size: int) -> Tensor:
        """Count the beams that choose each token of a vocabulary of this size, (B, V), other than to end a text."""
        best = candidates.scores.masked_fill(candidates.ended, -torch.inf).topk(self.rows.shape[1])
        choose = self.open_texts[:, None] & (best.values > -torch.inf)  # (B, K)
        tokens = candidates.tokens.gather(1, best.indices)
        return torch.zeros(len(tokens), size, device=tokens.device).scatter_add(1, tokens, choose.float())

    def advance(self, candidates: Candidates, options: GenerationOptions, max_new: int, pad: int) -> Tensor:
        """Keep the best candidates that ended, and go on with the best others; returns the indices of these, (B, K)."""
        n_new, n_beams = candidates.beams.shape[2], self.rows.shape[1]
        may_be_kept = candidates.ended & self.open_texts[:, None]
        may_be_kept[:, n_beams:] = False  # the others are there only so that K beams go on
        ended_scores = candidates.scores / n_new**options.length_penalty
        ended_scores = ended_scores.masked_fill(~may_be_kept, -torch.inf)
        self.hypotheses.add(ended_scores, candidates.ids, candidates.beams, pad)

        self.running, best = candidates.scores.masked_fill(candidates.ended, -torch.inf).topk(n_beams)
        self.open_texts = self.open_texts & _may_improve(self.running[:, 0], self.hypotheses, options, n_new, max_new)
        return best


def search_beams(
    decoding: Decoding, guidance: Guidance | None, options: GenerationOptions, ends: Tensor, pad: int
) -> GenerateOutput:
    """Continue the texts by beam search; in a step each beam is continued by its most probable tokens.

    The groups of a text take turns in each step, and the tokens that earlier ones chose are penalised for later ones:
    Vijayakumar et al., arXiv:1610.02424, with Hamming diversity. A group that has ended chooses none.
    """
    width = decoding.mask.shape[1]
    max_new, scoring = options.new_tokens(width), Scoring(options, ends, width)
    groups = Group.all_of(decoding.ids, options, max_new, pad)
    beams = decoding.ids.new_empty(len(decoding.mask) * options.num_beams, 0)  # (B * G * K, n_new)
    all_scores: list[Tensor] = []
    all_logits: list[Tensor] = []
    for n_new in range(1, max_new + 1):
        logits = decoding.read(options.num_beams) if n_new == 1 else decoding.logits()
        if options.output_logits:
            all_logits.append(logits)
        scores = logits.log_softmax(-1) if guidance is None else guidance.guided(logits)  # (B * G * K, V)
        if options.output_scores:
            all_scores.append(scores)
        penalties = scores.new_zeros(len(groups[0].rows), scores.shape[1])  # (B, V)
        taken: list[tuple[Tensor, Tensor]] = []  # rows and tokens of each group, (B, K)
        for group in groups:
            rows = group.rows.flatten()
            of_group = scores[rows] - penalties.repeat_interleave(group.rows.shape[1], 0)  # (B * K, V)
            scores[rows] = scoring(of_group, decoding.ids[rows], decoding.real[rows], n_new - 1)
            candidates = group.candidates(scores[rows], decoding.ids, beams, options, ends)
            penalties += options.diversity_penalty * group.counts(candidates, scores.shape[1])
            candidates.ended |= n_new == max_new
            candidates.ended |= stopped(candidates.ids.flatten(0, 1), all_scores, options).view_as(candidates.ended)
            best = group.advance(candidates, options, max_new, pad)
            taken.append((candidates.rows.gather(1, best), candidates.tokens.gather(1, best)))
        if not torch.stack([group.open_texts for group in groups]).any():  # the host waits once
            break
        rows, tokens = (torch.stack(of_groups, 1).flatten() for of_groups in zip(*taken, strict=True))
        beams = torch.cat([beams[rows], rows[:, None]], 1)
        decoding.take(rows)
        every = torch.ones_like(rows, dtype=torch.bool)
        decoding.append(tokens, every)
        if guidance is not None:
            guidance.append(tokens, every, rows)
    hypotheses = Hypotheses.joined([group.hypotheses for group in groups])
    return _best(hypotheses, all_scores, all_logits, options, decoding)


def _may_improve(best: Tensor, hypotheses: Hypotheses, options: GenerationOptions, n_new: int, max_new: int) -> Tensor:
    """Return whether the best beam of each text, of log-probability (B,), may become a better hypothesis, (B,) bool.

    With `early_stopping=True`, not if there are K; otherwise if its score is better than the worst one. Its score is
    that at its length now, or with "never" the best that it can have at any length.
    """
    if options.early_stopping is True:
        best = best.masked_fill(hypotheses.full, -torch.inf)
    at_most = options.early_stopping == "never" and options.length_penalty > 0
    return best / (max_new if at_most else n_new) ** options.length_penalty > hypotheses.scores[:, -1]


def _best(
    hypotheses: Hypotheses,
    all_scores: list[Tensor],
    all_logits: list[Tensor],
    options: GenerationOptions,
    decoding: Decoding,
) -> GenerateOutput:
    """Return the R best hypotheses of each text, without columns that are padding in all of them."""
    chosen = slice(options.num_return_sequences)
    beams = hypotheses.beams[:, chosen].flatten(0, 1)  # (B * R, max_new)
    n_new = int((beams >= 0).sum(1).max())
    sequences = hypotheses.ids[:, chosen].flatten(0, 1)
    return GenerateOutput(
        sequences[:, : sequences.shape[1] - beams.shape[1] + n_new],
        sequences_scores=hypotheses.scores[:, chosen].flatten() if options.output_scores else None,
        scores=tuple(all_scores) or None,
        logits=tuple(all_logits) or None,
        beam_indices=beams[:, :n_new],
        attentions=tuple(decoding.attentions) or None,
        hidden_states=tuple(decoding.hidden_states) or None,
    )
