from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from skxlmr.columns import as_objects
from skxlmr.scale.outputs import Layout

ALL = np.ones(2, bool)


@pytest.mark.parametrize(
    ("outputs", "classes", "names", "kind"),
    [
        (np.array(["a", "b"]), None, ["p"], pa.string()),
        (np.array([1, 2]), None, ["p"], pa.int64()),
        (np.array([1.5, 2]), None, ["p"], pa.float64()),
        (np.array([True, False]), None, ["p"], pa.bool_()),
        (np.zeros((2, 2), np.float32), np.array([3, 4]), ["p_3", "p_4"], pa.float32()),
        (np.zeros((2, 3), np.float32), np.array([3, 4]), ["p"], pa.list_(pa.float32())),
        (as_objects([("a",), ("a", "b")]), np.array(["a", "b"]), ["p"], pa.list_(pa.string())),
        (as_objects([(), (7,)]), np.array([7, 8]), ["p"], pa.list_(pa.int64())),
        (as_objects([np.zeros((1, 2)), np.zeros((3, 2))]), None, ["p"], pa.list_(pa.list_(pa.float64()))),
    ],
)
def test_layout_finds_names_and_types_from_the_first_row(outputs, classes, names, kind):
    layout = Layout.of(outputs[:1], "p", classes)
    columns = layout.columns([outputs], ALL)
    assert list(columns) == layout.names == names
    for i, column in enumerate(columns.values()):
        assert column.to_arrow().type == kind
        expected = outputs[:, i] if len(names) > 1 else outputs
        assert column.to_arrow().to_pylist() == [
            getattr(v, "tolist", lambda v=v: v)() if not isinstance(v, tuple) else list(v) for v in expected
        ]
    nothing = layout.columns([], np.zeros(2, bool))
    assert all(column.to_arrow().type == kind and column.to_arrow().null_count == 2 for column in nothing.values())


def test_layout_joins_matrices_of_several_widths():
    layout = Layout.of(np.zeros((1, 2)), "p", None)
    (column,) = layout.columns([np.ones((1, 2)), np.ones((1, 3))], ALL).values()
    assert column.to_arrow().to_pylist() == [[1, 1], [1, 1, 1]]


def test_layout_refuses_other_objects():
    with pytest.raises(TypeError, match="dict"):
        Layout.of(as_objects([{}]), "p", None)
