"""Tokens that users add to a vocabulary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from skxlmr.checkpoints.added_tokens import FLAGS, AddedToken
from skxlmr.text.piece_encoder import PieceEncoder
from skxlmr.text.vocabulary import UNK, Vocabulary

# The attributes of XLM-RoBERTa's own special tokens, in the order of transformers.
OWN_NAMES = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "cls_token": "<s>",
    "mask_token": "<mask>",
}
EXTRA_NAMES = ("extra_special_tokens", "additional_special_tokens")  # of new and old versions of transformers


class HasPieceEncoder(Protocol):
    """What encodes texts by a vocabulary, and is replaced with another vocabulary."""

    piece_encoder: PieceEncoder


class Additions:
    """Adds tokens to the vocabulary of a tokenizer, which exposes these methods as its own."""

    def __init__(self, tokenizer: HasPieceEncoder) -> None:
        self.tokenizer = tokenizer

    def add_tokens(self, new_tokens: Any, special_tokens: bool = False) -> int:
        """Add tokens that are found in texts before these are cut into pieces.

        The word embedding of the model needs a row for each of them:
        ``model.resize_token_embeddings(len(tokenizer))``.

        Parameters
        ----------
        new_tokens : str, AddedToken, or list of either
            Tokens; an `AddedToken` of the library tokenizers has flags. One that is a piece of the vocabulary already
            keeps its id. XLM-RoBERTa's own special tokens do not change.
        special_tokens : bool, default=False
            Whether they are special: `decode` and `convert_ids_to_tokens` can leave them out, and they are found before
            the text is normalised, unless they are an `AddedToken` that is special itself and says otherwise.

        Returns
        -------
        int
            The number of tokens that were not there, or with other flags.

        Examples
        --------
        >>> from skxlmr.model import XLMRobertaXLTokenizer
        >>> tokenizer = XLMRobertaXLTokenizer.from_pretrained("nano")
        >>> tokenizer.add_tokens(["covid19"])
        1
        >>> tokenizer.tokenize("covid19 spreads")[:1]
        ['covid19']
        """
        is_one = isinstance(new_tokens, str) or not isinstance(new_tokens, Iterable)
        tokens = [new_tokens] if is_one else list(new_tokens)
        vocabulary, count = with_new_tokens(self.tokenizer.piece_encoder.vocabulary, tokens, special_tokens)
        if count:
            self.tokenizer.piece_encoder = PieceEncoder(vocabulary)
        return count

    def add_special_tokens(self, special_tokens_dict: Mapping[str, Any]) -> int:
        """Add special tokens.

        Parameters
        ----------
        special_tokens_dict : dict
            A list of tokens as `extra_special_tokens` or `additional_special_tokens`, which join those that were added
            before. "bos_token" and the other names of XLM-RoBERTa's own special tokens may only have these.

        Returns
        -------
        int
            The number of tokens that were not there, or were not special.

        Raises
        ------
        ValueError
            If a name is unknown, or one of XLM-RoBERTa's own special tokens would change.
        """
        return self.add_tokens(special_contents(special_tokens_dict), special_tokens=True)


def with_new_tokens(vocabulary: Vocabulary, tokens: Iterable[Any], special: bool) -> tuple[Vocabulary, int]:
    """Return a vocabulary with new tokens, and the number of those that it did not have, or with other flags.

    A token is a string, or has the attributes of `tokenizers.AddedToken`. One that is a piece keeps its id; others get
    the next ids. XLM-RoBERTa's own special tokens do not change.
    """
    added = {token.content: token for token in vocabulary.added}
    own, following, count = set(vocabulary.own_special_tokens.values()), len(vocabulary), 0
    for position, value in enumerate(tokens):
        token = _new_token(value, position, special)
        if not token.content or token.content in own:
            continue
        known = added.get(token.content)
        if known is not None:
            index = known.id
        else:
            (index,) = vocabulary.to_pieces([token.content])
            if index == UNK:
                index, following = following, following + 1
        token = replace(token, id=index)
        count += token != known
        added[token.content] = token
    return vocabulary.with_added(added.values()), count


def special_contents(tokens: Mapping[str, Any]) -> list[Any]:
    """Return the extra special tokens of a dict as `add_special_tokens` takes it.

    Raises ValueError for a name that is unknown, or another token for the name of one of XLM-RoBERTa's own.
    """
    extra: list[Any] = []
    for name, value in tokens.items():
        if name in EXTRA_NAMES:
            if isinstance(value, str) or not isinstance(value, Iterable):
                raise ValueError(f"{name} must be a list of tokens, got {value!r:.60}")
            extra += value
        elif name in OWN_NAMES:
            check_own(name, value)
        else:
            raise ValueError(
                f"{name!r} is not the name of special tokens; names are {', '.join((*OWN_NAMES, EXTRA_NAMES[0]))}"
            )
    return extra


def check_own(name: str, value: Any) -> None:
    """Raise ValueError if a token is not XLM-RoBERTa's own special token of this name."""
    content = getattr(value, "content", value)
    if content != OWN_NAMES[name]:
        raise ValueError(
            f"{name} cannot be {content!r}: the model was trained with {OWN_NAMES[name]!r}. Add other special tokens "
            f"as add_special_tokens({{'{EXTRA_NAMES[0]}': [...]}})."
        )


def _new_token(value: Any, position: int, special: bool) -> AddedToken:
    """Return a token without its id."""
    if isinstance(value, str):
        return AddedToken(-1, value, normalized=not special, special=special)
    content = getattr(value, "content", None)
    flags: dict[str, Any] = {name: getattr(value, name, None) for name in FLAGS}
    if not isinstance(content, str) or not all(isinstance(flag, bool) for flag in flags.values()):
        raise TypeError(f"tokens[{position}] must be a string or an AddedToken, got {value!r:.60}")
    if special and not flags["special"]:
        # In the library, whether a token is normalised follows from whether it is special, unless it is given, which
        # cannot be seen from outside.
        flags |= {"special": True, "normalized": False}
    return AddedToken(-1, content, **flags)
