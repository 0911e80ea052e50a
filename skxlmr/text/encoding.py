"""One row of a call of the tokenizer, with the place of each token in the texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class CharSpan(NamedTuple):
    """Characters ``text[start:end]``."""

    start: int
    end: int


class TokenSpan(NamedTuple):
    """Tokens ``tokens[start:end]`` of a row."""

    start: int
    end: int


@dataclass(frozen=True)
class Encoding:
    """The tokens of a row. All lists have one element for each of them, padding included.

    `word_ids` and `sequence_ids` are None for the special tokens that the call has added, and for padding.
    """

    ids: list[int]
    tokens: list[str]
    offsets: list[tuple[int, int]]
    word_ids: list[int | None]
    sequence_ids: list[int | None]  # 0 for the first text, 1 for the second of a pair
    special_tokens_mask: list[int]
    attention_mask: list[int]
    n_sequences: int  # 2 for a pair of texts, otherwise 1

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def type_ids(self) -> list[int]:
        """Token types, which are 0 everywhere."""
        return [0] * len(self)

    def token_to_sequence(self, token: int) -> int | None:
        """Return to which text of a pair a token belongs."""
        return self.sequence_ids[token]

    def token_to_word(self, token: int) -> int | None:
        """Return the word of a token."""
        return self.word_ids[token]

    def token_to_chars(self, token: int) -> CharSpan | None:
        """Return the characters of a token."""
        return None if self.sequence_ids[token] is None else CharSpan(*self.offsets[token])

    def char_to_token(self, character: int, sequence: int = 0) -> int | None:
        """Return the first token that has a character."""
        for token, (start, stop) in enumerate(self.offsets):
            if start <= character < stop and self.sequence_ids[token] == sequence:
                return token
        return None

    def word_to_tokens(self, word: int, sequence: int = 0) -> TokenSpan | None:
        """Return the tokens of a word."""
        words = zip(self.word_ids, self.sequence_ids, strict=True)
        tokens = [token for token, place in enumerate(words) if place == (word, sequence)]
        return TokenSpan(tokens[0], tokens[-1] + 1) if tokens else None

    def word_to_chars(self, word: int, sequence: int = 0) -> CharSpan | None:
        """Return the characters of a word."""
        tokens = self.word_to_tokens(word, sequence)
        return tokens and CharSpan(self.offsets[tokens.start][0], self.offsets[tokens.end - 1][1])

    def char_to_word(self, character: int, sequence: int = 0) -> int | None:
        """Return the word that has a character."""
        token = self.char_to_token(character, sequence)
        return None if token is None else self.word_ids[token]
