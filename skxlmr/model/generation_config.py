"""Defaults of the arguments of `generate`, as generation_config.json beside a checkpoint has them."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.checkpoints.files import read_json
from skxlmr.checkpoints.resolve import CheckpointFiles
from skxlmr.model.config import XLMRobertaXLConfig
from skxlmr.model.refused_generation_options import ENCODER, NOT_BUILT, SPEED
from skxlmr.system import schema
from skxlmr.system.schema import shown

# Keys of the reference that do not change what is generated.
WITHOUT_EFFECT = SPEED | ENCODER | {"_from_model_config", "transformers_version"}
# Upper bounds on numbers of a file that take memory, far above those in use. Lengths are bounded by the positions.
LARGEST = {"num_beams": 1000, "num_return_sequences": 1000}
MOST_CANDIDATES = 1000  # top_k of contrastive search, which reads so many texts at once
ONLY_SAMPLING = ("temperature", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
ONLY_BEAMS = ("num_beam_groups", "diversity_penalty", "length_penalty", "early_stopping")
OUTPUTS = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """Defaults of the arguments of a model's `generate`, which describes them; None is the default that it names there.

    `from_pretrained` reads them from the generation_config.json of a checkpoint, or if there is none from its
    config.json, where old versions of transformers put them. They are the `generation_config` of a model, which
    `save_pretrained` writes.

    Parameters
    ----------
    max_length, max_new_tokens, min_length, min_new_tokens : int, default=None
    do_sample : bool, default=None
    temperature : float, default=None
    top_k : int, default=None
    top_p, min_p, top_h, typical_p, epsilon_cutoff, eta_cutoff : float, default=None
    penalty_alpha : float, default=None
    num_beams : int, default=None
    num_beam_groups : int, default=None
    diversity_penalty : float, default=None
    length_penalty : float, default=None
    early_stopping : bool or "never", default=None
    num_return_sequences : int, default=None
    repetition_penalty : float, default=None
    no_repeat_ngram_size : int, default=None
    encoder_repetition_penalty : float, default=None
    encoder_no_repeat_ngram_size : int, default=None
    sequence_bias : dict of tuple of int to float, or list of pairs, default=None
        Becomes a list of pairs, as in the file.
    bad_words_ids : list of list of int, default=None
    suppress_tokens, begin_suppress_tokens : list of int, default=None
    forced_bos_token_id : int, default=None
    forced_eos_token_id : int or list of int, default=None
    exponential_decay_length_penalty : pair of int and float, default=None
    guidance_scale : float, default=None
    remove_invalid_values, renormalize_logits : bool, default=None
    stop_strings : str or list of str, default=None
    max_time : float, default=None
    bos_token_id, pad_token_id : int, default=None
        None is that of the model's config.
    eos_token_id : int or list of int, default=None
        The same.
    use_cache, return_dict_in_generate : bool, default=None
    output_scores, output_logits, output_attentions, output_hidden_states : bool, default=None
    extra : dict
        Other entries of the file, which are written again. `generate` warns of those that would change its result in
        transformers.

    Examples
    --------
    >>> from skxlmr.model import GenerationConfig, XLMRobertaXLConfig, XLMRobertaXLForCausalLM
    >>> config = XLMRobertaXLConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
    ...                             intermediate_size=32, is_decoder=True)
    >>> model = XLMRobertaXLForCausalLM(config).eval()
    >>> model.generation_config = GenerationConfig(max_new_tokens=5, min_new_tokens=5)
    >>> model.generate().shape
    torch.Size([1, 6])
    """

    max_length: int | None = None
    max_new_tokens: int | None = None
    min_length: int | None = None
    min_new_tokens: int | None = None
    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    top_h: float | None = None
    typical_p: float | None = None
    epsilon_cutoff: float | None = None
    eta_cutoff: float | None = None
    penalty_alpha: float | None = None
    num_beams: int | None = None
    num_beam_groups: int | None = None
    diversity_penalty: float | None = None
    length_penalty: float | None = None
    early_stopping: bool | str | None = None
    num_return_sequences: int | None = None
    repetition_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    encoder_repetition_penalty: float | None = None
    encoder_no_repeat_ngram_size: int | None = None
    sequence_bias: list[tuple[list[int], float]] | None = None
    bad_words_ids: list[list[int]] | None = None
    suppress_tokens: list[int] | None = None
    begin_suppress_tokens: list[int] | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | list[int] | None = None
    exponential_decay_length_penalty: tuple[int, float] | None = None
    guidance_scale: float | None = None
    remove_invalid_values: bool | None = None
    renormalize_logits: bool | None = None
    stop_strings: str | list[str] | None = None
    max_time: float | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    use_cache: bool | None = None
    output_scores: bool | None = None
    output_logits: bool | None = None
    output_attentions: bool | None = None
    output_hidden_states: bool | None = None
    return_dict_in_generate: bool | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sequence_bias", as_pairs(self.sequence_bias))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GenerationConfig:
        """Return the config for the content of a generation_config.json.

        Raises ValueError if an entry is of another type than the field has, or a number of beams, of results, or of
        candidates of contrastive search is above 1000; unknown keys become `extra`.
        """
        types = schema.types_of(cls)
        values = {**values, "sequence_bias": as_pairs(values.get("sequence_bias"))}
        known = {f.name for f in fields(cls)} - {"extra"}
        for name in known & values.keys():
            schema.parse(types[name], values[name], name)
        largest = LARGEST | ({"top_k": MOST_CANDIDATES} if values.get("penalty_alpha") else {})
        for name, most in largest.items():
            if (values.get(name) or 0) > most:
                raise ValueError(f"{name} must be at most {most}, got {shown(values[name])}.")
        return cls(
            **{name: value for name, value in values.items() if name in known},
            extra={name: value for name, value in values.items() if name not in known},
        )

    @classmethod
    def from_model_config(cls, config: XLMRobertaXLConfig) -> GenerationConfig:
        """Return what a config.json says about generation, beside what a model's config has as attributes."""
        known = ({f.name for f in fields(cls)} | NOT_BUILT.keys()) - {"extra"}
        return cls.from_dict({name: value for name, value in config.extra.items() if name in known})

    def to_dict(self) -> dict[str, Any]:
        """Return the content of generation_config.json, without what is None."""
        names = [f.name for f in fields(self) if f.name != "extra"]
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None} | self.extra

    def to_json(self) -> bytes:
        """Return generation_config.json."""
        return (json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n").encode()

    def completed(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of `generate` that are not None: those given, and for others the defaults here.

        Defaults that do nothing with the arguments are left out: those of sampling if there is none, those of beam
        search, of groups of beams, of contrastive search if there is sampling or beam search, and those of outputs if
        only ids are returned. A length that is given replaces both lengths here.

        Examples
        --------
        >>> from skxlmr.model import GenerationConfig
        >>> config = GenerationConfig(do_sample=True, top_k=9, max_length=30)
        >>> config.completed({"max_new_tokens": 5, "num_beams": None})
        {'do_sample': True, 'top_k': 9, 'max_new_tokens': 5}
        >>> config.completed({"do_sample": False})
        {'max_length': 30, 'do_sample': False}
        """
        given = {name: value for name, value in given.items() if value is not None}
        names = [f.name for f in fields(self) if f.name not in ("extra", "bos_token_id")]
        own = {name: getattr(self, name) for name in names if getattr(self, name) is not None and name not in given}
        if given.keys() & {"max_length", "max_new_tokens"}:
            own = {name: value for name, value in own.items() if name not in ("max_length", "max_new_tokens")}
        elif "max_new_tokens" in own:
            own.pop("max_length", None)
        both = own | given
        sampled, has_beams = both.get("do_sample"), both.get("num_beams", 1) != 1
        contrastive = bool(both.get("penalty_alpha")) and not (sampled or has_beams)
        idle: tuple[str, ...] = () if sampled else ONLY_SAMPLING
        idle += () if sampled or contrastive else ("top_k",)
        idle += () if contrastive else ("penalty_alpha",)
        idle += () if has_beams else ONLY_BEAMS
        idle += () if both.get("num_beam_groups", 1) != 1 else ("diversity_penalty",)
        idle += () if both.get("return_dict_in_generate") else OUTPUTS
        return {name: value for name, value in own.items() if name not in idle} | given

    def not_supported(self, unused: Collection[str] = ()) -> str:
        """Return the entries that would change the result in the reference, and which are not used here, as text.

        `unused` are names of fields that the caller does not use.
        """
        found = {name: getattr(self, name) for name in unused if getattr(self, name) is not None}
        for name, value in self.extra.items():
            is_neutral = value is None or value is False or value in ([], {})
            if name not in WITHOUT_EFFECT and not is_neutral:
                found[name] = value
        return ", ".join(f"{name}={shown(value, 40)}" for name, value in sorted(found.items()))


def as_pairs(sequence_bias: Any) -> Any:
    """Return the biases of a dict as pairs of a list of ids and a number, as a file has them; others as they are.

    >>> as_pairs({(3, 4): 1.5})
    [[[3, 4], 1.5]]
    """
    if not isinstance(sequence_bias, Mapping):
        return sequence_bias
    return [[list(ids) if isinstance(ids, tuple) else ids, bias] for ids, bias in sequence_bias.items()]


def as_generation_config(config: Any) -> GenerationConfig:
    """Return a generation config of this package or of transformers as one of this package; TypeError if it is none."""
    if isinstance(config, GenerationConfig):
        return config
    if callable(getattr(config, "to_diff_dict", None)):
        return GenerationConfig.from_dict(config.to_diff_dict())
    raise TypeError(f"generation_config must be a GenerationConfig, got {config!r:.60}.")


def read_generation_config(files: CheckpointFiles, config: XLMRobertaXLConfig) -> GenerationConfig:
    """Read the generation_config.json of a checkpoint, or what its `config` says about generation if there is none.

    Raises CheckpointError if it is damaged, has an entry of a wrong type, or is a link out of the checkpoint.
    """
    path = files.generation_config
    try:
        if path is None:
            return GenerationConfig.from_model_config(config)
        return GenerationConfig.from_dict(read_json(path))
    except ValueError as error:
        raise CheckpointError(f"{path or files.config}: {error}") from error
