"""Tables, and models that were trained on them by the command line."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from skxlmr.cli import main

TEXTS = ["what a lovely film", "很好看", "dreadful and dull", "难看死了"]
LABELS = ["good", "good", "bad", "bad"]
QUICK = ["--model", "nano", "--device", "cpu", "--quiet", "--param", "random_state=0"]
HEAD = [*QUICK, "--param", "tuning=head"]
TRAINED = [*QUICK, "--param", "max_epochs=2", "--param", "learning_rate=5e-3"]
ENTITIES = [{"tokens": ["Ada", "lives", "in", "Rome"], "tags": ["B-PER", "O", "O", "B-LOC"], "language": "en"}]
QUESTIONS = [
    {"question": "Who wrote it?", "context": "Ada wrote it.", "answers": {"text": ["Ada"], "answer_start": [0]}},
    {"question": "Where is it?", "context": "It is in Rome.", "answers": "Rome"},
]


def json_lines(path: Path, records: list[dict]) -> str:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tables of every kind."""
    folder = tmp_path_factory.mktemp("tables")
    frame = pd.DataFrame({"id": range(16), "text": TEXTS * 4, "label": LABELS * 4, "language": ["en", "zh"] * 8})
    frame.to_csv(folder / "reviews.csv", index=False)
    frame.to_csv(folder / "reviews.tsv", index=False, sep="\t")
    frame.to_parquet(folder / "reviews.parquet")
    json_lines(folder / "reviews.jsonl", frame.to_dict("records"))
    (folder / "reviews.txt").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    json_lines(folder / "entities.jsonl", ENTITIES * 12)
    json_lines(folder / "questions.jsonl", QUESTIONS * 8)
    return folder


@pytest.fixture(scope="session")
def train(tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """A function that trains on a table, and returns the directory of the model."""

    def run(table: str, *options: str) -> str:
        directory = str(tmp_path_factory.mktemp("trained") / "model")
        assert main(["train", str(tables / table), "--output", directory, *options]) == 0
        return directory

    return run


@pytest.fixture(scope="session")
def classifier(train: Callable[..., str]) -> str:
    return train("reviews.csv", *HEAD)


@pytest.fixture(scope="session")
def tagger(train: Callable[..., str]) -> str:
    return train("entities.jsonl", "--task", "tag", *TRAINED)


@pytest.fixture(scope="session")
def qa(train: Callable[..., str]) -> str:
    return train("questions.jsonl", "--task", "answer", *TRAINED)


@pytest.fixture
def pipe_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes | str], None]:
    """A function that sets what standard input has."""

    def pipe(data: bytes | str) -> None:
        content = data.encode() if isinstance(data, str) else data
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))

    return pipe
