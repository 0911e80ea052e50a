from __future__ import annotations

import json
import os
from contextlib import closing
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from skxlmr.checkpoints.errors import CheckpointError, UnsafeCheckpointError
from skxlmr.checkpoints.formats import MAX_TENSORS, SAFETENSORS_DTYPES, all_finite, open_weights


def entry(dtype: object = "F32", shape: object = (2,), data_offsets: object = (0, 8)) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": data_offsets}


def safetensors_file(path: Path, header: dict | bytes, data: bytes = b"\0" * 8, length: int | None = None) -> Path:
    if isinstance(header, dict):
        header = json.dumps(header).encode()
    length = len(header) if length is None else length
    path.write_bytes(length.to_bytes(8, "little") + header + data)
    return path


DAMAGED_HEADERS = {
    "empty key list of entry": ({"w": {}}, "needs exactly dtype"),
    "additional field": ({"w": {**entry(), "more": 1}}, "needs exactly dtype"),
    "entry no object": ({"w": [1]}, "needs exactly dtype"),
    "unknown dtype": ({"w": entry(dtype="F31")}, "'w' has dtype 'F31'"),
    "dtype no string": ({"w": entry(dtype=[1])}, "'w' has dtype"),
    "negative size": ({"w": entry(shape=[-2])}, "'w' has shape"),
    "two negative sizes": ({"w": entry(shape=[-2, -1])}, "'w' has shape"),
    "float size": ({"w": entry(shape=[2.0])}, "'w' has shape"),
    "bool size": ({"w": entry("F64", [True])}, "'w' has shape"),
    "shape no list": ({"w": entry(shape=2)}, "'w' has shape"),
    "huge size": ({"w": entry(shape=[2**62, 0])}, "'w' has shape"),
    "too many dimensions": ({"w": entry(shape=[1] * 17 + [2])}, "'w' has shape"),
    "offsets backwards": ({"w": entry(data_offsets=[8, 0])}, "'w' has data_offsets"),
    "negative offset": ({"w": entry(data_offsets=[-8, 0])}, "'w' has data_offsets"),
    "three offsets": ({"w": entry(data_offsets=[0, 4, 8])}, "'w' has data_offsets"),
    "shape larger than bytes": ({"w": entry(shape=[1_000_000_000])}, "'w' has 8 bytes"),
    "shape smaller than bytes": ({"w": entry(shape=[1])}, "'w' has 8 bytes"),
    "gap at the beginning": ({"w": entry(shape=[1], data_offsets=[4, 8])}, "'w' leaves a gap"),
    "same bytes twice": ({"v": entry(), "w": entry()}, "'w' overlaps"),
    "partial overlap": ({"v": entry(), "w": entry(data_offsets=[4, 12])}, "'w' overlaps"),
    "beyond the file": ({"w": entry(shape=[10**11], data_offsets=[0, 4 * 10**11])}, "is truncated"),
    "bytes left over": ({"w": entry(shape=[1], data_offsets=[0, 4])}, "4 bytes after its last tensor"),
    "metadata no object": ({"__metadata__": [], "w": entry()}, "__metadata__"),
    "metadata nested": ({"__metadata__": {"a": {}}, "w": entry()}, "__metadata__"),
    "key twice": (b'{"w": %b, "w": %b}' % ((json.dumps(entry()).encode(),) * 2), "'w' appears twice"),
    "field twice": (b'{"w": {"dtype": "F32", "dtype": "F16", "shape": [2], "data_offsets": [0, 8]}}', "appears twice"),
    "too many names": ({f"w{i}": {} for i in range(MAX_TENSORS + 1)}, "has 20,001 tensors; at most 20,000 are read"),
    "too long a name": ({"w" * 501: entry()}, "whose name has 501 characters, 'wwww.*; at most 500 are allowed"),
    "too many values": ({"w": [0] * MAX_TENSORS * 30}, "it has more than 520,000 values, which is the limit"),
    "long nonsense as dtype": ({"w": entry(dtype="F" * 10**6)}, "'w' has dtype 'FFFF"),
    "no JSON": (b"{nonsense", "not valid JSON"),
    "not UTF-8": (b'{"\xff": 1}', "not valid JSON"),
}


