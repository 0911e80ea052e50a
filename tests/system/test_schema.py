"""Values from files compared with declared types."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from parameter_ids import id_without_address

from skxlmr.system.schema import COUNT, POSITIVE, Rule, SchemaError, describe, matches, one_of, parse, shown, vector


@dataclass
class Entry:
    name: str
    sizes: list[int]
    scale: float | None = None
    tags: dict[str, str] = field(default_factory=dict)


@dataclass
class Content:
    entries: list[Entry]
    other: Entry | None = None


@pytest.mark.parametrize(
    ("expected", "value"),
    [
        (int, 3),
        (int, np.int64(3)),
        (float, 3),
        (float, 0.5),
        (bool, True),
        (bool, np.False_),
        (str, ""),
        (None, None),
        (Any, object()),
        (int | None, None),
        (Literal["a", 1], 1),
        (list[float], [1, 2.5]),
        (tuple[int, str], (1, "a")),
        (dict[str, list[int]], {"a": [1], "b": []}),
        (np.ndarray, np.zeros(2)),
        (Callable[[int], int], abs),
        (POSITIVE, 1),
        (COUNT, 0),
        (one_of("mean", "max"), "max"),
        (one_of("mean", "max") | None, None),
    ],
    ids=id_without_address,
)
def test_parse_of_value_of_type_returns_it(expected, value):
    result = parse(expected, value)
    assert type(result) is type(value)
    np.testing.assert_equal(result, value)


@pytest.mark.parametrize(
    ("expected", "value", "message"),
    [
        (int, True, "width must be an integer of 64 bits, got True"),
        (int, 1.0, "got 1.0"),
        (int, 2**63, "got 9223372036854775808"),
        (float, "1", "width must be a number, got '1'"),
        (float, False, "a number"),
        (bool, 1, "width must be true or false, got 1"),
        (str, None, "a string, got None"),
        (int | None, "x", "an integer of 64 bits or null, got 'x'"),
        (Literal["a", 1], True, "'a' or 1, got True"),
        (Literal["a"], {}, "'a', got {}"),
        (list[int], {"0": 1}, "a list of integers, got {'0': 1}"),
        (list[int], [1, "2"], r"width\[1\] must be an integer"),
        (list[int] | None, [1, "2"], r"width\[1\] must be an integer"),
        (tuple[int, int], [1], "a list of 2 values, got"),
        (dict[str, int], {"a": {"b": 1}}, "width.a must be an integer"),
        (dict[str, int], [["a", 1]], "width must be an object"),
        (dict[str, int], {1: 1}, "a key of width must be a string, got 1"),
        (POSITIVE, 0, "an integer from 1, got 0"),
        (one_of("mean", "max"), "min", "'mean' or 'max', got 'min'"),
        (vector("f", "numbers"), np.array([np.nan]), "an array of numbers with one dimension"),
        (vector("f", "numbers"), np.zeros((1, 1)), "an array of numbers with one dimension"),
        (vector("f", "numbers"), np.zeros(0), "an array of numbers with one dimension"),
        (vector("f", "numbers"), [1.0], "an array, got"),
        (np.ndarray, None, "an array, got None"),
        (Entry, [], "width must be an object"),
        (Entry, {"name": "a"}, "width has no 'sizes', which must be a list of integers"),
        (Entry, {"name": "a", "sizes": [1, None]}, r"width.sizes\[1\] must be an integer"),
        (Entry | None, {"name": "a", "sizes": 3}, "width.sizes must be a list of integers, got 3"),
        (Annotated[int, Rule("even", lambda n: n % 2 == 0)], 3, "width must be even, got 3"),
    ],
)
def test_parse_of_value_of_other_type_names_field_type_and_value(expected, value, message):
    with pytest.raises(SchemaError, match=message):
        parse(expected, value, "width")
    assert not matches(expected, value)


def test_parse_of_object_makes_dataclasses_and_ignores_other_entries():
    content = {"entries": [{"name": "a", "sizes": [1], "scale": 2, "more": [{}]}], "other": {"name": "b", "sizes": []}}
    assert parse(Content, content) == Content([Entry("a", [1], 2)], Entry("b", []))
    assert parse(Content, {"entries": []}) == Content([])


def test_parse_names_the_whole_path_of_a_field():
    with pytest.raises(SchemaError, match=r"^entries\[1\].tags.x must be a string, got 1$"):
        parse(Content, {"entries": [{"name": "a", "sizes": []}, {"name": "a", "sizes": [], "tags": {"x": 1}}]})


@pytest.mark.parametrize("value", ["x" * 10**6, list(range(10**6)), {"a" * 10**6: ["b" * 10**6] * 10}, [[[[[[[1]]]]]]]])
def test_shown_is_short(value):
    assert len(shown(value)) <= 80


def test_error_about_deep_value_is_short():
    deep: Any = "x" * 1000
    for _ in range(90):
        deep = {"kind": "tuple", "items": deep}
    with pytest.raises(SchemaError) as caught:
        parse(list[int], deep, "items")
    assert len(str(caught.value)) < 200


def test_describe_of_object_says_what_json_calls_it():
    assert describe(Entry) == describe(dict[str, int]) == "an object"
