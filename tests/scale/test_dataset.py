from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.cli import main
from skxlmr.scale import Manifest, dataset, job, predict_dataset, predictor, progress


@pytest.fixture
def source(table: pd.DataFrame, tmp_path: Path) -> Path:
    path = tmp_path / "in.parquet"
    table.to_parquet(path, row_group_size=16)
    return path


def parts(target: Path) -> list[str]:
    return sorted(path.name for path in target.glob("part-*"))


def test_predict_dataset_returns_what_one_call_of_the_estimator_does(clf, embedder, table, source, tmp_path):
    manifest = predict_dataset(clf, source, tmp_path / "out", method="predict_proba", rows_per_part=7)
    found = pd.read_parquet(tmp_path / "out")
    assert found.columns.tolist() == ["id", "proba_no", "proba_yes", "error"]
    assert found.id.tolist() == table.id.tolist()
    np.testing.assert_array_equal(found[["proba_no", "proba_yes"]], clf.predict_proba(table.text))
    assert manifest == Manifest(40, 40, 0, 0, [], [], 6, str(tmp_path / "out"))
    assert manifest.complete
    assert Manifest.read(tmp_path / "out") == manifest

    predict_dataset(embedder, source, tmp_path / "vectors", method="transform", rows_per_part=9)
    vectors = np.stack(pd.read_parquet(tmp_path / "vectors").vector)
    np.testing.assert_array_equal(vectors, embedder.transform(table.text))


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_predict_dataset_reads_files_of_lines(clf, table, tmp_path, suffix):
    for name, some in (("a", table[:25]), ("b", table[25:])):
        path = tmp_path / "in" / f"{name}{suffix}"
        path.parent.mkdir(exist_ok=True)
        some.to_csv(path, index=False) if suffix == ".csv" else some.to_json(path, orient="records", lines=True)
    predict_dataset(clf, tmp_path / "in", tmp_path / "out", rows_per_part=10)
    found = pd.read_parquet(tmp_path / "out")
    assert found.id.astype(int).tolist() == table.id.tolist()
    assert found.prediction.tolist() == clf.predict(table.text).tolist()
    assert len(parts(tmp_path / "out")) == 5


def test_rows_that_fail_are_in_the_column_of_errors_and_in_the_manifest(clf, table, tmp_path):
    table.loc[[3, 17], "text"] = None
    table.to_parquet(tmp_path / "in.parquet")
    manifest = predict_dataset(clf, tmp_path / "in.parquet", tmp_path / "out", rows_per_part=8)
    assert (manifest.rows, manifest.predicted, manifest.failed, manifest.missing) == (40, 38, 2, 0)
    assert manifest.failed_ids == [103, 117]
    assert not manifest.complete
    found = pd.read_parquet(tmp_path / "out").set_index("id")
    assert found.index[found.error.notna()].tolist() == [103, 117]
    assert found.prediction.isna().sum() == 2
    assert "2 rows have an error, in the column 'error': 103, 117" in str(manifest)


def test_resume_predicts_only_what_is_missing_or_damaged(clf, source, tmp_path, monkeypatch):
    target = tmp_path / "out"
    predict_dataset(clf, source, target, rows_per_part=8)
    whole = pd.read_parquet(target)
    names = parts(target)
    (target / names[1]).unlink()
    (target / names[2]).write_bytes((target / names[2]).read_bytes()[:-20])
    other_rows = pq.read_table(target / names[0])
    pq.write_table(other_rows, target / names[3])
    kept = (target / names[4]).stat().st_mtime_ns
    predicted = []
    run = predictor.Predictor.predict_columns
    monkeypatch.setattr(
        predictor.Predictor,
        "predict_columns",
        lambda self, columns: predicted.append(len(columns[0])) or run(self, columns),
    )
    manifest = predict_dataset(clf, source, target, rows_per_part=8)
    assert predicted == [8, 8, 8]
    assert manifest.complete
    assert (target / names[4]).stat().st_mtime_ns == kept
    pd.testing.assert_frame_equal(pd.read_parquet(target), whole)


def test_missing_parts_are_in_the_manifest(clf, source, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "run_local", lambda job, numbers, progress: list(job.process(numbers[:-1])))
    manifest = predict_dataset(clf, source, tmp_path / "out", rows_per_part=16)
    assert (manifest.predicted, manifest.missing) == (32, 8)
    assert manifest.missing_ids == list(range(132, 140))
    assert "8 rows are missing; resume the run" in str(manifest)


def test_resume_refuses_another_run(clf, embedder, table, source, tmp_path):
    target = tmp_path / "out"
    predict_dataset(clf, source, target)
    with pytest.raises(FileExistsError, match="earlier run"):
        predict_dataset(clf, source, target, resume=False)
    with pytest.raises(ValueError, match="method is 'predict', now it is 'predict_proba'"):
        predict_dataset(clf, source, target, method="predict_proba")
    with pytest.raises(ValueError, match="rows_per_part is 4096, now it is 5"):
        predict_dataset(clf, source, target, rows_per_part=5)
    with pytest.raises(ValueError, match="estimator is"):
        predict_dataset(embedder, source, target, method="transform")
    table[::-1].to_parquet(source)
    with pytest.raises(ValueError, match="the source has changed"):
        predict_dataset(clf, source, target)


