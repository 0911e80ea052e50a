"""Spans of characters and tokens become tags."""

import pytest

from skxlmr.tasks.tagging.sentences import check_token_column
from skxlmr.tasks.tagging.spans import wrong_labels
from skxlmr.tasks.tagging.targets import check_tags


def tags(text, *spans, **options):
    """Return the tags of spans of one string, or of one list of tokens."""
    return check_tags([list(spans)], check_token_column([text]), **options)[0]


@pytest.mark.parametrize(
    ("text", "span", "expected"),
    [
        ("Ada met Bob", {"start": 8, "end": 11, "label": "PER", "text": "Bob"}, ["O", "O", "B-PER"]),
        ("EU agrees", {"id": 1, "label": "ORG", "start_offset": 0, "end_offset": 2}, ["B-ORG", "O"]),
        ("EU agrees", {"start": 0, "end": 2, "text": "EU", "labels": ["ORG"]}, ["B-ORG", "O"]),
        ("New  York!", {"start": 0, "end": 9, "label": "LOC", "text": "New York"}, ["B-LOC", "I-LOC", "O"]),
        (["New", "York"], {"start": 0, "end": 2, "label": "LOC", "text": ["New", "York"]}, ["B-LOC", "I-LOC"]),
        (["isn", "'t"], {"start": 0, "end": 2, "label": "V", "text": "isn't"}, ["B-V", "I-V"]),
        ("\ufeffAda met", (0, 4, "PER"), ["B-PER", "O"]), ("\ufeffAda met", (1, 4, "PER"), ["B-PER", "O"]),
        (" Ada  met", (0, 6, "PER"), ["B-PER", "O"]), ("mail us", (0, 4, "E-mail"), ["B-E-mail", "O"]),
    ],
)  # fmt: skip
def test_check_tags_with_span_of_each_form_returns_tags(text, span, expected):
    assert tags(text, span) == expected


@pytest.mark.parametrize(
    ("text", "spans", "message"),
    [
        ("Ada met Bob", [{"start": 4, "end": 7, "label": "PER", "text": "Bob"}],
         r"row 0: the span \(4, 7, 'PER'\) 'met' has the text 'Bob' in its annotation.*characters.*from 0"),
        ("💩 Ada", [{"start": 3, "end": 6, "label": "PER", "text": "Ada"}], "beyond the 5 characters"),
        ("💩 Ada x", [{"start": 3, "end": 6, "label": "PER", "text": "Ada"}], r"an emoji counts as one"),
        (["Ada", "met"], [{"start": 1, "end": 2, "label": "PER", "text": "Ada"}], "'met' has the text 'Ada'.*tokens"),
        ("The College of Oslo", [(4, 19, "ORG"), (15, 19, "LOC")],
         r"the span \(15, 19, 'LOC'\) 'Oslo' overlaps \(4, 19, 'ORG'\) 'College of Oslo': both have the token 'Oslo'"),
        (["The", "College", "of", "Oslo"], [(3, 4, "LOC"), (1, 4, "ORG")], r"\(3, 4, 'LOC'\) 'Oslo' overlaps \(1, 4"),
        ("Oslo", [(0, 4, "LOC"), (0, 4, "LOC")], "overlaps"),
        ("Hello from Korea", [(11, 15, "GPE")],
         r"the span \(11, 15, 'GPE'\) 'Kore' begins or ends within a token: 'Korea' \(11, 16\). Set align='expand'"),
        ("Hello from Korea", [(2, 8, "GPE")], r"within a token: 'Hello' \(0, 5\) and 'from' \(6, 10\)"),
        ("a  b", [(1, 3, "X")], "contains no token"), ("a", [(0, 2, "X")], "is empty or beyond the 1 characters"),
        ("a", [(-1, 1, "X")], "is empty or beyond"), ("a", [(0, 0, "X")], "is empty or beyond"),
        ("Lindau", [(0, 6, "B-geo")], "row 0: the label 'B-geo' is itself a tag. Labels are types, such as 'geo'"),
        ("Lindau", [(0, 6, "O")], "the label 'O' is that of tokens outside of spans; leave such spans out"),
        ("Lindau", [(0, 6, "")], "the label '' is empty"), ("Lindau", [(0, 6, "geo ")], "'geo ' has white space"),
        ("Ada in Rome", [(0, 3, "S-per"), (7, 11, "S-geo")], "the label 'S-per' is itself a tag"),
        ("Ada in Rome", [(0, 3, "E-x"), (7, 11, "S-x")], "the label 'E-x' is itself a tag"),
    ],
)  # fmt: skip
def test_check_tags_with_wrong_span_says_what_is_wrong(text, spans, message):
    with pytest.raises(ValueError, match=message):
        tags(text, *spans)


