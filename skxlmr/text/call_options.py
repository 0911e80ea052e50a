"""The options of a call of the tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any

from skxlmr.text.windows import Only

TRUNCATIONS: dict[bool | str, Only | None] = {
    False: None,
    "do_not_truncate": None,
    True: "longest",
    "longest_first": "longest",
    "only_first": "first",
    "only_second": "second",
}
PADDINGS: dict[bool | str, str | None] = {
    False: None,
    "do_not_pad": None,
    True: "longest",
    "longest": "longest",
    "max_length": "max_length",
}
SIDES = ("left", "right")
TENSORS = (None, "pt", "np")


def chosen(name: str, value: Any, choices: Any) -> Any:
    """Return the one of some choices that a value equals; raise ValueError if there is none.

    Members of an enumeration of strings, which transformers has, equal their value.
    """
    for choice in choices:
        if value == choice and isinstance(value, bool) == isinstance(choice, bool):
            return choice
    raise ValueError(f"{name}={value!r} must be one of {', '.join(map(repr, choices))}")


@dataclass(frozen=True, kw_only=True)
class CallOptions:
    """The options of a call, which `Calls.__call__` describes; None for an option that is not given.

    Raises ValueError for options that are unknown or would have no effect.
    """

    add_special_tokens: bool
    padding: bool | str
    truncation: bool | str | None
    max_length: int | None
    stride: int
    is_split_into_words: bool
    pad_to_multiple_of: int | None
    padding_side: str | None
    return_tensors: str | None
    return_token_type_ids: bool | None
    return_attention_mask: bool | None
    return_overflowing_tokens: bool
    return_special_tokens_mask: bool
    return_offsets_mapping: bool
    return_length: bool
    split_special_tokens: bool | None
    verbose: bool

    def __post_init__(self) -> None:
        chosen("return_tensors", self.return_tensors, TENSORS)
        if self.stride and not self.return_overflowing_tokens:
            raise ValueError(f"stride={self.stride} has no effect: add return_overflowing_tokens=True")
        if self.return_overflowing_tokens and self.only is None:
            raise ValueError(
                "return_overflowing_tokens=True has no effect: add truncation=True, which then drops nothing"
            )
        check_padding(self.padding, self.max_length, self.padding_side, self.pad_to_multiple_of, self.only is not None)

    @property
    def only(self) -> Only | None:
        """Which text of a pair is truncated; None if nothing is."""
        if self.truncation is None:  # as in transformers, max_length alone truncates
            return "longest" if self.max_length is not None and PADDINGS[self.padding] is None else None
        return TRUNCATIONS[chosen("truncation", self.truncation, TRUNCATIONS)]

    def limit(self, model_max_length: int) -> int:
        """Return the maximum number of ids of a row; raise ValueError if padded rows would be longer."""
        limit = model_max_length if self.max_length is None else self.max_length
        multiple = self.pad_to_multiple_of or 1
        if self.only is not None and PADDINGS[self.padding] is not None and limit % multiple:
            raise ValueError(
                f"truncation to max_length={limit} and pad_to_multiple_of={multiple} contradict each other: use a "
                f"max_length that is a multiple of {multiple}"
            )
        return limit


def check_padding(
    padding: bool | str,
    max_length: int | None,
    padding_side: str | None,
    pad_to_multiple_of: int | None,
    truncates: bool = False,
) -> None:
    """Raise ValueError for options of padding that are unknown or would have no effect."""
    to = PADDINGS[chosen("padding", padding, PADDINGS)]
    if max_length is not None and (not isinstance(max_length, Integral) or max_length < 1):
        raise ValueError(f"max_length={max_length!r} must be a positive integer or None")
    if max_length is not None and not truncates and to != "max_length":
        raise ValueError(f"max_length={max_length} has no effect: add truncation=True or padding='max_length'")
    if pad_to_multiple_of is not None and (type(pad_to_multiple_of) is not int or pad_to_multiple_of < 1):
        raise ValueError(f"pad_to_multiple_of={pad_to_multiple_of!r} must be a positive integer or None")
    chosen("padding_side", padding_side, (None, *SIDES))
    for name, given in (("padding_side", padding_side), ("pad_to_multiple_of", pad_to_multiple_of)):
        if given is not None and to is None:
            raise ValueError(f"{name}={given!r} has no effect: add padding=True or padding='max_length'")
