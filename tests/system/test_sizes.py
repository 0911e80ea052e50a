from __future__ import annotations

import pytest

from skxlmr.system.sizes import in_bytes


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (2_520_000, "2.5 MB"),
        (10**9, "1.0 GB"),
        (10**13, "10000.0 GB"),
    ],
)
def test_in_bytes_has_a_digit_before_the_point(n_bytes, text):
    assert in_bytes(n_bytes) == text
