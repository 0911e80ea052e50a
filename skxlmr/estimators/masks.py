"""Masks in texts: the pieces that may take their place, and the texts with them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from skxlmr.model import XLMRobertaXLTokenizer
from skxlmr.text.offsets import SPACE

MASK = "<mask>"
OTHER_MASKS = ("[MASK]", "<MASK>", "[mask]", "<Mask>")  # those of other models


def target_ids(tokenizer: XLMRobertaXLTokenizer, parts: Sequence[Sequence[str]], targets: Sequence[str]) -> np.ndarray:
    """Return the piece that each target is at each mask of split texts, (n_masks, n_targets); see `fill_mask`."""
    if not targets:
        raise ValueError("targets is empty: give at least one word, or None for the most probable pieces.")
    words = [target.lstrip(SPACE + " ") for target in targets]
    begins = np.array([word != target for word, target in zip(words, targets, strict=True)])  # say "▁" themselves
    spelled = [tokenizer.convert_ids_to_tokens(ids) for ids in tokenizer.encode_batch(words)]
    normal = ["".join(pieces).removeprefix(SPACE) for pieces in spelled]
    inside = np.array(tokenizer.convert_tokens_to_ids(normal))
    first = np.array(tokenizer.convert_tokens_to_ids([SPACE + word for word in normal]))
    first = np.where((first == tokenizer.unk_token_id) & ~begins, inside, first)
    inside = np.where((inside == tokenizer.unk_token_id) | begins, first, inside)
    for i in np.flatnonzero(np.isin(first, tokenizer.all_special_ids) | (np.array(normal) == "")).tolist():
        raise ValueError(
            f"targets: {targets[i]!r:.60} is not a single piece of the vocabulary, but {' '.join(spelled[i])!r:.60}: "
            f"leave it out, or give a piece."
        )
    after_space = [
        (not part and not i) or part[-1:].isspace() for of_text in parts for i, part in enumerate(of_text[:-1])
    ]
    return np.where(np.array(after_space)[:, None], first, inside).astype(np.int64)


def filled(parts: Sequence[str], pieces: Sequence[str | None]) -> str:
    """Put pieces in place of the masks between the parts of a text; None leaves a mask as it is."""
    text = parts[0]
    for piece, part in zip(pieces, parts[1:], strict=True):
        if piece is None:
            text += MASK
        elif piece.startswith(SPACE) and (not text or text[-1].isspace()):
            text += piece[len(SPACE) :].replace(SPACE, " ")
        else:  # a piece without a space before it belongs to the word on its left
            text = text.rstrip() + piece.replace(SPACE, " ")
        text += part
    return text
