from __future__ import annotations

import os
import struct
import zipfile
from contextlib import closing
from pathlib import Path

import pytest
import torch
from hostile_pickles import Calls

from skxlmr.checkpoints import torch_files
from skxlmr.checkpoints.errors import CheckpointError, UnsafeCheckpointError
from skxlmr.checkpoints.formats import open_weights

HOSTILE = {
    "shell": Calls(os.system, "touch executed"),
    "eval": Calls(eval, "open('executed', 'w')"),
    "memory of a bytearray": Calls(bytearray, 10**12),
    "memory of a tensor": Calls(torch.Tensor, 10**12),
    "memory of a storage": Calls(torch.UntypedStorage, 10**12),
    "class": Path,
    "set": {1, 2},
}


@pytest.mark.usefixtures("nothing_read")
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE)
def test_open_weights_with_hostile_pickle_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: object, zipped: bool
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "pytorch_model.bin"
    torch.save({"w": torch.zeros(2), "evil": value}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnsafeCheckpointError, match=r"pytorch_model\.bin asks to import '\S+'"):
        open_weights(path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {"w": torch.zeros(2)}}, r"a dict under 'model'.*Save this inner dict"),
        ({"w": torch.zeros(2), "epoch": 3}, "int under 'epoch'"),
        ({"w": None}, "a NoneType under 'w'"),
        ({3: torch.zeros(2)}, "under 3"),
        ([torch.zeros(2)], "contains a list"),
        (torch.zeros(2), "contains a Tensor"),
    ],
    ids=["nested", "number", "None", "numeric key", "list", "tensor"],
)
def test_open_weights_with_other_objects_than_tensors_raises(
    tmp_path: Path, content: object, message: str, zipped: bool
):
    path = tmp_path / "pytorch_model.bin"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=message):
        open_weights(path)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_open_weights_with_other_pickle_protocol_raises(tmp_path: Path, protocol: int, zipped: bool):
    path = tmp_path / "pytorch_model.bin"
    torch.save({"w": torch.zeros(2)}, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnsafeCheckpointError, match=r"PROTO|bare pickle"):
        open_weights(path)


