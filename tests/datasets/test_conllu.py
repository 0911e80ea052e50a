import pytest

from skxlmr.datasets import read_conllu

WORD = "{}\t{}\t{}\t{}\t_\t_\t{}\t{}\t_\t{}\n"
ZUM_HAUS = (
    "# sent_id = s1\n# text = zum Haus = da\n"
    + WORD.format("1-2", "zum", "_", "_", "_", "_", "SpaceAfter=No")
    + WORD.format(1, "zu", "zu", "ADP", 3, "case", "_")
    + WORD.format(2, "dem", "der", "DET", 3, "det", "_")
    + WORD.format("2.1", "x", "x", "X", "_", "_", "_")
    + WORD.format(3, "Haus", "Haus", "NOUN", 0, "root", "Gloss=house")
)


@pytest.fixture
def read(tmp_path):
    def read(text, **parameters):
        path = tmp_path / "x.conllu"
        path.write_text(text, encoding="utf-8")
        return read_conllu(path, **parameters)

    return read


def test_read_conllu_reads_words_and_skips_empty_nodes(read):
    (row,) = read(ZUM_HAUS).to_dict("records")
    assert (row["sent_id"], row["text"]) == ("s1", "zum Haus = da")
    assert row["tokens"] == ["zu", "dem", "Haus"]
    assert row["upos"] == ["ADP", "DET", "NOUN"]
    assert list(row) == ["sent_id", "text", "tokens", "upos", "xpos", "feats"]


def test_read_conllu_returns_columns_on_request(read):
    frame = read(ZUM_HAUS, columns=["FORM", "lemma", "HEAD", "deprel", "MISC"])
    assert list(frame.columns) == ["sent_id", "text", "tokens", "form", "lemma", "head", "deprel", "misc"]
    (row,) = frame.to_dict("records")
    assert row["form"] == row["tokens"]
    assert row["lemma"] == ["zu", "der", "Haus"]
    assert row["head"] == ["3", "3", "0"]
    assert row["deprel"] == ["case", "det", "root"]
    assert row["misc"] == ["_", "_", "Gloss=house"]
    assert list(read(ZUM_HAUS, columns=[]).columns) == ["sent_id", "text", "tokens"]


def test_read_conllu_with_contractions_kept_returns_surface_tokens(read):
    (row,) = read(ZUM_HAUS, columns=["upos", "lemma", "misc"], contractions="keep").to_dict("records")
    assert row["tokens"] == ["zum", "Haus"]
    assert row["upos"] == ["ADP+DET", "NOUN"]
    assert row["lemma"] == ["zu+der", "Haus"]
    assert row["misc"] == ["SpaceAfter=No", "Gloss=house"]
    parts = [("1-2", "du"), (1, "de"), (2, "le"), (3, "a"), (4, "b"), ("5-7", "xyz"), (5, "x"), (6, "y"), (7, "z")]
    two = "".join(WORD.format(number, form, form, f"U{number}", 0, "x", "_") for number, form in parts)
    (row,) = read(two, contractions="keep").to_dict("records")
    assert row["tokens"] == ["du", "a", "b", "xyz"]
    assert row["upos"] == ["U1+U2", "U3", "U4", "U5+U6+U7"]


PLUS = (
    "# global.columns = ID FORM UPOS PARSEME:MWE\n# source_sent_id = . . a\n# text = give up\n"
    "1-2\tgiveup\t_\t*\n1\tgive\tVERB\t1:VPC\n2\tup\tADP\t1\n\n# sent_id = b\n1\tgo\tVERB\t*\n"
)


def test_read_conllu_of_conllu_plus_has_its_columns(read):
    frame = read(PLUS)
    assert list(frame.columns) == ["sent_id", "text", "tokens", "upos", "parseme:mwe"]
    assert frame.tokens.tolist() == [["give", "up"], ["go"]]
    assert frame["parseme:mwe"].tolist() == [["1:VPC", "1"], ["*"]]
    assert frame["text"][0] == "give up"
    assert frame["text"].isna().tolist() == [False, True]
    assert list(read(PLUS, columns=["Parseme:MWE"]).columns) == ["sent_id", "text", "tokens", "parseme:mwe"]
    assert read(PLUS, contractions="keep").tokens.tolist() == [["giveup"], ["go"]]
    assert read("# global.columns = FORM NER\n\nAda\tB\nmet\tO\n").ner.tolist() == [["B", "O"]]


@pytest.mark.parametrize(
    ("text", "parameters", "message"),
    [
        ("1 two\n", {}, "line 1: '1 two' has 1 columns; CoNLL-U has ten, separated by tabs"),
        (PLUS + "2\tx\n", {}, "line 10: .* has 2 columns; this file has 4"),
        (WORD.format("x", *"a_____"), {}, "line 1: .*: the ID 'x' is not a number"),
        (WORD.format("1 ", *"a_____"), {}, "line 1: .*: the ID '1 ' is not a number"),
        (WORD.format("²", *"a_____"), {}, "line 1: .*: the ID '²' is not a number"),
        (WORD.format("1.2.3", *"a_____"), {}, "the ID '1.2.3' is not a number"),
        (WORD.format("1-", *"a_____"), {}, "the ID '1-' is not a number"),
        (WORD.format("_", *"a_____"), {}, "the ID '_' is not a number"),
        (WORD.format(1, *"a_____") * 2, {}, "line 2: .*: the ID '1' comes after 1. If a sentence begins here, a blank"),
        (WORD.format(1, "", *"_____"), {}, "line 1: .* has an empty form; what is missing is written '_'"),
        (WORD.format(1, "a", "", *"____"), {"columns": ["lemma"]}, "line 1: .* has an empty lemma"),
        (WORD.format("1-2", *"a_____") + WORD.format(1, *"a_____"), {}, "ends with word 1, before the end of .* 1-2"),
        (WORD.format("1-2", *"a_____") + WORD.format(2, *"a_____"), {}, "line 2: .*: word 1, the first one of 1-2, is"),
        ("", {"columns": ["pos"]}, "x.conllu has no column 'pos', but id, form, lemma, upos"),
        (PLUS, {"columns": ["lemma"]}, "x.conllu has no column 'lemma', but id, form, upos, parseme:mwe"),
        ("# global.columns = ID UPOS\n", {}, "has no column 'form', but id, upos"),
        ("", {"columns": "upos"}, r"columns must be a list of names, got 'upos': use \['upos'\]"),
        ("", {"contractions": "join"}, "contractions must be one of"),
    ],
)  # fmt: skip
def test_read_conllu_with_invalid_file_raises_and_names_line(read, text, parameters, message):
    with pytest.raises(ValueError, match=message):
        read(text, **parameters)


def test_read_conllu_of_real_treebank_finds_every_word(shared_data):
    path = shared_data / "ud_pud" / "de_pud-ud-test.conllu"
    split, kept = read_conllu(path), read_conllu(path, columns=["misc"], contractions="keep")
    assert len(split) == len(kept) == 1000
    assert split.tokens.map(len).equals(split.upos.map(len))
    for row in kept.itertuples():
        spaced = [form + " " * ("SpaceAfter=No" not in misc) for form, misc in zip(row.tokens, row.misc, strict=True)]
        assert "".join(spaced).rstrip() == row.text