@pytest.mark.usefixtures("nothing_read")
@pytest.mark.parametrize(("header", "message"), DAMAGED_HEADERS.values(), ids=DAMAGED_HEADERS)
def test_open_weights_with_damaged_header_raises(tmp_path: Path, header: dict | bytes, message: str):
    path = safetensors_file(tmp_path / "model.safetensors", header)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_weights(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 300


@pytest.mark.parametrize(
    ("length", "message"), [(10**6, "is truncated"), (10**9, "declares a header"), (2**64 - 1, "declares a header")]
)
def test_open_weights_with_wrong_header_length_raises(tmp_path: Path, length: int, message: str):
    path = safetensors_file(tmp_path / "model.safetensors", {"w": entry()}, length=length)
    with pytest.raises(CheckpointError, match=message):
        open_weights(path)


@pytest.mark.usefixtures("nothing_read")
@pytest.mark.parametrize("lost", [1, 8, 11])
def test_open_weights_with_truncated_file_raises(tmp_path: Path, lost: int):
    path = safetensors_file(tmp_path / "model.safetensors", {"w": entry()})
    os.truncate(path, path.stat().st_size - lost)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is truncated"):
        open_weights(path)


def test_read_from_file_truncated_after_opening_raises(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    save_file({"w": torch.ones(100_000)}, path)
    with closing(open_weights(path)) as weights:
        os.truncate(path, path.stat().st_size - 4)
        with pytest.raises(CheckpointError, match="ends inside tensor 'w'"):
            weights.read("w")


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"", CheckpointError, "is empty"),
        (b"\x10", CheckpointError, "not a weight file"),
        (b"<!doctype html><html>", CheckpointError, "not a weight file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", CheckpointError, "git lfs pull"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 50, CheckpointError, "not a weight file"),
        (b"\x80\x04\x95\x05\0\0\0\0\0\0\0}\x94.", UnsafeCheckpointError, "bare pickle"),
    ],
)
@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights"])
def test_open_weights_with_other_file_format_raises(
    tmp_path: Path, name: str, content: bytes, error: type[Exception], message: str
):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=message) as caught:
        open_weights(tmp_path / name)
    assert name in str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_open_weights_with_pickle_named_safetensors_raises(tmp_path: Path, zipped: bool):
    path = tmp_path / "model.safetensors"
    with open(path, "wb") as file:
        torch.save({"w": torch.zeros(2)}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnsafeCheckpointError, match=r"model\.safetensors is named as safetensors but is a pickle"):
        open_weights(path)


@pytest.mark.parametrize("length", [128, 128 + 2 * 256, 80])
def test_open_weights_with_header_length_like_pickle_reads_safetensors(tmp_path: Path, length: int):
    header = json.dumps({"w": entry()}).encode().ljust(length)
    path = safetensors_file(tmp_path / "model.safetensors", header)
    with closing(open_weights(path)) as weights:
        assert list(weights.tensors) == ["w"]


def test_open_weights_with_safetensors_named_bin_reads_it(tmp_path: Path):
    save_file({"w": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    with closing(open_weights(tmp_path / "pytorch_model.bin")) as weights:
        assert torch.equal(weights.read("w"), torch.ones(2))


@pytest.mark.parametrize("dtype", SAFETENSORS_DTYPES.values(), ids=SAFETENSORS_DTYPES)
@pytest.mark.parametrize("shape", [(), (3,), (2, 0, 3), (2, 3, 4)])
def test_read_of_every_dtype_and_shape_equals_original(tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]):
    tensor = torch.randint(0, 2, shape).to(dtype)
    save_file({"w": tensor, "other": torch.ones(7)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    torch.save({"w": tensor, "other": torch.ones(7)}, tmp_path / "pytorch_model.bin")
    for name in ("model.safetensors", "pytorch_model.bin"):
        with closing(open_weights(tmp_path / name)) as weights:
            info = weights.tensors["w"]
            read = weights.read("w")
        assert (info.shape, info.dtype, info.file) == (shape, dtype, tmp_path / name)
        assert read.dtype == dtype
        assert torch.equal(read, tensor)


def test_read_returns_new_tensor(tmp_path: Path):
    save_file({"w": torch.ones(2)}, tmp_path / "model.safetensors")
    with closing(open_weights(tmp_path / "model.safetensors")) as weights:
        weights.read("w").zero_()
        assert torch.equal(weights.read("w"), torch.ones(2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("position", [0, 500, 1000])
def test_all_finite_with_nan_or_infinity_is_false(dtype: torch.dtype, value: float, position: int):
    tensor = torch.linspace(-1, 1, 1001).to(dtype)
    assert all_finite(tensor)
    tensor[position] = value
    assert not all_finite(tensor)


def test_all_finite_of_empty_or_integer_tensor_is_true():
    assert all_finite(torch.zeros(0))
    assert all_finite(torch.arange(3))
