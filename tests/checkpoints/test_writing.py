from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path

import pytest
import safetensors.torch
import torch

from skxlmr.checkpoints.checkpoint import open_checkpoint
from skxlmr.checkpoints.resolve import resolve
from skxlmr.checkpoints.writing import write_checkpoint


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {f"layer.{n}.weight": torch.full((4, 8), float(value + n)) for n in range(4)}


ONE_FILE, TWO_SHARDS, FOUR_SHARDS = 10**9, 256, 128


def save(directory: Path, value: float, max_shard_bytes: int = ONE_FILE) -> None:
    write_checkpoint(
        directory, tensors(value), {"value": value}, extra_files={"extra": b"x"}, max_shard_bytes=max_shard_bytes
    )


def value_of(directory: Path) -> float:
    """Return the value that `save` has written, after checking that all files are from the same call."""
    files = resolve(directory)
    value = json.loads(files.config.read_text())["value"]
    with open_checkpoint(files) as checkpoint:
        assert set(checkpoint.tensors) == set(tensors(value))
        assert all(torch.equal(checkpoint.read(key), t) for key, t in tensors(value).items())
    return value


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_write_checkpoint_writes_single_file(tmp_path: Path):
    save(tmp_path / "new" / "checkpoint", 1)
    assert value_of(tmp_path / "new" / "checkpoint") == 1
    assert names(tmp_path / "new" / "checkpoint") == ["config.json", "extra", "model.safetensors", "skxlmr.json"]
    with safetensors.safe_open(tmp_path / "new" / "checkpoint" / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_write_checkpoint_with_small_shards_writes_index(tmp_path: Path):
    save(tmp_path, 1, TWO_SHARDS)
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = "model.safetensors.index.json"
    assert names(tmp_path) == sorted(["config.json", "extra", "skxlmr.json", index, *shards])
    content = json.loads((tmp_path / index).read_text())
    assert content["metadata"]["total_size"] == 4 * 128
    assert content["weight_map"] == {f"layer.{n}.weight": shards[n // 2] for n in range(4)}
    assert value_of(tmp_path) == 1


def test_write_checkpoint_with_tensor_larger_than_shard_writes_it(tmp_path: Path):
    save(tmp_path, 1, max_shard_bytes=1)
    assert len(resolve(tmp_path).weights) == 4
    assert value_of(tmp_path) == 1


@pytest.mark.parametrize("before", [ONE_FILE, TWO_SHARDS, FOUR_SHARDS])
@pytest.mark.parametrize("after", [ONE_FILE, TWO_SHARDS, FOUR_SHARDS])
def test_write_checkpoint_replaces_older_shards(tmp_path: Path, before: int, after: int):
    save(tmp_path, 1, before)
    save(tmp_path, 2, after)
    fresh = tmp_path / "fresh"
    save(fresh, 2, after)
    assert value_of(tmp_path) == 2
    assert names(tmp_path) == sorted([*names(fresh), "fresh"])


def test_write_checkpoint_keeps_other_files(tmp_path: Path):
    torch.save(tensors(7), tmp_path / "pytorch_model.bin")
    (tmp_path / "README.md").write_text("about")
    save(tmp_path, 1)
    assert (tmp_path / "pytorch_model.bin").exists()
    assert (tmp_path / "README.md").read_text() == "about"
    assert value_of(tmp_path) == 1
    save(tmp_path, 2, TWO_SHARDS)
    assert value_of(tmp_path) == 2


def test_resolve_ignores_weights_added_after_write(tmp_path: Path):
    save(tmp_path, 1, TWO_SHARDS)
    safetensors.torch.save_file(tensors(7), tmp_path / "model.safetensors")
    assert value_of(tmp_path) == 1


def test_write_checkpoint_with_shared_and_strided_tensors_restores_them(tmp_path: Path):
    matrix = torch.arange(12.0).view(3, 4)
    original = {
        "matrix": matrix,
        "tied": matrix,
        "row": matrix[1],
        "transposed": matrix.T,
        "parameter": torch.nn.Parameter(matrix),
        "empty": torch.zeros(0),
        "other empty": torch.zeros(0, 2),
        "scalar": torch.tensor(1, dtype=torch.int64),
    }
    write_checkpoint(tmp_path, original, {})
    with open_checkpoint(resolve(tmp_path)) as checkpoint:
        assert set(checkpoint.tensors) == set(original)
        for key, tensor in original.items():
            assert torch.equal(checkpoint.read(key), tensor), key


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.tensor([1.0, float("nan")]), "'bad' contains NaN"),
        (torch.tensor([1.0, float("inf")]), "'bad' contains NaN or infinity"),
        (torch.zeros(2, device="meta"), "'bad' cannot be written.*meta"),
        (torch.eye(2).to_sparse(), "'bad' cannot be written.*sparse"),
        (torch.zeros(2, dtype=torch.complex64), "'bad' cannot be written.*complex64"),
    ],
)
def test_write_checkpoint_with_unsupported_tensor_raises(tmp_path: Path, tensor: torch.Tensor, message: str):
    save(tmp_path, 1)
    with pytest.raises(ValueError, match=message):
        write_checkpoint(tmp_path, {"good": torch.ones(2), "bad": tensor}, {})
    assert value_of(tmp_path) == 1


