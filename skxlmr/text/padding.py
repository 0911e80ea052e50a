"""Rows of ids that are filled to one length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

# What fills the values of each name, beside `input_ids`.
FILLERS = {"attention_mask": 0, "token_type_ids": 0, "special_tokens_mask": 1, "offset_mapping": (0, 0)}


class Padding(NamedTuple):
    """How rows are filled to one length."""

    length: int  # of all rows, unless it is that of the longest
    side: str
    multiple_of: int = 1  # the length is rounded up to one


def pad_rows(rows: dict[str, list[list]], pad_token_id: int, padding: Padding, *, to_longest: bool) -> None:
    """Pad ids, masks, token types and offsets, in place."""
    fillers = {"input_ids": pad_token_id, **FILLERS}
    length = max(map(len, rows["input_ids"]), default=0) if to_longest else padding.length
    length = -(-length // padding.multiple_of) * padding.multiple_of
    for name in fillers.keys() & rows.keys():
        for row in rows[name]:
            start = len(row) if padding.side == "right" else 0
            row[start:start] = [fillers[name]] * (length - len(row))


class Features:
    """Encoded texts as users pass them to `pad`: one or several, as lists, arrays or tensors.

    Raises TypeError or ValueError if they are not encoded texts; the message names the row.
    """

    def __init__(self, encoded: Any) -> None:
        if isinstance(encoded, Mapping):
            columns = dict(encoded)
        elif isinstance(encoded, Sequence) and not isinstance(encoded, str):
            columns = _columns(encoded)
        else:
            raise TypeError(f"pad takes encoded texts, or a list of them, not {type(encoded).__name__}")
        if "input_ids" not in columns:
            raise ValueError(f"pad takes encoded texts with input_ids; there are only {', '.join(columns) or 'none'}")
        self.tensors = _kind(columns["input_ids"])  # "pt" or "np" for tensors and arrays, otherwise None
        self.rows = {name: as_list(values) for name, values in columns.items()}
        ids = self.rows["input_ids"]
        self.is_batch = not ids or isinstance(ids[0], list)
        if not self.is_batch:
            self.rows = {name: [values] for name, values in self.rows.items()}
        self._check()

    def _check(self) -> None:
        lengths = {name: len(values) for name, values in self.rows.items() if isinstance(values, list)}
        for name, values in self.rows.items():
            if lengths.get(name) != lengths["input_ids"]:
                found = f"{lengths[name]} rows" if name in lengths else f"{values!r:.60}"
                raise ValueError(f"input_ids has {lengths['input_ids']} rows, but {name} has {found}")
        for i, ids in enumerate(self.rows["input_ids"]):
            if not isinstance(ids, list) or not all(isinstance(id, int) for id in ids):
                raise ValueError(f"input_ids of row {i} must be a list of integers, got {ids!r:.60}")
            for name in FILLERS.keys() & self.rows.keys():
                values = self.rows[name][i]
                if not isinstance(values, list) or len(values) != len(ids):
                    raise ValueError(f"{name} of row {i} must be a list of {len(ids)} values, one for each id")


def as_list(values: Any) -> Any:
    """Turn arrays, tensors and other iterables into nested lists of Python numbers; return a number as it is."""
    if hasattr(values, "tolist"):
        return values.tolist()
    if isinstance(values, str | bytes | Mapping) or not hasattr(values, "__iter__"):
        return values
    return [as_list(value) for value in values]


def _columns(rows: Sequence[Any]) -> dict[str, list]:
    """Return the values of all rows by name; the names are those of the first row."""
    if not rows:
        raise ValueError("pad takes at least one encoded text; the list is empty")
    for i, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise TypeError(f"row {i} must be an encoded text as from a call of the tokenizer, got {row!r:.60}")
        if missing := rows[0].keys() - row.keys():
            raise ValueError(f"row {i} has no {', '.join(sorted(missing))}, which row 0 has")
    return {name: [row[name] for row in rows] for name in rows[0]}


def _kind(ids: Any) -> str | None:
    first = ids[0] if isinstance(ids, list | tuple) and len(ids) else ids
    if hasattr(first, "device") and hasattr(first, "cpu"):
        return "pt"
    return "np" if hasattr(first, "dtype") else None
