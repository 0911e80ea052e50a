"""Schemes and their names."""

import pytest

from skxlmr.tags.schemes import SCHEMES, get_scheme, is_well_formed, read_tags, split_tag


def test_get_scheme_understands_other_names():
    assert {name: get_scheme(name).name for name in ("IOB2", "IOBES", "BILUO", "BIO")} == {
        "IOB2": "BIO", "IOBES": "BIOES", "BILUO": "BILOU", "BIO": "BIO"
    }  # fmt: skip
    assert {name: scheme.prefixes for name, scheme in SCHEMES.items()} == {
        "BIO": "BI", "IOB1": "BI", "IOE1": "EI", "IOE2": "EI", "BIOES": "BEIS", "BILOU": "BILU",
        "BMES": "BEMS", "IO": "I",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["iob2", "BMEOS", "", None, 2])
def test_get_scheme_with_unknown_name_lists_the_names(name):
    with pytest.raises(ValueError, match=f"scheme={name!r} is not a scheme of entities. There are BIO, IOB1"):
        get_scheme(name)


def test_is_well_formed_of_tags():
    assert all(map(is_well_formed, ["O", "B-PER", "I", "U-A-B", "S--X"]))
    assert not any(map(is_well_formed, ["", "-", "B-", "B- A", "A-B", "b-A", "BI-A", "B_A", "B-A ", "-B"]))
    assert split_tag("B-A-B") == ("B", "A-B")


def test_read_tags_with_many_odd_rows_shows_ten():
    with pytest.raises(
        ValueError, match=r"y: 12 of 13 rows have a tag that no scheme of entities has; the first 10"
    ) as e:
        read_tags([["O"], *[["B-A", "x"]] * 12], name="y")
    assert [f"y, row {i}: tag 1 is 'x'" in str(e.value) for i in (0, 1, 10, 11)] == [False, True, True, False]
