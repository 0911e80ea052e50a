"""The files of a tokenizer, as transformers reads them."""

from __future__ import annotations

import json
import os
from pathlib import Path

from skxlmr.checkpoints.layout import TOKENIZER, TOKENIZER_JSON
from skxlmr.checkpoints.tokenizer_files import ADDED_TOKENS, CONFIG, added_tokens_config
from skxlmr.checkpoints.tokenizer_settings import TokenizerSettings
from skxlmr.system import atomic
from skxlmr.text.new_tokens import OWN_NAMES
from skxlmr.text.vocabulary import Vocabulary

MAY_BE_OBSOLETE = frozenset((TOKENIZER_JSON, ADDED_TOKENS))  # files that another tokenizer may have left


class TokenizerFiles:
    """Writes the files of a tokenizer. The tokenizer exposes these methods as its own."""

    def __init__(self, vocabulary: Vocabulary, settings: TokenizerSettings) -> None:
        self.vocabulary, self.settings = vocabulary, settings

    def save_pretrained(self, directory: str | os.PathLike[str]) -> list[Path]:
        """Write the sentencepiece model, byte for byte, and what transformers reads.

        Parameters
        ----------
        directory : str or path
            Created if missing. The files of an earlier tokenizer are replaced together.

        Returns
        -------
        list of Path
            ``sentencepiece.bpe.model``, ``tokenizer_config.json``, ``tokenizer.json`` if it is a unigram model, and
            ``added_tokens.json`` if there are such tokens.
        """
        directory, content = Path(directory), self.files()
        size = sum(map(len, content.values()))
        with atomic.replacing_whole(directory, size=size, is_obsolete=MAY_BE_OBSOLETE.__contains__) as new:
            for name, data in content.items():
                new.add(name, [data])
        return [directory / name for name in content]

    def save_vocabulary(
        self, save_directory: str | os.PathLike[str], filename_prefix: str | None = None
    ) -> tuple[Path, ...]:
        """Write the sentencepiece model alone, byte for byte; `save_pretrained` also writes added tokens and settings.

        Parameters
        ----------
        save_directory : str or path
            Created if missing.
        filename_prefix : str, optional
            What the name of the file begins with, before "-".

        Returns
        -------
        tuple of one Path
            ``sentencepiece.bpe.model``.
        """
        path = Path(save_directory) / (f"{filename_prefix}-{TOKENIZER}" if filename_prefix else TOKENIZER)
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_bytes(path, self.vocabulary.model)
        return (path,)

    def files(self) -> dict[str, bytes]:
        """Return the content of the files that `save_pretrained` writes, by name."""
        return tokenizer_files(self.vocabulary, self.settings)


def tokenizer_files(vocabulary: Vocabulary, settings: TokenizerSettings) -> dict[str, bytes]:
    """Return the content of the files of a tokenizer by name."""
    config = {
        "tokenizer_class": "XLMRobertaTokenizer",
        **settings.to_dict(),
        **OWN_NAMES,
        **added_tokens_config(vocabulary.added, vocabulary.mask_id),
    }
    content = {TOKENIZER: vocabulary.model, CONFIG: (json.dumps(config, indent=2) + "\n").encode()}
    if (tokenizer := vocabulary.as_tokenizer_json()) is not None:
        content[TOKENIZER_JSON] = json.dumps(tokenizer, ensure_ascii=False).encode()
    following = {token.content: token.id for token in vocabulary.added if token.id > vocabulary.mask_id}
    if following:
        content[ADDED_TOKENS] = json.dumps(following, ensure_ascii=False).encode()
    return content
