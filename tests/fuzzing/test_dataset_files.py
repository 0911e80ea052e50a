"""Files of data sets, changed at random: they are read rightly, or refused by an error that names the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fuzzing import as_bytes, json_values, mutated_bytes, mutated_json, reads
from hypothesis import given
from hypothesis import strategies as st

from skxlmr.datasets import read_conll, read_conllu, read_doccano, read_label_studio, read_squad

CONLL = "Ada B-PER\nLovelace I-PER\n\n-DOCSTART- O\n\nHéllo O\n人 B-X\n"
CONLLU = (
    "# sent_id = 1\n# text = zum Haus\n1-2\tzum\t_\t_\t_\t_\t_\t_\t_\t_\n1\tzu\tzu\tADP\tA\t_\t2\tcase\t_\t_\n"
    "2\tdem\tder\tDET\tD\tCase=Dat\t0\troot\t_\t_\n2.1\te\te\tX\tX\t_\t0\tx\t_\t_\n3\tHaus\tHaus\tNOUN\tN\t_\t2\tx\t_\t_\n\n"
)
QUESTION = {"id": "1", "question": "who?", "answers": [{"text": "Ada", "answer_start": 3}], "is_impossible": False}
SQUAD = {
    "data": [
        {"title": "t", "paragraphs": [{"context": "by Ada 👩 e\u0301", "qas": [QUESTION, {**QUESTION, "id": "2"}]}]}
    ]
}
DOCCANO = [{"id": 1, "text": "EU 👩 rejects", "label": [[0, 2, "ORG"]]}, {"id": 2, "text": "x", "label": []}]
REGION = {"start": 0, "end": 2, "text": "EU", "labels": ["ORG"]}
TASK = {
    "id": 1,
    "data": {"text": "EU 👩 rejects", "source": "x"},
    "annotations": [{"completed_by": {"id": 1}, "result": [{"from_name": "l", "type": "labels", "value": REGION}]}],
}
JSON_MIN = {"id": 1, "text": "EU\r\nrejects", "label": [REGION], "annotator": 1, "annotation_id": 2}

lines = st.lists(
    st.text(max_size=12) | st.sampled_from(["a\tb", "a b c", "#", "1\t2", "-DOCSTART-", "\ufeff"]), max_size=6
)
line_files = lines.map("\n".join).map(lambda text: text.encode("utf-8", "surrogatepass"))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("datasets") / "data.txt"


class NamelessError(Exception):
    """An error does not say which file it is about."""


def named(path: Path, call):
    """Read; an error names the file."""
    try:
        return call(path)
    except ValueError as error:
        if str(path) not in str(error):
            raise NamelessError from error
        raise


@given(data=st.data())
def test_conll_is_read_or_refused(path, data):
    path.write_bytes(data.draw(mutated_bytes(CONLL.encode()) | line_files | st.binary(max_size=60)))
    frame = reads(lambda: named(path, read_conll))
    if frame is not None:
        assert frame.tokens.map(len).tolist() == frame.tags.map(len).tolist()
        assert all(value for row in [*frame.tokens, *frame.tags] for value in row)


@pytest.mark.parametrize("contractions", ["split", "keep"])
@given(data=st.data())
def test_conllu_is_read_or_refused(contractions, path, data):
    path.write_bytes(data.draw(mutated_bytes(CONLLU.encode()) | line_files | st.binary(max_size=60)))
    frame = reads(lambda: named(path, lambda path: read_conllu(path, contractions=contractions)))
    if frame is not None:
        for column in frame.columns[3:]:
            assert frame.tokens.map(len).tolist() == frame[column].map(len).tolist()


@pytest.mark.parametrize("errors", ["raise", "keep", "drop"])
@given(data=st.data())
def test_squad_is_read_or_refused(errors, path, data):
    in_lines = mutated_json(QUESTION | {"context": "by Ada"}).map(lambda q: as_bytes(q) + b"\n" + as_bytes(QUESTION))
    changed = mutated_json(SQUAD).map(as_bytes) | in_lines | json_values.map(as_bytes)
    path.write_bytes(data.draw(changed | mutated_bytes(json.dumps(SQUAD).encode())))
    frame = reads(lambda: named(path, lambda path: read_squad(path, errors=errors)), warning=".*were left out")
    if frame is not None:
        for context, answers in zip(frame.context, frame.answers, strict=True):
            for text, start in zip(answers["text"], answers["answer_start"], strict=True):
                assert errors == "keep" or context[start : start + len(text)] == text


@given(data=st.data())
def test_doccano_is_read_or_refused(path, data):
    changed = mutated_json(DOCCANO).map(as_bytes) | json_values.map(as_bytes)
    path.write_bytes(data.draw(changed | mutated_bytes(json.dumps(DOCCANO).encode()) | st.binary(max_size=40)))
    check_spans(reads(lambda: named(path, read_doccano)))


@pytest.mark.parametrize("record", [TASK, JSON_MIN], ids=["JSON", "JSON_MIN"])
@given(data=st.data())
def test_label_studio_is_read_or_refused(record, path, data):
    changed = mutated_json([record]).map(as_bytes) | json_values.map(as_bytes)
    path.write_bytes(data.draw(changed | mutated_bytes(json.dumps([record]).encode())))
    check_spans(reads(lambda: named(path, read_label_studio)))


def check_spans(frame):
    if frame is not None:
        for text, spans in zip(frame.text, frame.spans, strict=True):
            assert all(0 <= start < end <= len(text) and isinstance(label, str) for start, end, label in spans)
