"""Conversion of Python values to JSON and arrays, and back; `save` writes these instead of a pickle."""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.model.float8 import Float8
from skxlmr.model.int8 import Int8
from skxlmr.system.nested_json import MAX_DEPTH
from skxlmr.system.schema import parse, shown
from skxlmr.tuning import Bias, Full, Head, LoRA

# Dtypes that safetensors files cannot hold, and those that the same bits are written as.
UNSIGNED = {"uint16": "int16", "uint32": "int32", "uint64": "int64"}
TIMES = re.compile(r"(datetime|timedelta)64\[(Y|M|W|D|h|m|s|ms|us|ns)\]")  # written as int64

# Maximum size of all arrays of strings when loading: a damaged dtype could ask for any amount of memory.
MAX_STRING_BYTES = 2**28

# Maximum depth of a value, so that its JSON, with at most two levels for each of the value, can be read again.
MAX_NESTING = (MAX_DEPTH - 10) // 2

# Floats that JSON cannot represent.
SPECIAL_FLOATS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


@functools.cache
def saved_classes() -> dict[str, type[BaseEstimator]]:
    """Return the classes that can be saved, by name; files cannot create objects of any other class."""
    from sklearn.decomposition import PCA  # with it scikit-learn imports its linear models

    return {cls.__name__: cls for cls in (LoRA, Bias, Head, Full, Int8, Float8, PCA)}


def _written_as(dtype: str) -> str | None:
    """Return the dtype that the bits of an array are written as; None if its own can be written."""
    return "int64" if TIMES.fullmatch(dtype) else UNSIGNED.get(dtype)


class Encoder:
    """Convert values to JSON, and collect the numeric arrays in them."""

    def __init__(self) -> None:
        self.arrays: dict[str, Tensor] = {}  # by the keys that the JSON contains in their place
        self._depth = 0  # of the value that is being converted

    def encode(self, value: Any, name: str) -> Any:
        """Convert a value: numbers, strings and lists stay as they are, others become {"kind": ...}.

        Raises TypeError with the name if the value cannot be saved.
        """
        if type(value) in (type(None), str, bool, int):
            return value
        for cls, encode in self._encoders().items():
            if isinstance(value, cls):
                return self._encode_within(encode, value, name)
        raise TypeError(f"{name} cannot be saved: it is {value!r}, of type {type(value).__name__}.")

    def _encode_within(self, encode: Callable[[Any, str], Any], value: Any, name: str) -> Any:
        if self._depth == MAX_NESTING:
            raise TypeError(f"{name} cannot be saved: it is nested deeper than {MAX_NESTING} levels.")
        self._depth += 1
        try:
            return encode(value, name)
        finally:
            self._depth -= 1

    def _encoders(self) -> dict[type | tuple[type, ...], Callable[[Any, str], Any]]:
        return {
            np.generic: lambda v, name: self.encode(v.item(), name),
            float: lambda v, name: v if math.isfinite(v) else {"kind": "float", "value": str(float(v))},
            list: lambda v, name: [self.encode(item, f"{name}[{i}]") for i, item in enumerate(v)],
            tuple: lambda v, name: {"kind": "tuple", "items": self.encode(list(v), name)},
            dict: lambda v, name: {"kind": "dict", "items": [self.encode(list(item), name) for item in v.items()]},
            os.PathLike: lambda v, name: {"kind": "path", "path": os.fspath(v)},
            np.ndarray: self._encode_array,
            pd.DataFrame: lambda v, name: {
                "kind": "frame",
                "columns": [
                    [self.encode(column, name), self._encode_array(v[column].to_numpy(), name)] for column in v
                ],
            },
            tuple(saved_classes().values()): self._encode_object,
        }

    def _encode_array(self, array: np.ndarray, name: str) -> dict[str, Any]:
        if (array.dtype.kind in "biuf" and array.dtype.itemsize <= 8) or TIMES.fullmatch(array.dtype.name):
            key = f"array/{len(self.arrays)}"
            # The memory order is kept: the last bits of matrix products depend on it.
            order = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
            native = array.astype(array.dtype.newbyteorder("="), order="C", copy=True)
            written = _written_as(native.dtype.name)
            self.arrays[key] = torch.from_numpy(native if written is None else native.view(written))
            viewed = {} if written is None else {"dtype": native.dtype.name}
            return {"kind": "array", "tensor": key, "order": order, **viewed}
        if array.dtype.kind in "UO" and array.ndim == 1 and all(np.isscalar(item) for item in array):
            return {"kind": "strings", "dtype": array.dtype.str, "items": self.encode(array.tolist(), name)}
        raise TypeError(f"{name} cannot be saved: it is an array of {array.dtype} and shape {array.shape}.")

    def _encode_object(self, value: BaseEstimator, name: str) -> dict[str, Any]:
        cls = type(value).__name__
        if saved_classes().get(cls) is not type(value):
            raise TypeError(f"{name} cannot be saved: it is a {cls} of another module.")
        parameters = value.get_params(deep=False)
        fitted = {key: item for key, item in vars(value).items() if key not in parameters}
        return {
            "kind": "object",
            "class": cls,
            "parameters": {key: self.encode(item, f"{name}.{key}") for key, item in parameters.items()},
            "fitted": {key: self.encode(item, f"{name}.{key}") for key, item in fitted.items()},
        }


