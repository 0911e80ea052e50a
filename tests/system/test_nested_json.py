from __future__ import annotations

import json
import sys

import pytest

from skxlmr.system.nested_json import MAX_DEPTH, check_depth, loads


@pytest.fixture(params=[None, 100_000], ids=["default limit", "high limit"])
def recursion_limit(request: pytest.FixtureRequest):
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(request.param or before)
    yield
    sys.setrecursionlimit(before)


@pytest.mark.usefixtures("recursion_limit")
@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 300, 600, 2000, 1_000_000])
@pytest.mark.parametrize(("start", "end"), [("[", "]"), ('{"a":', "}"), ('[{"]":', "}]")], ids=["[]", "{}", "[{}]"])
def test_loads_of_deep_json_raises(depth: int, start: str, end: str):
    with pytest.raises(ValueError, match=f"nested deeper than {MAX_DEPTH}"):
        loads(start * depth + "1" + end * depth)


@pytest.mark.parametrize("depth", [0, 1, MAX_DEPTH])
def test_loads_of_shallow_json_equals_that_of_the_standard_library(depth: int):
    text = "[" * depth + "1" + "]" * depth
    assert loads(text) == json.loads(text)


@pytest.mark.parametrize("value", ["[" * 500, '"[\\' * 500, "\\" * 7 + '"' + "{" * 500, "]" * 9 + "[" * 500])
def test_loads_counts_no_brackets_in_strings(value: str):
    text = json.dumps({value: [value, 1.5, {"a": value}]})
    assert loads(text) == {value: [value, 1.5, {"a": value}]}


def test_loads_counts_depth_and_not_the_number_of_lists():
    value = [[[i]] for i in range(1000)]
    assert loads(json.dumps(value)) == value


@pytest.mark.parametrize("text", ["", "[", '{"a": "' + "[" * 200, '"\\' * 200_000, "[1,,2]" + "[]" * 200])
def test_loads_of_invalid_json_raises(text: str):
    with pytest.raises(ValueError):  # noqa: PT011 of several kinds
        loads(text)


def test_loads_passes_options():
    assert loads("[1.5]", parse_float=str) == ["1.5"]


def test_check_depth_of_long_text_with_many_quotes_takes_linear_time():
    check_depth('"\\' * 1_000_000 + "[" * (MAX_DEPTH + 1))  # all of it is one string