@pytest.mark.parametrize("config", [{"value": float("nan")}, {"value": {1, 2}}, {"value": torch.float16}])
def test_write_checkpoint_with_config_not_json_raises(tmp_path: Path, config: dict):
    with pytest.raises(ValueError, match="JSON"):
        write_checkpoint(tmp_path / "new", tensors(1), config)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "name", ["../evil", "/evil", "a/b", "", ".hidden", "config.json", "skxlmr.json", "model.safetensors"]
)
def test_write_checkpoint_with_unsafe_extra_name_raises(tmp_path: Path, name: str):
    with pytest.raises(ValueError, match=r"plain names|of the checkpoint itself"):
        write_checkpoint(tmp_path / "new", tensors(1), {}, extra_files={name: b"x"})
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "evil").exists()


@pytest.mark.skipif(os.name == "nt", reason="permission bits of POSIX")
def test_write_checkpoint_files_have_mode_of_umask(tmp_path: Path):
    save(tmp_path / "checkpoint", 1, TWO_SHARDS)
    (tmp_path / "plain").write_bytes(b"")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in [*(tmp_path / "checkpoint").iterdir(), tmp_path / "plain"]}
    assert len(modes) == 1


def disk_full(*args: object, **kwargs: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("failing", ["open", "write", "fsync"])
@pytest.mark.parametrize("number", [1, 2, 5])
@pytest.mark.parametrize("exists", [True, False])
def test_write_checkpoint_on_full_disk_keeps_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, number: int, exists: bool
):
    directory = tmp_path / "checkpoint"
    if exists:
        save(directory, 1)
    before = names(directory) if exists else None
    original, calls = getattr(os, failing), []

    def fails(*args: object, **kwargs: object) -> object:
        calls.append(args)
        return (disk_full if len(calls) == number else original)(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, failing, fails)
        with pytest.raises(OSError, match="No space left"):
            save(directory, 2, TWO_SHARDS)
    if exists:
        assert value_of(directory) == 1
        assert names(directory) == before
    else:
        assert not directory.exists()
    assert names(tmp_path) == (["checkpoint"] if exists else [])


def test_write_checkpoint_larger_than_disk_raises_with_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save(tmp_path, 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 100))
    with pytest.raises(OSError, match=r"\d+ .* are needed, and the disk of the folder has 100 bytes left"):
        save(tmp_path, 2)
    assert value_of(tmp_path) == 1


def test_from_resolve_while_checkpoint_is_replaced_knows_it(tmp_path: Path):
    save(tmp_path, 1)
    files = resolve(tmp_path)
    assert files.is_unchanged()
    save(tmp_path, 2)
    assert not files.is_unchanged()
    assert resolve(tmp_path).is_unchanged()


def test_write_checkpoint_is_reproducible(tmp_path: Path):
    save(tmp_path / "a", 1, TWO_SHARDS)
    save(tmp_path / "b", 1, TWO_SHARDS)
    for name in names(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
