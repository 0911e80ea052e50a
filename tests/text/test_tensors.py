import numpy as np
import pytest
import torch

from skxlmr.text.tensors import as_tensors


def test_as_tensors_keeps_dtypes_and_dimensions():
    values = {"input_ids": [[0, 2], [5, 2]], "label": [True, False], "score": [0.5, 1.5], "length": []}
    arrays, tensors = as_tensors(values, "np"), as_tensors(values, "pt")
    assert {name: array.dtype for name, array in arrays.items()} == {
        "input_ids": np.int64, "label": np.bool_, "score": np.float64, "length": np.int64
    }  # fmt: skip
    assert tensors["score"].dtype == torch.get_default_dtype()
    assert tensors["length"].shape == (0,)
    assert as_tensors({"x": tensors["label"]}, "pt")["x"] is tensors["label"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"input_ids": [[1], [1, 2]]}, r"rows of 1 to 2 ids \(rows 0 and 1\) cannot become one tensor: pass padding"),
        ({"labels": [[1, 2], [1]]}, r"labels of 1 to 2 values \(rows 1 and 0\)"),
        ({"text": ["a"]}, "text cannot become a tensor, because its values are not numbers"),
    ],
)
def test_as_tensors_of_unequal_rows_or_texts_raises(values, message):
    with pytest.raises(ValueError, match=message):
        as_tensors(values, "pt")
