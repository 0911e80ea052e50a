import json

import pytest

from skxlmr.datasets import read_conll, read_conllu, read_squad

CONLLU = "1\tespañol\t_\tADJ\t_\t_\t0\troot\t_\t_\n"
SQUAD = json.dumps(
    {"data": [{"paragraphs": [{"context": "español", "qas": [{"id": "1", "question": "español", "answers": []}]}]}]},
    ensure_ascii=False,
)
READERS = [(read_conll, "español O\n", "tokens"), (read_conllu, CONLLU, "tokens"), (read_squad, SQUAD, "question")]
IDS = ["conll", "conllu", "squad"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf8", "UTF-8", "utf_8", "U8", "utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize(("read", "text", "column"), READERS, ids=IDS)
def test_readers_leave_out_byte_order_mark(read, text, column, encoding, tmp_path):
    path = tmp_path / "x"
    path.write_text("\ufeff" + text, encoding=encoding.removesuffix("-sig"))
    (value,) = read(path, encoding=encoding)[column]
    assert value in (["español"], "español")


@pytest.mark.parametrize(("read", "text", "column"), READERS, ids=IDS)
def test_readers_with_another_encoding_name_the_file(read, text, column, tmp_path):
    path = tmp_path / "esp.train"
    path.write_bytes(text.encode("latin-1"))
    assert len(read(path, encoding="latin-1")) == 1
    with pytest.raises(
        ValueError, match=r"esp.train is (not in UTF8|not a SQuAD file).*can't decode byte 0xf1.*encoding='latin-1'"
    ):
        read(path, encoding="UTF8")
    path.write_bytes(text.encode("utf-16"))
    with pytest.raises(ValueError, match="encoding='utf-16'"):
        read(path)
