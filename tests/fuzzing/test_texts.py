"""Any text is read, and gives the same result whatever the other rows are; anything else is a typed error."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from fuzzing import reads
from hypothesis import given
from hypothesis import strategies as st

from skxlmr import (
    XLMRXLQA,
    XLMRXLClassifier,
    XLMRXLEmbedder,
    XLMRXLGenerator,
    XLMRXLMaskedLM,
    XLMRXLMultipleChoice,
    XLMRXLRegressor,
    XLMRXLTagger,
)
from skxlmr.metrics import squad_scores
from skxlmr.model import XLMRobertaXLTokenizer
from skxlmr.text.words import split_words

SETTINGS = {"model": "nano", "tuning": "head", "max_epochs": 1, "random_state": 0}
SURROGATES = ".*texts contain lone surrogates"
FEW = ["good", "bad", "fine", "poor"]

SPECIAL = "</s> <mask> <s> ▁ \x00 \ufdfa \u200b \ud800 é e\u0301 한 👩‍👩‍👧 \u2028".split(" ")
texts = st.lists(st.text(max_size=12) | st.sampled_from(SPECIAL) | st.just("word " * 600), max_size=4).map("".join)
columns = st.lists(texts, min_size=1, max_size=4)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=4) | texts
anything = st.recursive(
    scalars | st.sampled_from([pd.NA, object()]),
    lambda some: st.lists(some, max_size=3) | st.tuples(some, some) | st.dictionaries(st.text(max_size=3), some),
    max_leaves=6,
)
containers = st.sampled_from([list, tuple, pd.Series, lambda x: np.array(x, object), pd.DataFrame, lambda x: x])


@pytest.fixture(scope="module")
def tokenizer() -> XLMRobertaXLTokenizer:
    return XLMRobertaXLTokenizer.from_pretrained("nano")


@pytest.fixture(scope="module")
def fitted() -> dict:
    return {
        "classifier": XLMRXLClassifier(**SETTINGS).fit(FEW, [1, 0] * 2),
        "regressor": XLMRXLRegressor(**SETTINGS).fit(FEW, np.arange(4.0)),
        "embedder": XLMRXLEmbedder("nano").fit(FEW),
        "language model": XLMRXLMaskedLM("nano"),
        "tagger": XLMRXLTagger(**SETTINGS).fit([["a", "b"]] * 2, [["O", "B-X"]] * 2),
        "qa": XLMRXLQA(**SETTINGS).fit([["who", "a b"]] * 2, ["a", "b"]),
        "choice": XLMRXLMultipleChoice(**SETTINGS).fit([["why", "a", "b"]] * 2, [0, 1]),
        "generator": XLMRXLGenerator("nano", tuning="lora", max_epochs=1, random_state=0).fit(FEW),
    }


@given(columns)
def test_tokenizer_reads_any_texts(tokenizer, column):
    ids = reads(lambda: tokenizer.encode_batch(column), errors=())
    assert len(ids) == len(column)
    _, offsets = reads(lambda: tokenizer.encode_with_offsets(column[0]), errors=())
    assert ((offsets >= 0) & (offsets <= len(column[0]))).all()
    reads(lambda: tokenizer.decode(ids[0]), errors=())
    reads(lambda: tokenizer(column, padding=True, truncation=True), errors=())
    for start, stop in reads(lambda: split_words(column[0]), errors=()):
        assert column[0][start:stop].strip()


@pytest.mark.parametrize("name", ["classifier", "regressor", "embedder"])
@given(column=columns)
def test_any_texts_give_results_that_do_not_depend_on_other_rows(name, fitted, column):
    estimator = fitted[name]
    run = {"classifier": "predict_proba", "regressor": "predict", "embedder": "transform"}[name]
    found = reads(lambda: getattr(estimator, run)(column), errors=(), warning=SURROGATES)
    assert len(found) == len(column)
    assert np.isfinite(found).all()
    alone = reads(lambda: getattr(estimator, run)(column[:1]), errors=(), warning=SURROGATES)
    np.testing.assert_allclose(alone[0], found[0], atol=1e-5)


@given(st.lists(st.lists(texts, max_size=4), min_size=1, max_size=3))
def test_tagger_tags_any_tokens(fitted, rows):
    tags = reads(lambda: fitted["tagger"].predict(rows), warning=SURROGATES)
    assert tags is None or list(map(len, tags)) == list(map(len, rows))


@given(columns)
def test_tagger_finds_spans_in_any_texts(fitted, column):
    table = reads(lambda: fitted["tagger"].predict_spans(column), errors=(), warning=SURROGATES)
    for row, start, end in zip(table.row, table.start, table.end, strict=True):
        assert 0 <= start < end <= len(column[row])


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=3))
def test_qa_answers_with_a_part_of_the_context(fitted, rows):
    warning = f"{SURROGATES}|.*questions? of more than .* pieces"
    answers = reads(lambda: fitted["qa"].predict(rows), warning=warning)
    if answers is not None:
        for answer, (_, context) in zip(answers, rows, strict=True):
            assert answer in context.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@given(st.lists(st.tuples(texts, texts, texts), min_size=1, max_size=3))
def test_multiple_choice_chooses_one(fitted, rows):
    chosen = reads(lambda: fitted["choice"].predict(rows), warning=SURROGATES)
    assert chosen is None or set(chosen) <= {0, 1}


@given(columns)
def test_language_models_read_any_texts(fitted, column):
    masked = [f"{text} <mask>" for text in column]
    reads(lambda: fitted["language model"].fill_mask(masked, top_k=1), errors=(), warning=SURROGATES)
    found = reads(lambda: fitted["generator"].predict(column), warning=f"{SURROGATES}|.*too long to be continued")
    assert found is None or len(found) == len(column)


@pytest.mark.parametrize("name", ["classifier", "embedder", "tagger", "qa", "choice", "language model", "generator"])
@given(data=st.data())
def test_anything_else_is_a_typed_error_or_has_a_result_per_row(name, fitted, data):
    values = data.draw(st.lists(anything, max_size=3) | st.lists(st.tuples(anything, anything), max_size=2) | anything)
    try:
        X = data.draw(containers)(values)
    except Exception:  # pandas and NumPy refuse some values
        return
    run = {"embedder": "transform", "language model": "fill_mask"}.get(name, "predict")
    estimator = fitted[name]
    warning = f"{SURROGATES}|X (has|does not have valid) feature names"  # the latter is that of scikit-learn
    reads(lambda: getattr(estimator, run)(X), errors=(ValueError, TypeError), warning=warning)


@given(st.lists(st.tuples(anything, anything), min_size=1, max_size=4))
def test_fit_of_anything_is_a_typed_error_or_a_fit(rows):
    X, y = [x for x, _ in rows], [y for _, y in rows]
    warning = ".*(surrogates|classes in y|labels|converge|did not learn|unique classes|minority)"
    reads(lambda: XLMRXLClassifier(**SETTINGS).fit(X, y), errors=(ValueError, TypeError), warning=warning)


@given(st.lists(st.tuples(texts, st.lists(texts, max_size=3)), min_size=1, max_size=4))
def test_scores_of_any_answers_are_in_their_range(rows):
    scores = reads(lambda: squad_scores(*zip(*rows, strict=True)), errors=())
    assert all(0 <= scores[name] <= 1 for name in ("exact_match", "f1"))
