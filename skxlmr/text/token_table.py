"""The special and added tokens of a vocabulary, as tables."""

from __future__ import annotations

from skxlmr.checkpoints.added_tokens import AddedToken
from skxlmr.checkpoints.tokenizer_json import own_tokens
from skxlmr.text.new_tokens import OWN_NAMES
from skxlmr.text.vocabulary import Vocabulary


class TokenTable:
    """Tables of the tokens of a vocabulary. The tokenizer exposes these methods as its own, most as properties."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary

    def special_tokens_map(self) -> dict[str, str]:
        """The special tokens of XLM-RoBERTa by the names of their attributes."""
        return dict(OWN_NAMES)

    def extra_special_tokens(self) -> list[str]:
        """The special tokens that were added, in the order of their ids."""
        return [token.content for token in self.vocabulary.added if token.special]

    def extra_special_tokens_ids(self) -> list[int]:
        """The ids of `extra_special_tokens`."""
        return [token.id for token in self.vocabulary.added if token.special]

    def all_special_tokens(self) -> list[str]:
        """The special tokens, each once, in the order of `special_tokens_map`; added ones follow."""
        return list(dict.fromkeys([*OWN_NAMES.values(), *self.extra_special_tokens()]))

    def all_special_ids(self) -> list[int]:
        """The ids of `all_special_tokens`."""
        return self.vocabulary.to_ids(self.all_special_tokens())

    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """The tokens that are found in texts before these are cut into pieces, by id, special ones included."""
        every = [*own_tokens(self.vocabulary.mask_id), *self.vocabulary.added]
        return {token.id: token for token in sorted(every, key=lambda token: token.id)}

    def added_tokens_encoder(self) -> dict[str, int]:
        """The ids of the tokens in `added_tokens_decoder`."""
        return {token.content: index for index, token in self.added_tokens_decoder().items()}

    def get_vocab(self) -> dict[str, int]:
        """Return the id of each token.

        Returns
        -------
        dict of str to int
            With special and added tokens.
        """
        return self.vocabulary.get_vocab()

    def get_added_vocab(self) -> dict[str, int]:
        """Return the ids of special and added tokens.

        Returns
        -------
        dict of str to int
            Those that are found in texts before these are cut into pieces.
        """
        return self.added_tokens_encoder()
