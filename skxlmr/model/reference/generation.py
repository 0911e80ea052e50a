"""Decoding: continue texts token by token."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from skxlmr.model.config import XLMRobertaXLConfig

# Keys and values of each layer for the tokens so far.
Past = Sequence[tuple[Tensor, ...]]

# Takes the new ids (B, S), the mask of all tokens so far (B, P + S), the positions of the new ones (B, S) and the past;
# gives the logits after the last one (B, V) and the past that includes them, or None for it to compute all again.
Step = Callable[[Tensor, Tensor, Tensor, Past | None], tuple[Tensor, Past | None]]


@torch.no_grad()
def generate(
    step: Step,
    config: XLMRobertaXLConfig,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    max_new_tokens: int = 20,
    do_sample: bool = False,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    eos_token_id: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Continue the texts of a batch, greedily or by sampling.

    Parameters
    ----------
    step : callable
        Runs the decoder; see `Step`.
    config : XLMRobertaXLConfig
        With `is_decoder`.
    input_ids : Tensor of shape (B, S), int64
        Texts of unequal length are padded on the left.
    attention_mask : Tensor of shape (B, S), default=None
        One at real tokens; None takes everything that is no pad.
    max_new_tokens : int, default=20
    do_sample : bool, default=False
        Draw each token by its probability instead of taking the likeliest.
    temperature : float, default=1.0
        Divides the logits before sampling; below 1 it favours the likely ones.
    top_k : int, default=None
        Sample among so many likeliest tokens.
    top_p : float, default=None
        Sample among the fewest likeliest tokens that together have this probability (Holtzman et al., 2020).
    eos_token_id : int, default=None
        A text ends with it; None takes the config's. Pads follow where other texts go on.
    generator : torch.Generator, default=None
        Of the sampling.

    Returns
    -------
    Tensor of shape (B, S + n), int64
        The texts and up to `max_new_tokens` tokens more.

    Raises
    ------
    ValueError
        If the model is no decoder, texts are padded on the right, there would be more tokens than positions, or a
        parameter of the sampling makes no sense.
    """
    mask = (input_ids != config.pad_token_id) if attention_mask is None else attention_mask.bool()
    _check(config, mask, max_new_tokens, temperature, top_k, top_p)
    eos = config.eos_token_id if eos_token_id is None else eos_token_id
    running = torch.ones(len(input_ids), dtype=torch.bool, device=input_ids.device)
    past, inputs = None, input_ids
    for _ in range(max_new_tokens):
        positions = torch.where(mask, mask.cumsum(1) + config.first_position - 1, config.pad_token_id)
        positions = positions[:, -inputs.shape[1] :]
        logits, past = step(inputs, mask.long(), positions, past)
        logits = only_real_tokens(logits, config.real_vocab_size)
        if do_sample:
            probabilities = keep_likeliest(logits.float() / temperature, top_k, top_p).softmax(-1)
            tokens = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
        else:
            tokens = logits.argmax(-1)
        tokens = torch.where(running, tokens, config.pad_token_id)
        input_ids = torch.cat([input_ids, tokens[:, None]], 1)
        mask = torch.cat([mask, running[:, None]], 1)
        running = running & (tokens != eos)
        if not running.any():
            break
        inputs = input_ids if past is None else tokens[:, None]
    return input_ids


def only_real_tokens(logits: Tensor, vocab_size: int) -> Tensor:
    """Rule out the ids that stand for nothing: rows of the embedding past the vocabulary; (..., V) -> (..., V)."""
    unreal = torch.arange(logits.shape[-1], device=logits.device) >= vocab_size
    return logits.masked_fill(unreal, -torch.inf)


def keep_likeliest(logits: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """Rule out all but the likeliest tokens, at least one; (B, V) -> (B, V)."""
    if top_k is not None:
        least = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if top_p is not None:
        ordered, order = logits.sort(descending=True)
        probabilities = ordered.softmax(-1)
        unlikely = probabilities.cumsum(-1) - probabilities >= top_p  # the likelier ones already have that much
        logits = logits.masked_fill(unlikely.scatter(1, order, unlikely), -torch.inf)
    return logits


def _check(
    config: XLMRobertaXLConfig,
    mask: Tensor,
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
) -> None:
    if not config.is_decoder:
        raise ValueError("Only a decoder can generate: load the model with is_decoder=True in its config.")
    if not mask[:, -1].all():
        row = int((~mask[:, -1]).nonzero()[0])
        raise ValueError(f"Row {row} ends in padding; pad texts on the left to continue them.")
    longest = int(mask.sum(1).max())
    if longest + max_new_tokens - 1 > config.max_length:
        raise ValueError(
            f"{longest} tokens and {max_new_tokens} new ones are too many for {config.max_length} positions: "
            f"lower max_new_tokens or shorten the texts."
        )
    if max_new_tokens < 1 or not temperature > 0 or (top_k is not None and top_k < 1):
        raise ValueError("max_new_tokens, temperature and top_k must be positive.")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1], got {top_p}.")