@pytest.mark.usefixtures("nothing_read")
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_open_weights_with_expanded_tensor_raises(tmp_path: Path, zipped: bool):
    path = tmp_path / "pytorch_model.bin"
    torch.save({"bomb": torch.zeros(1).expand(10**12)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="'bomb'"):
        open_weights(path)


@pytest.mark.parametrize(
    "tensor", [torch.zeros(2, dtype=torch.complex64), torch.zeros(2, dtype=torch.uint16), torch.eye(2).to_sparse()]
)
def test_open_weights_with_unsupported_tensor_raises(tmp_path: Path, tensor: torch.Tensor):
    path = tmp_path / "pytorch_model.bin"
    torch.save({"w": tensor}, path)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        open_weights(path)


@pytest.fixture
def members(tmp_path: Path) -> dict[str, bytes]:
    """The members of a file of torch.save, without those that describe its layout."""
    torch.save({"w": torch.arange(100.0)}, tmp_path / "original.bin")
    with zipfile.ZipFile(tmp_path / "original.bin") as archive:
        return {
            name.replace("original/", "model/"): archive.read(name)
            for name in archive.namelist()
            if not name.endswith((".format_version", ".storage_alignment"))
        }


def rezip(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_open_weights_with_rezipped_archive_reads_it(tmp_path: Path, members: dict[str, bytes]):
    with closing(open_weights(rezip(tmp_path / "pytorch_model.bin", members))) as weights:
        assert torch.equal(weights.read("w"), torch.arange(100.0))


def test_open_weights_with_compressed_archive_raises(tmp_path: Path, members: dict[str, bytes]):
    members["model/data/0"] = b"\0" * 10_000_000
    path = rezip(tmp_path / "pytorch_model.bin", members, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    with pytest.raises(CheckpointError, match=r"member 'model/\S+' is compressed"):
        open_weights(path)


@pytest.mark.parametrize(
    "name", ["model/../../evil", "/evil", "../evil", "evil", "other/data/1", "model//x", "model/a\\b", "model/./x"]
)
def test_open_weights_with_unsafe_member_name_raises(tmp_path: Path, members: dict[str, bytes], name: str):
    path = rezip(tmp_path / "pytorch_model.bin", {**members, name: b"x"})
    with pytest.raises(UnsafeCheckpointError, match="member with the name"):
        open_weights(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_open_weights_with_repeated_member_raises(tmp_path: Path, members: dict[str, bytes]):
    path = rezip(tmp_path / "pytorch_model.bin", members)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("model/data.pkl", b"other")
    with pytest.raises(CheckpointError, match="two members of the same name"):
        open_weights(path)


def test_open_weights_with_torchscript_raises(tmp_path: Path, members: dict[str, bytes]):
    with pytest.raises(UnsafeCheckpointError, match="TorchScript"):
        open_weights(rezip(tmp_path / "pytorch_model.bin", {**members, "model/constants.pkl": b"x"}))


def test_open_weights_with_big_endian_file_raises(tmp_path: Path, members: dict[str, bytes]):
    with pytest.raises(CheckpointError, match="big-endian"):
        open_weights(rezip(tmp_path / "pytorch_model.bin", {**members, "model/byteorder": b"big"}))


@pytest.mark.usefixtures("nothing_read")
def test_open_weights_with_short_storage_raises(tmp_path: Path, members: dict[str, bytes]):
    members["model/data/0"] = members["model/data/0"][:-4]
    with pytest.raises(CheckpointError, match="'w' reaches beyond"):
        open_weights(rezip(tmp_path / "pytorch_model.bin", members))


def test_open_weights_without_storage_raises(tmp_path: Path, members: dict[str, bytes]):
    del members["model/data/0"]
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is damaged"):
        open_weights(rezip(tmp_path / "pytorch_model.bin", members))


def test_open_weights_without_pickle_raises(tmp_path: Path, members: dict[str, bytes]):
    del members["model/data.pkl"]
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is damaged"):
        open_weights(rezip(tmp_path / "pytorch_model.bin", members))


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_open_weights_with_damaged_pickle_raises(tmp_path: Path, members: dict[str, bytes], kept: float):
    pickle = members["model/data.pkl"]
    members["model/data.pkl"] = pickle[: int(len(pickle) * kept)]
    with pytest.raises(CheckpointError, match="is damaged"):
        open_weights(rezip(tmp_path / "pytorch_model.bin", members))


@pytest.mark.parametrize("name", ["model/data.pkl", "model/byteorder", "model/version"])
def test_open_weights_with_oversized_member_raises(
    tmp_path: Path, members: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, name: str
):
    monkeypatch.setattr(torch_files, "MAX_PICKLE_BYTES", 1000)
    with pytest.raises(CheckpointError, match=f"{name!r} has 1,001 bytes"):
        open_weights(rezip(tmp_path / "pytorch_model.bin", {**members, name: b"x" * 1001}))


@pytest.mark.parametrize("surplus", [b"x", b"x" * 1000])
@pytest.mark.parametrize("where", ["front", "back"])
def test_open_weights_with_bytes_around_archive_raises(
    tmp_path: Path, members: dict[str, bytes], surplus: bytes, where: str
):
    path = rezip(tmp_path / "pytorch_model.bin", members)
    content = path.read_bytes()
    path.write_bytes(content + surplus if where == "back" else torch_files.ZIP_MAGIC + surplus + content)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is damaged"):
        open_weights(path)


def test_open_weights_with_wrong_member_position_raises(tmp_path: Path, members: dict[str, bytes]):
    path = rezip(tmp_path / "pytorch_model.bin", members)
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"model/data/0") - 46
    assert content[entry : entry + 4] == b"PK\x01\x02"
    (position,) = struct.unpack_from("<I", content, entry + 42)
    struct.pack_into("<I", content, entry + 42, position + 8)
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is damaged"):
        open_weights(path)


def test_open_weights_with_wrong_member_size_raises(tmp_path: Path, members: dict[str, bytes]):
    path = rezip(tmp_path / "pytorch_model.bin", members)
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"model/data/0") - 46
    struct.pack_into("<II", content, entry + 20, 10**9, 10**9)
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="would be larger than the file"):
        open_weights(path)


@pytest.mark.usefixtures("nothing_read")
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("kept", [0.05, 0.3, 0.6])
def test_open_weights_with_truncated_torch_file_raises(tmp_path: Path, zipped: bool, kept: float):
    path = tmp_path / "pytorch_model.bin"
    torch.save({"w": torch.zeros(1000)}, path, _use_new_zipfile_serialization=zipped)
    os.truncate(path, int(path.stat().st_size * kept))
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is (damaged|truncated)"):
        open_weights(path)


def test_read_from_slightly_truncated_legacy_file_raises(tmp_path: Path):
    path = tmp_path / "pytorch_model.bin"
    torch.save({"w": torch.zeros(1000)}, path, _use_new_zipfile_serialization=False)
    os.truncate(path, path.stat().st_size - 4)
    with closing(open_weights(path)) as weights, pytest.raises(CheckpointError, match="is damaged"):
        weights.read("w")


def test_open_weights_with_large_legacy_file_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("skxlmr.checkpoints.formats.MAX_LEGACY_BYTES", 1000)
    path = tmp_path / "pytorch_model.bin"
    torch.save({"w": torch.zeros(1000)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="Convert it to safetensors"):
        open_weights(path)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_read_of_tied_and_strided_tensors_equals_original(tmp_path: Path, zipped: bool):
    matrix = torch.arange(12.0).view(3, 4)
    state = {
        "matrix": matrix,
        "tied": matrix,
        "row": matrix[1],
        "column": matrix[:, 2],
        "block": matrix[1:, 1:3],
        "transposed": matrix.T,
        "parameter": torch.nn.Parameter(matrix.half()),
        "position_ids": torch.arange(4).expand(1, -1),
        "scalar": torch.tensor(3.0),
        "empty": torch.zeros(0, 3),
    }
    path = tmp_path / "pytorch_model.bin"
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    with closing(open_weights(path)) as weights:
        assert set(weights.tensors) == set(state)
        for key, tensor in state.items():
            read = weights.read(key)
            assert torch.equal(read, tensor), key
            assert type(read) is torch.Tensor
            assert read.is_contiguous()
        weights.read("tied").zero_()
        assert torch.equal(weights.read("matrix"), matrix)


def test_read_of_many_tensors_equals_original(tmp_path: Path):
    """The offsets that torch computes are those of the members in the archive."""
    state = {f"w.{n}": torch.full((n % 7, 3), float(n)).to([torch.float32, torch.float16][n % 2]) for n in range(300)}
    path = tmp_path / "pytorch_model.bin"
    torch.save(state, path)
    with closing(open_weights(path)) as weights:
        for key, tensor in state.items():
            assert torch.equal(weights.read(key), tensor), key
