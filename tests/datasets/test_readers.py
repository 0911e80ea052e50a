import json

import pytest

from skxlmr.datasets import read_conll, read_conllu, read_squad


def test_read_conll_reads_tokens_and_tags(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text(
        "-DOCSTART- -X- O O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\n\nBonn NNP B-NP B-LOC", encoding="utf-8"
    )
    frame = read_conll(path)
    assert frame.tokens.tolist() == [["EU", "rejects"], ["Bonn"]]
    assert frame.tags.tolist() == [["B-ORG", "O"], ["B-LOC"]]
    assert read_conll(path, tag=1).tags.tolist() == [["NNP", "VBZ"], ["NNP"]]
    path.write_text("a b\tO\nc\tB-X\r\n", encoding="utf-8-sig")
    assert read_conll(path, sep="\t").tokens.tolist() == [["a b", "c"]]
    path.write_text("a O\n\nb\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"train.txt, line 3: 'b' has 1 columns, but 2 are needed"):
        read_conll(path)


def test_read_conll_with_other_white_space_keeps_it_in_tokens(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("10\xa0000 \t B-X\n\u3000 O\n \t\nline\u2028end O \n\n\x85 O", encoding="utf-8")
    assert read_conll(path).tokens.tolist() == [["10\xa0000", "\u3000"], ["line\u2028end"], ["\x85"]]
    assert read_conll(path).tags.tolist() == [["B-X", "O"], ["O"], ["O"]]


def test_readers_with_another_encoding_say_so(tmp_path):
    path = tmp_path / "esp.train"
    path.write_bytes("Oviedo B-LOC\nespañol O\n".encode("latin-1"))
    assert read_conll(path, encoding="latin-1").tokens.tolist() == [["Oviedo", "español"]]
    for read in (read_conll, read_conllu, read_squad):
        with pytest.raises(ValueError, match=r"esp.train is (not in utf-8|not a SQuAD file).*can't decode byte 0xf1"):
            read(path)
    path.write_bytes(b'\xef\xbb\xbf{"data": []}')
    assert not len(read_squad(path)), "with a byte order mark"


def test_read_conllu_reads_words_and_skips_empty_nodes(tmp_path):
    line = "{}\t{}\t_\t{}\t_\t_\t0\troot\t_\t_\n"
    path = tmp_path / "x.conllu"
    path.write_text(
        "# sent_id = s1\n# text = zum Haus\n" + line.format("1-2", "zum", "_") + line.format(1, "zu", "ADP")
        + line.format(2, "dem", "DET") + line.format("2.1", "x", "X") + line.format(3, "Haus", "NOUN") + "\n",
        encoding="utf-8",
    )  # fmt: skip
    (row,) = read_conllu(path).to_dict("records")
    assert (row["sent_id"], row["text"]) == ("s1", "zum Haus")
    assert row["tokens"] == ["zu", "dem", "Haus"]
    assert row["upos"] == ["ADP", "DET", "NOUN"]
    path.write_text("1 two\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 1: '1 two' has 1 columns; CoNLL-U has ten"):
        read_conllu(path)


def test_read_squad_reads_questions_and_answers(tmp_path):
    path = tmp_path / "x.json"
    qas = [
        {"id": "1", "question": "Who?", "answers": [{"text": "Ada", "answer_start": 0}]},
        {"id": "2", "question": "When?", "answers": [], "is_impossible": True},
    ]
    path.write_text(json.dumps({"data": [{"title": "T", "paragraphs": [{"context": "Ada wrote.", "qas": qas}]}]}))
    frame = read_squad(path)
    assert frame.question.tolist() == ["Who?", "When?"]
    assert frame.answers.tolist() == [{"text": ["Ada"], "answer_start": [0]}, {"text": [], "answer_start": []}]
    for broken in ("{", '{"data": [{"paragraphs": [{}]}]}', "[]"):
        path.write_text(broken)
        with pytest.raises(ValueError, match="is not a SQuAD file"):
            read_squad(path)


def test_readers_of_real_files_find_every_row(shared_data):
    frame = read_conllu(shared_data / "ud_pud" / "de_pud-ud-test.conllu")
    assert len(frame) == 1000
    assert frame.tokens.map(len).equals(frame.upos.map(len))
    questions = read_squad(shared_data / "xquad" / "xquad.en.json")
    assert len(questions) == 1190
    for context, answers in zip(questions.context, questions.answers, strict=True):
        for text, start in zip(answers["text"], answers["answer_start"], strict=True):
            assert context[start : start + len(text)] == text
