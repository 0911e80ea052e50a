"""The result of calling the tokenizer: rows of ids, padded to one length, as lists or tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from skxlmr.system.text_length import check_lengths


class BatchEncoding(dict):
    """Model inputs by name, as keys and as attributes; unpacks into a model call: ``model(**encoding)``."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no {name!r} in this encoding; it has {', '.join(self) or 'nothing'}") from None

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self]

    def to(self, device: Any) -> BatchEncoding:
        """Move the tensors to a torch device, in place.

        Parameters
        ----------
        device : torch.device, str or int

        Returns
        -------
        BatchEncoding
            The encoding itself.
        """
        self.update({name: value.to(device) for name, value in self.items() if hasattr(value, "to")})
        return self


def pad_rows(
    rows: dict[str, list[list]],
    pad_token_id: int,
    length: int | None = None,
    *,
    side: str = "right",
    multiple_of: int | None = None,
) -> None:
    """Pad ids, masks, token types and offsets on one side, in place.

    `length` None is that of the longest row; it is rounded up to a multiple of `multiple_of`.
    """
    padding = {"input_ids": pad_token_id, "attention_mask": 0, "token_type_ids": 0, "offset_mapping": (0, 0)}
    step = multiple_of or 1
    for name in padding.keys() & rows.keys():
        longest = max(map(len, rows[name]), default=0) if length is None else length
        longest = -(-longest // step) * step
        for row in rows[name]:
            start = len(row) if side == "right" else 0
            row[start:start] = [padding[name]] * (longest - len(row))


def as_tensors(rows: dict[str, list], kind: str) -> dict[str, Any]:
    """Convert rows to int64 torch tensors ("pt") or NumPy arrays ("np"); raise ValueError if they differ in length."""
    lengths = {len(row) for row in rows["input_ids"]}
    if len(lengths) > 1:
        raise ValueError(
            f"rows of {min(lengths)} to {max(lengths)} ids cannot become one tensor: pass padding=True "
            f"(and truncation=True with max_length to limit the longest)"
        )
    arrays = {name: np.array(values, dtype=np.int64) for name, values in rows.items()}
    if not rows["input_ids"]:  # without any text the number of dimensions is kept
        arrays = {name: array.reshape(_EMPTY_SHAPES.get(name, (0, 0))) for name, array in arrays.items()}
    if kind == "np":
        return arrays
    import torch

    return {name: torch.from_numpy(array) for name, array in arrays.items()}


_EMPTY_SHAPES = {"offset_mapping": (0, 0, 2), "overflow_to_sample_mapping": (0,)}


def check_texts(texts: Sequence[str], name: str = "texts") -> list[str]:
    """Return the texts as a list; raise a TypeError that names the first one that is not a string."""
    if isinstance(texts, str | bytes):
        raise TypeError(f"{name} must be a list of strings, not a single {type(texts).__name__}: wrap it in a list")
    texts = list(texts)
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"{name}[{row}] is {type(text).__name__}, not a string: {text!r:.60}")
    check_lengths(texts, lambda row: f"{name}[{row}]")
    return texts
