from __future__ import annotations

import json
import os

import pandas as pd
import pytest
from command_line import HEAD, LABELS, QUICK, TEXTS, json_lines, run

import skxlmr
from skxlmr.cli.parsing import UsageError
from skxlmr.cli.training import TASKS, estimator_class
from skxlmr.estimators.base import estimators


def test_train_saves_an_estimator_with_the_parameters(tables, tmp_path, capsys):
    status, printed, errors = run(
        capsys, "train", tables / "reviews.csv", "-o", tmp_path / "m", *QUICK, "--param", "tuning__rank=2",
        "--param", "max_epochs=1",
    )  # fmt: skip
    assert (status, errors) == (0, "")
    assert printed == f"{tmp_path / 'm'}: XLMRXLClassifier of nano, fitted on 16 rows in 1 epochs\n"
    clf = skxlmr.load(tmp_path / "m")
    assert (clf.tuning.rank, clf.max_epochs, clf.verbose, clf.classes_.tolist()) == (2, 1, 0, ["bad", "good"])
    expected = skxlmr.XLMRXLClassifier(
        "nano", device="cpu", random_state=0, tuning=skxlmr.LoRA(rank=2), max_epochs=1
    ).fit(TEXTS * 4, LABELS * 4)
    assert clf.predict_proba(TEXTS).tolist() == expected.predict_proba(TEXTS).tolist()


def test_train_prints_validation_and_test_scores(tables, tmp_path, capsys):
    command = ["train", tables / "reviews.parquet", "-o", tmp_path / "m", *HEAD, "--test", tables / "reviews.jsonl"]
    status, printed, _ = run(capsys, *command, "--validation-fraction", "0.25", "--param", "scoring=f1_macro")
    assert status == 0
    assert "validation score (f1_macro): 1.0000\ntest score (accuracy): 1.0000, on 16 rows\n" in printed
    status, printed, _ = run(capsys, *command, "--force", "--validation", tables / "reviews.tsv", "--json")
    summary = json.loads(printed)
    assert (summary["validation_score"], summary["test_score"], summary["test_rows"]) == (1.0, 1.0, 16)


def test_train_reads_standard_input_pairs_and_several_labels(tmp_path, pipe_in, capsys):
    rows = pd.DataFrame({"a": TEXTS * 3, "b": TEXTS[::-1] * 3, "topic": ["x;y", "x", "y", "x; y"] * 3})
    pipe_in(rows.to_csv(index=False))
    options = ["--text-column", "a", "--text-column", "b", "--label-column", "topic", "--label-separator", ";"]
    assert run(capsys, "train", "-o", tmp_path / "m", *HEAD, *options)[0] == 0
    clf = skxlmr.load(tmp_path / "m")
    assert (clf.n_features_in_, clf.feature_names_in_.tolist()) == (2, ["a", "b"])
    assert (clf.classes_.tolist(), clf.multilabel_) == (["x", "y"], "lists")


def test_train_regression_of_several_outputs(tmp_path, capsys):
    path = tmp_path / "a.tsv"
    pd.DataFrame({"text": TEXTS * 3, "x": [1, 2, 3, 4] * 3, "y": [0.5, 1, 1, 2] * 3}).to_csv(
        path, sep="\t", index=False
    )
    options = ["--task", "regress", "--label-column", "x", "--label-column", "y"]
    assert run(capsys, "train", path, "-o", tmp_path / "m", *HEAD, *options)[0] == 0
    assert skxlmr.load(tmp_path / "m").predict(TEXTS).shape == (4, 2)


def test_train_choices_vectors_and_language_models(tables, tmp_path, capsys):
    rows = [{"prompt": "It rained.", "choices": ["wet", "dry"], "label": 0}]
    path = json_lines(tmp_path / "a.jsonl", rows * 4)
    quick = [*QUICK, "--param", "max_epochs=1"]
    assert run(capsys, "train", path, "-o", tmp_path / "c", "--task", "choose", *quick)[0] == 0
    path = tables / "reviews.csv"
    pairs = ["--param", "objective=classes"]
    assert run(capsys, "train", path, "-o", tmp_path / "e", "--task", "embed", *quick, *pairs)[0] == 0
    assert run(capsys, "train", path, "-o", tmp_path / "l", "--task", "mask", *quick)[0] == 0
    loaded = [type(skxlmr.load(tmp_path / name)).__name__ for name in "cel"]
    assert loaded == ["XLMRXLMultipleChoice", "XLMRXLEmbedder", "XLMRXLMaskedLM"]
    status, _, errors = run(
        capsys, "train", path, "-o", tmp_path / "l", "--task", "mask", "--force", "--test", path, *quick
    )
    assert (status, "no labels by which" in errors) == (2, True)


