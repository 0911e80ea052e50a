from __future__ import annotations

import json

import pytest
from command_line import json_lines, run

import skxlmr


def test_tag_prints_the_entities_of_texts(tagger, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("Ada lives in Rome\n\nnothing\nRome\n")
    status, printed, _ = run(capsys, "tag", tagger, tmp_path / "a.txt")
    expected = skxlmr.load(tagger).predict_spans(["Ada lives in Rome", "nothing", "Rome"])
    found = [json.loads(line) for line in printed.splitlines()]
    assert status == 0
    assert len(found) > 0
    assert found == expected.to_dict("records")


def test_tag_keeps_columns_and_reads_tokens(tables, tagger, tmp_path, capsys):
    output = tmp_path / "out.csv"
    status, _, _ = run(capsys, "tag", tagger, tables / "entities.jsonl", "--keep", "language", "-o", output)
    lines = output.read_text().splitlines()
    assert (status, lines[0]) == (0, "row,language,label,start,end,text,score")
    assert lines[1].startswith('0,en,PER,0,1,"[""Ada""]",0.')


def test_tag_rows_that_are_missing_exit_with_3(tagger, tmp_path, capsys):
    path = json_lines(tmp_path / "a.jsonl", [{"text": None}, {"text": "Rome"}, {"text": None}])
    status, printed, errors = run(capsys, "tag", tagger, path)
    assert status == 3
    assert all(json.loads(line)["row"] == 1 for line in printed.splitlines())
    assert "2 of 3 rows have no prediction" in errors
    json_lines(tmp_path / "a.jsonl", [{"text": None}])
    assert run(capsys, "tag", tagger, path)[:2] == (3, "")


def test_ask_prints_answers_and_where_they_stand(qa, tmp_path, capsys, pipe_in):
    texts = {"a.txt": "Ada wrote it.", "b.txt": "It is in Rome."}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    paths = [tmp_path / name for name in texts]
    status, printed, _ = run(capsys, "ask", qa, "Who wrote it?", *paths, "--top", "2", "--json")
    answers = [json.loads(line) for line in printed.splitlines()]
    assert (status, len(answers)) == (0, 2)
    assert answers[0]["score"] >= answers[1]["score"]
    for answer in answers:
        text = texts[answer["file"].rpartition("/")[2]]
        assert text[answer["start"] : answer["end"]] == answer["answer"]
    pipe_in("\ufeffAda wrote it.")
    status, printed, _ = run(capsys, "ask", qa, "Who wrote it?", "--top", "1")
    assert (status, printed.count("\n")) == (0, 1)
    assert "  (standard input, 0-" in printed


def test_ask_without_an_answer_says_so(qa, tmp_path, capsys, monkeypatch, pipe_in):
    found = skxlmr.XLMRXLQA.predict_answers

    def unanswered(self, X, top_k):
        return found(self, X, top_k).assign(is_answered=False)

    monkeypatch.setattr(skxlmr.XLMRXLQA, "predict_answers", unanswered)
    pipe_in("Ada wrote it.")
    assert run(capsys, "ask", qa, "Why?") == (0, "", "skxlmr: no answer in these texts\n")


@pytest.mark.parametrize(
    ("content", "expected"), [(b"", "has no text"), (b"a\xff", "byte 2 is not UTF-8"), (b"a" * 101, "more than 100")]
)
def test_ask_with_wrong_contexts_names_the_file(qa, tmp_path, capsys, monkeypatch, content, expected):
    monkeypatch.setattr("skxlmr.cli.answering.MAX_CONTEXT_BYTES", 100)
    (tmp_path / "a.txt").write_bytes(content)
    status, _, errors = run(capsys, "ask", qa, "Why?", tmp_path / "a.txt")
    assert (status, errors.count("\n")) == (1, 1)
    assert "a.txt" in errors
    assert expected in errors


def test_commands_name_the_estimator_that_they_need(classifier, tables, capsys):
    for command in (["tag", classifier, tables / "reviews.csv"], ["ask", classifier, "Why?"]):
        status, _, errors = run(capsys, *command)
        assert (status, "this is a XLMRXLClassifier" in errors) == (2, True)
