"""The content of the files of a tokenizer, as transformers reads them."""

from __future__ import annotations

import json

from skxlmr.checkpoints.layout import TOKENIZER, TOKENIZER_JSON
from skxlmr.checkpoints.tokenizer_files import ADDED_TOKENS, CONFIG, added_tokens_config
from skxlmr.checkpoints.tokenizer_settings import TokenizerSettings
from skxlmr.text.new_tokens import OWN_NAMES
from skxlmr.text.vocabulary import Vocabulary

MAY_BE_OBSOLETE = frozenset((TOKENIZER_JSON, ADDED_TOKENS))  # files that another tokenizer may have left


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