def test_every_estimator_has_a_task():
    ours = {name for name, cls in estimators().items() if cls.__module__.startswith("skxlmr.")}
    assert {estimator_class(task).__name__ for task in TASKS} == ours
    assert estimator_class("XLMRXLTagger").__name__ == "XLMRXLTagger"
    with pytest.raises(UsageError, match="Did you mean 'classify'"):
        estimator_class("classifi")
    with pytest.raises(UsageError, match="Did you mean 'XLMRXLClassifier'"):
        estimator_class("XLMRXLClasifier")


@pytest.mark.parametrize(
    ("content", "options", "expected"),
    [
        ("text,label\na,x\nb,\n", [], "a.csv, line 3, column 'label': the label is missing."),
        ("txt,label\na,x\n", [], "a.csv has no column 'text'. Did you mean 'txt'? It has txt, label. Choose one with"),
        ("text,labels\na,x\n", [], "a.csv has no column 'label'. Did you mean 'labels'?"),
        ("text,label\na,x\n", ["--text-column", "tetx"], "no column 'tetx'. Did you mean 'text'?"),
        ("text,label\na,1\nb,two\n", ["--task", "regress"], "a.csv, line 3, column 'label': 'two' is not a number."),
        ("text,label\na,x\nb,x\n", [], "x"),
        ("text,label\na,x\n", ["--test", "nowhere.csv"], "The file nowhere.csv does not exist."),
    ],
    ids=["label", "text", "labels", "asked", "number", "one class", "test"],
)
def test_train_reports_wrong_tables_in_one_line_and_writes_nothing(tmp_path, capsys, content, options, expected):
    (tmp_path / "a.csv").write_text(content)
    status, printed, errors = run(capsys, "train", tmp_path / "a.csv", "-o", tmp_path / "m", *HEAD, *options)
    assert (status, printed) == (1, "")
    assert errors.startswith("skxlmr: error: ")
    assert errors.count("\n") == 1
    assert expected in errors
    assert not (tmp_path / "m").exists()


def test_train_names_rows_whose_texts_are_missing(tmp_path, capsys):
    path = json_lines(tmp_path / "a.jsonl", [{"text": "a", "label": 1}, {"label": 2}, {"text": "c", "label": 1}])
    command = ["train", path, "-o", tmp_path / "m", *HEAD]
    status, _, errors = run(capsys, *command)
    assert status == 1
    assert "a.jsonl, line 2, column 'text': the text is missing." in errors
    assert run(capsys, *command, "--param", "missing=empty")[0] == 0
    json_lines(tmp_path / "a.jsonl", [{"text": 5, "label": 1}])
    assert "line 1, column 'text': 5 is a int, not a text" in run(capsys, *command, "--force")[2]


def test_train_refuses_a_directory_that_is_there_before_it_trains(tables, tmp_path, capsys):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "other").touch()
    status, _, errors = run(capsys, "train", tables / "reviews.csv", "-o", tmp_path / "m", *HEAD)
    assert (status, "replace it with --force" in errors) == (1, True)
    (tmp_path / "file").touch()
    assert "is a file" in run(capsys, "train", tables / "reviews.csv", "-o", tmp_path / "file", *HEAD)[2]
    if os.name == "posix" and os.getuid() != 0:
        (tmp_path / "m").chmod(0o500)
        errors = run(capsys, "train", tables / "reviews.csv", "-o", tmp_path / "m" / "n", *HEAD)[2]
        assert "not writable" in errors


def test_train_with_wrong_parameters_is_wrong_usage(tables, tmp_path, capsys):
    command = ["train", tables / "reviews.csv", "-o", tmp_path / "m", *QUICK]
    for wrong, expected in (
        (["--param", "epochs=3"], "Did you mean 'max_epochs'?"),
        (["--param", "max_epochs=0"], "'max_epochs' parameter"),
        (["--task", "classifi"], "Did you mean 'classify'?"),
        (["--validation-fraction", "2"], "'validation_fraction' parameter"),
        (["--delimiter", "ab"], "--delimiter must be one character"),
    ):
        status, _, errors = run(capsys, *command, *wrong)
        assert (status, errors.count("\n")) == (2, 1)
        assert expected in errors
