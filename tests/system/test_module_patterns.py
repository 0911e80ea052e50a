"""Patterns of module names: as in peft, and quick for any pattern."""

import time

import pytest

from skxlmr.system.module_patterns import Patterns, compile_pattern


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(a+)+b", "repeats a group"),
        ("(a|aa)*b", "repeats a group"),
        ("(?:ab){2,}c", "repeats a group"),
        (".*a.*b.*c.*d.*e", "more than 4 repeats"),
        ("a?" * 9, "more than 4 repeats"),
        ("(a", "is not a regular expression"),
        ("a{99999999999999999999}", "is not a regular expression"),
        ("a" * 1001, "has 1,001 characters"),
    ],
)
def test_compile_pattern_refuses(pattern, reason):
    with pytest.raises(ValueError, match=reason):
        compile_pattern(pattern)


@pytest.mark.parametrize(
    "pattern", [r".*\.(query|value)", r"(?:.*?layer.*?)(self)?.query", r"[*+(]*query", r"layer\.\d+\.q", "q.*+"]
)
def test_compile_pattern_accepts(pattern):
    compile_pattern(pattern)


def test_slowest_patterns_take_seconds_at_most():
    patterns = Patterns([".*a.*b.*c.*!", ".*a.*b.*d.*!", ".*a.*c.*d.*!", ".*b.*c.*d.*!"])
    began = time.process_time()
    for _ in range(20):
        patterns.matching("abcd" * 15)
    assert time.process_time() - began < 2


def test_patterns_match_the_end_of_a_name_first_one_counts():
    patterns = Patterns(["layers.[01].*", "query", "ey"])
    assert patterns.matching("layers.1.key") == "layers.[01].*"
    assert patterns.matching("layers.2.query") == "query"
    assert patterns.matching("layers.2.key") is None


def test_patterns_name_what_is_wrong():
    with pytest.raises(ValueError, match=r"'\(x\*\)\*' repeats a group"):
        Patterns(["query", "(x*)*"])
    with pytest.raises(ValueError, match=r"'\.\*i\.\*' is one of too many patterns with repeats"):
        Patterns([f".*{letter}.*" for letter in "abcdefghi"])
    with pytest.raises(ValueError, match="'x0' is one of 501; at most 500 are read"):
        Patterns([f"x{i}" for i in range(501)])
