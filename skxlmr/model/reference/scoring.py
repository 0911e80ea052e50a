"""All that changes the scores of the next token before it is chosen, in the order of the reference.

Notation: B texts, S their tokens so far, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from skxlmr.model.reference import logits_processors as apply
from skxlmr.model.reference import sampling
from skxlmr.model.reference.generation_options import GenerationOptions
from skxlmr.model.transfer import upload_one


class Scoring:
    """Applies what the options request.

    Parameters
    ----------
    options : GenerationOptions
    ends : Tensor of shape (n,), int64
        Ids that end a text.
    width : int
        Length of the prompts, padding included.
    """

    def __init__(self, options: GenerationOptions, ends: Tensor, width: int) -> None:
        self.options, self.ends = options, ends
        self.max_new = options.new_tokens(width)
        self.least_new = options.least_new_tokens(width)
        # Beams go on with tokens that do not end: sampling keeps one more than could.
        self.at_least = 1 if options.num_beams == 1 else max(2, len(ends) + 1)
        self.biases = apply.Biases(options.biases, ends.device)
        banned = {tuple(word): -torch.inf for word in options.bad_words_ids or ()}
        self.bad_words = apply.Biases(banned, ends.device)
        self.forces_first = width == 1 and options.forced_bos_token_id is not None
        first = [] if options.forced_bos_token_id is None else [options.forced_bos_token_id]
        self.first, self.last, self.suppressed, self.suppressed_first = (
            upload_one(torch.tensor(list(tokens or ()), dtype=torch.int64, device="cpu"), ends.device)
            for tokens in (first, options.forced_ends, options.suppress_tokens, options.begin_suppress_tokens)
        )

    def __call__(self, scores: Tensor, ids: Tensor, real: Tensor, n_new: int) -> Tensor:
        """Return the changed scores.

        Parameters
        ----------
        scores : Tensor of shape (B, V)
            Logits or log-probabilities.
        ids : Tensor of shape (B, S), int64
        real : Tensor of shape (B, S), bool
            False at padding.
        n_new : int
            Number of new tokens so far.

        Returns
        -------
        Tensor of shape (B, V)
        """
        if self.options.remove_invalid_values:
            scores = apply.without_nan(scores)
        scores = self._penalised(scores, ids, real, n_new)
        scores = self._restricted(scores, ids, n_new)
        for processor in self.options.processors:
            scores = processor(ids, scores)
        if self.options.do_sample:
            scores = self._filtered(scores)
        return scores.log_softmax(-1) if self.options.renormalize_logits else scores

    def _penalised(self, scores: Tensor, ids: Tensor, real: Tensor, n_new: int) -> Tensor:
        """Apply biases, and what depends on the tokens so far."""
        options, n_known = self.options, ids.shape[1] - n_new
        known, known_real = ids[:, :n_known], real[:, :n_known]  # the prompts
        if options.sequence_bias:
            scores = self.biases.add(scores, ids)
        if options.encoder_repetition_penalty != 1:
            scores = apply.penalise_repetition(scores, known, known_real, 1 / options.encoder_repetition_penalty)
        if options.repetition_penalty != 1:
            scores = apply.penalise_repetition(scores, ids, real, options.repetition_penalty)
        if options.no_repeat_ngram_size:
            scores = apply.ban_ngrams(scores, ids, ids, real, options.no_repeat_ngram_size)
        if options.encoder_no_repeat_ngram_size:
            scores = apply.ban_ngrams(scores, ids, known, known_real, options.encoder_no_repeat_ngram_size)
        return scores

    def _restricted(self, scores: Tensor, ids: Tensor, n_new: int) -> Tensor:
        """Apply what bans tokens or forces them, and favours the end of long texts."""
        options = self.options
        if options.bad_words_ids:
            scores = self.bad_words.add(scores, ids)
        if n_new < self.least_new:
            scores = apply.ban(scores, self.ends)
        if options.prefix_allowed_tokens_fn is not None:
            rows_per_text = options.num_beams // options.num_beam_groups
            scores = apply.keep_allowed(scores, ids, options.prefix_allowed_tokens_fn, rows_per_text)
        if self.forces_first and n_new == 0:
            scores = apply.force(scores, self.first)
        if len(self.last) and n_new == self.max_new - 1:
            scores = apply.force(scores, self.last)
        if options.exponential_decay_length_penalty is not None:
            start, factor = options.exponential_decay_length_penalty
            if n_new > start:
                scores = apply.favour(scores, self.ends, factor ** (n_new - start))
        if len(self.suppressed):
            scores = apply.ban(scores, self.suppressed)
        if len(self.suppressed_first) and n_new == int(self.forces_first):  # after the token that is forced
            scores = apply.ban(scores, self.suppressed_first)
        return scores

    def _filtered(self, scores: Tensor) -> Tensor:
        """Leave out what is not sampled."""
        options, at_least = self.options, self.at_least
        scores = scores / options.temperature
        if options.top_h is not None:
            scores = sampling.keep_share_of_entropy(scores, options.top_h)
        scores = sampling.keep_likeliest(scores, options.top_k, options.top_p, at_least)
        if options.min_p:
            scores = sampling.keep_above(scores, options.min_p, at_least)
        if options.typical_p is not None and options.typical_p < 1:
            scores = sampling.keep_typical(scores, options.typical_p, at_least)
        if options.epsilon_cutoff:
            scores = sampling.keep_probable(scores, options.epsilon_cutoff, at_least)
        if options.eta_cutoff:
            scores = sampling.keep_above_eta(scores, options.eta_cutoff, at_least)
        return scores
