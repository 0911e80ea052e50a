from __future__ import annotations

import io
import pickle
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline

from skxlmr import XLMRXLClassifier, XLMRXLMultipleChoice, XLMRXLRegressor, XLMRXLTagger, release_models
from skxlmr.columns import as_objects
from skxlmr.runtime import feature_cache
from skxlmr.scale import Predictor, predictor

LIBRARIES = {
    "pandas": lambda frame: frame,
    "Arrow": pa.Table.from_pandas,
    "Arrow batch": pa.RecordBatch.from_pandas,
    "polars": pl.from_pandas,
    "arrays": lambda frame: {name: frame[name].to_numpy(object) for name in frame},
}


def as_dict(frame) -> dict[str, list]:
    """The columns of any frame as lists."""
    if isinstance(frame, dict):
        return {name: list(values) for name, values in frame.items()}
    if isinstance(frame, pd.DataFrame | pl.DataFrame):
        return frame.to_dict("list") if isinstance(frame, pd.DataFrame) else frame.to_dict(as_series=False)
    return frame.to_pydict()


@pytest.mark.parametrize("library", LIBRARIES)
def test_predictor_returns_a_frame_of_the_same_kind_with_predictions(clf, table, library):
    frame = LIBRARIES[library](table)
    result = Predictor(clf)(frame)
    assert type(result) is type(frame)
    columns = as_dict(result)
    assert list(columns) == ["id", "text", "prediction", "error"]
    assert columns["id"] == table.id.tolist()
    assert columns["prediction"] == clf.predict(table.text).tolist()
    assert set(columns["error"]) == {None}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("method", ["predict_proba", "predict_log_proba"])
def test_predictor_gives_each_class_a_column(clf, table, library, method):
    columns = as_dict(Predictor(clf, method=method, keep=["id"])(LIBRARIES[library](table)))
    prefix = method.removeprefix("predict_")
    assert list(columns) == ["id", f"{prefix}_no", f"{prefix}_yes", "error"]
    found = np.stack([columns[f"{prefix}_no"], columns[f"{prefix}_yes"]], axis=1).astype(np.float32)
    np.testing.assert_array_equal(found, getattr(clf, method)(table.text))


def test_predictor_returns_vectors_as_lists_and_decisions_as_numbers(clf, embedder, table):
    result = Predictor(embedder, method="transform")(pa.Table.from_pandas(table))
    assert result.schema.field("vector").type == pa.list_(pa.float32())
    vectors = np.array(result["vector"].to_pylist(), np.float32)
    np.testing.assert_array_equal(vectors, embedder.transform(table.text))
    assert Predictor(embedder, method="transform")({"text": ["a", "b"]})["vector"].shape == (2, 3)
    decisions = Predictor(clf, method="decision_function")(table).decision
    np.testing.assert_array_equal(decisions, clf.decision_function(table.text))


@pytest.mark.parametrize("library", LIBRARIES)
def test_predictor_puts_errors_of_rows_into_a_column_and_keeps_all_rows(clf, embedder, library, monkeypatch):
    frame = pd.DataFrame({"text": ["good", None, "poison", "bad", "fine"]})
    run = Predictor._run

    def failing(self, estimator, X):
        if "poison" in X:
            raise RuntimeError("cannot read poison")
        return run(self, estimator, X)

    monkeypatch.setattr(Predictor, "_run", failing)
    for estimator, method in ((clf, "predict"), (embedder, "transform")):
        columns = as_dict(Predictor(estimator, method=method)(LIBRARIES[library](frame)))
        assert columns["error"][1] == "column 'text': a missing value, not a text"
        assert columns["error"][2] == "RuntimeError: cannot read poison"
        assert [columns["error"][row] for row in (0, 3, 4)] == [None] * 3
        of_method = columns["prediction" if method == "predict" else "vector"]
        whole = getattr(estimator, method)(["good", "bad", "fine"])
        for row, expected in zip((0, 3, 4), whole, strict=True):
            np.testing.assert_array_equal(of_method[row], expected)
        for row in (1, 2):
            assert of_method[row] is None or np.isnan(of_method[row]).all()


@pytest.mark.parametrize("library", LIBRARIES)
def test_predictor_of_no_rows_returns_the_same_columns(clf, embedder, table, library):
    for call in (Predictor(clf), Predictor(clf, method="predict_proba"), Predictor(embedder, method="transform")):
        empty, full = call(LIBRARIES[library](table[:0])), call(LIBRARIES[library](table))
        assert list(as_dict(empty)) == list(as_dict(full))
        assert not as_dict(empty)["error"]
        if "Arrow" in library:
            assert empty.schema == full.schema


