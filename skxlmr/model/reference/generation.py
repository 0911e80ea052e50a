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
from skxlmr.model.reference.guidance import Guidance
from skxlmr.model.reference.outputs import GenerateOutput
from skxlmr.model.reference.sampling import draw
from skxlmr.model.reference.scoring import Scoring
from skxlmr.model.reference.stopping import after_seconds, at_strings, stopped
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
    options = _with_criteria(GenerationOptions() if options is None else options)
    pad = config.pad_token_id if options.pad_token_id is None else options.pad_token_id
    ends = end_ids(config.eos_token_id if options.eos_token_id is None else options.eos_token_id)
    mask = _mask(prompt, attention_mask, None if pad in ends.tolist() else pad)
    _check(config, prompt, mask.cpu(), options)
    end_words = [[end] for end in ends.tolist()]
    bad_words = [word for word in options.bad_words_ids or () if list(word) not in end_words]
    options = replace(options, bad_words_ids=bad_words)
    ends = upload_one(ends, prompt.device)
    decoding = Decoding(step, config, prompt, mask)
    guidance = _guidance(decoding, options, pad)
    if options.num_beams > 1:
        return search_beams(decoding, guidance, options, ends, pad)
    return _choose_tokens(decoding, guidance, options, ends, pad)


def _with_criteria(options: GenerationOptions) -> GenerationOptions:
    """Return options whose stopping criteria have the limit of time, which begins now, and the texts that stop."""
    criteria = list(options.criteria)
    if options.max_time is not None:
        criteria.append(after_seconds(options.max_time))
    if options.strings and options.tokenizer is not None:
        criteria.append(at_strings(options.strings, options.tokenizer))
    return replace(options, stopping_criteria=criteria)


def _mask(prompt: Tensor, given: Tensor | None, pad: int | None) -> Tensor:
    """Return which tokens of texts, or of their embeddings, are not padding, (B, S) bool."""
    if given is not None:
        return given.bool()
    if prompt.ndim == 3 or pad is None:
        return torch.ones(prompt.shape[:2], dtype=torch.bool, device=prompt.device)
    return prompt != pad


def _guidance(decoding: Decoding, options: GenerationOptions, pad: int) -> Guidance | None:
    """Return the guidance that the options request, by the negative prompts, or else by the last token of the texts."""
    if options.guidance_scale == 1:
        return None
    prompt, mask = decoding.inputs[:, -1:], decoding.mask[:, -1:]
    if options.negative_prompt_ids is not None:
        prompt = options.negative_prompt_ids.to(decoding.mask.device)
        given = options.negative_prompt_attention_mask
        if prompt.ndim != 2:
            raise ValueError(f"negative_prompt_ids must have shape (n_texts, n_tokens), got {tuple(prompt.shape)}.")
        mask = _mask(prompt, None if given is None else given.to(prompt.device), pad)
        _check_prompt(decoding.config, prompt, mask.cpu(), options, decoding.mask.shape[1], "negative_prompt_")
        if len(prompt) != len(decoding.mask):
            raise ValueError(
                f"negative_prompt_ids must have one for each of {len(decoding.mask)} texts, has {len(prompt)}."
            )
    other = Decoding(decoding.step, decoding.config, prompt, mask)
    return Guidance(options.guidance_scale, other, max(options.num_beams, options.num_return_sequences))


