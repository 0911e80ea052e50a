"""Tokenising of text columns into plans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from skxlmr.columns import TextColumn
from skxlmr.model import XLMRobertaXLTokenizer
from skxlmr.runtime.backbone import Backbone
from skxlmr.runtime.plan.plans import PairPlan, WindowPlan, rows_of
from skxlmr.runtime.plan.windows import Windows
from skxlmr.text.batching import deduplicate


def make_plan(
    tokenizer: XLMRobertaXLTokenizer,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    max_length: int,
    stride: int,
    truncation: bool = False,
    prompt: str = "",
) -> WindowPlan:
    """Tokenise each distinct text or pair once, and split long ones into windows, or truncate them.

    A window has at most `max_length` tokens, special tokens included, of which neighbours share `stride`. The pooling
    leaves out the `prompt` with which all texts begin, and the token `<s>` before it.
    """
    first, text_of_row = deduplicate(texts if pairs is None else list(zip(texts, pairs, strict=True)))
    ids = tokenizer.encode_batch([texts[i] for i in first])
    pair_ids = [None] * len(ids) if pairs is None else tokenizer.encode_batch([pairs[i] for i in first])
    n_prompt = len(tokenizer.encode_batch([prompt])[0]) if prompt else 0
    windows, text_of_window, left_out, truncated = [], [], [], 0
    for text, (a, b) in enumerate(zip(ids, pair_ids, strict=True)):
        if truncation:
            window, dropped = tokenizer.truncate(a, b, max_length=max_length)
            of_text, truncated = [window], truncated + (dropped > 0)
            left_out.append(1 + min(n_prompt, len(window) - 2))
        else:
            cut = tokenizer.windows(a, b, max_length=max_length, stride=stride)
            of_text = [window.input_ids for window in cut]
            # Of <s> and the first text, what is before the end of the prompt.
            left_out += [1 + min(max(start, n_prompt), stop) - start for start, stop in (w.ranges[0] for w in cut)]
        windows += of_text
        text_of_window += [text] * len(of_text)
    return WindowPlan(
        windows,
        np.asarray(text_of_window, np.int64),
        text_of_row,
        n_cut=truncated,
        cut_at=max_length,
        left_out=np.asarray(left_out, np.int64) if prompt else None,
    )


def make_pair_plan(
    tokenizer: XLMRobertaXLTokenizer,
    texts: Sequence[str],
    pairs: Sequence[str],
    *,
    max_length: int,
    stride: int,
    truncation: bool = False,
    prompt: str = "",
) -> PairPlan:
    """Tokenise pairs of texts that are read separately: each distinct text once, long ones in windows or truncated.

    For `prompt` see `make_plan`.
    """
    first, text_of_row = deduplicate(list(zip(texts, pairs, strict=True)))
    sides = [side for i in first for side in (texts[i], pairs[i])]
    single = make_plan(tokenizer, sides, max_length=max_length, stride=stride, truncation=truncation, prompt=prompt)
    windows_of_side = single.windows_per_text[single.text_of_row]
    chosen = rows_of(single.text_of_row, single.windows_per_text)
    side = np.repeat(np.arange(len(sides)), windows_of_side)
    return PairPlan(
        [single.windows[i] for i in chosen],
        side // 2,
        text_of_row,
        n_cut=single.n_cut,
        cut_at=max_length,
        left_out=None if single.left_out is None else single.left_out[chosen],
        is_second=side % 2 == 1,
    )


def plan_texts(backbone: Backbone, column: TextColumn, windows: Windows, prompt: str = "") -> WindowPlan:
    """Plan a column of texts, or of pairs, for a base model; the pooling leaves out the `prompt` at their beginning."""
    lengths = _lengths(backbone, windows)
    return make_plan(backbone.tokenizer, column.texts, column.pairs, **lengths, prompt=prompt)


def plan_pairs(backbone: Backbone, column: TextColumn, windows: Windows, prompt: str = "") -> PairPlan:
    """Plan a column of pairs whose texts are read separately, which begin with the `prompt` as in `plan_texts`."""
    assert column.pairs is not None
    lengths = _lengths(backbone, windows)
    return make_pair_plan(backbone.tokenizer, column.texts, column.pairs, **lengths, prompt=prompt)


def _lengths(backbone: Backbone, windows: Windows) -> dict[str, Any]:
    max_length, stride = windows.resolve(backbone)
    return {"max_length": max_length, "stride": stride, "truncation": windows.truncation}
