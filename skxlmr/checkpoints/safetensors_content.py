"""The content of a safetensors file, tensor by tensor, so that it is written without a copy of all of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import torch

from skxlmr.checkpoints.formats import SAFETENSORS_DTYPES

DTYPE_NAMES = {dtype: name for name, dtype in SAFETENSORS_DTYPES.items()}
ALIGNMENT = 8  # bytes, of the first tensor, as the library safetensors has it


class SafetensorsContent:
    """The parts of a safetensors file, to iterate over any number of times: the header, then each tensor.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        From any device, and of any strides; those that share memory are written once each. They are taken from the
        mapping one after another.
    metadata : mapping of str to str
    like : mapping of str to Tensor, default=None
        Tensors of the same shapes and dtypes, where those of `tensors` are read on demand.
    alignment : int, default=8
        Position of the first tensor in the file is a multiple of it.

    Raises
    ------
    ValueError
        If safetensors files have no name for the dtype of a tensor.

    Examples
    --------
    >>> content = SafetensorsContent({"weight": torch.ones(2, 3)}, {"format": "pt"})
    >>> content.nbytes == sum(len(bytes(part)) for part in content)
    True
    """

    def __init__(
        self,
        tensors: Mapping[str, torch.Tensor],
        metadata: Mapping[str, str],
        *,
        like: Mapping[str, torch.Tensor] | None = None,
        alignment: int = ALIGNMENT,
    ) -> None:
        self._tensors = tensors
        like = tensors if like is None else like
        # With the largest elements first every tensor begins at a multiple of its element size.
        self._keys = sorted(like, key=lambda key: -like[key].element_size())
        entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
        position = 0
        for key in self._keys:
            tensor = like[key]
            if tensor.dtype not in DTYPE_NAMES:
                raise ValueError(f"tensor {key!r} cannot be written: its dtype is {tensor.dtype}")
            offsets = [position, position + tensor.nbytes]
            entries[key] = {"dtype": DTYPE_NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
            position += tensor.nbytes
        text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-(8 + len(text)) % alignment)
        self.header = len(text).to_bytes(8, "little") + text
        self.nbytes = len(self.header) + position

    def __iter__(self) -> Iterator[bytes | memoryview]:
        yield self.header
        for key in self._keys:
            if not self._tensors[key].numel():  # it may have a stride of 0, with which it has no view as bytes
                continue
            yield self._tensors[key].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
