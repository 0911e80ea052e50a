"""Entities highlighted in their texts."""

import pytest
from html_reading import read_html
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import CountVectorizer

from skxlmr import XLMRXLTagger
from skxlmr.inspection import EntityView, show_entities

SENTENCES = [["Ada", "lives", "in", "Rome"], ["Rome", "is", "old"], ["I", "saw", "Ada"]] * 4
TAGS = [["B-PER", "O", "O", "B-LOC"], ["B-LOC", "O", "O"], ["O", "O", "B-PER"]] * 4


@pytest.fixture(scope="module")
def tagger():
    return XLMRXLTagger("nano", learning_rate=5e-3, random_state=0).fit(SENTENCES, TAGS)


def test_entities_of_strings_are_marked_where_they_are(tagger):
    texts = ["👩‍👩‍👧: Ada  lives in Rome!", "<b>Rome</b> is old"]
    view = show_entities(tagger, texts)
    found = tagger.predict_spans(texts)
    assert len(found)
    expected = [(row.row, row.label, row.start, row.end) for row in found.itertuples()]
    shown = [
        (i, ent["label"], ent["start"], ent["end"]) for i, row in enumerate(view.to_displacy()) for ent in row["ents"]
    ]
    assert shown == expected
    assert [row["text"] for row in view.to_displacy()] == texts
    reader = read_html(view.to_html(page=True))
    for row in found.itertuples():
        assert f"{row.text}{row.label}" in reader.text


def test_entities_of_token_lists_are_marked_in_the_joined_text(tagger):
    view = show_entities(tagger, SENTENCES[:2])
    assert str(view) == "0: [Ada PER] lives in [Rome LOC]\n1: [Rome LOC] is old"
    assert view.to_displacy()[0] == {
        "text": "Ada lives in Rome",
        "ents": [{"start": 0, "end": 3, "label": "PER"}, {"start": 13, "end": 17, "label": "LOC"}],
        "title": None,
    }


def test_legend_counts_labels_and_escapes_them():
    view = EntityView(["a b c"], [[(4, 5, "<i>"), (0, 1, "<i>"), (2, 3, "א")]])
    reader = read_html(view.to_html())
    assert reader.text.startswith("<i> 2 א 1 ")
    assert "a<i> bא c<i>" in reader.text


def test_labels_have_one_colour_each():
    html = EntityView(["a b c"], [[(0, 1, "X"), (2, 3, "Y"), (4, 5, "X")]]).to_html()
    styles = [value for name, value in read_html(html).attributes if name == "style" and "background" in value]
    assert styles == [styles[0], styles[1], styles[0], styles[1], styles[0]]
    assert styles[0] != styles[1]


def test_texts_without_entities_are_shown():
    view = EntityView(["nothing here", ""], [[], []])
    assert "no entities" in view.to_html()
    assert str(view) == "0: nothing here\n1: "


def test_spans_that_overlap_are_refused():
    with pytest.raises(ValueError, match=r"row 1: the spans \(0, 3\) and \(2, 4\) overlap"):
        EntityView(["abcd", "abcd"], [[], [(2, 4, "X"), (0, 3, "Y")]])
    with pytest.raises(ValueError, match=r"row 0: the span \(0, 9\) is empty or not within the text"):
        EntityView(["abcd"], [[(0, 9, "X")]])
    with pytest.raises(ValueError, match="spans of 1 rows, but 2 texts"):
        EntityView(["a", "b"], [[]])


def test_other_estimators_are_refused():
    with pytest.raises(TypeError, match="tagger is a CountVectorizer, which has no predict_spans"):
        show_entities(CountVectorizer().fit(["text"]), ["a"])
    with pytest.raises(NotFittedError, match="tagger is not fitted"):
        show_entities(XLMRXLTagger("nano"), ["a"])
