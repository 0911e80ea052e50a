"""Fits, predictions and scores of the tagger, the latter compared with seqeval."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import seqeval.metrics
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from tagged_sentences import SENTENCES, TAGS, tagger

import skxlmr
from skxlmr import Full, XLMRXLTagger
from skxlmr.datasets import read_conllu
from skxlmr.metrics import entity_report
from skxlmr.model import XLMRobertaXLModel
from skxlmr.runtime import finetuned as learned
from skxlmr.runtime.feature_cache import clear_features
from skxlmr.tasks.tagging.sentences import check_token_column


@pytest.fixture(scope="module")
def fitted():
    return tagger(device="cpu").fit(SENTENCES, TAGS)


@pytest.mark.parametrize("tuning", ["lora", "head", Full(layers=2)], ids=str)
def test_fit_with_each_tuning_learns_tags(tuning):
    rate = 2e-2 if tuning == "head" else 3e-3
    clf = tagger(tuning=tuning, max_epochs=60, learning_rate=rate).fit(SENTENCES, TAGS)
    assert clf.classes_.tolist() == ["B-LOC", "B-PER", "I-LOC", "O"]
    assert clf.scheme_ == "BIO"
    assert clf.score(SENTENCES, TAGS) > 0.9
    for tags, expected in zip(clf.predict(SENTENCES), TAGS, strict=True):
        assert len(tags) == len(expected)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
def test_score_equals_seqeval(fitted):
    clf = tagger(max_epochs=3).fit(SENTENCES, TAGS)
    predicted = clf.predict(SENTENCES).tolist()
    assert clf.score(SENTENCES, TAGS) == pytest.approx(seqeval.metrics.f1_score(TAGS, predicted))
    assert clf.score(SENTENCES, TAGS, sample_weight=np.ones(8) * 3) == pytest.approx(clf.score(SENTENCES, TAGS))
    assert fitted.score(SENTENCES, TAGS, strict=True) == fitted.score(SENTENCES, TAGS), "predicted sequences are valid"


def test_predict_with_unusual_tokens_returns_one_tag_per_token(fitted):
    rng = np.random.RandomState(0)
    odd = [
        "",
        " ",
        "\u200b",
        "\u00ad",
        "a" * 3000,
        "你好" * 300,
        "🎬",
        "\ud800",
        "</s>",
        "<mask>",
        "नमस्ते",
        "e\u0301",
        "\x00",
    ]
    rows = [[odd[i] for i in rng.randint(0, len(odd), n)] for n in (0, 1, 2, 5, 30)]
    rows += [[token] for token in odd] + [["word"] * 2000, []]
    predicted = fitted.predict(rows)
    assert [len(tags) for tags in predicted] == [len(row) for row in rows]
    assert all(set(tags) <= set(fitted.classes_) for tags in predicted)
    proba = fitted.predict_proba(rows)
    assert [p.shape for p in proba] == [(len(row), 4) for row in rows]
    for of_row in proba:
        np.testing.assert_allclose(of_row.sum(axis=1), 1, rtol=1e-5)


def test_predict_spans_without_spans_keeps_dtypes(fitted):
    empty, full = fitted.predict_spans([[]]), fitted.predict_spans(SENTENCES)
    assert len(full) > len(empty) == 0
    numbers = ["row", "start", "end", "score"]
    assert empty.dtypes[numbers].tolist() == full.dtypes[numbers].tolist()


def test_predict_spans_score_equals_mean_probability_of_tags(fitted):
    proba, tags = fitted.predict_proba(SENTENCES), fitted.predict(SENTENCES)
    table = fitted.predict_spans(SENTENCES)
    assert (table.end - table.start).max() > 1
    for row in table.itertuples():
        chosen = fitted.classes_.searchsorted(tags[row.row][row.start : row.end])
        expected = proba[row.row][np.arange(row.start, row.end), chosen].mean()
        assert row.score == pytest.approx(expected, rel=1e-5)


def test_score_with_sample_weight_equals_repeated_rows(fitted):
    true = [["O"] * len(tags) if i < 4 else tags for i, tags in enumerate(TAGS)]
    weights = [0, 1, 3, 1, 2, 0, 1, 4]
    repeated = [i for i, weight in enumerate(weights) for _ in range(weight)]
    again = [[rows[i] for i in repeated] for rows in (true, fitted.predict(SENTENCES))]
    expected = seqeval.metrics.f1_score(*again)
    assert abs(expected - fitted.score(SENTENCES, true)) > 0.01
    assert fitted.score(SENTENCES, true, sample_weight=weights) == pytest.approx(expected)


def test_entity_report_of_tagger_equals_that_of_its_predictions(fitted):
    predicted = fitted.predict(SENTENCES)
    weights = [1, 2, 0, 1, 3, 1, 1, 1]
    for strict in (False, True):
        expected = entity_report(TAGS, predicted, strict=strict, scheme="BIO")
        pd.testing.assert_frame_equal(fitted.entity_report(SENTENCES, TAGS, strict=strict), expected)
    weighted = fitted.entity_report(SENTENCES, TAGS, weights)
    pd.testing.assert_frame_equal(weighted, entity_report(TAGS, predicted, sample_weight=weights))
    assert fitted.score(SENTENCES, TAGS, weights) == pytest.approx(weighted.f1["micro avg"])
    plain = tagger(scheme="plain", max_epochs=1).fit(SENTENCES, TAGS)
    with pytest.raises(ValueError, match=r"mark no entities.*sklearn\.metrics\.classification_report"):
        plain.entity_report(SENTENCES, TAGS)


def test_tokenize_returns_tokens_or_offsets(fitted):
    texts = ["Ada's code", "ผมชื่อ", ""]
    tokens = fitted.tokenize(texts)
    assert tokens.tolist() == [["Ada", "'", "s", "code"], ["ผ", "ม", "ชื่", "อ"], []]
    assert [len(tags) for tags in fitted.predict(texts)] == list(map(len, tokens))
    for text, of_text, at in zip(texts, tokens, fitted.tokenize(texts, return_offsets=True), strict=True):
        assert [text[a:b] for a, b in at] == of_text
    assert XLMRXLTagger("nano").tokenize([("a", "b"), []]).tolist() == [["a", "b"], []]
    with pytest.raises(ValueError, match="needs a column of strings"):
        fitted.tokenize([["a"]], return_offsets=True)


def test_fit_with_unsuitable_class_weight_or_scheme_raises():
    for weight in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="class_weight must give finite weights that are not negative"):
            tagger(class_weight={"O": weight}).fit(SENTENCES, TAGS)
    with pytest.raises(ValueError, match="no rows to learn from: all their weights are zero"):
        tagger(class_weight=dict.fromkeys(["O", "B-PER", "B-LOC", "I-LOC"], 0)).fit(SENTENCES, TAGS)
    with pytest.raises(ValueError, match=r"(?s)y: 2 of 8 rows .* scheme='BIO' does not have.*row 1: tag 1 is 'E-LOC'"):
        tagger(scheme="BIO").fit(SENTENCES, [[tag.replace("I-", "E-") for tag in row] for row in TAGS])
    assert tagger(scheme="plain", max_epochs=1).fit(SENTENCES, TAGS).scheme_ == "plain"


def test_tagger_on_frame_survives_pickle_and_save(tmp_path):
    frame = pd.DataFrame({"tokens": SENTENCES, "tags": TAGS})
    clf = tagger(max_epochs=3, device="cpu")
    clf.fit(frame[["tokens"]], frame.tags, X_val=frame[["tokens"]], y_val=frame.tags)
    assert clf.feature_names_in_.tolist() == ["tokens"]
    assert clf.validation_scores_[-1] == pytest.approx(clf.score(frame[["tokens"]], frame.tags))
    clf.save(tmp_path)
    for again in (pickle.loads(pickle.dumps(clf)), skxlmr.load(tmp_path)):
        for a, b in zip(again.predict_proba(frame[["tokens"]]), clf.predict_proba(frame[["tokens"]]), strict=True):
            np.testing.assert_array_equal(a, b)


def test_balanced_class_weight_with_sample_weights_equals_repeated_rows():
    task, counts = tagger(class_weight="balanced")._new_task(), np.array([1, 2, 0, 1, 3, 1, 1, 3])
    weighted, _ = task.find(TAGS, check_token_column(SENTENCES), counts.astype(float))
    repeated = [[rows[i] for i in np.repeat(np.arange(8), counts)] for rows in (SENTENCES, TAGS)]
    expected, _ = task.find(repeated[1], check_token_column(repeated[0]), np.ones(counts.sum()))
    np.testing.assert_allclose(weighted.tag_weights, expected.tag_weights)
    assert len(set(expected.tag_weights)) > 1


def test_early_stopping_score_equals_score_on_held_out_rows():
    rng = np.random.RandomState(0)
    rows = [list(rng.choice(["Ada", "Rome", "is", "old"], n)) for n in rng.choice([1, 3, 30], 40)]
    tags = [[{"Ada": "B-PER", "Rome": "B-LOC"}.get(w, "O") if rng.rand() < 0.5 else "O" for w in row] for row in rows]
    weights = rng.choice([0.5, 1.0, 4.0], 40)
    clf = tagger(tuning="head", max_epochs=2, early_stopping=True, validation_fraction=0.4, class_weight="balanced")
    clf.fit(rows, tags, sample_weight=weights)
    seed = np.random.RandomState(0).randint(2**31 - 1)
    _, held = train_test_split(np.arange(40), test_size=0.4, random_state=seed)
    expected = clf.score([rows[i] for i in held], [tags[i] for i in held], sample_weight=weights[held])
    assert 0.1 < expected < 0.95
    assert clf.best_validation_score_ == pytest.approx(expected)


def test_grid_search_with_head_tuning_encodes_each_row_once(monkeypatch):
    clear_features()
    runs, encode = [], XLMRobertaXLModel.encode
    monkeypatch.setattr(XLMRobertaXLModel, "encode", lambda *a, **k: runs.append(a[3].batch_size) or encode(*a, **k))
    grid = GridSearchCV(tagger(tuning="head", max_epochs=2), {"learning_rate": [1e-3, 1e-2]}, cv=2)
    grid.fit(SENTENCES, TAGS)
    assert sum(runs) == len(SENTENCES)
    assert len(cross_val_score(tagger(tuning="head", max_epochs=1), SENTENCES, TAGS, cv=4)) == 4


def test_predict_proba_with_head_tuning_computes_features_in_chunks(monkeypatch):
    clf = tagger(aggregation="first", tuning="head", max_epochs=2, device="cpu").fit(SENTENCES, TAGS)
    expected, sizes = clf.predict_proba(SENTENCES), []
    frozen = learned.frozen_features

    def frozen_features(*args, **options):
        features = frozen(*args, **options)
        sizes.append(len(features))
        return features

    monkeypatch.setattr(learned, "frozen_features", frozen_features)
    monkeypatch.setattr(learned, "FEATURE_BYTES", 10 * 4 * clf._finetuned.config.hidden_size)
    for got, of_row in zip(clf.predict_proba(SENTENCES), expected, strict=True):
        np.testing.assert_allclose(got, of_row, rtol=1e-5)
    assert sum(sizes) == sum(map(len, SENTENCES))
    assert len(sizes) > 2
    assert max(sizes) < 10 + max(map(len, SENTENCES))


def test_checkpointing_with_other_tags_uses_other_folder(tmp_path, monkeypatch):
    from skxlmr.training.checkpointing import Checkpointing

    monkeypatch.setattr(Checkpointing, "remove", lambda self: None)
    other = [*TAGS[:-1], ["O", "O", "B-PER", "O"]]
    for y in (TAGS, TAGS, other):
        tagger(tuning="head", max_epochs=1, checkpoint_dir=tmp_path).fit(SENTENCES, y)
    assert sum(path.is_dir() for path in tmp_path.iterdir()) == 2


@pytest.mark.parametrize(
    ("X", "y", "error", "message"),
    [
        (SENTENCES, [*TAGS[:-1], ["O"]], ValueError, "y, row 7: 1 tags for 4 tokens"),
        (SENTENCES, [*TAGS[:-1], "O"], TypeError, "y, row 7: 'O' is not a list"),
        (SENTENCES, TAGS[:-1], ValueError, "inconsistent"),
        (SENTENCES, [["O"] * len(row) for row in SENTENCES], ValueError, r"at least 2 tags.*\['O'\]"),
        (SENTENCES, None, ValueError, "requires y"),
        ([["a", 1]], [["O", "O"]], TypeError, "row 0: token 1 is 1, a int"),
        ([["a"], "b"], [["O"], ["O"]], TypeError, "row 1: 'b' is not a list of tokens"),
        (["a b", None], [["O", "X"], []], ValueError, "row 1: None is a missing value"),
        ("a b", ["O", "X"], TypeError, "single str"),
        ([], [], ValueError, "0 sample"),
        (pd.DataFrame({"a": [["x"]], "b": [["y"]]}), [["O"]], ValueError, "2 columns"),
        (["Ada left"], [[(0, 2, "PER")]], ValueError, "row 0: .*begins or ends within a token"),
        (["Ada left"], [[(0, 20, "PER")]], ValueError, "row 0: .*within a token|row 0: .*beyond"),
        ([["Ada", "left"]], [[(0, 3, "PER")]], ValueError, "row 0: .*beyond the 2 tokens"),
        ([["Ada", "left"]], [[("0", 2, "PER")]], TypeError, "row 0: start and end of the span .* integers"),
        ([["Ada", "left"]], [[(0, 2)]], TypeError, r"row 0: \(0, 2\) is not a span"),
    ],
)
def test_fit_with_invalid_input_raises_and_names_row(X, y, error, message):
    with pytest.raises(error, match=message):
        tagger().fit(X, y)


@pytest.mark.parametrize("language", ["en", "de", "zh", "ar"])
def test_predict_on_treebank_returns_one_tag_per_token(language, shared_data):
    frame = read_conllu(shared_data / "ud_pud" / f"{language}_pud-ud-test.conllu")
    train, test = frame[:40], frame[800:900]
    clf = tagger(tuning="head", max_epochs=2, learning_rate=1e-2).fit(train.tokens, train.upos)
    assert [len(tags) for tags in clf.predict(test.tokens)] == test.tokens.map(len).tolist()
    assert clf.score(test.tokens, test.upos) > 0.1
    for row in clf.predict_spans(test.text).itertuples():
        assert row.text == test.text.iloc[row.row][row.start : row.end]


def test_score_without_any_known_tag_warns(fitted):
    others = [["B-ORG"] * len(row) for row in SENTENCES]
    with pytest.warns(UserWarning, match=r"No row of y has a tag that fit saw.*'ORG'.*\['LOC', 'PER'\]"):
        assert fitted.score(SENTENCES, others) == 0
    with pytest.warns(UserWarning, match="No row of y has a tag that fit saw"):
        fitted.entity_report(SENTENCES, others)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted.score(SENTENCES, [["B-PER"] * len(row) for row in SENTENCES])
        fitted.score(SENTENCES, [["S-PER"] * len(row) for row in SENTENCES])  # of another scheme
        fitted.score(SENTENCES, [["O"] * len(row) for row in SENTENCES])
