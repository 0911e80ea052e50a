"""Checks of the options of `generate`: of each value, and of those that do not fit together."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from skxlmr.model.generation_config import OUTPUTS, as_pairs
from skxlmr.system.integers import check_integer

if TYPE_CHECKING:
    from skxlmr.model.reference.generation_options import GenerationOptions

# Least values of the integers. Those that may be None are not checked then.
INTEGERS = {
    "max_length": 1, "max_new_tokens": 1, "min_length": 0, "min_new_tokens": 0, "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0, "num_beams": 1, "num_beam_groups": 1, "num_return_sequences": 1, "top_k": 0,
    "pad_token_id": 0, "forced_bos_token_id": 0,
}  # fmt: skip
OPTIONAL = frozenset(
    """max_length max_new_tokens top_k pad_token_id forced_bos_token_id top_p min_p top_h typical_p max_time""".split()
)
# Ranges of the numbers, and what they are called.
NUMBERS: dict[str, tuple[str, Callable[[float], bool]]] = {
    "temperature": ("above 0", lambda x: x > 0),
    "repetition_penalty": ("above 0", lambda x: x > 0),
    "encoder_repetition_penalty": ("above 0", lambda x: x > 0),
    "length_penalty": ("a number", lambda x: True),
    "guidance_scale": ("a number", lambda x: True),
    "diversity_penalty": ("at least 0", lambda x: x >= 0),
    "penalty_alpha": ("in [0, 1]", lambda x: 0 <= x <= 1),
    "top_p": ("in (0, 1]", lambda x: 0 < x <= 1),
    "top_h": ("in (0, 1]", lambda x: 0 < x <= 1),
    "typical_p": ("in (0, 1]", lambda x: 0 < x <= 1),
    "min_p": ("in [0, 1]", lambda x: 0 <= x <= 1),
    "epsilon_cutoff": ("in [0, 1)", lambda x: 0 <= x < 1),
    "eta_cutoff": ("in [0, 1)", lambda x: 0 <= x < 1),
    "max_time": ("above 0", lambda x: x > 0),
}
SWITCHES = ("do_sample", "remove_invalid_values", "renormalize_logits", "return_dict_in_generate", *OUTPUTS)
# Arguments of sampling, and their values that change nothing.
SAMPLING: dict[str, tuple] = {
    "temperature": (1.0,), "top_k": (None, 0), "top_p": (None, 1.0), "min_p": (None, 0.0), "top_h": (None,),
    "typical_p": (None, 1.0), "epsilon_cutoff": (0.0,), "eta_cutoff": (0.0,),
}  # fmt: skip


def check_values(options: GenerationOptions) -> None:
    """Raise TypeError or ValueError if a value is not of its type, or out of its range."""
    for name, least in INTEGERS.items():
        if (value := getattr(options, name)) is not None or name not in OPTIONAL:
            check_integer(name, value, least)
    for name, (range_, is_valid) in NUMBERS.items():
        if (value := getattr(options, name)) is not None or name not in OPTIONAL:
            _check_number(name, value)
            if not is_valid(float(value)):
                raise ValueError(f"{name} must be {range_}, got {value}.")
    for name in SWITCHES:
        if getattr(options, name) not in (True, False):
            raise TypeError(f"{name} must be True or False, got {getattr(options, name)!r:.60}.")
    if not (options.prefix_allowed_tokens_fn is None or callable(options.prefix_allowed_tokens_fn)):
        raise TypeError(f"prefix_allowed_tokens_fn must be a function, got {options.prefix_allowed_tokens_fn!r:.60}.")
    if not (isinstance(options.early_stopping, bool) or options.early_stopping == "never"):
        raise ValueError(f'early_stopping must be True, False or "never", got {options.early_stopping!r}.')
    _check_ids(options)
    _check_biases(options.sequence_bias)
    _check_decay(options.exponential_decay_length_penalty)
    _check_strings(options)
    _check_generators(options.generator)
    for name in ("negative_prompt_ids", "negative_prompt_attention_mask"):
        if not (getattr(options, name) is None or isinstance(getattr(options, name), Tensor)):
            raise TypeError(f"{name} must be a tensor, got {getattr(options, name)!r:.60}.")


def _check_number(name: str, value: Any) -> None:
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {value!r:.60}.")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}.")


def _are_ids(values: Any) -> bool:
    return isinstance(values, list | tuple) and all(
        isinstance(i, Integral) and not isinstance(i, bool) and int(i) >= 0 for i in values
    )


def _check_ids(options: GenerationOptions) -> None:
    for word in () if options.bad_words_ids is None else options.bad_words_ids:
        if not _are_ids(word):
            raise TypeError(
                f"bad_words_ids must be a list of lists of token ids, but has {word!r:.60}: give [[i]] for one token i."
            )
        if not word:
            raise ValueError("bad_words_ids has an empty list: leave it out.")
    for name in ("suppress_tokens", "begin_suppress_tokens"):
        tokens = getattr(options, name)
        if not (tokens is None or _are_ids(tokens)):
            raise TypeError(f"{name} must be a list of token ids, got {tokens!r:.60}.")
    if not _are_ids(options.forced_ends):
        raise TypeError(
            f"forced_eos_token_id must be a token id or a list of them, got {options.forced_eos_token_id!r:.60}."
        )


def _check_biases(given: Any) -> None:
    try:
        pairs = [(ids, bias) for ids, bias in as_pairs(given) or ()]
    except (TypeError, ValueError):
        pairs = [(None, None)]
    for ids, bias in pairs:
        if not (_are_ids(ids) and ids) or not isinstance(bias, Real) or isinstance(bias, bool):
            raise TypeError(
                f"sequence_bias must be a dict of tuples of token ids and numbers, or a list of such pairs, got "
                f"{given!r:.60}: give {{(i,): 2.0}} for one token i."
            )
        if not bias < math.inf:
            raise ValueError(f"sequence_bias must have numbers below infinity, got {bias} for {list(ids)!r:.60}.")


def _check_decay(given: Any) -> None:
    name = "exponential_decay_length_penalty"
    if given is None:
        return
    if not isinstance(given, list | tuple) or len(given) != 2:
        raise TypeError(f"{name} must be a pair of a number of new tokens and a factor, got {given!r:.60}.")
    check_integer(f"The first of {name}", given[0], 0)
    _check_number(f"The second of {name}", given[1])
    if not given[1] > 0:
        raise ValueError(f"The second of {name} must be above 0, got {given[1]}.")


def _check_strings(options: GenerationOptions) -> None:
    given = options.stop_strings
    if given is None:
        return
    if not isinstance(given, str | list | tuple) or not all(isinstance(string, str) for string in given):
        raise TypeError(f"stop_strings must be a text or a list of texts, got {given!r:.60}.")
    if "" in options.strings:
        raise ValueError("stop_strings has an empty text, which is everywhere: leave it out.")
    if not callable(getattr(options.tokenizer, "convert_ids_to_tokens", None)):
        raise ValueError(f"stop_strings={given!r:.60} needs the texts of the tokens: give tokenizer, too.")


def _check_generators(given: Any) -> None:
    generators = given if isinstance(given, list | tuple) else [] if given is None else [given]
    if not all(isinstance(generator, torch.Generator) for generator in generators):
        raise TypeError(f"generator must be a torch.Generator, or a list with one for each text, got {given!r:.60}.")


def check_combinations(options: GenerationOptions) -> None:
    """Raise ValueError if options do not fit together, or one does nothing with the others."""
    if options.max_length is not None and options.max_new_tokens is not None:
        raise ValueError("max_length and max_new_tokens both limit the length: give one of them.")
    if options.penalty_alpha:
        _check_contrastive(options)
    if not options.do_sample:
        for name, off in SAMPLING.items():
            value = getattr(options, name)
            if value not in off and not (name == "top_k" and options.penalty_alpha):
                raise ValueError(f"{name}={value} changes only sampling: give do_sample=True, too.")
    if options.num_beams == 1 and options.num_return_sequences > 1 and not options.do_sample:
        raise ValueError(
            f"num_return_sequences={options.num_return_sequences} needs do_sample=True or num_beams above 1: without "
            f"them there is one most probable continuation."
        )
    for name in OUTPUTS:
        if getattr(options, name) and not options.return_dict_in_generate:
            raise ValueError(f"{name}=True needs return_dict_in_generate=True, which returns them.")
    if options.guidance_scale == 1:
        for name in ("negative_prompt_ids", "negative_prompt_attention_mask"):
            if getattr(options, name) is not None:
                raise ValueError(f"{name} is for guidance: give a guidance_scale other than 1, too.")
    if options.negative_prompt_attention_mask is not None and options.negative_prompt_ids is None:
        raise ValueError("negative_prompt_attention_mask is that of negative_prompt_ids: give these, too.")
    first = [] if options.forced_bos_token_id is None else [options.forced_bos_token_id]
    for name, forced in (("forced_bos_token_id", first), ("forced_eos_token_id", options.forced_ends)):
        if forced and set(forced) <= set(options.suppress_tokens or ()):
            raise ValueError(f"{name} has only ids that suppress_tokens has, too: leave out one of both.")
    _check_beams(options)


def _check_contrastive(options: GenerationOptions) -> None:
    if options.do_sample or options.num_beams > 1:
        raise ValueError(
            f"penalty_alpha={options.penalty_alpha} is for contrastive search, which neither samples nor has beams: "
            f"give do_sample=False and num_beams=1, or penalty_alpha=0."
        )
    if not options.top_k or options.top_k < 2:
        raise ValueError(
            f"penalty_alpha={options.penalty_alpha} needs the number of tokens to choose from: give top_k of at least "
            f"2, or penalty_alpha=0."
        )


def _check_beams(options: GenerationOptions) -> None:
    if options.num_beams == 1:
        for name in ("num_beam_groups", "length_penalty", "early_stopping"):
            if getattr(options, name) != getattr(type(options), name):
                raise ValueError(f"{name}={getattr(options, name)!r} is for beam search: give num_beams above 1, too.")
    if options.num_beams > 1 and options.num_return_sequences > options.num_beams:
        raise ValueError(
            f"num_return_sequences={options.num_return_sequences} is more than the num_beams={options.num_beams} that "
            f"there are: raise num_beams."
        )
    if options.num_beams > 1 and options.streamer is not None:
        raise ValueError("streamer needs num_beams=1: beams do not know a text's next token until the end.")
    groups = f"num_beam_groups={options.num_beam_groups}"
    if options.num_beams % options.num_beam_groups:
        raise ValueError(f"num_beams={options.num_beams} must be a multiple of {groups}, which have the same size.")
    if options.num_beam_groups > 1 and options.do_sample:
        raise ValueError(f"{groups} cannot be sampled: give do_sample=False, or num_beam_groups=1.")
    if options.num_beam_groups > 1 and not options.diversity_penalty:
        raise ValueError(f"{groups} would be the same: give diversity_penalty above 0, too.")
    if options.num_beam_groups == 1 and options.diversity_penalty:
        raise ValueError(
            f"diversity_penalty={options.diversity_penalty} is for groups of beams: give num_beam_groups above 1, too."
        )
