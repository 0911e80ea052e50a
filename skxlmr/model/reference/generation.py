"""Text generation, token by token: the most likely next token, sampling, beam search, and contrastive search.

Notation: B texts, S tokens of each, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from skxlmr.model.config import XLMRobertaXLConfig
from skxlmr.model.reference.beam_search import search_beams
from skxlmr.model.reference.contrastive_search import ContrastiveSearch
from skxlmr.model.reference.decoding import Decoding, Step
from skxlmr.model.reference.generation_options import GenerationOptions
from skxlmr.model.reference.logits_processors import process
from skxlmr.model.reference.outputs import GenerateOutput
from skxlmr.model.reference.stopping import after_seconds, stopped
from skxlmr.model.transfer import upload_one


@torch.no_grad()
def generate(
    step: Step,
    config: XLMRobertaXLConfig,
    prompt: Tensor,
    attention_mask: Tensor | None = None,
    options: GenerationOptions | None = None,
) -> GenerateOutput:
    """Continue the texts of a batch with a decoder that is run by `step`; see `XLMRobertaXLForCausalLM.generate`.

    The prompt is ids, (B, S), or embeddings, (B, S, H).
    """
    options = GenerationOptions() if options is None else options
    if options.max_time is not None:
        options = replace(options, stopping_criteria=[*options.criteria, after_seconds(options.max_time)])
    pad = config.pad_token_id if options.pad_token_id is None else options.pad_token_id
    ends = end_ids(config.eos_token_id if options.eos_token_id is None else options.eos_token_id)
    if attention_mask is not None:
        mask = attention_mask.bool()
    elif prompt.ndim == 3 or pad in ends.tolist():
        mask = torch.ones(prompt.shape[:2], dtype=torch.bool, device=prompt.device)
    else:
        mask = prompt != pad
    _check(config, prompt, mask.cpu(), options)
    ends = upload_one(ends, prompt.device)
    decoding = Decoding(step, config, prompt, mask)
    if options.num_beams > 1:
        return search_beams(decoding, options, ends, pad)
    return _choose_tokens(decoding, options, ends, pad)


def _choose_tokens(decoding: Decoding, options: GenerationOptions, ends: Tensor, pad: int) -> GenerateOutput:
    """Take the most likely token in each step, or sample it, or choose it by contrastive search."""
    width = decoding.mask.shape[1]
    least = max(options.min_new_tokens, options.min_length - width)
    all_scores: list[Tensor] = []
    logits = decoding.read(options.num_return_sequences)
    contrastive = ContrastiveSearch(decoding, options, pad) if options.penalty_alpha else None
    running = torch.ones(len(logits), dtype=torch.bool, device=logits.device)  # (B * num_return_sequences,)
    if options.streamer is not None:
        options.streamer.put(decoding.ids.cpu())
    for n_new in range(options.new_tokens(width)):
        if n_new and contrastive is None:
            logits = decoding.logits()
        scores = process(
            logits, decoding.ids, decoding.real, options, ends, may_end=n_new >= least, is_first=n_new == 0
        )
        if options.output_scores:
            all_scores.append(scores)
        if contrastive is not None:
            tokens, logits = contrastive.append(scores, running)
        else:
            tokens = torch.where(running, _next_tokens(scores, options), pad)
            decoding.append(tokens, running)
        if options.streamer is not None:
            options.streamer.put(tokens.cpu())
        running = running & ~torch.isin(tokens, ends) & ~stopped(decoding.ids, all_scores, options)
        if not running.any():
            break
    if options.streamer is not None:
        options.streamer.end()
    read = slice(n_new + 1)  # without the candidates of a token after the last
    return GenerateOutput(
        decoding.ids,
        scores=tuple(all_scores) if options.output_scores else None,
        attentions=tuple(decoding.attentions[read]) or None,
        hidden_states=tuple(decoding.hidden_states[read]) or None,
    )


def _next_tokens(scores: Tensor, options: GenerationOptions) -> Tensor:
    """Return the most likely token of each text, or a sampled one; (B, V) -> (B,)."""
    if options.do_sample:
        return torch.multinomial(scores.softmax(-1), 1, generator=options.generator)[:, 0]
    return scores.argmax(-1)


def end_ids(eos_token_id: int | Sequence[int] | None) -> Tensor:
    """Return the ids that end a text, (n,); raise ValueError if they are not integers."""
    ids = list(eos_token_id) if isinstance(eos_token_id, list | tuple) else [eos_token_id]
    if ids == [None]:
        return torch.empty(0, dtype=torch.int64)
    if not all(isinstance(index, int) and not isinstance(index, bool) for index in ids):
        raise ValueError(f"eos_token_id must be an integer, a list of integers or None, got {eos_token_id!r}.")
    return torch.tensor(ids, dtype=torch.int64)


def _check(config: XLMRobertaXLConfig, prompt: Tensor, mask: Tensor, options: GenerationOptions) -> None:
    """Raise ValueError if a prompt of this mask, which is on the host, cannot be continued."""
    if not config.is_decoder:
        raise ValueError("Only a decoder can generate: load the model with is_decoder=True in its config.")
    if mask.shape != prompt.shape[:2]:
        raise ValueError(f"attention_mask must have shape {tuple(prompt.shape[:2])}, got {tuple(mask.shape)}.")
    if not mask.shape[1]:
        raise ValueError("input_ids have no tokens: start texts with that of <s>.")
    if not mask[:, -1].all():
        row = int((~mask[:, -1]).nonzero()[0])
        raise ValueError(f"Row {row} ends in padding; pad texts on the left to continue them.")
    for name, words in (
        ("bad_words_ids", options.bad_words_ids or ()),
        ("suppress_tokens", [options.suppress_tokens or [0]]),
        ("begin_suppress_tokens", [options.begin_suppress_tokens or [0]]),
    ):
        for word in words:
            if max(word) >= config.vocab_size:
                raise ValueError(f"{name} has {list(word)!r:.60}, but ids are below {config.vocab_size}.")
    longest, new = int(mask.sum(1).max()), options.new_tokens(mask.shape[1])
    options.check_least(mask.shape[1])
    if longest + new - (not options.penalty_alpha) > config.max_length:  # contrastive search reads the last one, too
        raise ValueError(
            f"{longest} tokens and {new} new ones are too many for {config.max_length} positions: lower "
            f"{'max_length' if options.max_length else 'max_new_tokens'} or shorten the texts."
        )
