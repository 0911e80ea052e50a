"""Errors of many rows."""

import pytest

from skxlmr.tags.rows import name_rows, raise_for_rows


def test_raise_for_rows_counts_rows_and_shows_the_first_ten():
    problems = [(name_rows(None, i), f"tag {i}") for i in range(11)]
    with pytest.raises(
        ValueError, match=r"^y: 11 of 20 rows have a bad tag; the first 10 are:\n  y, row 0: tag 0"
    ) as e:
        raise_for_rows("y", problems, 20, "a bad tag", "Write O.")
    assert str(e.value).count("\n") == 11
    assert str(e.value).endswith("y, row 9: tag 9.\nWrite O.")
    with pytest.raises(ValueError, match=r"^y: 2 of 20 rows have errors:\n  y, row 0: tag 0"):
        raise_for_rows("y", problems[:2], 20, "")


def test_raise_for_rows_of_one_row_is_one_line():
    with pytest.raises(TypeError, match=r"^y, a: tag 0 is 1, a bad tag\. Write O\.$"):
        raise_for_rows("y", [(name_rows(["a"], 0), "tag 0 is 1")], 20, "a bad tag", "Write O.", TypeError)
    with pytest.raises(ValueError, match=r"^y, row 3: odd\.$"):
        raise_for_rows("y", [("row 3", "odd")], 20, "")
