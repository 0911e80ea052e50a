"""What a call of `generate` requests, checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from skxlmr.model.generation_config import as_pairs
from skxlmr.model.reference.option_checks import check_combinations, check_values
from skxlmr.model.reference.sampling import Generators

# Takes the ids so far (B, S) and the scores of the next token (B, V), and returns these changed.
LogitsProcessor = Callable[[Tensor, Tensor], Tensor]

# Takes the ids so far (B, S), and with output_scores=True the scores of each step, otherwise None. Returns whether to
# stop, for all texts or for each, (B,) bool.
StoppingCriterion = Callable[[Tensor, Any], "Tensor | bool"]

# Takes the number of a text and its ids so far (S,), and returns the ids that may follow.
AllowedTokens = Callable[[int, Tensor], Sequence[int]]

# What is added to the score of the last token of each sequence of ids, where the others stand before it.
SequenceBias = Mapping[tuple[int, ...], float] | Sequence[Sequence[Any]]

DEFAULT_NEW_TOKENS = 20


class Vocabulary(Protocol):
    """A tokenizer, of this package or of transformers."""

    def convert_ids_to_tokens(self, ids: Any) -> Any:
        """Return the pieces of a list of ids."""


class Streamer(Protocol):
    """Receives the tokens while they are generated, as the streamers of transformers do."""

    def put(self, value: Tensor) -> None:
        """Take first the ids of the texts, (B, S), then the next token of each, (B,)."""

    def end(self) -> None:
        """Take note that there are no more tokens."""


@dataclass(frozen=True, kw_only=True, eq=False)
class GenerationOptions:
    """The arguments of `XLMRobertaXLForCausalLM.generate` beside the texts; TypeError or ValueError if invalid."""

    max_length: int | None = None
    max_new_tokens: int | None = None
    min_length: int = 0
    min_new_tokens: int = 0
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    top_h: float | None = None
    typical_p: float | None = None
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0
    penalty_alpha: float = 0.0
    num_beams: int = 1
    num_beam_groups: int = 1
    diversity_penalty: float = 0.0
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    num_return_sequences: int = 1
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    encoder_repetition_penalty: float = 1.0
    encoder_no_repeat_ngram_size: int = 0
    sequence_bias: SequenceBias | None = None
    bad_words_ids: Sequence[Sequence[int]] | None = None
    suppress_tokens: Sequence[int] | None = None
    begin_suppress_tokens: Sequence[int] | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | Sequence[int] | None = None
    exponential_decay_length_penalty: tuple[int, float] | None = None
    prefix_allowed_tokens_fn: AllowedTokens | None = None
    guidance_scale: float = 1.0
    negative_prompt_ids: Tensor | None = None
    negative_prompt_attention_mask: Tensor | None = None
    remove_invalid_values: bool = False
    renormalize_logits: bool = False
    eos_token_id: int | Sequence[int] | None = None
    pad_token_id: int | None = None
    logits_processor: LogitsProcessor | Sequence[LogitsProcessor] | None = None
    stopping_criteria: StoppingCriterion | Sequence[StoppingCriterion] | None = None
    stop_strings: str | Sequence[str] | None = None
    tokenizer: Vocabulary | None = None
    max_time: float | None = None
    streamer: Streamer | None = None
    generator: Generators | None = None
    output_scores: bool = False
    output_logits: bool = False
    output_attentions: bool = False
    output_hidden_states: bool = False
    return_dict_in_generate: bool = False

    def __post_init__(self) -> None:
        check_values(self)
        check_combinations(self)
        if self.streamer is not None and not all(callable(getattr(self.streamer, f, None)) for f in ("put", "end")):
            raise TypeError(f"streamer must have the methods put and end, got {self.streamer!r:.60}.")
        _as_list("logits_processor", self.logits_processor)
        _as_list("stopping_criteria", self.stopping_criteria)

    @property
    def processors(self) -> list[LogitsProcessor]:
        """The caller's processors."""
        return _as_list("logits_processor", self.logits_processor)

    @property
    def criteria(self) -> list[StoppingCriterion]:
        """The caller's stopping criteria."""
        return _as_list("stopping_criteria", self.stopping_criteria)

    @property
    def biases(self) -> dict[tuple[int, ...], float]:
        """The biases of sequences of ids."""
        return {tuple(ids): bias for ids, bias in as_pairs(self.sequence_bias) or ()}

    @property
    def forced_ends(self) -> list[int]:
        """The ids of which one is the last token."""
        forced: Any = self.forced_eos_token_id
        return [] if forced is None else list(forced) if isinstance(forced, list | tuple) else [forced]

    @property
    def strings(self) -> list[str]:
        """The texts that stop a continuation."""
        strings = () if self.stop_strings is None else self.stop_strings
        return [strings] if isinstance(strings, str) else list(strings)

    @property
    def n_generators(self) -> int | None:
        """How many generators there are, if there is one for each text."""
        return None if self.generator is None or isinstance(self.generator, torch.Generator) else len(self.generator)

    @property
    def rows_per_text(self) -> int:
        """How many continuations of a text are read at once."""
        candidates = (self.top_k or 1) if self.penalty_alpha else 1
        return max(self.num_beams, self.num_return_sequences, candidates)

    def new_tokens(self, width: int) -> int:
        """Return the maximum number of new tokens for texts that are, with padding, `width` long."""
        if self.max_length is None:
            return DEFAULT_NEW_TOKENS if self.max_new_tokens is None else self.max_new_tokens
        if self.max_length <= width:
            raise ValueError(
                f"max_length={self.max_length} leaves no room after texts of {width} tokens, padding included: raise "
                f"it, or give max_new_tokens instead, which does not count the texts."
            )
        return self.max_length - width

    def least_new_tokens(self, width: int) -> int:
        """Return the least number of new tokens for texts that are, with padding, `width` long."""
        return self.min_new_tokens or max(self.min_length - width, 0)

    def check_least(self, width: int) -> None:
        """Raise ValueError if texts that are `width` long cannot become as long as they must."""
        most, least = self.new_tokens(width), self.least_new_tokens(width)
        if least > most:
            name = "min_new_tokens" if self.min_new_tokens else "min_length"
            raise ValueError(
                f"{name}={getattr(self, name)} needs {least} new tokens, but there are at most {most}: lower it, "
                f"or raise {'max_length' if self.max_length else 'max_new_tokens'}."
            )


def _as_list(name: str, given: Any) -> list[Any]:
    """Return the callables of an argument that is one, several or None."""
    functions = [] if given is None else list(given) if isinstance(given, list | tuple) else [given]
    for function in functions:
        if not callable(function):
            raise TypeError(f"{name} must be a function or a list of functions, got {function!r:.60}.")
    return functions
