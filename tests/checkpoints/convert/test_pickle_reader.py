from __future__ import annotations

import argparse
import collections
import io
import os
import pickle
from pathlib import Path

import pytest

from skxlmr.checkpoints.convert.pickle_reader import External, Named, Unbuilt, read_pickle
from skxlmr.checkpoints.errors import CheckpointError


class Calls:
    """An object that is pickled as a call of os.system."""

    def __reduce__(self) -> tuple:
        return os.system, ("touch executed",), {"state": 1}


def read(data: bytes) -> object:
    return read_pickle(io.BytesIO(data), "model.pt")[0]


def test_read_pickle_of_plain_values_returns_them():
    shared = ["a", 2]
    value = {
        "numbers": (0, 255, 65535, -1, 2**40, 2**3000, 1.5, True, False, None),
        "tuples": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
        "again": [shared, shared, [], {}],
        3: "text in Köln",
    }
    result = read(pickle.dumps(value, protocol=2))
    assert result == value
    assert result["again"][0] is result["again"][1]


def test_read_pickle_of_recursive_value_returns_it():
    box: list = []
    box.append((box,))
    result = read(pickle.dumps(box, protocol=2))
    assert result[0][0] is result


def test_read_pickle_of_objects_returns_descriptions():
    namespace, ordered, file = read(
        pickle.dumps([argparse.Namespace(heads=4), collections.OrderedDict(a=1), Path("x")], protocol=2)
    )
    assert isinstance(namespace, Unbuilt)
    assert namespace.name == "argparse.Namespace"
    assert namespace.state == {"heads": 4}
    assert (ordered.name, ordered.arguments, ordered.items) == ("collections.OrderedDict", (), {"a": 1})
    assert file.name.startswith("pathlib.")


def test_read_pickle_calls_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    call = read(pickle.dumps(Calls(), protocol=2))
    assert call.name == f"{os.system.__module__}.system"
    assert call.arguments == ("touch executed",)
    assert call.state == {"state": 1}
    assert not os.listdir(tmp_path)


def test_unbuilt_with_call_as_builder_has_no_name():
    data = pickle.dumps(Calls(), protocol=2)[:-1] + b")R."  # () REDUCE: call what the call would return
    outer = read(data)
    assert outer.name is None
    assert outer.builder.arguments == ("touch executed",)


def test_read_pickle_returns_external_references():
    class Pickler(pickle.Pickler):
        def persistent_id(self, value: object) -> object:
            return ("storage", value.start) if isinstance(value, range) else None

    stream = io.BytesIO()
    Pickler(stream, protocol=2).dump([range(3, 4), int])
    stream.write(b"behind")
    stream.seek(0)
    value, externals = read_pickle(stream, "model.pt")
    assert isinstance(value[0], External)
    assert externals == [value[0]]
    assert value[0].reference == ("storage", 3)
    assert isinstance(value[1], Named)
    assert stream.read() == b"behind"


def test_read_pickle_with_deep_nesting_does_not_overflow():
    depth = 100_000
    key = b")" + b"\x85" * depth  # ((((...),),),)
    assert list(read(b"\x80\x02}" + key + b"K\x01s.").values()) == [1]
    assert isinstance(read(b"\x80\x02)" + b")R" * depth + b"."), Unbuilt)


@pytest.mark.parametrize("protocol", [0, 3, 4, 5])
def test_read_pickle_of_other_protocol_raises(protocol: int):
    with pytest.raises(CheckpointError, match=r"model\.pt .*instruction"):
        read(pickle.dumps({"a": [1000, {1, 2}, b"x"]}, protocol=protocol))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x02",
        b"\x80\x02.",
        b"\x80\x02R.",
        b"\x80\x02K\x01\x86.",
        b"\x80\x02h\x07.",
        b"\x80\x02t.",
        b"\x80\x02K\x01K\x02K\x03s.",
        b"\x80\x02K\x01K\x02a.",
        b"\x80\x02}K\x02b.",
        b"\x80\x02}(K\x02u.",
        b"\x80\x02X\xff\xff\xff\x7fabc.",
    ],
)
def test_read_pickle_with_damaged_data_raises(data: bytes):
    with pytest.raises(CheckpointError, match=r"model\.pt is damaged"):
        read(data)
