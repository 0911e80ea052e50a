"""Text generation, token by token.

Notation: B texts, S tokens of each, P past tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from skxlmr.model.config import XLMRobertaXLConfig

# Keys and values of each layer for the past tokens.
Past = Sequence[tuple[Tensor, ...]]

# Takes the new ids (B, S), the mask of all tokens (B, P + S), the position ids of the new ones (B, S) and the past.
# Returns the logits after the last token (B, V) and the new past, or None if the next step takes all ids again.
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
    eos_token_id: int | Sequence[int] | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Continue the texts of a batch with a decoder that is run by `step`; see `XLMRobertaXLForCausalLM.generate`."""
    mask = (input_ids != config.pad_token_id) if attention_mask is None else attention_mask.bool()
    _check(config, mask, max_new_tokens, temperature, top_k, top_p)
    ends = _end_ids(config.eos_token_id if eos_token_id is None else eos_token_id).to(input_ids.device)
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
        running = running & ~torch.isin(tokens, ends)
        if not running.any():
            break
        inputs = input_ids if past is None else tokens[:, None]
    return input_ids


def _end_ids(eos_token_id: int | Sequence[int] | None) -> Tensor:
    """Return the ids that end a text, (n,); raise ValueError if they are not integers."""
    ids = list(eos_token_id) if isinstance(eos_token_id, list | tuple) else [eos_token_id]
    if ids == [None]:
        return torch.empty(0, dtype=torch.int64)
    if not all(isinstance(index, int) and not isinstance(index, bool) for index in ids):
        raise ValueError(f"eos_token_id must be an integer, a list of integers or None, got {eos_token_id!r}.")
    return torch.tensor(ids, dtype=torch.int64)


def only_real_tokens(logits: Tensor, vocab_size: int) -> Tensor:
    """Set the logits of ids without a token, from `vocab_size` on, to minus infinity; (..., V) -> (..., V)."""
    unreal = torch.arange(logits.shape[-1], device=logits.device) >= vocab_size
    return logits.masked_fill(unreal, -torch.inf)


def keep_likeliest(logits: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """Set the logits of all but the most likely tokens, at least one, to minus infinity; (B, V) -> (B, V)."""
    if top_k is not None:
        least = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if top_p is not None:
        ordered, order = logits.sort(descending=True)
        probabilities = ordered.softmax(-1)
        unlikely = probabilities.cumsum(-1) - probabilities >= top_p  # more likely ones have that much already
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
