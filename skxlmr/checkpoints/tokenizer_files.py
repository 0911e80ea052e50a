"""The files of a tokenizer: which of them hold its pieces, its normaliser, and the tokens that were added to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skxlmr.checkpoints.added_tokens import AddedToken, added_token
from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.checkpoints.files import read_json
from skxlmr.checkpoints.layout import TOKENIZER, TOKENIZER_JSON
from skxlmr.checkpoints.tokenizer_json import MASK, SPECIAL, Steps, own_tokens, read_model, read_settings
from skxlmr.checkpoints.tokenizer_settings import TokenizerSettings, read_tokenizer_settings
from skxlmr.system.schema import shown

CONFIG = "tokenizer_config.json"
ADDED_TOKENS = "added_tokens.json"  # of old versions of transformers: contents and ids
SPECIAL_TOKENS = "special_tokens_map.json"  # of the same: which of them are special
OWN_TOKENS = frozenset((*SPECIAL, MASK))
# What may be downloaded of a tokenizer on the hub.
FILES = (TOKENIZER, TOKENIZER_JSON, CONFIG, ADDED_TOKENS, SPECIAL_TOKENS)


@dataclass(frozen=True)
class TokenizerContent:
    """What the files of a tokenizer say."""

    vocabulary: Path | bytes  # a sentencepiece model
    added: tuple[AddedToken, ...]  # ascending by id, without XLM-RoBERTa's own special tokens
    steps: Steps  # of the normaliser; none are the compiled rules of the sentencepiece model alone
    settings: TokenizerSettings
    extra_special_tokens: tuple[str, ...]  # named as special by the config; they may be in neither of the above


def read_tokenizer_files(directory: Path) -> TokenizerContent:
    """Read the tokenizer in a directory.

    The pieces are those of ``sentencepiece.bpe.model``, or else of ``tokenizer.json``; this also has the normaliser and
    the added tokens. Without it these are in ``tokenizer_config.json``, or else in ``added_tokens.json``. The settings
    are those of ``tokenizer_config.json``.

    Raises FileNotFoundError if there is no tokenizer, and CheckpointError if a file is damaged or not supported.
    """
    if not any((directory / name).exists() for name in (TOKENIZER, TOKENIZER_JSON)):
        raise FileNotFoundError(
            f"{directory} has no {TOKENIZER} and no {TOKENIZER_JSON}. Copy one of them from the model "
            f"that this one was made from."
        )
    config = read_json(directory / CONFIG) if (directory / CONFIG).exists() else {}
    added = _legacy_tokens(directory, config)
    steps: Steps = ()
    truncation, padding = None, None
    vocabulary: Path | bytes = directory / TOKENIZER
    if (directory / TOKENIZER_JSON).exists():
        if not (directory / TOKENIZER).exists():
            vocabulary = read_model(directory / TOKENIZER_JSON)
        added, steps, truncation, padding = read_settings(directory / TOKENIZER_JSON)
    by_content = {token.content: token for token in sorted(added, key=lambda token: token.id)}
    others = tuple(token for token in by_content.values() if token.content and token.content not in OWN_TOKENS)
    settings = read_tokenizer_settings(config, truncation, padding, directory / CONFIG)
    return TokenizerContent(vocabulary, others, steps, settings, _extra_special_tokens(config, directory / CONFIG))


def added_tokens_config(added: Sequence[AddedToken], mask_id: int) -> dict[str, Any]:
    """Return the entries of tokenizer_config.json about added tokens; none without such tokens."""
    if not added:
        return {}
    every = sorted([*own_tokens(mask_id), *added], key=lambda token: token.id)
    return {
        "added_tokens_decoder": {str(token.id): {"content": token.content, **token.flags()} for token in every},
        "additional_special_tokens": [token.content for token in added if token.special],
    }


def _legacy_tokens(directory: Path, config: dict) -> list[AddedToken]:
    """Return the added tokens of a directory without a tokenizer.json."""
    path = directory / CONFIG
    try:
        if listed := config.get("added_tokens_decoder"):
            return [added_token(values, int(id)) for id, values in listed.items()]
        path = directory / ADDED_TOKENS
        if not path.exists():
            return []
        special = _special_contents({**config, **_optional(directory / SPECIAL_TOKENS)})
        return [
            added_token({"content": content, "special": content in special}, id)
            for content, id in read_json(path).items()
        ]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} cannot be read as a list of added tokens: {error!r}") from error


def _extra_special_tokens(config: dict, path: Path) -> tuple[str, ...]:
    """Return the contents of the special tokens that a config names beside XLM-RoBERTa's own, in its order."""
    listed: list[Any] = []
    for name in ("additional_special_tokens", "extra_special_tokens"):
        tokens = config.get(name) or []
        listed += tokens.values() if isinstance(tokens, dict) else tokens if isinstance(tokens, list) else [tokens]
    contents = [token.get("content") if isinstance(token, dict) else token for token in listed]
    if not all(isinstance(content, str) for content in contents):
        raise CheckpointError(f"{path} has extra special tokens that are not strings: {shown(contents)}.")
    return tuple(content for content in dict.fromkeys(contents) if content and content not in OWN_TOKENS)


def _special_contents(settings: dict) -> set[str]:
    named = [value for name, value in settings.items() if name.endswith("_token")]
    several = [settings.get(name) for name in ("additional_special_tokens", "extra_special_tokens")]
    named += [token for tokens in several if isinstance(tokens, list) for token in tokens]
    contents = [token.get("content") if isinstance(token, dict) else token for token in named]
    return {content for content in contents if isinstance(content, str)}


def _optional(path: Path) -> dict:
    return read_json(path) if path.exists() else {}
