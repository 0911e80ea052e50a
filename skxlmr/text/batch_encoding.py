"""The result of calling the tokenizer: rows of ids as lists or tensors, and where their tokens are in the texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from skxlmr.text.call_options import TENSORS, chosen
from skxlmr.text.encoding import CharSpan, Encoding, TokenSpan
from skxlmr.text.tensors import as_tensors


class BatchEncoding(dict):
    """Model inputs by name, as keys and as attributes; unpacks into a model call: ``model(**encoding)``.

    An integer as a key is the `Encoding` of this row. The methods about words and characters have two forms: with the
    index of a row first, and without it for the first row.

    Parameters
    ----------
    data : mapping or iterable of pairs, default=()
        The model inputs.
    encodings : sequence of Encoding, optional
        One for each row. Without them the methods about words and characters raise ValueError.
    tensor_type : {"pt", "np"}, optional
        Convert the values to tensors or arrays.
    """

    _encodings: Sequence[Encoding] | None = None

    def __init__(
        self,
        data: Mapping[str, Any] | Iterable[tuple[str, Any]] = (),
        encodings: Sequence[Encoding] | None = None,
        tensor_type: str | None = None,
    ) -> None:
        super().__init__(data)
        self._encodings = encodings
        self.convert_to_tensors(tensor_type)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no {name!r} in this encoding; it has {', '.join(self) or 'nothing'}") from None

    def __getitem__(self, key: Any) -> Any:
        return self._all_encodings()[key] if isinstance(key, int | slice) else super().__getitem__(key)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self]

    def __copy__(self) -> BatchEncoding:
        return BatchEncoding(self, self._encodings)  # which are not computed for it, unlike for a pickle

    def __getstate__(self) -> dict[str, Any]:
        return {"_encodings": None if self._encodings is None else list(self._encodings)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    @property
    def data(self) -> BatchEncoding:
        """The model inputs by name, which is the encoding itself: it is a dict."""
        return self

    @property
    def encodings(self) -> Sequence[Encoding] | None:
        """The encoding of each row; None for the result of `pad`."""
        return self._encodings

    @property
    def is_fast(self) -> bool:
        """Whether the methods about words and characters can be used."""
        return self._encodings is not None

    @property
    def n_sequences(self) -> int | None:
        """1 for texts, 2 for pairs; None if that is not known."""
        return self._encodings[0].n_sequences if self._encodings else None

    def tokens(self, batch_index: int = 0) -> list[str]:
        """Return the tokens of a row, special tokens and padding included.

        Parameters
        ----------
        batch_index : int, default=0
            The row.

        Returns
        -------
        list of str
            An unknown piece is returned as it is in the text.
        """
        return self._encoding(batch_index).tokens

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """Return the word of each token of a row.

        Parameters
        ----------
        batch_index : int, default=0
            The row.

        Returns
        -------
        list of int or None
            The index in the list of words for texts that are split into words, otherwise the number of the word
            between spaces; it begins anew with the second text of a pair. None for special tokens.
        """
        return self._encoding(batch_index).word_ids

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """Return to which text of a pair each token of a row belongs.

        Parameters
        ----------
        batch_index : int, default=0
            The row.

        Returns
        -------
        list of int or None
            0 for the first text, 1 for the second, None for special tokens that the call has added.
        """
        return self._encoding(batch_index).sequence_ids

    def token_to_sequence(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """Return to which text of a pair a token belongs, None for special tokens.

        Parameters
        ----------
        batch_or_token_index, token_index : int
            The row, and the token in it; or the token alone, for the first row.

        Returns
        -------
        int or None
        """
        encoding, token = self._place(batch_or_token_index, token_index)
        return encoding.token_to_sequence(token)

    def token_to_word(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """Return the word of a token, as in `word_ids`.

        Parameters
        ----------
        batch_or_token_index, token_index : int
            The row, and the token in it; or the token alone, for the first row.

        Returns
        -------
        int or None
        """
        encoding, token = self._place(batch_or_token_index, token_index)
        return encoding.token_to_word(token)

    def token_to_chars(self, batch_or_token_index: int, token_index: int | None = None) -> CharSpan | None:
        """Return the characters of a token, as in `offset_mapping`.

        Parameters
        ----------
        batch_or_token_index, token_index : int
            The row, and the token in it; or the token alone, for the first row.

        Returns
        -------
        CharSpan or None
            ``start, end`` in the text, or in the word for texts that are split into words; None for special tokens.
        """
        encoding, token = self._place(batch_or_token_index, token_index)
        return encoding.token_to_chars(token)

    def word_to_tokens(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> TokenSpan | None:
        """Return the tokens of a word.

        Parameters
        ----------
        batch_or_word_index, word_index : int
            The row, and the word in it, as in `word_ids`; or the word alone, for the first row.
        sequence_index : int, default=0
            1 for a word of the second text of a pair.

        Returns
        -------
        TokenSpan or None
            ``start, end`` in the row; None if it has no token of the word.
        """
        encoding, word = self._place(batch_or_word_index, word_index)
        return encoding.word_to_tokens(word, sequence_index)

    def word_to_chars(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> CharSpan | None:
        """Return the characters of a word, those of its tokens in the row.

        Parameters
        ----------
        batch_or_word_index, word_index : int
            The row, and the word in it, as in `word_ids`; or the word alone, for the first row.
        sequence_index : int, default=0
            1 for a word of the second text of a pair.

        Returns
        -------
        CharSpan or None
            ``start, end`` in the text; None if the row has no token of the word.
        """
        encoding, word = self._place(batch_or_word_index, word_index)
        return encoding.word_to_chars(word, sequence_index)

    def char_to_token(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """Return the token that a character of a text belongs to.

        Parameters
        ----------
        batch_or_char_index, char_index : int
            The row, and the character in it of the text; or the character alone, for the first row.
        sequence_index : int, default=0
            1 for a character of the second text of a pair.

        Returns
        -------
        int or None
            None for a space, and for characters that truncation has removed.
        """
        encoding, character = self._place(batch_or_char_index, char_index)
        return encoding.char_to_token(character, sequence_index)

    def char_to_word(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """Return the word that a character of a text belongs to, as in `word_ids`.

        Parameters
        ----------
        batch_or_char_index, char_index : int
            The row, and the character in it of the text; or the character alone, for the first row.
        sequence_index : int, default=0
            1 for a character of the second text of a pair.

        Returns
        -------
        int or None
            None for a space, and for characters that truncation has removed.
        """
        encoding, character = self._place(batch_or_char_index, char_index)
        return encoding.char_to_word(character, sequence_index)

    def convert_to_tensors(self, tensor_type: str | None = None, prepend_batch_axis: bool = False) -> BatchEncoding:
        """Convert the values to tensors, in place.

        Parameters
        ----------
        tensor_type : {"pt", "np"}, optional
            torch tensors or NumPy arrays; None changes nothing.
        prepend_batch_axis : bool, default=False
            Make one row of the values of a single text.

        Returns
        -------
        BatchEncoding
            The encoding itself.

        Raises
        ------
        ValueError
            If the rows differ in length.
        """
        kind = chosen("return_tensors", tensor_type, TENSORS)
        if kind is not None:
            values = {name: [value] if prepend_batch_axis else value for name, value in self.items()}
            self.update(as_tensors(values, kind))
        return self

    def to(self, device: Any, *, non_blocking: bool = False) -> BatchEncoding:
        """Move the tensors to a torch device, in place.

        Parameters
        ----------
        device : torch.device, str or int
        non_blocking : bool, default=False
            Whether to return before the copy is done, if the device allows it.

        Returns
        -------
        BatchEncoding
            The encoding itself.
        """
        moved = {n: value.to(device, non_blocking=non_blocking) for n, value in self.items() if hasattr(value, "cpu")}
        self.update(moved)
        return self

    def _all_encodings(self) -> Sequence[Encoding]:
        if self._encodings is None:
            raise ValueError(
                "this encoding does not know the words and characters of its tokens, because it was not made by a "
                "call of the tokenizer: use the result of the call, before pad or a data collator"
            )
        return self._encodings

    def _encoding(self, row: int) -> Encoding:
        encodings = self._all_encodings()
        if not -len(encodings) <= row < len(encodings):
            raise IndexError(f"row {row} does not exist: there are {len(encodings)} rows")
        return encodings[row]

    def _place(self, first: int, second: int | None) -> tuple[Encoding, int]:
        """Return the row and the index in it, of which the former may be left out."""
        return (self._encoding(0), first) if second is None else (self._encoding(first), second)