def _choose_tokens(
    decoding: Decoding, guidance: Guidance | None, options: GenerationOptions, ends: Tensor, pad: int
) -> GenerateOutput:
    """Take the most likely token in each step, or sample it, or choose it by contrastive search."""
    width = decoding.mask.shape[1]
    scoring = Scoring(options, ends, width)
    all_scores: list[Tensor] = []
    all_logits: list[Tensor] = []
    logits = decoding.read(options.num_return_sequences)
    contrastive = ContrastiveSearch(decoding, options, pad) if options.penalty_alpha else None
    running = torch.ones(len(logits), dtype=torch.bool, device=logits.device)  # (B * num_return_sequences,)
    if options.streamer is not None:
        options.streamer.put(decoding.ids.cpu())
    for n_new in range(options.new_tokens(width)):
        if n_new and contrastive is None:
            logits = decoding.logits()
        if options.output_logits:
            all_logits.append(logits)
        scores = logits if guidance is None else guidance.guided(logits)
        scores = scoring(scores, decoding.ids, decoding.real, n_new)
        if options.output_scores:
            all_scores.append(scores)
        if contrastive is not None:
            tokens, logits = contrastive.append(scores, running)
        else:
            tokens = torch.where(running, _next_tokens(scores, options), pad)
            decoding.append(tokens, running)
        if guidance is not None:
            guidance.append(tokens, running)
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
        scores=tuple(all_scores) or None,
        logits=tuple(all_logits) or None,
        attentions=tuple(decoding.attentions[read]) or None,
        hidden_states=tuple(decoding.hidden_states[read]) or None,
    )


def _next_tokens(scores: Tensor, options: GenerationOptions) -> Tensor:
    """Return the most likely token of each text, or a sampled one; (B, V) -> (B,)."""
    if options.do_sample:
        return draw(scores.softmax(-1), options.generator)
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
    if prompt.ndim not in (2, 3):
        raise ValueError(f"input_ids must have shape (n_texts, n_tokens), got {tuple(prompt.shape)}.")
    for name, words in (
        ("bad_words_ids", options.bad_words_ids or ()),
        ("sequence_bias", options.biases),
        ("suppress_tokens", [options.suppress_tokens or [0]]),
        ("begin_suppress_tokens", [options.begin_suppress_tokens or [0]]),
        ("forced_bos_token_id", [[options.forced_bos_token_id or 0]]),
        ("forced_eos_token_id", [options.forced_ends or [0]]),
    ):
        for word in words:
            if max(word) >= config.vocab_size:
                raise ValueError(f"{name} has {list(word)!r:.60}, but ids are below {config.vocab_size}.")
    if prompt.ndim == 3:
        for name, off in (("encoder_repetition_penalty", 1), ("encoder_no_repeat_ngram_size", 0)):
            if getattr(options, name) != off:
                raise ValueError(f"{name} needs the ids of the texts: give input_ids in place of inputs_embeds.")
    if options.n_generators not in (None, len(prompt)):
        raise ValueError(
            f"generator has {options.n_generators} for {len(prompt)} texts: give one for each, or a single one."
        )
    _check_prompt(config, prompt, mask, options, mask.shape[1])
    options.check_least(mask.shape[1])


def _check_prompt(
    config: XLMRobertaXLConfig,
    prompt: Tensor,
    mask: Tensor,
    options: GenerationOptions,
    width: int,
    prefix: str = "",
) -> None:
    """Raise ValueError if a prompt has another shape than its mask, ends in padding, or is too long.

    The texts to continue are `width` long; `prefix` is that of other prompts' arguments.
    """
    ids = prefix + ("ids" if prefix else "input_ids")
    if mask.shape != prompt.shape[:2]:
        raise ValueError(f"{prefix}attention_mask must have shape {tuple(prompt.shape[:2])}, got {tuple(mask.shape)}.")
    if not mask.shape[1]:
        raise ValueError(f"{ids} have no tokens: start texts with that of <s>.")
    if not mask[:, -1].all():
        row = int((~mask[:, -1]).nonzero()[0])
        where = f"Row {row} of {ids}" if prefix else f"Row {row}"
        raise ValueError(f"{where} ends in padding; pad texts on the left to continue them.")
    longest, new = int(mask.sum(1).max()), options.new_tokens(width)
    if longest + new - (not options.penalty_alpha) > config.max_length:  # contrastive search reads the last one, too
        raise ValueError(
            f"{longest} tokens and {new} new ones are too many for {config.max_length} positions: lower "
            f"{'max_length' if options.max_length else 'max_new_tokens'} or shorten the texts."
        )
