"""Finding the tokens in a text that are not cut into pieces, as the library tokenizers finds them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

from skxlmr.checkpoints.added_tokens import AddedToken
from skxlmr.text.normalizer import WHITESPACE


class Part(NamedTuple):
    """A part of a text, ``text[start:stop]``: a token, or text between tokens, where `token` is None."""

    token: AddedToken | None
    start: int
    stop: int


class TokenFinder:
    """Splits texts at tokens. Of tokens that begin at the same place, the longest is found.

    `contents` are what to look for, if it is not the contents of the tokens.
    """

    def __init__(self, tokens: Iterable[AddedToken], contents: Iterable[str] | None = None) -> None:
        tokens = list(tokens)
        spelled = [token.content for token in tokens] if contents is None else list(contents)
        self._tokens = {content: token for content, token in zip(spelled, tokens, strict=True) if content}
        longest_first = sorted(self._tokens, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def __bool__(self) -> bool:
        return bool(self._tokens)

    def split(self, text: str) -> list[Part]:
        """Return the parts of a text, in order; without tokens, the text is one part.

        Examples
        --------
        >>> finder = TokenFinder([AddedToken(9, "[E]"), AddedToken(10, "a", single_word=True)])
        >>> [(text.start, text.stop, text.token and text.token.id) for text in finder.split("[E] cat a")]
        [(0, 3, 9), (3, 8, None), (8, 9, 10)]
        """
        parts: list[Part] = []
        end = 0
        for match in self._pattern.finditer(text):
            token, (start, stop) = self._tokens[match[0]], match.span()
            if token.single_word and (_is_of_word(text[start - 1 : start]) or _is_of_word(text[stop : stop + 1])):
                continue
            while token.lstrip and start > end and text[start - 1] in WHITESPACE:
                start -= 1
            while token.rstrip and stop < len(text) and text[stop] in WHITESPACE:
                stop += 1
            if token.lstrip:
                start = max(start, end)  # the token before may have taken this one's own white space
            if end < start:
                parts.append(Part(None, end, start))
            if start < stop:
                parts.append(Part(token, start, stop))
            end = stop
        if end < len(text) or not parts:
            parts.append(Part(None, end, len(text)))
        return parts


def _is_of_word(character: str) -> bool:
    """Whether regular expressions of Unicode (Technical Standard 18) count a character among those of words."""
    if not character:
        return False
    category = unicodedata.category(character)
    circled = "\u24b6" <= character <= "\u24e9" or "\U0001f130" <= character <= "\U0001f189"
    return category[0] in "LM" or category in ("Nd", "Nl", "Pc") or character in "\u200c\u200d" or circled