def test_predictor_of_an_iterator_returns_an_iterator(clf, table):
    frames = Predictor(clf)(iter([table[:3], table[3:]]))
    assert next(frames).id.tolist() == [100, 101, 102]
    assert len(next(frames)) == len(table) - 3


def test_predictor_keeps_the_index_of_pandas(clf, table):
    result = Predictor(clf)(table.set_index("id"))
    assert result.index.tolist() == table.id.tolist()
    assert result.prediction.notna().all()


def test_predictor_in_a_lazy_frame_of_polars(clf, table):
    schema = {"id": pl.Int64, "text": pl.String, "prediction": pl.String, "error": pl.String}
    found = pl.from_pandas(table).lazy().map_batches(Predictor(clf), schema=schema).collect()
    assert found["prediction"].to_list() == clf.predict(table.text).tolist()


def test_predictor_from_a_pickle_or_a_directory_predicts_the_same(clf, saved, table):
    expected = clf.predict_proba(table.text)
    for call in (Predictor(clf, method="predict_proba"), Predictor(saved, method="predict_proba")):
        data = pickle.dumps(call)
        predictor._loaded.clear()  # as in another process
        found = pickle.loads(data)(table)
        np.testing.assert_array_equal(found[["proba_no", "proba_yes"]], expected)


def test_pickle_holds_no_pickle_of_the_estimator(clf):
    found = []

    class Unpickler(pickle.Unpickler):
        def find_class(self, module, name):
            found.append((module, name))
            return super().find_class(module, name)

    Unpickler(io.BytesIO(pickle.dumps(Predictor(clf)))).load()
    assert found == [("skxlmr.scale.predictor", "Predictor")]


def test_release_models_frees_what_a_predictor_has_loaded(saved, table):
    Predictor(saved)(table[:2])
    assert predictor._loaded
    release_models()
    assert not predictor._loaded


def test_predictor_loads_once_per_process(saved, table, monkeypatch):
    calls = []
    load = predictor.load
    monkeypatch.setattr(predictor, "load", lambda *args, **kwargs: calls.append(args) or load(*args, **kwargs))
    predictor._loaded.clear()
    for _ in range(3):
        pickle.loads(pickle.dumps(Predictor(saved)))(table[:2])
    assert len(calls) == 1
    Predictor(saved, parameters={"batch_tokens": 64})(table[:2])
    assert len(calls) == 2


def test_predictor_notices_files_that_change_before_they_are_loaded(saved, embedder, table, tmp_path: Path):
    shutil.copytree(saved, tmp_path / "clf")
    predictor._loaded.clear()
    call = Predictor(tmp_path / "clf")
    shutil.rmtree(tmp_path / "clf")
    embedder.save(tmp_path / "clf")
    with pytest.raises(ValueError, match="have changed"):
        call(table)


def test_predictor_with_pairs_and_names_of_fit(table):
    pairs = table.rename(columns={"text": "question"}).assign(context="a context")
    regressor = XLMRXLRegressor("nano", tuning="head", max_epochs=1, random_state=0)
    regressor.fit(pairs[["question", "context"]], np.arange(len(pairs)))
    found = Predictor(regressor, column=["question", "context"])(pairs)
    np.testing.assert_array_equal(found.prediction, regressor.predict(pairs[["question", "context"]]))
    renamed = pairs.rename(columns={"question": "q", "context": "c"})
    found = Predictor(regressor, column=["q", "c"])(renamed)
    np.testing.assert_array_equal(found.prediction, regressor.predict(pairs[["question", "context"]]))


def test_predictor_of_pairs_without_names(table):
    X = as_objects([["a", "b"], ["c", "d"]] * 4).tolist()
    classifier = XLMRXLClassifier("nano", tuning="head", max_epochs=1, random_state=0).fit(X, [0, 1] * 4)
    found = Predictor(classifier, column=["one", "two"])(pd.DataFrame(X, columns=["one", "two"]))
    assert found.prediction.tolist() == classifier.predict(X).tolist()
    assert found.prediction.dtype == np.int64
    failed = Predictor(classifier, column=["one", "two"])(pd.DataFrame({"one": ["a", "b"], "two": ["c", None]}))
    assert failed.prediction.isna().tolist() == [False, True]
    assert failed.prediction.dtype == "Int64"


