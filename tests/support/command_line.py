"""Tables for tests of the command line, and a function that runs it in this process."""

from __future__ import annotations

import json
from pathlib import Path

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


def run(capsys: pytest.CaptureFixture, *argv: object) -> tuple[int, str, str]:
    """Run a command; return its exit code, what it printed, and its standard error."""
    status = main([str(each) for each in argv])
    printed = capsys.readouterr()
    return status, printed.out, printed.err
