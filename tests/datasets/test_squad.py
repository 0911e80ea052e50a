import json
import unicodedata

import pytest

from skxlmr.datasets import read_squad

CONTEXT = "Ada met Bob. Bob left."
ADA = {"text": "Ada", "answer_start": 0}
EVE = {"text": "Eve", "answer_start": 0}
FOUND = {"text": ["Ada"], "answer_start": [0]}
NONE = {"text": [], "answer_start": []}


def qa(number=1, **more):
    return {"id": str(number), "question": "Who?", **more}


def articles(*questions, context=CONTEXT):
    return {"data": [{"title": "T", "paragraphs": [{"context": context, "qas": list(questions)}]}]}


@pytest.fixture
def read(tmp_path):
    def read(content, **parameters):
        path = tmp_path / "x.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return read_squad(path, **parameters)

    return read


def test_read_squad_reads_questions_and_answers(read):
    frame = read(articles(qa(1, answers=[ADA]), qa(2, answers=[], is_impossible=True)))
    assert list(frame.columns) == ["id", "title", "question", "context", "answers"]
    assert frame.id.tolist() == ["1", "2"]
    assert set(frame.title) == {"T"}
    assert set(frame.context) == {CONTEXT}
    assert frame.answers.tolist() == [FOUND, NONE]


