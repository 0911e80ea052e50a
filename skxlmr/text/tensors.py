"""Values of rows, as lists, to torch tensors and NumPy arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def as_tensors(values: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Convert values to torch tensors ("pt") or NumPy arrays ("np"), int64 if they are integers.

    Raises ValueError if rows differ in length, or values are not numbers; the message names the rows.
    """
    arrays = {name: _as_array(name, value) for name, value in values.items()}
    if kind == "np":
        return arrays
    import torch

    tensors = {name: value if torch.is_tensor(value) else torch.from_numpy(value) for name, value in arrays.items()}
    return {name: t.to(torch.get_default_dtype()) if t.dtype == torch.float64 else t for name, t in tensors.items()}


_EMPTY_SHAPES = {"offset_mapping": (0, 0, 2), "overflow_to_sample_mapping": (0,), "length": (0,)}


def _as_array(name: str, values: Any) -> Any:
    if hasattr(values, "dtype"):
        return values
    if isinstance(values, list) and not values:  # without any text the number of dimensions is kept
        return np.zeros(_EMPTY_SHAPES.get(name, (0, 0)), np.int64)
    _check_lengths(name, values)
    try:
        array = np.array(values)
    except ValueError:
        array = np.array(None)
    if array.dtype.kind not in "iufb" and array.size:
        raise ValueError(f"{name} cannot become a tensor, because its values are not numbers: {values!r:.80}")
    return array.astype(np.int64) if array.dtype.kind in "iu" or not array.size else array


def _check_lengths(name: str, rows: Any) -> None:
    """Raise ValueError if rows of lists differ in length."""
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        return
    lengths = [len(row) for row in rows]
    shortest, longest = lengths.index(min(lengths)), lengths.index(max(lengths))
    if lengths[shortest] == lengths[longest]:
        return
    which = f"(rows {shortest} and {longest}) cannot become one tensor"
    if name in ("input_ids", "attention_mask"):
        raise ValueError(
            f"rows of {lengths[shortest]} to {lengths[longest]} ids {which}: pass padding=True (and truncation=True "
            f"with max_length to limit the longest)"
        )
    raise ValueError(
        f"{name} of {lengths[shortest]} to {lengths[longest]} values {which}, and pad fills only the inputs of the "
        f"model: use a data collator that fills {name}, such as DataCollatorForTokenClassification for labels"
    )
