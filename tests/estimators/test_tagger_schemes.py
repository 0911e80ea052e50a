"""Schemes of tags that the tagger finds."""

import numpy as np
import pandas as pd
import pytest
from tagged_sentences import SENTENCES, TAGS, tagger

from skxlmr.metrics import entity_f1, entity_spans
from skxlmr.tags import convert_tags


def test_fit_with_bioes_or_plain_tags_infers_scheme():
    bioes = [[tag.replace("B-PER", "S-PER") for tag in row] for row in TAGS]
    bioes[1][:2] = bioes[2][4:] = ["B-LOC", "E-LOC"]
    clf = tagger(max_epochs=40).fit(SENTENCES, [[t.replace("B-LOC", "S-LOC") if i == 0 else t for t in row]
                                                 for i, row in enumerate(bioes)])  # fmt: skip
    assert clf.scheme_ == "BIOES"
    plain = tagger(max_epochs=40).fit(SENTENCES, [[tag[-1] for tag in row] for row in TAGS])
    assert plain.scheme_ == "plain"
    right = [a == b[-1] for row, true in zip(plain.predict(SENTENCES), TAGS, strict=True)
             for a, b in zip(row, true, strict=True)]  # fmt: skip
    assert plain.score(SENTENCES, [[tag[-1] for tag in row] for row in TAGS]) == pytest.approx(np.mean(right))
    predicted = [tag for row in plain.predict(SENTENCES) for tag in row]
    assert len(plain.predict_spans(SENTENCES)) == sum(tag != "O" for tag in predicted)


def test_fit_with_iob1_tags_learns_and_scores_them():
    iob1 = [[tag.replace("B-", "I-") for tag in row] for row in TAGS]
    iob1[5] = ["I-PER", "B-PER", "O"]
    clf = tagger(max_epochs=60, learning_rate=3e-3).fit(SENTENCES, iob1)
    assert clf.scheme_ == "IOB1"
    assert clf.score(SENTENCES, iob1) > 0.9
    assert clf.score(SENTENCES, iob1, strict=True) == clf.score(SENTENCES, iob1)
    assert clf.predict(SENTENCES)[0] == iob1[0], "I may follow O"


@pytest.mark.parametrize("scheme", ["IOB1", "IOE1", "IOE2", "BIOES", "BILOU", "BMES"])
def test_fit_with_tags_of_scheme_infers_learns_and_scores_it(scheme):
    rows = [*TAGS[:5], ["B-PER", "I-PER", "I-PER"], [], ["B-PER", "B-PER", "B-PER", "O"]]
    y = convert_tags(rows, scheme, scheme="BIO")
    clf = tagger(max_epochs=60, learning_rate=3e-3).fit(SENTENCES, y)
    assert clf.scheme_ == scheme
    assert clf.score(SENTENCES, y) > 0.9
    if scheme != "IOE1":  # whose entities of one token before another one are not well-formed for seqeval
        assert clf.score(SENTENCES, y, strict=True) == clf.score(SENTENCES, y), "predicted sequences are valid"
    spans = [[tuple(span) for span in entity_spans(tags)] for tags in y]
    assert clf.score(SENTENCES, spans) == clf.score(SENTENCES, y)
    table = clf.predict_spans(SENTENCES)
    assert entity_f1(y, table) == pytest.approx(clf.score(SENTENCES, y))
    assert set(table.label) == {"PER", "LOC"}


def test_fit_with_types_without_prefix_reads_runs_as_entities():
    y = [[tag[2:] or "O" for tag in row] for row in TAGS]
    with pytest.raises(ValueError, match=r"y has the tag 'O' and tags without a prefix.*scheme='IO'.*scheme='plain'"):
        tagger().fit(SENTENCES, y)
    clf = tagger(scheme="IO", max_epochs=60, learning_rate=3e-3).fit(SENTENCES, y)
    assert clf.classes_.tolist() == ["LOC", "O", "PER"]
    predicted = clf.predict(SENTENCES).tolist()
    assert clf.score(SENTENCES, y) == entity_f1(y, predicted, scheme="IO") > 0.9
    assert clf.score(SENTENCES, [entity_spans(tags) for tags in TAGS]) == clf.score(SENTENCES, y)
    assert clf.score(SENTENCES, y, strict=True) == clf.score(SENTENCES, y)
    table = clf.predict_spans(SENTENCES)
    assert set(table.label) == {"LOC", "PER"}
    assert (table.end - table.start).max() == 2, "New York is one entity"
    spans = [entity_spans(tags) for tags in TAGS]
    again = tagger(scheme="IO", max_epochs=2).fit(SENTENCES, y, X_val=SENTENCES, y_val=spans)
    assert again.validation_scores_[-1] == pytest.approx(again.score(SENTENCES, y))


def test_fit_with_odd_tags_names_tag_and_row():
    frame = pd.DataFrame({"tokens": SENTENCES, "tags": TAGS}, index=range(100, 108))
    frame.at[103, "tags"] = ["B-LOC", "0", "O"]
    with pytest.raises(ValueError, match=r"y, row 3 \(index 103\): tag 1 is '0', a tag without a scheme"):
        tagger().fit(frame.tokens, frame.tags)
    weights = np.array([0, 1, 1, 1, 1, 1, 1, 1])
    with pytest.raises(ValueError, match=r"y, row 3 \(index 103\)"):
        tagger().fit(frame.tokens, frame.tags, sample_weight=weights)
    clf = tagger(max_epochs=1).fit(SENTENCES, TAGS)
    with pytest.raises(ValueError, match=r"y, sentence 3: tag 1 is '0'"):
        clf.score(SENTENCES, frame.tags.tolist())


def test_predict_returns_valid_bio_sequences():
    rng = np.random.RandomState(0)
    clf = tagger(max_epochs=1).fit(SENTENCES, TAGS)
    for tags in clf.predict([[f"w{i}" for i in rng.randint(0, 99, 20)] for _ in range(30)]):
        for before, tag in zip(["O", *tags], tags, strict=False):
            assert not tag.startswith("I-") or before[2:] == tag[2:]
