"""Columns of tokens, and the windows that their pieces are read in."""

import tracemalloc

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from skxlmr.runtime.backbone import get_backbone
from skxlmr.tasks.tagging.sentences import _best_window, check_token_column, plan_tokens
from skxlmr.text.windows import window_ranges

SENTENCES = [
    ["Ada", "lives", "in", "Rome", "."], ["New", "York", "is", "large"], ["I", "saw", "Ada", "in", "New", "York"],
    ["Rome", "is", "old"], ["who", "is", "Bob", "?"], ["Bob", "likes", "tea"], [], ["Ada", "and", "Bob", "left"],
]  # fmt: skip


def test_check_token_column_of_any_library_returns_tuples_of_tokens(make_column):
    assert check_token_column(make_column(SENTENCES)).texts == list(map(tuple, SENTENCES))
    assert check_token_column(make_column(["Ada left", ""])).texts == [("Ada", "left"), ()]


@pytest.mark.parametrize("library", [pd.DataFrame, pl.DataFrame, pa.table], ids=["pandas", "polars", "pyarrow"])
def test_check_token_column_with_frame_of_any_library_keeps_feature_name(library):
    column = check_token_column(library({"words": SENTENCES}))
    assert column.texts == list(map(tuple, SENTENCES))
    assert column.feature_names.tolist() == ["words"]


def test_check_token_column_with_strings_separates_punctuation_and_ideographs():
    text = "Ada's code—v1.0, हिन्दी 日本語 e\u0301!"
    assert list(check_token_column([text]).texts[0]) == [
        "Ada", "'", "s", "code", "—", "v1", ".", "0", ",", "हिन्दी", "日", "本", "語", "e\u0301", "!"
    ]  # fmt: skip
    assert check_token_column([" \n"]).offsets[0].shape == (0, 2)


def test_check_token_column_with_strings_keeps_marks_with_preceding_character():
    text = "\u2764\ufe0flove か\u3099, \U0001f469\u200d\U0001f467 \U0001f44d\U0001f3fd! \u0301 .\u0301"
    assert list(check_token_column([text]).texts[0]) == [
        "\u2764\ufe0f", "love", "か\u3099", ",", "\U0001f469\u200d", "\U0001f467", "\U0001f44d\U0001f3fd", "!",
        "\u0301", ".\u0301",
    ]  # fmt: skip


def test_plan_tokens_with_long_sentence_reads_each_token_once_at_its_first_piece():
    tokenizer = get_backbone("nano").tokenizer
    sentence = [word for row in SENTENCES for word in row] * 2
    plan = plan_tokens(tokenizer, [sentence], max_length=12, stride=4)
    assert len(plan.windows) > 5
    pieces = [tokenizer.encode_batch([word])[0] for word in sentence]
    space = tokenizer.convert_tokens_to_ids("▁")  # a piece of its own before some words
    read_at = [int(of_word[0] == space and len(of_word) > 1) for of_word in pieces]
    assert 0 < sum(read_at) < len(pieces)
    shown = np.concatenate([window[at] for window, at in zip(plan.windows, plan.positions, strict=True)])
    assert shown.tolist() == [of_word[i] for of_word, i in zip(pieces, read_at, strict=True)]
    margins = []
    for window, at in zip(plan.windows, plan.positions, strict=True):
        assert len(window) <= 12
        margins += np.minimum(at - 1, len(window) - 2 - at).tolist()
    assert min(margins[len(pieces[0]) : -12]) >= 1, "within the sentence no token is read at the edge of a window"


def test_plan_tokens_with_all_pieces_reads_each_token_once_in_its_window():
    tokenizer = get_backbone("nano").tokenizer
    sentence = [word for row in SENTENCES for word in row] * 2 + ["Donaudampfschifffahrtsgesellschaftskapitänsmütze"]
    first = plan_tokens(tokenizer, [sentence, [], ["a"]], max_length=12, stride=4)
    plan = plan_tokens(tokenizer, [sentence, [], ["a"]], max_length=12, stride=4, aggregation="mean")
    assert plan.counts_of_units.tolist() == first.counts.tolist()
    starts = [at[np.cumsum(n) - n].tolist() for at, n in zip(plan.positions, plan.n_pieces, strict=True)]
    assert starts == [at.tolist() for at in first.positions]
    pieces = [ids[int(ids[0] == tokenizer.convert_tokens_to_ids("▁") and len(ids) > 1) :]
              for ids in tokenizer.encode_batch([*sentence, "a"])]  # fmt: skip
    assert len(pieces[-2]) > 10, "longer than a window"
    shown = [window[part] for window, at, n in zip(plan.windows, plan.positions, plan.n_pieces, strict=True)
             for part in np.split(at, np.cumsum(n)[:-1]) if len(n)]  # fmt: skip
    for got, expected in zip(shown, pieces, strict=True):
        assert len(got) >= 1
        assert got.tolist() == expected[: len(got)].tolist()
    whole = [len(got) == len(expected) for got, expected in zip(shown, pieces, strict=True)]
    assert whole.count(False) <= 1, "only the longest token is cut"


def test_best_window_of_long_sentence_has_most_context_and_needs_linear_memory():
    rng = np.random.RandomState(0)
    for length, room, stride in [(1, 5, 2), (90, 10, 3), (91, 10, 9), (200, 30, 0), (77, 2, 1)]:
        first = np.flatnonzero(rng.rand(length) < 0.6)
        ranges = window_ranges(length, room, stride)
        margins = [[min(p - a, b - 1 - p) for a, b in ranges] for p in first]
        assert _best_window(first, ranges).tolist() == [int(np.argmax(row)) for row in margins]
    tracemalloc.start()
    _best_window(np.arange(100_000), window_ranges(100_000, 62, 8))
    assert tracemalloc.get_traced_memory()[1] < 10e6, "memory grows linearly with the sentence"
    tracemalloc.stop()