class Decoder:
    """Convert the JSON and the arrays of an `Encoder` back to values; `where` is the file, for error messages.

    What a file can ask for is bounded: an array can be used once, and arrays of strings have `MAX_STRING_BYTES`
    together.
    """

    def __init__(self, arrays: dict[str, Tensor], where: Path) -> None:
        self.arrays = dict(arrays)
        self.where = where
        self._string_bytes = 0
        self._kinds: dict[str, Callable[[dict], Any]] = {
            "float": lambda v: SPECIAL_FLOATS[v["value"]],
            "tuple": lambda v: tuple(parse(list, self.decode(v["items"]))),
            "dict": lambda v: dict(parse(list[tuple[Any, Any]], self.decode(v["items"]))),
            "path": lambda v: Path(v["path"]),
            "array": self._decode_array,
            "strings": self._decode_strings,
            "frame": self._decode_frame,
            "object": self._decode_object,
        }

    def decode(self, value: Any) -> Any:
        """Return the value that was passed to `Encoder.encode`; raises CheckpointError for any other JSON."""
        if isinstance(value, list):
            return [self.decode(item) for item in value]
        if not isinstance(value, dict):
            return value
        try:
            return self._kinds[value["kind"]](value)
        except CheckpointError:  # of a value inside of this one, which says more
            raise
        except (KeyError, TypeError, ValueError, MemoryError) as error:
            raise CheckpointError(f"{self.where} is damaged: it contains {shown(value)} ({error!r:.200})") from error

    def _decode_array(self, value: dict) -> np.ndarray:
        array = self.arrays.pop(value["tensor"]).numpy()
        if "dtype" in value:
            written = _written_as(parse(str, value["dtype"], "dtype"))
            if written != array.dtype.name:
                raise ValueError(f"expected an array of {written}, got {array.dtype}")
            array = array.view(value["dtype"])
        return np.asarray(array, order=parse(Literal["C", "F"], value["order"], "order"))

    def _decode_strings(self, value: dict) -> np.ndarray:
        dtype = np.dtype(parse(str, value["dtype"], "dtype"))
        if dtype.kind not in "UO":
            raise ValueError(f"{dtype} is not a dtype of strings")
        items = parse(list, self.decode(value["items"]))
        self._string_bytes += len(items) * dtype.itemsize
        if self._string_bytes > MAX_STRING_BYTES:
            raise ValueError(f"{len(items)} strings of {dtype} are too large: the limit is {MAX_STRING_BYTES:,} bytes")
        array = np.empty(len(items), dtype)
        array[:] = items
        return array

    def _decode_frame(self, value: dict) -> pd.DataFrame:
        columns = [parse(tuple[str, Any], column) for column in parse(list, value["columns"])]
        return pd.DataFrame({name: parse(np.ndarray, self.decode(column)) for name, column in columns})

    def _decode_object(self, value: dict) -> BaseEstimator:
        parameters, fitted = (parse(dict[str, Any], value[part], part) for part in ("parameters", "fitted"))
        decoded = saved_classes()[value["class"]](**{key: self.decode(item) for key, item in parameters.items()})
        for key, item in fitted.items():
            if not key.isidentifier() or hasattr(type(decoded), key):
                raise ValueError(f"{key!r:.60} is not the name of an attribute")
            setattr(decoded, key, self.decode(item))
        return decoded
