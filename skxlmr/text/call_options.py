"""The options of a call of the tokenizer."""

from __future__ import annotations

from skxlmr.text.windows import Only

TRUNCATIONS: dict[bool | str, Only] = {
    True: "longest",
    "longest_first": "longest",
    "only_first": "first",
    "only_second": "second",
}


def check_options(
    padding: bool | str,
    truncation: bool | str,
    max_length: int | None,
    stride: int,
    return_tensors: str | None,
    return_overflowing_tokens: bool,
    padding_side: str | None = None,
    pad_to_multiple_of: int | None = None,
) -> None:
    """Raise ValueError for options that are unknown or would have no effect."""
    choices = {
        "padding": (padding, (False, True, "longest", "max_length")),
        "truncation": (truncation, (False, *TRUNCATIONS)),
        "return_tensors": (return_tensors, (None, "pt", "np")),
        "padding_side": (padding_side, (None, "left", "right")),
    }
    for name, (value, allowed) in choices.items():
        if value not in allowed:
            raise ValueError(f"{name}={value!r} must be one of {', '.join(map(repr, allowed))}")
    if max_length is not None and not truncation and padding != "max_length":
        raise ValueError(f"max_length={max_length} has no effect: add truncation=True or padding='max_length'")
    if return_overflowing_tokens and not truncation:
        raise ValueError("return_overflowing_tokens=True has no effect: add truncation=True, which then drops nothing")
    if stride and not return_overflowing_tokens:
        raise ValueError(f"stride={stride} has no effect: add return_overflowing_tokens=True")
    if pad_to_multiple_of is not None and (not isinstance(pad_to_multiple_of, int) or pad_to_multiple_of < 1):
        raise ValueError(f"pad_to_multiple_of={pad_to_multiple_of!r} must be a positive integer or None")
    for name, given in (("padding_side", padding_side), ("pad_to_multiple_of", pad_to_multiple_of)):
        if given is not None and not padding:
            raise ValueError(f"{name}={given!r} has no effect: add padding=True or padding='max_length'")