def test_wrong_labels_of_types_is_empty():
    assert wrong_labels({"geo", "E-mail", "S", "A-B", "o"}) == {}
    assert wrong_labels({"E-mail"}) == {}
    assert set(wrong_labels({"I-geo", "E-mail", "per", "O"})) == {"I-geo", "O"}


@pytest.mark.parametrize(
    ("align", "expected"), [("expand", ["B-A", "I-A", "I-A", "O"]), ("contract", ["O", "B-A", "O", "O"])]
)
def test_check_tags_with_align_changes_spans_that_cut_tokens(align, expected):
    assert tags("Hello from Korea now", (2, 13, "A"), align=align) == expected
    assert tags("Hello from Korea now", (6, 10, "A"), align=align) == ["O", "B-A", "O", "O"]


def test_check_tags_with_contract_leaves_out_spans_without_a_token_and_warns():
    column = check_token_column(["Hello Korea", "ab cd"])
    message = r"y: 2 spans contain no whole token.*contract.*first is \(7, 9, 'X'\) 'or' in row 0"
    with pytest.warns(UserWarning, match=message):
        got = check_tags([[(7, 9, "X"), (0, 5, "Y")], [(0, 1, "X")]], column, align="contract")
    assert got == [["B-Y", "O"], ["O", "O"]]


def test_check_tags_with_expand_that_makes_spans_overlap_raises():
    with pytest.raises(
        ValueError, match=r"\(3, 6, 'B'\) 'def' overlaps \(0, 3, 'A'\) 'abc': both have the token 'abcdef'"
    ):
        tags("abcdef", (0, 3, "A"), (3, 6, "B"), align="expand")


def test_check_tags_counts_all_bad_rows_and_shows_ten():
    column = check_token_column(["Korea is"] * 30)
    y = [[(0, 5, "A")] if i % 2 else [(0, 4, "A")] for i in range(30)]
    with pytest.raises(
        ValueError, match=r"^y: 15 of 30 rows have errors; the first 10 are:\n  y, row 0: the span"
    ) as e:
        check_tags(y, column)
    assert "row 18" in str(e.value)
    assert "row 20" not in str(e.value)
    assert str(e.value).count("'Korea' (0, 5)") == 10
    mixed = [[(0, 5, "A")], [(0, 9, "A")], [(0, 5)], *[[]] * 27]
    with pytest.raises(TypeError, match=r"(?s)2 of 30 rows .*row 1: the span .*beyond.*row 2: .*is not a span"):
        check_tags(mixed, column)


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [("auto", "B-A I-A O B-A"), ("IOB2", "B-A I-A O B-A"), ("BIOES", "B-A E-A O S-A"), ("BILOU", "B-A L-A O U-A"),
     ("BMES", "B-A E-A O S-A"), ("IO", "I-A I-A O I-A"), ("IOB1", "I-A I-A O I-A"), ("IOE2", "I-A E-A O E-A")],
)  # fmt: skip
def test_check_tags_with_spans_writes_tags_of_the_scheme(scheme, expected):
    assert tags("a b c d", (0, 3, "A"), (6, 7, "A"), scheme=scheme) == expected.split()
    with pytest.raises(ValueError, match="spans, which tags of scheme='plain' cannot mark"):
        tags("a b", (0, 1, "A"), scheme="plain")
