"""Words coloured by their attributions."""

import numpy as np
import pandas as pd
import pytest
from html_reading import read_html

from skxlmr import XLMRXLClassifier, XLMRXLRegressor
from skxlmr.inspection import show_attributions, token_attributions
from skxlmr.inspection.attribution_view import AttributionView
from skxlmr.inspection.attributions import Explained

TEXTS = ["a lovely film", "a dull film"] * 8
LABELS = ["<good>", "<bad>"] * 8


@pytest.fixture(scope="module")
def clf():
    return XLMRXLClassifier("nano", tuning="head", random_state=0).fit(TEXTS, LABELS)


def explained(attributions, text="a b c", most_probable="x"):
    frame = pd.DataFrame({"word": text.split(), "start": [0, 2, 4], "end": [1, 3, 5], "attribution": attributions})
    return Explained([text], ["x"], np.array([0.7]), [most_probable], [frame])


def test_view_shows_texts_classes_and_probabilities(clf):
    texts = ["what a <b>lovely</b> film", "dull & dull"]
    view = show_attributions(clf, texts)
    reader = read_html(view.to_html(page=True))
    for text, label in zip(texts, clf.predict(texts), strict=True):
        assert f"{label} {clf.predict_proba([text]).max():.3f}{text}" in reader.text
    for one, other in zip(view.attributions, token_attributions(clf, texts), strict=True):
        pd.testing.assert_frame_equal(one, other)
    assert view.targets == ["<good>", "<bad>"]
    assert "dull" in str(view)


def test_other_target_is_shown_beside_the_most_probable_class(clf):
    view = show_attributions(clf, ["a lovely film"], target="<bad>")
    assert "<bad> " in read_html(view.to_html()).text
    assert "(most probable: <good>)" in read_html(view.to_html()).text
    assert "(most probable: <good>)" in str(view)


def test_signs_differ_in_colour_and_line_and_weak_words_have_none():
    view = AttributionView(explained([2.0, -1.0, 0.1]))
    html = view.to_html()
    words = html[html.index("0.700") :]
    assert words.count("<mark") == 2
    assert "rgba(0,114,178,0.6);border-bottom:2px solid" in words
    assert "rgba(213,94,0,0.3);border-bottom:2px dashed" in words
    assert ("title", "-1.000") in read_html(html).attributes
    assert str(view) == "0: x 0.700: a +2.00, b -1.00, c +0.10"


def test_words_without_effect_are_not_coloured():
    html = AttributionView(explained([0.0, 0.0, 0.0])).to_html()
    assert html[html.index("0.700") :].count("<mark") == 0


def test_text_without_words_is_shown(clf):
    view = show_attributions(clf, [""])
    read_html(view.to_html())
    assert str(view).startswith("0: <")


def test_regressor_shows_its_prediction():
    y = [5.0, 1.0] * 8
    reg = XLMRXLRegressor("nano", tuning="head", random_state=0).fit(TEXTS, y)
    text = read_html(show_attributions(reg, ["a lovely film"]).to_html()).text
    assert f"prediction {reg.predict(['a lovely film'])[0]:.4g}" in text
    assert "for the prediction" in text
    several = XLMRXLRegressor("nano", tuning="head", random_state=0).fit(TEXTS, np.column_stack([y, y]))
    assert "output 1 " in str(show_attributions(several, ["a lovely film"], target=1))
