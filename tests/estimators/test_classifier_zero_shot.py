"""Zero-shot classification with a classifier of entailment."""

import numpy as np
import pandas as pd
import pytest

from skxlmr import XLMRXLClassifier

WORDS = {"sun": "weather", "rain": "weather", "goal": "sport", "match": "sport"}
PAIRS = [(f"{word} today", f"This text is about {topic}.") for word in WORDS for topic in ("weather", "sport")]
FOLLOWS = ["entailment" if WORDS[a.split()[0]] in b else "contradiction" for a, b in PAIRS]


def classifier(**parameters):
    settings = {"model": "nano", "random_state": 0, "max_epochs": 1, "learning_rate": 5e-3, "batch_size": 4}
    return XLMRXLClassifier(**(settings | parameters))


def test_zero_shot_equals_softmax_of_entailment_logits():
    frame = pd.DataFrame(PAIRS, columns=["premise", "hypothesis"])
    nli = classifier(tuning="full", learning_rate=2e-3, max_epochs=40).fit(frame, FOLLOWS)
    table = nli.zero_shot(["sun today", "goal today"], ["weather", "sport"])
    assert table.columns.tolist() == ["weather", "sport"]
    np.testing.assert_allclose(table.sum(axis=1), 1, rtol=1e-5)
    logits = nli._outputs(pd.DataFrame([PAIRS[0], PAIRS[1]], columns=frame.columns))
    odds = np.exp(logits[:, nli.classes_.tolist().index("entailment")])
    np.testing.assert_allclose(table.iloc[0], odds / odds.sum(), rtol=1e-4)
    assert table.iloc[0].idxmax() == "weather"
    assert table.iloc[1].idxmax() == "sport"


def test_zero_shot_with_unsuitable_template_or_classifier_raises():
    nli = classifier().fit(PAIRS, FOLLOWS)
    with pytest.raises(ValueError, match="place for the label"):
        nli.zero_shot(["sun"], ["weather"], template="about it")
    with pytest.raises(ValueError, match="got None"):
        nli.zero_shot(["sun"], ["weather"], template=None)
    with pytest.raises(ValueError, match="makes the second itself"):
        nli.zero_shot(PAIRS, ["weather"])
    with pytest.raises(ValueError, match="class 'entailment'"):
        classifier().fit(PAIRS, np.array(FOLLOWS) == "entailment").zero_shot(["a"], ["b"])
    with pytest.raises(ValueError, match="fitted on pairs"):
        classifier().fit([a for a, _ in PAIRS], FOLLOWS).zero_shot(["a"], ["b"])


def test_zero_shot_with_braces_in_template_keeps_index_and_labels():
    nli = classifier().fit(PAIRS, FOLLOWS)
    texts = pd.Series(["sun", "goal"], index=[7, 5])
    table = nli.zero_shot(texts, ["{sport}", "the sun"], template="{x}: {} or {}")
    assert table.index.tolist() == [7, 5]
    assert table.columns.tolist() == ["{sport}", "the sun"]
    pairs = [["goal", "{x}: the sun or the sun"], ["goal", "{x}: {sport} or {sport}"]]
    of_sun, of_sport = nli._outputs(pairs)[:, nli.classes_.tolist().index("entailment")]
    np.testing.assert_allclose(table.loc[5, "the sun"], 1 / (1 + np.exp(of_sport - of_sun)), rtol=1e-4)
    for labels, error, message in [
        ("sport", TypeError, r"labels is a single str. Put it into a list: \['sport'\]"),
        (["sport", 5], TypeError, "labels, row 1: 5 is a int, not a text"),
        (["sport", None], ValueError, "labels, row 1: None is a missing value"),
        ([], ValueError, "labels is empty"),
    ]:
        with pytest.raises(error, match=message):
            nli.zero_shot(texts, labels)


def test_zero_shot_with_one_label_warns_and_with_equal_ones_raises():
    nli = classifier(tuning="head").fit(PAIRS, FOLLOWS)
    with pytest.warns(UserWarning, match=r"'weather' alone, whose probability is then 1.*multi_label=True"):
        assert nli.zero_shot(["sun today"], ["weather"]).to_numpy().tolist() == [[1.0]]
    assert 0 < nli.zero_shot(["sun today"], ["weather"], multi_label=True).iloc[0, 0] < 1
    with pytest.raises(ValueError, match="labels has 'sport' more than once"):
        nli.zero_shot(["sun today"], ["sport", "weather", "sport"])
