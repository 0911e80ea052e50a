from __future__ import annotations

import io
import json

import numpy as np
import pandas as pd
import pytest
from command_line import LABELS, TEXTS, json_lines, run

import skxlmr
from skxlmr.cli import main


@pytest.mark.parametrize("name", ["reviews.csv", "reviews.tsv", "reviews.jsonl", "reviews.parquet"])
def test_predict_files_of_every_format(tables, classifier, tmp_path, capsys, name):
    output = tmp_path / name
    status, printed, errors = run(capsys, "predict", classifier, tables / name, "-o", output, "--quiet")
    assert (status, printed, errors) == (0, "", "")
    read = {"csv": pd.read_csv, "tsv": lambda path: pd.read_csv(path, sep="\t"), "parquet": pd.read_parquet}
    read["jsonl"] = lambda path: pd.read_json(path, lines=True)
    frame = read[name.partition(".")[2]](output)
    assert list(frame) == ["id", "text", "label", "language", "prediction", "error"]
    assert frame["prediction"].tolist() == LABELS * 4
    assert frame["error"].isna().all()


def test_predict_from_standard_input_to_standard_output(tables, classifier, pipe_in, capsys):
    clf = skxlmr.load(classifier)
    pipe_in((tables / "reviews.csv").read_bytes())
    status, printed, _ = run(capsys, "predict", classifier, "--method", "predict_proba", "--keep", "id", "--quiet")
    assert status == 0
    frame = pd.read_csv(io.StringIO(printed))
    assert list(frame) == ["id", "proba_bad", "proba_good", "error"]
    assert frame.iloc[:4, 1:3].to_numpy(np.float32).tolist() == clf.predict_proba(TEXTS).tolist()
    pipe_in("what a lovely film\n\n难看死了\n")
    status, printed, _ = run(capsys, "predict", classifier, "--input-format", "text", "--json")
    assert [json.loads(line)["prediction"] for line in printed.splitlines()] == ["good", "bad"]


def test_predict_rows_that_fail_exits_with_3(classifier, tmp_path, capsys):
    path = json_lines(tmp_path / "a.jsonl", [{"text": "lovely"}, {"text": None}, {"text": 5}, {}])
    status, printed, errors = run(capsys, "predict", classifier, path)
    assert status == 3
    records = [json.loads(line) for line in printed.splitlines()]
    assert [record["prediction"] is None for record in records] == [False, True, True, True]
    assert records[0]["error"] is None
    assert errors == (
        f"skxlmr: 3 of 4 rows have no prediction. The first: {path}, line 2, column 'text': a missing value, not a "
        f"text\n"
    )
    status, printed, _ = run(capsys, "predict", classifier, path, "--param", "missing=empty")
    assert (status, printed.count('"error": null')) == (3, 3)  # 5 is still not a text


def test_predict_in_parts_can_be_resumed(tables, classifier, tmp_path, capsys):
    command = ["predict", classifier, tables / "reviews.parquet", "--output-dir", tmp_path / "out", "--quiet"]
    status, printed, errors = run(capsys, *command, "--rows-per-part", "5")
    assert (status, errors) == (0, "")
    assert printed == f"16 of 16 rows are predicted, in 4 files in {tmp_path / 'out'}.\n"
    assert pd.read_parquet(tmp_path / "out")["prediction"].tolist() == LABELS * 4
    sorted((tmp_path / "out").glob("*.parquet"))[1].unlink()
    assert run(capsys, *command, "--rows-per-part", "5")[0] == 1
    assert run(capsys, *command, "--rows-per-part", "5", "--resume")[0] == 0
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 4


def test_predict_with_another_name_of_the_column(classifier, tmp_path, capsys):
    path = json_lines(tmp_path / "a.jsonl", [{"body": "lovely"}])
    status, _, errors = run(capsys, "predict", classifier, path)
    assert (status, "has no column 'text'" in errors) == (1, True)
    assert run(capsys, "predict", classifier, path, "--text-column", "body")[0] == 0


def test_predict_pairs_finds_the_columns_of_the_fit(tmp_path, capsys):
    pairs = pd.DataFrame({"premise": TEXTS * 2, "hypothesis": TEXTS[::-1] * 2})
    clf = skxlmr.XLMRXLClassifier("nano", tuning="head", device="cpu", random_state=0).fit(pairs, LABELS * 2)
    clf.save(tmp_path / "m")
    pairs[["hypothesis", "premise"]].to_csv(tmp_path / "a.csv", index=False)
    status, printed, errors = run(capsys, "predict", tmp_path / "m", tmp_path / "a.csv")
    assert (status, errors) == (0, "")
    assert pd.read_csv(io.StringIO(printed))["prediction"].tolist() == clf.predict(pairs).tolist()


@pytest.mark.parametrize(
    ("options", "status", "expected"),
    [
        (["--method", "predict_probas"], 1, "method must be one of predict, predict_proba"),
        (["--param", "devise=cpu"], 2, "Did you mean 'device'?"),
        (["--resume"], 2, "--resume is for --output-dir only"),
        (["--output-dir", "x", "--json"], 2, "--output-format does not go with --output-dir"),
        (["--keep", "labels"], 1, "no column 'labels'. Did you mean 'label'?"),
        (["-o", "out.xlsx"], 2, "--output-format"),
        (["-o", "nowhere/out.csv"], 1, "The folder nowhere of --output does not exist"),
        (["-o", "."], 2, "is a folder"),
    ],
    ids=str,
)
def test_predict_with_wrong_options_says_so_in_one_line(tables, classifier, capsys, options, status, expected):
    result, printed, errors = run(capsys, "predict", classifier, tables / "reviews.csv", *options)
    assert (result, printed, errors.count("\n")) == (status, "", 1)
    assert expected in errors


def test_predict_does_not_replace_its_input_or_columns(tables, classifier, tmp_path, capsys):
    path = json_lines(tmp_path / "a.jsonl", [{"text": "lovely", "error": "none"}])
    assert run(capsys, "predict", classifier, path, "-o", path)[0] == 2
    status, _, errors = run(capsys, "predict", classifier, path)
    assert (status, "has already a column 'error'" in errors) == (1, True)
    assert run(capsys, "predict", classifier, path, "--keep", "text")[0] == 0
    (tmp_path / "a.jsonl").write_text("")
    assert "The input has no rows" in run(capsys, "predict", classifier, path)[2]


def test_embed_with_a_base_model_and_a_saved_embedder(tables, tmp_path, capsys):
    path = json_lines(tmp_path / "a.jsonl", [{"text": "lovely"}, {"text": None}])
    status, printed, _ = run(capsys, "embed", "nano", path, "--param", "n_dims=3", "--device", "cpu", "--keep", "text")
    records = [json.loads(line) for line in printed.splitlines()]
    embedder = skxlmr.XLMRXLEmbedder("nano", n_dims=3, device="cpu").fit(["a"])
    assert np.float32(records[0]["vector"]).tolist() == embedder.transform(["lovely"])[0].tolist()
    assert (status, records[1]["vector"]) == (3, None)
    embedder.save(tmp_path / "m")
    status, printed, _ = run(capsys, "embed", tmp_path / "m", tables / "reviews.csv", "--keep", "id")
    assert printed.splitlines()[0] == "id,vector_0,vector_1,vector_2,error"
    assert run(capsys, "embed", "nano", path, "--param", "objective=classes")[0] == 2


def test_predict_with_a_model_that_is_not_there(capsys, tmp_path, monkeypatch):
    (tmp_path / "sentiment").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["predict", "sentimnet/", "in.csv"]) == 1
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert "Did you mean 'sentiment'?" in errors
