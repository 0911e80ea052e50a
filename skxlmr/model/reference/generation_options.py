"""What a call of `generate` requests, checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Protocol

import torch
from torch import Tensor

from skxlmr.model.generation_config import OUTPUTS

# Takes the ids so far (B, S) and the scores of the next token (B, V), and returns these changed.
LogitsProcessor = Callable[[Tensor, Tensor], Tensor]

# Takes the ids so far (B, S), and with output_scores=True the scores of each step, otherwise None. Returns whether to
# stop, for all texts or for each, (B,) bool.
StoppingCriterion = Callable[[Tensor, Any], "Tensor | bool"]

# Takes the number of a text and its ids so far (S,), and returns the ids that may follow.
AllowedTokens = Callable[[int, Tensor], Sequence[int]]

DEFAULT_NEW_TOKENS = 20
# Arguments of sampling, and their values that change nothing.
SAMPLING: dict[str, tuple] = {
    "temperature": (1.0,), "top_k": (None, 0), "top_p": (None, 1.0), "min_p": (None, 0.0), "typical_p": (None, 1.0)
}  # fmt: skip


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
    typical_p: float | None = None
    penalty_alpha: float = 0.0
    num_beams: int = 1
    num_beam_groups: int = 1
    diversity_penalty: float = 0.0
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    num_return_sequences: int = 1
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    bad_words_ids: Sequence[Sequence[int]] | None = None
    suppress_tokens: Sequence[int] | None = None
    begin_suppress_tokens: Sequence[int] | None = None
    prefix_allowed_tokens_fn: AllowedTokens | None = None
    eos_token_id: int | Sequence[int] | None = None
    pad_token_id: int | None = None
    logits_processor: LogitsProcessor | Sequence[LogitsProcessor] | None = None
    stopping_criteria: StoppingCriterion | Sequence[StoppingCriterion] | None = None
    max_time: float | None = None
    streamer: Streamer | None = None
    generator: torch.Generator | None = None
    output_scores: bool = False
    output_attentions: bool = False
    output_hidden_states: bool = False
    return_dict_in_generate: bool = False

    def __post_init__(self) -> None:
        for name in ("max_length", "max_new_tokens"):
            if getattr(self, name) is not None:
                self._check_integer(name, 1)
        for name in ("min_length", "min_new_tokens", "no_repeat_ngram_size"):
            self._check_integer(name, 0)
        for name in ("num_beams", "num_beam_groups", "num_return_sequences"):
            self._check_integer(name, 1)
        for name in ("do_sample", "return_dict_in_generate", *OUTPUTS):
            if getattr(self, name) not in (True, False):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r:.60}.")
        for name in ("temperature", "repetition_penalty"):
            self._check_number(name)
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)!r}.")
        self._check_number("length_penalty")
        self._check_number("diversity_penalty")
        if self.diversity_penalty < 0:
            raise ValueError(f"diversity_penalty must be at least 0, got {self.diversity_penalty}.")
        self._check_number("penalty_alpha")
        if not 0 <= self.penalty_alpha <= 1:
            raise ValueError(f"penalty_alpha must be in [0, 1], got {self.penalty_alpha}.")
        for name in ("top_k", "pad_token_id"):
            if getattr(self, name) is not None:
                self._check_integer(name, 0)
        for name in ("top_p", "typical_p"):
            if (probability := getattr(self, name)) is not None:
                self._check_number(name)
                if not 0 < probability <= 1:
                    raise ValueError(f"{name} must be in (0, 1], got {probability}.")
        if self.min_p is not None:
            self._check_number("min_p")
            if not 0 <= self.min_p <= 1:
                raise ValueError(f"min_p must be in [0, 1], got {self.min_p}.")
        if self.max_time is not None:
            self._check_number("max_time")
            if self.max_time <= 0:
                raise ValueError(f"max_time must be above 0, got {self.max_time}.")
        if not (self.prefix_allowed_tokens_fn is None or callable(self.prefix_allowed_tokens_fn)):
            raise TypeError(f"prefix_allowed_tokens_fn must be a function, got {self.prefix_allowed_tokens_fn!r:.60}.")
        if not (isinstance(self.early_stopping, bool) or self.early_stopping == "never"):
            raise ValueError(f'early_stopping must be True, False or "never", got {self.early_stopping!r}.')
        self._check_bad_words()
        self._check_combinations()
        self._check_beams()
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

    def check_least(self, width: int) -> None:
        """Raise ValueError if texts that are `width` long cannot become as long as they must."""
        most = self.new_tokens(width)
        for name, least in (("min_new_tokens", self.min_new_tokens), ("min_length", self.min_length - width)):
            if least > most:
                raise ValueError(
                    f"{name}={getattr(self, name)} needs {least} new tokens, but there are at most {most}: lower it, "
                    f"or raise {'max_length' if self.max_length else 'max_new_tokens'}."
                )

    def _check_integer(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise TypeError(f"{name} must be an integer, got {value!r:.60}.")
        if int(value) < least:
            raise ValueError(f"{name} must be at least {least}, got {value}.")

    def _check_number(self, name: str) -> None:
        value = getattr(self, name)
        if not isinstance(value, Real) or isinstance(value, bool):
            raise TypeError(f"{name} must be a number, got {value!r:.60}.")
        if not torch.isfinite(torch.tensor(float(value))):
            raise ValueError(f"{name} must be finite, got {value}.")

    def _check_bad_words(self) -> None:
        words = () if self.bad_words_ids is None else self.bad_words_ids
        for word in words:
            if not isinstance(word, list | tuple) or not all(isinstance(i, int) and i >= 0 for i in word):
                raise TypeError(
                    f"bad_words_ids must be a list of lists of token ids, but has {word!r:.60}: give [[i]] for one "
                    f"token i."
                )
            if not word:
                raise ValueError("bad_words_ids has an empty list: leave it out.")

        for name in ("suppress_tokens", "begin_suppress_tokens"):
            tokens = getattr(self, name)
            is_list = tokens is None or isinstance(tokens, list | tuple)
            if not is_list or not all(isinstance(i, int) and i >= 0 for i in tokens or ()):
                raise TypeError(f"{name} must be a list of token ids, got {tokens!r:.60}.")

    def _check_combinations(self) -> None:
        if self.max_length is not None and self.max_new_tokens is not None:
            raise ValueError("max_length and max_new_tokens both limit the length: give one of them.")
        if self.penalty_alpha:
            if self.do_sample or self.num_beams > 1:
                raise ValueError(
                    f"penalty_alpha={self.penalty_alpha} is for contrastive search, which neither samples nor has "
                    f"beams: give do_sample=False and num_beams=1, or penalty_alpha=0."
                )
            if not self.top_k or self.top_k < 2:
                raise ValueError(
                    f"penalty_alpha={self.penalty_alpha} needs the number of tokens to choose from: give top_k of at "
                    f"least 2, or penalty_alpha=0."
                )
        if not self.do_sample:
            for name, off in SAMPLING.items():
                if getattr(self, name) not in off and not (name == "top_k" and self.penalty_alpha):
                    raise ValueError(f"{name}={getattr(self, name)} changes only sampling: give do_sample=True, too.")
        if self.num_beams == 1 and self.num_return_sequences > 1 and not self.do_sample:
            raise ValueError(
                f"num_return_sequences={self.num_return_sequences} needs do_sample=True or num_beams above 1: without "
                f"them there is one most probable continuation."
            )
        for name in OUTPUTS:
            if getattr(self, name) and not self.return_dict_in_generate:
                raise ValueError(f"{name}=True needs return_dict_in_generate=True, which returns them.")

    def _check_beams(self) -> None:
        if self.num_beams == 1:
            for name in ("num_beam_groups", "length_penalty", "early_stopping"):
                if getattr(self, name) != getattr(type(self), name):
                    raise ValueError(f"{name}={getattr(self, name)!r} is for beam search: give num_beams above 1, too.")
        if self.num_beams > 1 and self.num_return_sequences > self.num_beams:
            raise ValueError(
                f"num_return_sequences={self.num_return_sequences} is more than the num_beams={self.num_beams} that "
                f"there are: raise num_beams."
            )
        if self.num_beams > 1 and self.streamer is not None:
            raise ValueError("streamer needs num_beams=1: beams do not know a text's next token until the end.")
        groups = f"num_beam_groups={self.num_beam_groups}"
        if self.num_beams % self.num_beam_groups:
            raise ValueError(f"num_beams={self.num_beams} must be a multiple of {groups}, which have the same size.")
        if self.num_beam_groups > 1 and self.do_sample:
            raise ValueError(f"{groups} cannot be sampled: give do_sample=False, or num_beam_groups=1.")
        if self.num_beam_groups > 1 and not self.diversity_penalty:
            raise ValueError(f"{groups} would be the same: give diversity_penalty above 0, too.")
        if self.num_beam_groups == 1 and self.diversity_penalty:
            raise ValueError(
                f"diversity_penalty={self.diversity_penalty} is for groups of beams: give num_beam_groups above 1, too."
            )


def _as_list(name: str, given: Any) -> list[Any]:
    """Return the callables of an argument that is one, several or None."""
    functions = [] if given is None else list(given) if isinstance(given, list | tuple) else [given]
    for function in functions:
        if not callable(function):
            raise TypeError(f"{name} must be a function or a list of functions, got {function!r:.60}.")
    return functions