def test_target_with_other_files_is_refused(clf, source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("x")
    with pytest.raises(FileExistsError, match=r"mine\.txt"):
        predict_dataset(clf, source, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_repeated_and_missing_ids_are_refused_before_anything_is_written(clf, table, tmp_path):
    for bad, message in (
        (table.assign(id=7), "40|several times: 7"),
        (table.assign(id=table.id.where(table.id > 105)), "missing"),
    ):
        bad = bad.convert_dtypes()
        bad.to_parquet(tmp_path / "in.parquet")
        with pytest.raises(ValueError, match=message):
            predict_dataset(clf, tmp_path / "in.parquet", tmp_path / "out")
        assert not (tmp_path / "out").exists()
    table[:0].to_parquet(tmp_path / "in.parquet")
    with pytest.raises(ValueError, match="no rows"):
        predict_dataset(clf, tmp_path / "in.parquet", tmp_path / "out")


def test_source_that_changes_during_the_run_is_an_error(clf, table, source, tmp_path, monkeypatch):
    run = dataset.run_local

    def changed(*args):
        table.assign(id=table.id + 1).to_parquet(source)
        run(*args)

    monkeypatch.setattr(dataset, "run_local", changed)
    with pytest.raises(ValueError, match="has changed"):
        predict_dataset(clf, source, tmp_path / "out")
    assert not parts(tmp_path / "out")


def test_arguments_are_checked(clf, source, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="engine must be one of local, ray, got 'spark'"):
        predict_dataset(clf, source, tmp_path / "out", engine="spark")
    with pytest.raises(ValueError, match="rows_per_part must be an integer of at least 1, got 0"):
        predict_dataset(clf, source, tmp_path / "out", rows_per_part=0)
    with pytest.raises(ValueError, match="no column 'key', but"):
        predict_dataset(clf, source, tmp_path / "out", "key")
    with pytest.raises(ValueError, match="no column 'body', but"):
        predict_dataset(clf, source, tmp_path / "out", column="body")
    for target in (tmp_path, tmp_path / "out"):
        with pytest.raises(ValueError, match="folders in each other"):
            predict_dataset(clf, tmp_path, target)
    monkeypatch.setattr(dataset, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'skxlmr\[scale\]'"):
        predict_dataset(clf, source, tmp_path / "out")


def test_damaged_files_of_a_run_are_errors(clf, source, tmp_path):
    target = tmp_path / "out"
    predict_dataset(clf, source, target)
    content = json.loads((target / job.NAME).read_text())
    (target / job.NAME).write_text(json.dumps(content | {"spans": [{"file": 3, "first": 0}]}))
    with pytest.raises(CheckpointError, match="damaged"):
        predict_dataset(clf, source, target)
    (target / "_manifest.json").write_text('{"rows": -1}')
    with pytest.raises(CheckpointError, match="damaged"):
        Manifest.read(target)


def test_memory_does_not_grow_with_rows(clf, table, tmp_path):
    """Only two spans are read at a time, whatever the number of rows."""
    table.to_parquet(tmp_path / "in.parquet")
    running = []
    original = job.Job.rows

    def counted(self, numbers):
        for number, rows in original(self, numbers):
            running.append(number)
            yield number, rows

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job.Job, "rows", counted)
        spans = iter(_job(clf, tmp_path).process(range(10)))
        next(spans)
        assert len(running) <= 3
        spans.close()


def _job(clf, tmp_path) -> job.Job:
    call = predictor.Predictor(clf)
    settings = job.Settings(call.fingerprint, "predict", ["text"], "[]", "id", 4)
    plan = job.open_target(tmp_path / "out", dataset.find_files(tmp_path / "in.parquet"), settings, resume=False)
    return job.Job(str(tmp_path / "out"), plan, call)


def test_progress_without_a_terminal_prints_lines(capsys, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", -1.0)
    with progress.progress_of(3000, verbose=1) as counter:
        counter.skip(1000)
        counter.update(500)
    assert capsys.readouterr().err.startswith("1,500 of 3,000 rows, ")
    with progress.progress_of(3000, verbose=0) as counter:
        counter.update(500)
    assert capsys.readouterr().err == ""


def test_command_predict_returns_0_3_or_1(saved, table, tmp_path, capsys):
    table.to_csv(tmp_path / "in.csv", index=False)
    command = ["predict", str(saved), str(tmp_path / "in.csv"), str(tmp_path / "out"), "--device", "cpu"]
    assert main(command) == 0
    assert capsys.readouterr().out == f"40 of 40 rows are predicted, in 1 files in {tmp_path / 'out'}.\n"
    assert main(command) == 1
    assert "earlier run" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0
    table.loc[5, "text"] = None
    table.to_json(tmp_path / "in.jsonl", orient="records", lines=True)
    command = ["predict", str(saved), str(tmp_path / "in.jsonl"), str(tmp_path / "out2"), "--method", "predict_proba"]
    capsys.readouterr()
    assert main(command) == 3
    assert "1 rows have an error, in the column 'error': 105" in capsys.readouterr().out
