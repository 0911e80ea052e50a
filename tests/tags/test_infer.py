"""Inference of schemes."""

import pytest

from skxlmr.tags import convert_tags, infer_scheme
from skxlmr.tags.infer import scheme_of_labels

BIO = ["O", "B-A", "I-A", "B-C", "I-C"]


@pytest.mark.parametrize(
    ("labels", "scheme"),
    [
        (["O", "B-A", "I-A", "B-B"], "BIO"),
        (["O", "I-A", "B-B", "I-B"], "IOB1"),
        (["O", "I-A", "E-A"], "IOE2"),
        (["O", "I-A", "I-B", "E-B"], "IOE1"),
        (["O", "I-A"], "IO"),
        (["B", "M", "E", "S"], "BMES"),
        (["U-A", "B-A", "I-A", "L-A", "O"], "BILOU"),
        (["LABEL_0", "LABEL_1"], "plain"),
    ],
)
def test_scheme_of_labels_needs_no_sentences(labels, scheme):
    assert scheme_of_labels(labels) == scheme


@pytest.mark.parametrize(
    ("tags", "scheme"),
    [
        (BIO, "BIO"), (["O", "B-A"], "BIO"), (["B-A", "B-A", "O"], "BIO"), (["O", "I-A", "O", "B-A"], "BIO"),
        (["I-A", "B-A", "I-C", "O"], "IOB1"), (["O", "I-A"], "IO"),
        (["O", "B-A", "I-A", "E-A", "S-A", "S-C"], "BIOES"), (["O", "S-A"], "BIOES"), (["B-A", "E-A", "I-A"], "BIOES"),
        (["O", "U-A"], "BILOU"), (["B-A", "I-A", "L-A", "O"], "BILOU"), (["B-A", "L-A", "U-C"], "BILOU"),
        (["B-A", "M-A", "E-A", "O", "S-C"], "BMES"), (["B", "M", "E", "S"], "BMES"),
        (["B", "E", "B", "M", "E"], "BMES"),
        (["I-A", "E-A", "O", "E-C"], "IOE2"), (["I-A", "E-A", "I-A", "O"], "IOE1"), (["O", "E-A"], "IOE2"),
        (["O", "B", "I"], "BIO"), (["O", "I", "B"], "IOB1"), (["O", "B", "E", "S"], "BIOES"),
        (["B-E-mail", "I-E-mail"], "BIO"),
    ],
)  # fmt: skip
def test_infer_scheme_of_tags_with_prefixes_returns_their_scheme(tags, scheme):
    assert infer_scheme([tags]) == scheme


@pytest.mark.parametrize(
    "tags",
    [
        ["NOUN", "VERB"], ["O"], [], ["B-A", "NOUN"], ["BI-A", "X"], ["B", "S"], ["-LRB-", "NN"],
        ["N", "V", "O", "P", "S", "^"],  # parts of speech of tweets: O is a pronoun
        ["N------S1I", "S----3MS1-", "I---------", "VIIA-3MS--", "P---------", "N------S1R"],  # of Arabic
        ["BES", "IN", "MD", "LS", "UH", "EX", "NN"], ["_", "_", "NN"], ["S", "E", "B", "V", "RD", "I"],  # of Italian
    ],
)  # fmt: skip
def test_infer_scheme_of_parts_of_speech_returns_plain(tags):
    assert infer_scheme([tags]) == "plain"


@pytest.mark.parametrize("odd", ["0", "-", "", "_", "o", "OUT", "B_PER", "PER", "B-", "B", "X-PER", "B- PER", "NN"])
def test_infer_scheme_with_odd_tag_names_tag_and_row(odd):
    rows = [["B-PER", "I-PER", "O"]] * 20 + [["O", odd]]
    with pytest.raises(
        ValueError, match=r"y, row 20: tag 1 is .* a tag without a scheme.*'B-PER'.*scheme='plain'"
    ) as e:
        infer_scheme(rows)
    assert repr(odd) in str(e.value)


@pytest.mark.parametrize("outside", ["0", "-", "", "_", "o"])
def test_infer_scheme_with_other_name_of_outside_raises(outside):
    rows = [["B-PER", outside, outside, outside, outside]] * 12
    with pytest.raises(ValueError, match=r"y: 12 of 12 rows have a tag without a scheme.*first 10") as e:
        infer_scheme(rows)
    assert str(e.value).count("y, row") == 10


@pytest.mark.parametrize(
    ("rows", "advice"),
    [
        ([["B_PER", "I_PER", "O"]], "separator='_'"), ([["O", "B/PER"]], "separator='/'"),
        ([["PER-B", "PER-I", "O"]], "suffix=True"), ([["PER_B", "PER_I"]], "separator='_', suffix=True"),
        ([["B\u2013PER", "O"]], "separator='\u2013'"), ([["B PER", "I PER"]], "separator=' '"),
        ([["BPER", "IPER", "O"]], "separator=''"),
    ],
)  # fmt: skip
def test_infer_scheme_of_other_forms_raises_and_convert_tags_reads_them(rows, advice):
    with pytest.raises(ValueError, match=r"y, row 0: tag \d is .*convert_tags\(y, ") as e:
        infer_scheme(rows)
    assert f"convert_tags(y, {advice})" in str(e.value)
    arguments = eval(f"dict({advice})")
    assert {tag[:2] for row in convert_tags(rows, **arguments) for tag in row} <= {"B-", "I-", "O"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([["PERSON", "PERSON", "O"]], "the tag 'O' and tags without a prefix, such as 'PERSON'.*scheme='IO'.*'plain'"),
        ([["PERSON", "0"]], "has the tag '0'"), ([["o", "PER"]], "has the tag 'o'"), ([["O", "X-A"]], "'X-A'"),
        ([["b-per", "o"]], "tag 0 is 'b-per'.*upper case"), ([["b-per", "i-per"]], "upper case"),
        ([["B-PER\r", "O\r"]], r"'B-PER\\r', a tag with white space at its ends. Strip it"),
        ([["O", "B-PER "]], "white space"),
        ([["U-A", "O", "S-A"]], "tag 2 is 'S-A', a tag of another scheme than BILOU"),
        ([["M-A", "I-A"]], "tag 1 is 'I-A', a tag of another scheme than BMES"),
    ],
)  # fmt: skip
def test_infer_scheme_of_unclear_tags_raises(rows, message):
    with pytest.raises(ValueError, match=message):
        infer_scheme(rows)
