import re

import pytest

from skxlmr.datasets import read_conll


@pytest.fixture
def read(tmp_path):
    def read(text, **parameters):
        path = tmp_path / "train.txt"
        path.write_text(text, encoding="utf-8")
        return read_conll(path, **parameters)

    return read


def sentences(frame):
    return [list(zip(*row, strict=True)) for row in frame[["tokens", "tags"]].itertuples(index=False)]


def test_read_conll_reads_tokens_and_tags(read):
    text = "-DOCSTART- -X- O O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\n\nBonn NNP B-NP B-LOC"
    frame = read(text)
    assert frame.tokens.tolist() == [["EU", "rejects"], ["Bonn"]]
    assert frame.tags.tolist() == [["B-ORG", "O"], ["B-LOC"]]
    assert list(frame.columns) == ["tokens", "tags"]
    assert read(text, tag=1).tags.tolist() == [["NNP", "VBZ"], ["NNP"]]
    assert read("a b\tO\nc\tB-X\r\n", sep="\t").tokens.tolist() == [["a b", "c"]]


def test_read_conll_with_other_white_space_keeps_it_in_tokens(read):
    frame = read("10\xa0000 \t B-X\n\u3000 O\n \t\nline\u2028end O \n\n\x85 O")
    assert frame.tokens.tolist() == [["10\xa0000", "\u3000"], ["line\u2028end"], ["\x85"]]
    assert frame.tags.tolist() == [["B-X", "O"], ["O"], ["O"]]
    assert sentences(read("กิน\tVV\tO\n \tPU\tO\n", sep="\t")) == [[("กิน", "O"), (" ", "O")]]


@pytest.mark.parametrize(
    ("text", "parameters", "message"),
    [
        ("a O\n\nb\n", {}, "line 3: 'b' has 1 columns, but line 1 has 2"),
        ("This\tO\nis\tO\nOld Harbour\tLOC\n", {}, "line 3: .* has 3 columns, but line 1 has 2. Set sep='\\\\t' if"),
        ("were O\nAcme Works B-ORG\n", {}, "line 2: .* has 3 columns, but line 1 has 2. Set sep if"),
        ("Oslo NNP B-NP B-LOC\nsleeps VBZ B-VP\n", {}, "line 2: .* has 3 columns, but line 1 has 4"),
        ("กิน\tVV\tO\n \tPU\tO\n", {}, "line 2: .* has 2 columns, but line 1 has 3"),
        ("Oslo NNP B-NP B-LOC 0.9\n\nsleeps VBZ B-VP O\n", {}, "line 3: .* has 4 columns, but line 1 has 5"),
        ("Ada\tB-PER\nis\t\n", {"sep": "\t"}, "line 2: .* has an empty tag"),
        ("Ada\tB-PER\n\tO\n", {"sep": "\t"}, "line 2: .* has an empty token"),
        ("Ada\n", {}, "line 1: 'Ada' has 1 column; a token and a tag are needed"),
        ("Ada O\n", {"tag": 2}, "line 1: 'Ada O' has 2 columns, so tag=2 is not one of them"),
        ("Ada O\n", {"token": -3}, "so token=-3 is not one of them"),
        ("Ada O\n", {"token": "word"}, "token='word' is the name of a column, which only a file with header=True has"),
        ("word tag\nAda O\n", {"token": "form", "header": True}, "line 1: .* not one column of the name token='form'"),
    ],
)
def test_read_conll_with_irregular_line_raises_and_names_it(read, text, parameters, message):
    with pytest.raises(ValueError, match=message):
        read(text, **parameters)


