"""Tables, and models that were trained on them by the command line."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from command_line import ENTITIES, HEAD, LABELS, QUESTIONS, TEXTS, TRAINED, json_lines

from skxlmr.cli import main


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
