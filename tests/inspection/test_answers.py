"""Answers highlighted in their contexts."""

import pandas as pd
import pytest
from html_reading import read_html
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import CountVectorizer

from skxlmr import XLMRXLQA
from skxlmr.inspection import show_answers
from skxlmr.inspection.answers import Answer, AnswerView

CONTEXTS = ["Ada wrote it.", "It is in Rome."]
X = pd.DataFrame({"context": CONTEXTS, "question": ["Who wrote it?", "Where is it?"]})


@pytest.fixture(scope="module")
def qa():
    return XLMRXLQA("nano", learning_rate=5e-3, max_epochs=2, random_state=0).fit(
        pd.concat([X] * 4), ["Ada", "Rome"] * 4
    )


def test_answers_are_marked_in_their_contexts(qa):
    asked = pd.DataFrame({"question": ["<i>Who</i>?", "من؟"], "context": ["<b>Ada</b> wrote it 👍🏽", "كتبته آدا."]})
    view = show_answers(qa, asked)
    reader = read_html(view.to_html(page=True))
    marked = [reader.text[start:end] for start, end in reader.marks]
    assert marked == qa.predict(asked).tolist()
    best = qa.predict_answers(asked).groupby("row").first()
    for question, context, score in zip(asked.question, asked.context, best.score, strict=True):
        assert f"{question} score {score:.3f}{context}" in reader.text


def test_columns_are_found_by_name(qa):
    lines = str(show_answers(qa, X)).splitlines()
    assert lines[0] == "0: Who wrote it?"
    assert len(lines) == 6


def test_no_answer_is_said_and_not_marked():
    answers = [Answer(0, 3, 0.1, 0.9, False), None, Answer(0, 3, 0.8, 0.1, True)]
    view = AnswerView(["q?"] * 3, ["Ada wrote it.", "", "Ada wrote it."], answers)
    reader = read_html(view.to_html())
    assert "q? no answer, 0.900; best with 0.100: AdaAda wrote it." in reader.text
    assert "q? no answerq?" in reader.text
    assert len(reader.marks) == 1
    assert "no answer, 0.900; best with 0.100: Ada" in str(view)


def test_text_shows_what_is_around_the_answer():
    context = "x" * 150 + " Ada " + "y" * 150
    shown = str(AnswerView(["q?"], [context], [Answer(151, 154, 0.8, 0.1, True)]))
    assert shown == "0: q?\n   score 0.800\n   ..." + "x" * 99 + " [Ada] " + "y" * 99 + "..."


def test_empty_context_has_no_answer(qa):
    view = show_answers(qa, pd.DataFrame({"question": ["Who?"], "context": [""]}))
    assert "no answer" in str(view)
    assert not read_html(view.to_html()).marks


def test_other_estimators_are_refused():
    with pytest.raises(TypeError, match="qa is a CountVectorizer, which has no predict_answers"):
        show_answers(CountVectorizer().fit(["text"]), X)
    with pytest.raises(NotFittedError, match="qa is not fitted"):
        show_answers(XLMRXLQA("nano"), X)