COMMENTED = {
    "MultiCoNER": ("# id 17\tdomain=en\nmara _ _ B-X\n# _ _ O\n", "# id", {}, [("mara", "B-X"), ("#", "O")]),
    "GermEval": ("#\thttp://example.org\t[2020]\t-\n1\ta\tB-OTH\tO\n", "#", {"token": 1, "tag": 2}, [("a", "B-OTH")]),
    "Universal NER": (
        "# sent_id = a-1\n# text = Where is Lindau?\n1\tWhere\tO\t-\t-\n3\tLindau\tB-LOC\t-\tann1\n",
        "#", {"token": 1, "tag": 2}, [("Where", "O"), ("Lindau", "B-LOC")],
    ),
    "two-columns": ("# newdoc\na O\n\n#id 5\nb B-X\n", "#", {}, [("a", "O")]),
    "OntoNotes": ("#begin document (x/y/00); part 000\na O\n\n#end document\n", ("#begin", "#end"), {}, [("a", "O")]),
}  # fmt: skip


@pytest.mark.parametrize(("text", "comment", "columns", "expected"), COMMENTED.values(), ids=COMMENTED)
def test_read_conll_leaves_comments_out_or_refuses_them(read, text, comment, columns, expected):
    assert sentences(read(text, comment=comment, **columns))[0] == expected
    with pytest.raises(ValueError, match=re.escape("train.txt, line 1: '#") + ".* looks like a comment. Set comment="):
        read(text, **columns)
    with pytest.raises(ValueError, match=r"line 2: '#.* looks like a comment"):
        read("-DOCSTART- O\n" + text, **columns)


def test_read_conll_reads_tokens_that_begin_with_a_hash(read):
    assert sentences(read("#tag O\n# O\n\n# O\n")) == [[("#tag", "O"), ("#", "O")], [("#", "O")]]
    assert sentences(read("# B-X\na B-X\n\n#tag B-Y\n")) == [[("#", "B-X"), ("a", "B-X")], [("#tag", "B-Y")]]
    assert sentences(read("# a=b O\n", comment="")) == [[("#", "O")]]
    assert sentences(read("# name\na O\n", comment="")) == [[("#", "name"), ("a", "O")]]


def test_read_conll_with_header_finds_columns_by_name(read):
    text = "word pos ner\nAda NNP B-PER\n\nsleeps VBZ O\n"
    assert sentences(read(text, header=True)) == [[("Ada", "B-PER")], [("sleeps", "O")]]
    assert sentences(read(text, header=True, token="word", tag="pos")) == [[("Ada", "NNP")], [("sleeps", "VBZ")]]
    assert sentences(read("# by hand\nword ner\nAda O\n", header=True, comment="#")) == [[("Ada", "O")]]
    with pytest.raises(ValueError, match="line 2: 'Ada O' has 2 columns, but line 1 has 3"):
        read("word pos ner\nAda O\n", header=True)


@pytest.mark.parametrize(
    ("text", "parameters"),
    [
        ("-DOCSTART- -X- O O\n\na\tO\n\n-DOCSTART- -X- O O\n\nb\tO\n", {"sep": "\t"}),
        ("0 -DOCSTART- O\n\n1 a O\n\n0 -DOCSTART- O\n\n1 b O\n", {"token": 1}),
        ("-DOCSTART- O\na O\n-DOCSTART- -X- O O\nb O\n", {}),
        ("-DOCSTART-|O\na|O\n-DOCSTART-\nb|O\n", {"sep": "|"}),
        ("x O -DOCSTART-\n\n1 O a\nx O -DOCSTART-\n1 O b\n", {"token": -1, "tag": 1}),
    ],
    ids=["other-separator", "other-column", "within-sentence", "bar", "last-column"],
)
def test_read_conll_begins_a_sentence_and_a_document_at_docstart(read, text, parameters):
    frame = read(text, documents=True, **parameters)
    assert frame.tokens.tolist() == [["a"], ["b"]]
    assert frame.tags.tolist() == [["O"], ["O"]]
    assert frame.document.tolist() == [1, 2]


def test_read_conll_of_empty_file_has_its_columns(read):
    assert list(read("\n").columns) == ["tokens", "tags"]
    assert list(read("", documents=True).columns) == ["tokens", "tags", "document"]
