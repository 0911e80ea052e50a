"""The settings of a tokenizer beside its tokens, as tokenizer_config.json has them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias

from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.system.schema import POSITIVE, SchemaError, parse, shown, types_of

MAX_LENGTH = 512  # XLM-R has 514 rows of positions, of which the first two belong to padding
Side: TypeAlias = Literal["left", "right"]
UNKNOWN_LENGTH = 10**9  # transformers writes 10**30 if the length is not known


@dataclass(frozen=True)
class TokenizerSettings:
    """Defaults of the calls of a tokenizer. The names are those of tokenizer_config.json."""

    model_max_length: POSITIVE = MAX_LENGTH
    padding_side: Side = "right"
    truncation_side: Side = "right"  # the side where tokens are removed
    model_input_names: tuple[str, ...] = ("input_ids", "attention_mask")
    clean_up_tokenization_spaces: bool = False
    split_special_tokens: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value = parse(types_of(type(self))[field.name], getattr(self, field.name), field.name)
            object.__setattr__(self, field.name, value)
        if self.model_input_names[:1] != ("input_ids",):
            raise SchemaError(f"model_input_names must begin with 'input_ids', got {shown(self.model_input_names)}")

    def to_dict(self) -> dict[str, Any]:
        """Return the entries of tokenizer_config.json."""
        return {**asdict(self), "model_input_names": list(self.model_input_names)}


SETTINGS = frozenset(field.name for field in fields(TokenizerSettings))
# Entries that would change the ids of texts, with the values that do not.
UNCHANGED = {
    "bos_token": "<s>",
    "cls_token": "<s>",
    "pad_token": "<pad>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "unk_token": "<unk>",
    "mask_token": "<mask>",
    "add_prefix_space": True,
    "add_bos_token": True,
    "add_eos_token": True,
    "pad_token_type_id": 0,
}


def read_tokenizer_settings(config: dict[str, Any], truncation: Any, padding: Any, path: Path) -> TokenizerSettings:
    """Return the settings in the content of a tokenizer_config.json, from `path`.

    `truncation` and `padding` are those of tokenizer.json, whose sides apply if the config has none. Raises
    CheckpointError if a value is invalid, or would encode texts in another way than XLM-RoBERTa's.
    """
    for name, expected in UNCHANGED.items():
        value = config.get(name)
        content = value.get("content") if isinstance(value, dict) else value
        if content is not None and (type(content) is not type(expected) or content != expected):
            raise CheckpointError(
                f"{path} has {name}={shown(content)}, which is not supported: XLM-RoBERTa has {expected!r}."
            )
    values = {name: config[name] for name in SETTINGS & config.keys() if config[name] is not None}
    length = values.pop("model_max_length", config.get("max_len"))
    if isinstance(length, bool) or not isinstance(length, int | float | None):
        raise CheckpointError(f"{path} has model_max_length={shown(length)}, which must be a number.")
    if length is not None and length < UNKNOWN_LENGTH:
        values["model_max_length"] = int(length) if length == int(length) else length
    for name, side in (("truncation_side", truncation), ("padding_side", padding)):
        if isinstance(side, dict) and isinstance(side.get("direction"), str):
            values.setdefault(name, side["direction"].lower())
    try:
        return TokenizerSettings(**values)
    except SchemaError as error:
        raise CheckpointError(f"{path}: {error}") from error
