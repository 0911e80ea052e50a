"""Ids to tokens and text, and tokens to ids."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, overload

from skxlmr.checkpoints.tokenizer_settings import TokenizerSettings
from skxlmr.text.offsets import SPACE
from skxlmr.text.padding import as_list
from skxlmr.text.vocabulary import BOS, EOS, Vocabulary

# What the clean-up of transformers replaces, in this order.
CLEANED = (" .", " ?", " !", " ,", (" ' ", "'"), " n't", " 'm", " 's", " 've", " 're")


class Conversions:
    """Conversions between ids, tokens and text. The tokenizer exposes these methods as its own."""

    def __init__(self, vocabulary: Vocabulary, settings: TokenizerSettings) -> None:
        self.vocabulary, self.settings = vocabulary, settings

    @overload
    def convert_ids_to_tokens(self, ids: int, skip_special_tokens: bool = False) -> str: ...

    @overload
    def convert_ids_to_tokens(self, ids: Iterable[int], skip_special_tokens: bool = False) -> list[str]: ...

    def convert_ids_to_tokens(self, ids: int | Iterable[int], skip_special_tokens: bool = False) -> str | list[str]:
        """Return the token of each id.

        Parameters
        ----------
        ids : int or array-like of int, 1-D
            List, array or tensor.
        skip_special_tokens : bool, default=False
            Leave special tokens out, unless a single id is given.

        Returns
        -------
        str or list of str
            A single token for a single id.

        Raises
        ------
        ValueError
            If an id is not in the vocabulary.
        """
        plain = as_list(ids)
        if isinstance(plain, int):
            return self.vocabulary.to_tokens([plain])[0]
        tokens = self.vocabulary.to_tokens(plain)
        if not skip_special_tokens:
            return tokens
        special = self.vocabulary.special_tokens
        return [token for index, token in zip(plain, tokens, strict=True) if index not in special]

    @overload
    def convert_tokens_to_ids(self, tokens: str) -> int: ...  # type: ignore[overload-overlap]

    @overload
    def convert_tokens_to_ids(self, tokens: Iterable[str]) -> list[int]: ...

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> int | list[int]:
        """Return the id of each token, that of ``<unk>`` for those that are not in the vocabulary.

        Parameters
        ----------
        tokens : str or iterable of str
            Tokens as from `tokenize`: "▁Hello", "<mask>".

        Returns
        -------
        int or list of int
            A single id for a single token.
        """
        return self.vocabulary.to_ids([tokens])[0] if isinstance(tokens, str) else self.vocabulary.to_ids(tokens)

    def convert_tokens_to_string(self, tokens: Iterable[str]) -> str:
        """Join tokens to a text.

        Parameters
        ----------
        tokens : iterable of str
            Tokens as from `tokenize`: "▁Hello", "<mask>".

        Returns
        -------
        str

        Examples
        --------
        >>> from skxlmr.text.tokenizer import XLMRobertaXLTokenizer
        >>> XLMRobertaXLTokenizer.from_pretrained("nano").convert_tokens_to_string(["▁good", "▁morn", "ing"])
        'good morning'
        """
        return "".join(tokens).replace(SPACE, " ").removeprefix(" ")

    def decode(
        self,
        token_ids: int | Iterable[int],
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> str:
        """Join the tokens of ids to a text.

        It is the normalised text: what the normaliser changed (full-width letters, repeated spaces) or the vocabulary
        lacks is not restored.

        Parameters
        ----------
        token_ids : int or array-like of int, 1-D
            List, array or tensor.
        skip_special_tokens : bool, default=False
            Leave special tokens out.
        clean_up_tokenization_spaces : bool, optional
            Remove spaces before punctuation and English contractions ("n't"). None is the attribute of the tokenizer.

        Returns
        -------
        str

        Raises
        ------
        ValueError
            If an id is not in the vocabulary.
        """
        plain = as_list(token_ids)
        tokens = self.convert_ids_to_tokens([plain] if isinstance(plain, int) else plain, skip_special_tokens)
        text = self.convert_tokens_to_string(tokens)
        if clean_up_tokenization_spaces is None:
            clean_up_tokenization_spaces = self.settings.clean_up_tokenization_spaces
        for replaced in CLEANED if clean_up_tokenization_spaces else ():
            before, after = replaced if isinstance(replaced, tuple) else (replaced, replaced[1:])
            text = text.replace(before, after)
        return text

    def batch_decode(
        self,
        sequences: Iterable[Iterable[int]],
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> list[str]:
        """Apply `decode` to each row.

        Parameters
        ----------
        sequences : iterable of 1-D array-like, or 2-D array or tensor
            One row per text.
        skip_special_tokens : bool, default=False
            Leave special tokens out.
        clean_up_tokenization_spaces : bool, optional
            See `decode`.

        Returns
        -------
        list of str
        """
        return [self.decode(row, skip_special_tokens, clean_up_tokenization_spaces) for row in sequences]

    def get_special_tokens_mask(
        self,
        token_ids_0: Iterable[Any],
        token_ids_1: Iterable[int] | None = None,
        already_has_special_tokens: bool = False,
    ) -> list[Any]:
        """Mark special tokens.

        Parameters
        ----------
        token_ids_0 : array-like of int
            The ids of a text, or the first of a pair. With `already_has_special_tokens` it may have any shape.
        token_ids_1 : array-like of int, optional
            The ids of the second text of a pair.
        already_has_special_tokens : bool, default=False
            Whether the ids are those of a row, in which all special tokens are marked, including padding, ``<unk>`` and
            ``<mask>``. Otherwise the result is for the row that `build_inputs_with_special_tokens` makes of them, in
            which ``<s>`` and ``</s>`` are marked.

        Returns
        -------
        list of int
            1 for a special token, otherwise 0; nested as `token_ids_0`.

        Raises
        ------
        ValueError
            If `token_ids_1` is given for ids that already have special tokens.
        """
        if not already_has_special_tokens:
            texts = [[0] * len(as_list(ids)) for ids in (token_ids_0, token_ids_1) if ids is not None]
            return joined(texts, 1, 1)
        if token_ids_1 is not None:
            raise ValueError("token_ids_1 must be None with already_has_special_tokens=True: pass whole rows of ids")
        special = self.vocabulary.special_tokens

        def marked(ids: Any) -> Any:
            return [marked(row) for row in ids] if isinstance(ids, list) else int(ids in special)

        return marked(as_list(token_ids_0))

    def build_inputs_with_special_tokens(
        self, token_ids_0: Iterable[int], token_ids_1: Iterable[int] | None = None
    ) -> list[int]:
        """Add the special tokens: ``<s> A </s>`` or ``<s> A </s></s> B </s>``.

        Parameters
        ----------
        token_ids_0, token_ids_1 : array-like of int
            The ids of a text, or of both texts of a pair, without special tokens.

        Returns
        -------
        list of int
        """
        return joined([as_list(ids) for ids in (token_ids_0, token_ids_1) if ids is not None], BOS, EOS)

    def create_token_type_ids_from_sequences(
        self, token_ids_0: Iterable[int], token_ids_1: Iterable[int] | None = None
    ) -> list[int]:
        """Return the token types of a text or a pair with special tokens, which are 0 everywhere.

        Parameters
        ----------
        token_ids_0, token_ids_1 : array-like of int
            The ids of a text, or of both texts of a pair, without special tokens.

        Returns
        -------
        list of int
        """
        return [0] * len(self.build_inputs_with_special_tokens(token_ids_0, token_ids_1))


def joined(texts: list[list[int]], bos: int, eos: int) -> list[int]:
    """Concatenate A as (bos, A, eos), and A, B as (bos, A, eos, eos, B, eos)."""
    first, *rest = texts
    return [bos, *first, eos, *(value for text in rest for value in (eos, *text, eos))]
