"""Tokens that a checkpoint has beside the pieces of its vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True)
class AddedToken:
    """A token that is found in a text before the text is cut into pieces.

    The fields have the names of tokenizer.json and the order of its keys.
    """

    id: int
    content: str
    single_word: bool = False  # only where no letter, digit or other character of words is beside it
    lstrip: bool = False  # takes the white space before it
    rstrip: bool = False  # takes the white space after it
    normalized: bool = True  # looked for in the normalised text
    special: bool = False  # left out by `skip_special_tokens`

    def flags(self) -> dict[str, bool]:
        """Return everything but the id and the content."""
        return {name: getattr(self, name) for name in FLAGS}


def added_token(values: dict[str, Any], id: object) -> AddedToken:
    """Return the token of an entry of a JSON file; raise ValueError if a value is of another type."""
    content = values["content"]
    flags = {name: values[name] for name in FLAGS if name in values}
    if type(id) is not int or not isinstance(content, str) or any(type(flag) is not bool for flag in flags.values()):
        raise ValueError(f"added token {content!r:.60} has a value of the wrong type")
    return AddedToken(id, content, **{"normalized": not flags.get("special", False), **flags})