FORMS = {
    "list": {"answers": [ADA]},
    "more-keys": {"answers": [ADA | {"answer_category": "NAME"}], "plausible_answers": [EVE]},
    "not-impossible": {"answers": [ADA], "is_impossible": False},
    "lists": {"answers": FOUND},
    "singular": {"answer": ADA},
    "singular-list": {"answer": [ADA]},
    "one-object": {"answers": ADA},
    "one-text": {"answer": "Ada"},
    "text-and-start": {"answer": "Ada", "answer_start": 0},
    "texts": {"answers": ["Ada"]},
    "without-start": {"answers": [{"text": "Ada"}]},
    "lists-without-starts": {"answers": {"text": ["Ada"]}},
    "float-start": {"answers": [{"text": "Ada", "answer_start": 0.0}]},
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_read_squad_reads_answers_in_any_form(read, form):
    assert read(articles(qa(**form))).answers.tolist() == [FOUND]
    assert read([qa(context=CONTEXT, **form)]).answers.tolist() == [FOUND]


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_read_squad_of_impossible_question_has_no_answers(read, form):
    assert read(articles(qa(**form | {"is_impossible": True}))).answers.tolist() == [NONE]


RECORD = {"context": CONTEXT, **qa(answers=FOUND)}
FILES = {
    "list": json.dumps([RECORD, RECORD | {"id": "2"}]),
    "data": json.dumps({"version": "1", "data": [RECORD, RECORD | {"id": "2"}]}),
    "lines": f"{json.dumps(RECORD)}\n{json.dumps(RECORD | {'id': '2'})}\n\n",
    "articles-without-paragraphs": json.dumps(
        {"data": [{"title": "", "context": CONTEXT, "qas": [qa(i, answers=[ADA])]} for i in (1, 2)]}
    ),
    "lines-of-articles": "\n".join(json.dumps({"context": CONTEXT, "qas": [qa(i, answers=[ADA])]}) for i in (1, 2)),
    "guids": json.dumps(
        articles(*({"guid": str(i), "question": "Who?", "answers": [ADA]} for i in (1, 2))) | {"version": "klue"}
    ).replace('"T"', '""'),
}  # fmt: skip


@pytest.mark.parametrize("text", FILES.values(), ids=FILES)
def test_read_squad_reads_nested_and_flat_files(read, text):
    row = {"title": "", "question": "Who?", "context": CONTEXT, "answers": FOUND}
    assert read(text).to_dict("records") == [{"id": "1", **row}, {"id": "2", **row}]


def test_read_squad_without_ids_or_answers_in_any_question(read):
    frame = read(articles(*({"question": "Who?"} for _ in range(2))))
    assert frame.id.tolist() == ["0", "1"]
    assert frame.answers.tolist() == [NONE, NONE]
    unlabelled = qa(1, answers=[], is_impossible=False)
    assert read(articles(unlabelled, unlabelled)).answers.tolist() == [NONE, NONE]
    assert read(json.dumps(RECORD)).id.tolist() == ["1"]


def test_read_squad_returns_answers_as_they_stand_in_the_context(read):
    context = unicodedata.normalize("NFD", "À  Zürich,\n Suisse")
    frame = read(articles(qa(answers=[{"text": "Zürich, Suisse", "answer_start": 3}]), context=context))
    (answers,) = frame.answers
    (text,), (start,) = answers["text"], answers["answer_start"]
    assert text == context[start : start + len(text)] == unicodedata.normalize("NFD", "Zürich,\n Suisse")


BAD = {
    "no-id": ({"question": "Who?", "answers": [ADA]}, "it has no 'id', which other questions have"),
    "no-question": ({"id": "x", "answers": [ADA]}, "(id 'x'): its question is missing"),
    "number": ({"id": "x", "question": 5, "answers": [ADA]}, "(id 'x'): its question is 5, not a text"),
    "no-answers": (qa("x"), "(id 'x'): it has no 'answers', which other questions have"),
    "null": (qa("x", answers=None), "(id 'x'): it has no 'answers', which other questions have"),
    "not-impossible": (qa("x", answers=[], is_impossible=False), "it has no answers, though is_impossible is false"),
    "not-there": (qa("x", answers=[EVE]), "(id 'x'): the answer 'Eve' does not stand in its context"),
    "wrong-start": (
        qa("x", answers=[{"text": "met", "answer_start": 5}]),
        "(id 'x'): the answer 'met' does not stand in its context at character 5, where 'et ' is, but at 4. "
        "Starts count characters from 0",
    ),
    "second": (qa("x", answers=[ADA, EVE]), "the answer 'Eve' does not stand in its context"),
    "ambiguous": (qa("x", answers=[{"text": "Bob"}]), "the answer 'Bob' has no answer_start, and stands in its"),
    "no-text": (qa("x", answers=[{"answer_start": 0}]), "its answer {'answer_start': 0} has no 'text'"),
    "empty": (qa("x", answers=[{"text": "", "answer_start": 0}]), "the text of an answer is ''"),
    "start": (qa("x", answers=[{"text": "Ada", "answer_start": "0"}]), "the start '0' of the answer 'Ada' is not an"),
    "starts": (qa("x", answers={"text": ["Ada"], "answer_start": []}), "its answers have 1 texts, but the starts are"),
    "answer": (qa("x", answers=[5]), "its answer 5 is neither a text nor an object"),
    "impossible": (qa("x", answers=[ADA], is_impossible="false"), "is_impossible is 'false', neither true nor false"),
}  # fmt: skip
KEPT = {"not-there", "wrong-start", "second", "ambiguous"}


@pytest.mark.parametrize("name", BAD)
def test_read_squad_names_article_paragraph_and_question_of_bad_rows(read, name):
    bad, message = BAD[name]
    content = articles(qa(0, answers=[ADA]), qa(1, answers=[ADA]), bad)
    content["data"] = [*articles(qa(9, answers=[ADA]))["data"], *content["data"]]
    with pytest.raises(ValueError, match="1 of 4 questions cannot be read") as raised:
        read(content)
    where, _, problem = str(raised.value).split("\n")[1].partition(", question 2")
    assert where == "article 1 ('T'), paragraph 0"
    assert message in problem
    with pytest.warns(UserWarning, match="1 of 4 questions cannot be read and were left out:\narticle 1"):
        assert read(content, errors="drop").id.tolist() == ["9", "0", "1"]
    if name in KEPT:
        (*_, kept) = read(content, errors="keep").answers
        assert kept["text"] == [answer["text"] for answer in bad["answers"]]
        assert len(kept["answer_start"]) == len(kept["text"])
    else:
        with pytest.raises(ValueError, match="cannot be read"):
            read(content, errors="keep")


def test_read_squad_lists_the_first_bad_rows_and_counts_all(read):
    lines = "\n".join(json.dumps(RECORD | {"id": str(i), "answers": [EVE if i % 2 else ADA]}) for i in range(40))
    with pytest.raises(ValueError, match="20 of 40 questions cannot be read") as raised:
        read(lines)
    _, *shown = str(raised.value).split("\n")
    assert len(shown) == 11
    assert shown[0].startswith("line 2 (id '1'): the answer 'Eve'")
    assert shown[-1] == "..."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "Expecting property name"),
        ("", "Expecting value"),
        ('{\n"data": [],\n}', "property name enclosed in double quotes: line 3"),
        ("[" * 100_000, "nested deeper than 100 lists and objects"),
        ('{"a": 1}\n{', "line 2 is not JSON"),
        ('{"a": 1}', "line 1 has neither 'paragraphs' nor 'qas' nor a 'question'"),
        ("5", "its data is a int, not a list of articles or records"),
        ('{"data": {}}', "its data is a dict, not a list"),
        ("[5]", "record 0 is a int, not an object"),
        ('{"data": [{"paragraphs": {}}]}', "the paragraphs of article 0 are not a list"),
        ('{"data": [{"paragraphs": [{}]}]}', "article 0, paragraph 0 has no list 'qas'"),
        ('{"data": [{"title": "a", "qas": [[]]}]}', r"article 0 \('a'\), question 0 is a list, not an object"),
    ],
)
def test_read_squad_of_another_file_raises(read, content, message):
    with pytest.raises(ValueError, match=f"x.json is not a SQuAD file: .*({message})"):
        read(content)


def test_read_squad_with_unknown_errors_raises(read):
    with pytest.raises(ValueError, match=r"errors must be one of .*, got 'ignore'"):
        read(articles(), errors="ignore")


@pytest.mark.parametrize("language", ["en", "zh", "ar"])
def test_read_squad_of_xquad_finds_every_answer(language, shared_data):
    questions = read_squad(shared_data / "xquad" / f"xquad.{language}.json")
    assert len(questions) == 1190
    for context, answers in zip(questions.context, questions.answers, strict=True):
        for text, start in zip(answers["text"], answers["answer_start"], strict=True):
            assert context[start : start + len(text)] == text
