from __future__ import annotations

import pytest
import safetensors.torch
import torch

from skxlmr.checkpoints.formats import DTYPES
from skxlmr.checkpoints.safetensors_content import SafetensorsContent


def data_of(content: SafetensorsContent) -> bytes:
    return b"".join(bytes(part) for part in content)


def test_content_is_read_by_safetensors():
    matrix = torch.arange(12.0).view(3, 4)
    tensors = {
        **{str(dtype): torch.ones(3, dtype=dtype) for dtype in DTYPES},
        "näme": matrix.T,
        "tied": matrix,
        "row": matrix[1],
        "parameter": torch.nn.Parameter(matrix),
        "empty": torch.zeros(0, 2),
        "scalar": torch.tensor(7),
    }
    data = data_of(SafetensorsContent(tensors, {"format": "pt"}))
    read = safetensors.torch.load(data)
    assert read.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert read[key].dtype == tensor.dtype
        assert torch.equal(read[key], tensor), key


@pytest.mark.parametrize("alignment", [8, 4096])
def test_first_tensor_begins_at_multiple_of_alignment(alignment: int):
    content = SafetensorsContent({"a": torch.ones(3, dtype=torch.int8), "b": torch.ones(2)}, {}, alignment=alignment)
    assert len(content.header) % alignment == 0
    assert content.nbytes == len(data_of(content))


def test_content_of_mapping_read_on_demand_is_the_same():
    tensors = {"a": torch.ones(3), "b": torch.zeros(2, 2)}
    like = {key: torch.empty(tensor.shape, device="meta") for key, tensor in tensors.items()}
    assert data_of(SafetensorsContent(tensors, {}, like=like)) == data_of(SafetensorsContent(tensors, {}))


def test_content_without_elements_and_with_stride_of_zero_is_empty():
    """Such is a column of an empty DataFrame."""
    empty = torch.empty(0, dtype=torch.int64).as_strided((0,), (0,))
    content = b"".join(SafetensorsContent({"a": empty, "b": torch.ones(2)}, {}))
    read = safetensors.torch.load(content)
    assert read["a"].shape == (0,)
    assert read["b"].tolist() == [1, 1]


def test_content_with_unsupported_dtype_raises():
    with pytest.raises(ValueError, match=r"'a' cannot be written: its dtype is torch\.complex64"):
        SafetensorsContent({"a": torch.ones(2, dtype=torch.complex64)}, {})
