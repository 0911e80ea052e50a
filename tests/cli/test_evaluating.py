from __future__ import annotations

import json

import pytest
from command_line import HEAD, LABELS, TEXTS, json_lines, run
from sklearn.metrics import classification_report, f1_score

import skxlmr
from skxlmr.cli.evaluating import evaluation


def test_evaluate_scores_classes_and_groups(tables, classifier, tmp_path, capsys):
    wrong = ["bad", *LABELS[1:]] * 4
    names = ("text", "label", "lang")
    rows = [dict(zip(names, row, strict=True)) for row in zip(TEXTS * 4, wrong, ["en", "zh"] * 8, strict=True)]
    path = json_lines(tmp_path / "a.jsonl", rows)
    status, printed, _ = run(capsys, "evaluate", classifier, path, "--group-column", "lang", "--json")
    assert status == 0
    report = json.loads(printed)
    assert report["rows"] == 16
    assert report["scores"] == {"accuracy": 0.75, "f1_macro": f1_score(wrong, LABELS * 4, average="macro")}
    expected = classification_report(wrong, LABELS * 4, output_dict=True)
    assert report["by_class"]["bad"]["recall"] == expected["bad"]["recall"]
    assert {group: scores["accuracy"] for group, scores in report["by_group"].items()} == {"en": 0.5, "zh": 1.0}
    status, printed, _ = run(capsys, "evaluate", classifier, path, "--group-column", "lang")
    assert printed.startswith("rows 16  accuracy 0.7500  f1_macro ")
    assert "\nlang       rows   accuracy   f1_macro\nen            8     0.5000" in printed


def test_evaluate_classes_that_are_numbers(tmp_path, capsys):
    clf = skxlmr.XLMRXLClassifier("nano", tuning="head", random_state=0, device="cpu")
    clf.fit(TEXTS * 4, [1, 1, 0, 0] * 4).save(tmp_path / "m")
    (tmp_path / "a.csv").write_text("text,label\nwhat a lovely film,1\n难看死了,0\n")
    status, printed, _ = run(capsys, "evaluate", tmp_path / "m", tmp_path / "a.csv", "--json")
    assert (status, json.loads(printed)["scores"]["accuracy"]) == (0, 1.0)
    (tmp_path / "a.csv").write_text("text,label\nwhat a lovely film,good\n")
    status, _, errors = run(capsys, "evaluate", tmp_path / "m", tmp_path / "a.csv")
    assert (status, "line 2, column 'label': 'good' is not a number." in errors) == (1, True)


def test_evaluate_several_labels_per_row(train, tables, tmp_path, capsys):
    (tables / "topics.csv").write_text("text,label\nwhat a lovely film,film;good\n很好看,good\n难看死了,film\n")
    model = train("topics.csv", *HEAD, "--label-separator", ";")
    path = tables / "topics.csv"
    capsys.readouterr()
    status, printed, _ = run(capsys, "evaluate", model, path, "--label-separator", ";", "--json")
    clf = skxlmr.load(model)
    expected = clf.score(["what a lovely film", "很好看", "难看死了"], [["film", "good"], ["good"], ["film"]])
    assert json.loads(printed)["scores"]["accuracy"] == expected
    assert {"film", "good", "samples avg"} < json.loads(printed)["by_class"].keys()
    path.write_text("text,film,good\nwhat a lovely film,1,1\n很好看,0,1\n难看死了,1,0\n")
    model = train("topics.csv", *HEAD, "--label-column", "film", "--label-column", "good")
    capsys.readouterr()
    assert skxlmr.load(model).classes_.tolist() == ["film", "good"]
    status, printed, _ = run(
        capsys, "evaluate", model, path, "--label-column", "film", "--label-column", "good", "--json"
    )
    assert (status, json.loads(printed)["rows"]) == (0, 3)


def test_evaluate_numbers(tmp_path, capsys):
    reg = skxlmr.XLMRXLRegressor("nano", tuning="head", random_state=0, device="cpu")
    reg.fit(TEXTS * 2, [1.0, 2.0, 3.0, 4.0] * 2).save(tmp_path / "m")
    (tmp_path / "a.csv").write_text(
        "text,label,lang\n" + "".join(f"{t},{i},x\n" for i, t in enumerate(TEXTS)) + "a,1,y\n"
    )
    command = ["evaluate", tmp_path / "m", tmp_path / "a.csv", "--group-column", "lang"]
    report = json.loads(run(capsys, *command, "--json")[1])
    assert report["scores"]["r2"] == pytest.approx(reg.score([*TEXTS, "a"], [0, 1, 2, 3, 1]))
    assert report["by_group"]["x"]["mae"] == pytest.approx(abs(reg.predict(TEXTS) - [0, 1, 2, 3]).mean())
    assert "r2" not in report["by_group"]["y"]  # of one row
    assert "y             1" in run(capsys, *command)[1]


def test_evaluate_entities_and_answers(tables, tagger, qa, capsys):
    report = json.loads(run(capsys, "evaluate", tagger, tables / "entities.jsonl", "--json")[1])
    rows = [json.loads(line) for line in (tables / "entities.jsonl").read_text().splitlines()]
    X, y = [row["tokens"] for row in rows], [row["tags"] for row in rows]
    assert report["scores"]["f1"] == skxlmr.load(tagger).score(X, y)
    assert {"PER", "LOC"} < report["by_class"].keys()
    assert report["by_class"]["PER"]["support"] == 12
    report = json.loads(
        run(capsys, "evaluate", qa, tables / "questions.jsonl", "--group-column", "question", "--json")[1]
    )
    assert report["scores"].keys() == {"f1", "exact_match"}
    assert report["by_group"]["Who wrote it?"]["rows"] == 8


def test_evaluate_choices_and_plain_tags(tmp_path):
    import pandas as pd

    X = pd.DataFrame({"prompt": ["It rained."] * 4, "choices": [["wet", "dry"]] * 4})
    y = pd.Series([0] * 4)
    chooser = skxlmr.XLMRXLMultipleChoice("nano", max_epochs=1, random_state=0, device="cpu").fit(X, y)
    assert evaluation(chooser, X, y)["scores"] == {"accuracy": chooser.score(X, y)}
    words, tags = pd.Series([["we", "run"]] * 4), pd.Series([["PRON", "VERB"]] * 4)
    tagger = skxlmr.XLMRXLTagger("nano", max_epochs=1, random_state=0, device="cpu").fit(words, tags)
    assert evaluation(tagger, words, tags) == {"scores": {"accuracy": tagger.score(words, tags)}}


def test_evaluate_what_has_no_labels_is_wrong_usage(tables, tmp_path, capsys):
    skxlmr.XLMRXLEmbedder("nano", device="cpu").fit(["a"]).save(tmp_path / "m")
    status, _, errors = run(capsys, "evaluate", tmp_path / "m", tables / "reviews.csv")
    assert (status, "has no labels" in errors) == (2, True)
