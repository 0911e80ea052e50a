"""The maximum length of one text."""

from __future__ import annotations

import pytest

from skxlmr.system.text_length import MAX_TEXT_LENGTH, check_lengths, normal_length


def where(row):
    return f"row {row}"


@pytest.mark.parametrize("text", ["x" * MAX_TEXT_LENGTH, "ж" * MAX_TEXT_LENGTH, "", "\ufdfa" * (MAX_TEXT_LENGTH // 18)])
def test_check_lengths_of_texts_up_to_the_limit_passes(text):
    check_lengths(["a", text], where)


@pytest.mark.parametrize(
    "text", ["x" * 10**8, "ж" * (MAX_TEXT_LENGTH + 1), "\ufdfa" * 10**6, "\u2f81a" * MAX_TEXT_LENGTH]
)
def test_check_lengths_of_longer_text_names_row_and_remedy(text):
    with pytest.raises(ValueError, match=r"^row 1: the text has [\d,]+ characters.* at most 10,000,000 .*Split it"):
        check_lengths(["a", text, text], where)


def test_check_lengths_says_what_normalisation_makes_of_a_text():
    with pytest.raises(ValueError, match="1,000,000 characters, which are 18,000,000 when they are normalised"):
        check_lengths(["\ufdfa" * 10**6], where)


def test_normal_length_of_parts_is_that_of_the_whole():
    assert normal_length("½a" * 400_000) == 400_000 * 4