@pytest.mark.parametrize("library", ["pandas", "Arrow", "arrays"])
def test_predictor_of_tags_and_of_choices_returns_lists(library):
    tokens = [["Ada", "Lovelace"], ["Hello"]]
    tagger = XLMRXLTagger("nano", max_epochs=1, random_state=0).fit(tokens, [["B-PER", "I-PER"], ["O"]])
    frame = LIBRARIES[library](pd.DataFrame({"text": tokens}))
    assert [list(row) for row in as_dict(Predictor(tagger)(frame))["prediction"]] == tagger.predict(tokens).tolist()
    proba = as_dict(Predictor(tagger, method="predict_proba")(frame))["proba"]
    for found, expected in zip(proba, tagger.predict_proba(tokens), strict=True):
        np.testing.assert_array_equal(np.array(list(found), np.float32), expected)

    X = pd.DataFrame({"prompt": ["It rained.", "The sun shone."], "choices": [["wet", "dry"], ["wet", "dry"]]})
    chooser = XLMRXLMultipleChoice("nano", max_epochs=1, random_state=0).fit(X, ["wet", "dry"])
    call = Predictor(chooser, method="predict_proba", column=["prompt", "choices"])
    found = as_dict(call(LIBRARIES[library](X)))["proba"]
    np.testing.assert_array_equal(np.array([list(row) for row in found], np.float32), chooser.predict_proba(X))


def test_predictor_of_several_labels_per_row(table):
    y = [("a", "b"), ("a",), (), ("b",)] * 10
    tuples = XLMRXLClassifier("nano", tuning="head", max_epochs=1, random_state=0).fit(table.text, y)
    result = Predictor(tuples)(pa.Table.from_pandas(table))
    assert result.schema.field("prediction").type == pa.list_(pa.string())
    assert [tuple(row) for row in result["prediction"].to_pylist()] == tuples.predict(table.text).tolist()


def test_predictor_refuses_what_it_cannot_send(clf, table):
    with pytest.raises(NotFittedError):
        Predictor(XLMRXLClassifier("nano"))
    with pytest.raises(TypeError, match="Of a pipeline, pass the estimator in it"):
        Predictor(make_pipeline(clf))
    with pytest.raises(ValueError, match=r"method must be one of .*got 'fit'"):
        Predictor(clf, method="fit")
    with pytest.raises(ValueError, match="has no method 'transform'"):
        Predictor(clf, method="transform")
    tagger = XLMRXLTagger("nano", max_epochs=1, tokenizer=str.split).fit(["a b", "c"], [["O", "B-X"], ["O"]])
    with pytest.raises(ValueError, match="tokenizer=None"):
        Predictor(tagger)


def test_predictor_names_columns_that_are_missing_or_there_twice(clf, table):
    with pytest.raises(ValueError, match="no column 'text'; it has id, content"):
        Predictor(clf)(table.rename(columns={"text": "content"}))
    with pytest.raises(ValueError, match=r"already a column 'prediction'.*keep"):
        Predictor(clf)(table.assign(prediction=1))
    assert "prediction" in Predictor(clf, keep=["id"])(table.assign(prediction=1))
    with pytest.raises(TypeError, match="got a list"):
        Predictor(clf)(["good"])
    with pytest.raises(ValueError, match="different lengths"):
        Predictor(clf)({"text": ["a"], "id": [1, 2]})


def test_errors_that_are_not_of_rows_are_raised(clf, saved, table, monkeypatch, tmp_path):
    with pytest.raises(FileNotFoundError):
        Predictor(tmp_path / "nowhere", parameters={"local_files_only": True})(table)
    call = Predictor(clf)
    call(table)

    def full(self, estimator, X):
        raise OSError("no space left")

    monkeypatch.setattr(Predictor, "_run", full)
    with pytest.raises(OSError, match="no space left"):
        call(table)


def test_features_of_rows_in_chunks_take_a_small_part_of_the_cache(embedder, monkeypatch):
    entry = np.zeros(192, np.float32).nbytes + feature_cache.ENTRY_BYTES
    monkeypatch.setattr(feature_cache, "STREAM_BYTES", 10 * entry)
    feature_cache.clear_features()
    kept = embedder.transform(["kept"])
    predict = Predictor(embedder, method="transform", column="text")
    for chunk in range(4):
        predict(pd.DataFrame({"text": [f"row {chunk} {i}" for i in range(8)]}))
    assert feature_cache.cache.nbytes <= 11 * entry
    assert len(feature_cache.cache._arrays) == 1
    np.testing.assert_array_equal(embedder.transform(["kept"]), kept)
