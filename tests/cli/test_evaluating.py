from __future__ import annotations

import json

import pandas as pd
import pytest
from command_line import HEAD, LABELS, TEXTS, json_lines, run
from sklearn.metrics import classification_report, f1_score

import skxlmr
from skxlmr.inspection import report


def test_evaluate_scores_classes_and_groups(classifier, tmp_path, capsys):
    wrong = ["bad", *LABELS[1:]] * 4
    names = ("text", "label", "lang")
    rows = [dict(zip(names, row, strict=True)) for row in zip(TEXTS * 4, wrong, ["en", "zh"] * 8, strict=True)]
    path = json_lines(tmp_path / "a.jsonl", rows)
    command = ["evaluate", classifier, path, "--group-column", "lang", "--worst", "2"]
    status, printed, _ = run(capsys, *command, "--json")
    assert status == 0
    found = json.loads(printed)
    assert found["summary"][0]["accuracy"] == 0.75
    assert found["summary"][0]["f1_macro"] == f1_score(wrong, LABELS * 4, average="macro")
    expected = classification_report(wrong, LABELS * 4, output_dict=True)
    assert {row["class"]: row["recall"] for row in found["by_class"]}["bad"] == expected["bad"]["recall"]
    assert {row["group"]: row["accuracy"] for row in found["by_group"]} == {"en": 0.5, "zh": 1.0}
    assert found["confusion"] == [{"true": "bad", "bad": 8, "good": 4}, {"true": "good", "bad": 0, "good": 4}]
    assert [row["place"] for row in found["worst"]] == [f"{path}, line 1", f"{path}, line 5"]
    status, printed, _ = run(capsys, *command)
    X = pd.Series(TEXTS * 4, index=[f"{path}, line {i + 1}" for i in range(16)])
    assert printed == f"{report(skxlmr.load(classifier), X, wrong, ['en', 'zh'] * 8, n_worst=2)}\n"


def test_evaluate_classes_that_are_numbers(tmp_path, capsys):
    clf = skxlmr.XLMRXLClassifier("nano", tuning="head", random_state=0, device="cpu")
    clf.fit(TEXTS * 4, [1, 1, 0, 0] * 4).save(tmp_path / "m")
    (tmp_path / "a.csv").write_text("text,label\nwhat a lovely film,1\n难看死了,0\n")
    status, printed, _ = run(capsys, "evaluate", tmp_path / "m", tmp_path / "a.csv", "--json")
    assert (status, json.loads(printed)["summary"][0]["accuracy"]) == (0, 1.0)
    (tmp_path / "a.csv").write_text("text,label\nwhat a lovely film,good\n")
    status, _, errors = run(capsys, "evaluate", tmp_path / "m", tmp_path / "a.csv")
    assert (status, "line 2, column 'label': 'good' is not a number." in errors) == (1, True)


def test_evaluate_several_labels_per_row(train, tmp_path, capsys):
    lists, matrix = tmp_path / "lists.csv", tmp_path / "matrix.csv"
    lists.write_text("text,label\nwhat a lovely film,film;good\n很好看,good\n难看死了,film\n")
    matrix.write_text("text,film,good\nwhat a lovely film,1,1\n很好看,0,1\n难看死了,1,0\n")
    texts, sets = ["what a lovely film", "很好看", "难看死了"], [["film", "good"], ["good"], ["film"]]
    for path, options, y in (
        (lists, ["--label-separator", ";"], sets),
        (matrix, ["--label-column", "film", "--label-column", "good"], [[1, 1], [0, 1], [1, 0]]),
    ):
        model = train(path, *HEAD, *options)
        capsys.readouterr()
        status, printed, _ = run(capsys, "evaluate", model, path, *options, "--json")
        found = json.loads(printed)
        assert (status, found["summary"][0]["accuracy"]) == (0, skxlmr.load(model).score(texts, y))
        assert [row["label"] for row in found["by_class"][:2]] == ["film", "good"]


def test_evaluate_numbers(tmp_path, capsys):
    reg = skxlmr.XLMRXLRegressor("nano", tuning="head", random_state=0, device="cpu")
    reg.fit(TEXTS * 2, [1.0, 2.0, 3.0, 4.0] * 2).save(tmp_path / "m")
    rows = [*(f"{text},{i},x" for i, text in enumerate(TEXTS)), "a,1,y"]
    (tmp_path / "a.csv").write_text("\n".join(["text,label,lang", *rows]))
    command = ["evaluate", tmp_path / "m", tmp_path / "a.csv", "--group-column", "lang", "--json"]
    found = json.loads(run(capsys, *command)[1])
    assert found["summary"][0]["r2"] == pytest.approx(reg.score([*TEXTS, "a"], [0, 1, 2, 3, 1]))
    by_group = {row["group"]: row for row in found["by_group"]}
    assert by_group["x"]["mae"] == pytest.approx(abs(reg.predict(TEXTS) - [0, 1, 2, 3]).mean())
    assert by_group["y"]["r2"] is None  # of one row
    assert found["by_class"] is None


def test_evaluate_entities_and_answers(tables, tagger, qa, capsys):
    found = json.loads(run(capsys, "evaluate", tagger, tables / "entities.jsonl", "--json")[1])
    assert found["summary"][0]["entities"] == 24
    assert {row["entity"]: row["support"] for row in found["by_class"][:2]} == {"LOC": 12, "PER": 12}
    command = ["evaluate", qa, tables / "questions.jsonl", "--group-column", "question", "--json"]
    found = json.loads(run(capsys, *command)[1])
    assert {"f1", "exact_match"} < found["summary"][0].keys()
    assert {row["group"]: row["n"] for row in found["by_group"]} == {"Who wrote it?": 8, "Where is it?": 8}


def test_evaluate_choices(tmp_path, capsys):
    X = pd.DataFrame({"prompt": ["It rained."] * 4, "choices": [["wet", "dry"]] * 4})
    chooser = skxlmr.XLMRXLMultipleChoice("nano", max_epochs=1, random_state=0, device="cpu").fit(X, [0, 0, 0, 1])
    chooser.save(tmp_path / "m")
    rows = X.assign(label=[0, 0, 0, 1], lang=["en", "en", "en", None]).to_dict("records")
    command = ["evaluate", tmp_path / "m", json_lines(tmp_path / "a.jsonl", rows), "--group-column", "lang"]
    found = json.loads(run(capsys, *command, "--json")[1])
    assert found["summary"] == [{"n": 4, "accuracy": chooser.score(X, [0, 0, 0, 1])}]
    assert [(row["group"], row["n"]) for row in found["by_group"]] == [("(missing)", 1), ("en", 3)]
    status, printed, _ = run(capsys, *command)
    assert (status, printed.startswith("XLMRXLMultipleChoice: 4 rows\n\n n  accuracy\n")) == (0, True)


def test_evaluate_what_has_no_labels_is_wrong_usage(tables, tmp_path, capsys):
    skxlmr.XLMRXLEmbedder("nano", device="cpu").fit(["a"]).save(tmp_path / "m")
    status, _, errors = run(capsys, "evaluate", tmp_path / "m", tables / "reviews.csv")
    assert (status, "has no labels" in errors) == (2, True)
