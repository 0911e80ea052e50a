"""The tagger on strings: their tokens, and spans that count characters."""

import pickle
import re

import pandas as pd
import pytest
from sklearn.base import clone
from tagged_sentences import SENTENCES, TAGS, tagger

import skxlmr
from skxlmr.metrics import entity_f1, entity_report
from skxlmr.text.words import split_words


def test_fit_with_strings_and_spans_predicts_spans_of_strings():
    texts = ["Ada lives in Rome.", "我爱 北京!", "  Bob,  likes (New York) "]
    spans = [
        [(0, 3, "PER"), (13, 17, "LOC")],
        [(3, 5, "LOC")],
        [{"start": 2, "end": 5, "label": "PER"}, (15, 23, "LOC")],
    ]
    clf = tagger(max_epochs=60).fit(texts * 2, spans * 2)
    assert clf.classes_.tolist() == ["B-LOC", "B-PER", "I-LOC", "O"]
    assert clf.score(texts, spans) > 0.9
    found = clf.predict_spans([*texts, ""])
    assert len(found)
    for row in found.itertuples():
        assert row.text == [*texts, ""][row.row][row.start : row.end]
        assert 0 < row.score <= 1
    assert [len(tags) for tags in clf.predict(texts)] == [len(split_words(text)) for text in texts]
    tokens = [["Ada", "lives"]]
    for row in clf.predict_spans(tokens).itertuples():
        assert row.text == tokens[row.row][row.start : row.end]


def test_reports_after_fit_on_strings_agree():
    texts = ["Ada lives in Rome.", "Bob likes (New York)"]
    spans = [[(0, 3, "PER"), (13, 17, "LOC")], [{"start_offset": 11, "end_offset": 19, "label": "LOC"}, (0, 3, "PER")]]
    clf = tagger(max_epochs=60).fit(texts * 2, spans * 2)
    table = clf.predict_spans(texts)
    report = clf.entity_report(texts, spans)
    assert report.support.tolist() == [2, 2, 4, 4, 4]
    pd.testing.assert_frame_equal(report, entity_report(spans, table))
    assert clf.score(texts, spans) == pytest.approx(entity_f1(spans, table)) == report.f1["micro avg"]


def test_align_of_tagger_changes_spans_in_fit_and_score():
    texts, spans = ["Hello Koreans there", "old Romans left"] * 4, [[(6, 11, "LOC")], [(4, 8, "LOC")]] * 4
    with pytest.raises(ValueError, match=r"(?s)y: 8 of 8 rows.*within a token: 'Koreans' \(6, 13\).*align='expand'"):
        tagger().fit(texts, spans)
    clf = tagger(align="expand", max_epochs=60).fit(texts, spans)
    assert clf.score(texts, spans) == 1.0
    assert clf.predict_spans(texts[:1]).text.tolist() == ["Koreans"]


def words(text):
    return re.findall(r"[\w'-]+|[^\w\s]", text)


def word_spans(text):
    return [match.span() for match in re.finditer(r"\S+", text)]


@pytest.mark.parametrize("split", [words, word_spans])
def test_tokenizer_of_tagger_splits_strings_and_survives_pickle(split, tmp_path):
    texts = ["Jean-Paul's tea.", "New-York is old."] * 3
    expected = [split(text) for text in texts]
    if split is word_spans:
        expected = [[text[a:b] for a, b in of_text] for text, of_text in zip(texts, expected, strict=True)]
    clf = tagger(tokenizer=split, max_epochs=2, device="cpu")
    assert clf.tokenize(texts).tolist() == expected
    y = [["B-X", *["O"] * (len(tokens) - 1)] for tokens in expected]
    clf.fit(texts, y)
    assert [len(tags) for tags in clf.predict(texts)] == [len(tokens) for tokens in expected]
    again = pickle.loads(pickle.dumps(clf))
    assert again.predict(texts).tolist() == clf.predict(texts).tolist()
    assert clone(clf).tokenizer is split
    clf.save(tmp_path)
    loaded = skxlmr.load(tmp_path)
    assert loaded.tokenizer is None
    with pytest.raises(ValueError, match=rf"split_words would split, but .* with the tokenizer .*{split.__name__}"):
        loaded.predict(texts)
    assert loaded.predict(expected).tolist() == clf.predict(texts).tolist(), "token lists need no tokenizer"
    assert loaded.set_params(tokenizer=split).predict(texts).tolist() == clf.predict(texts).tolist()
    with pytest.raises(ValueError, match=r"X has strings, which str\.split would split"):
        loaded.set_params(tokenizer=str.split).score(texts, y)


def test_tokenizer_of_tagger_fitted_to_token_lists_may_be_set_later():
    clf = tagger(max_epochs=1).fit(SENTENCES, TAGS)
    assert clf.tokenizer_name_ is None
    texts = [" ".join(tokens) for tokens in SENTENCES]
    assert clf.set_params(tokenizer=str.split).predict(texts).tolist() == clf.predict(SENTENCES).tolist()
    clf.set_params(warm_start=True, tokenizer=None).fit(texts, TAGS)
    assert clf.tokenizer_name_ == "skxlmr.text.words.split_words"
