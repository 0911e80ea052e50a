"""The index of shards and the manifest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from skxlmr.checkpoints.errors import CheckpointError, UnsafeCheckpointError
from skxlmr.checkpoints.layout import verify_checkpoint
from skxlmr.checkpoints.resolve import resolve
from skxlmr.checkpoints.writing import write_checkpoint
from skxlmr.system.schema import shown

INDEX = "model.safetensors.index.json"
OUTSIDE = [
    "../model.safetensors",
    "/etc/passwd",
    "sub/model.safetensors",
    "..\\model",
    "C:model",
    "a\0b",
    ".",
    "..",
    "",
]


@pytest.mark.usefixtures("nothing_read")
@pytest.mark.parametrize("name", [*OUTSIDE, ".hidden", "x" * 300, "line\nbreak", "*"])
def test_read_index_with_path_instead_of_name_raises(sharded_directory: Path, name: str):
    (sharded_directory / INDEX).write_text(json.dumps({"weight_map": {"transposed": name}}))
    with pytest.raises(UnsafeCheckpointError, match="only plain names") as caught:
        resolve(sharded_directory)
    assert shown(name) in str(caught.value)


@pytest.mark.parametrize("name", [3, None, ["x"], {"x": "y"}])
def test_read_index_with_name_of_other_type_raises(sharded_directory: Path, name: object):
    (sharded_directory / INDEX).write_text(json.dumps({"weight_map": {"transposed": name}}))
    with pytest.raises(UnsafeCheckpointError, match="only plain names"):
        resolve(sharded_directory)


@pytest.mark.parametrize("content", ['{"metadata": {}}', '{"weight_map": {}}', '{"weight_map": ["x"]}', "[]", "{"])
def test_read_index_without_weight_map_raises(sharded_directory: Path, content: str):
    (sharded_directory / INDEX).write_text(content)
    with pytest.raises(CheckpointError, match=INDEX):
        resolve(sharded_directory)


def test_read_index_with_repeated_tensor_raises(sharded_directory: Path):
    (sharded_directory / INDEX).write_text('{"weight_map": {"a": "first", "a": "second"}}')
    with pytest.raises(CheckpointError, match="'a' appears twice"):
        resolve(sharded_directory)


def test_read_index_with_too_many_shards_raises(sharded_directory: Path):
    weight_map = {str(n): f"{n}.safetensors" for n in range(600)}
    (sharded_directory / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match="600 shards"):
        resolve(sharded_directory)


def write_shards(directory: Path) -> None:
    tensors = {f"layer.{n}.weight": torch.full((4, 8), float(n)) for n in range(4)}
    write_checkpoint(directory, tensors, {}, extra_files={"extra": b"x"}, max_shard_bytes=256)


@pytest.mark.parametrize("name", ["config.json", "extra", "model-00001-of-00002.safetensors"])
@pytest.mark.parametrize("damage", ["changed", "shortened", "missing"])
def test_resolve_with_file_other_than_in_manifest_raises(tmp_path: Path, name: str, damage: str):
    write_shards(tmp_path)
    path = tmp_path / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:] if damage == "changed" else content[:-1])
    for check in (resolve, verify_checkpoint):
        with pytest.raises(CheckpointError, match=name):
            check(tmp_path)


def test_verify_checkpoint_with_damaged_large_file_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("skxlmr.checkpoints.layout.SMALL_FILE", 100)
    write_shards(tmp_path)
    path = tmp_path / "model-00001-of-00002.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"\1")
    resolve(tmp_path)
    with pytest.raises(CheckpointError, match="is not the file that was saved"):
        verify_checkpoint(tmp_path)
    path.write_bytes(content)
    verify_checkpoint(tmp_path)


def test_verify_checkpoint_without_manifest_raises(tmp_path: Path):
    write_shards(tmp_path)
    (tmp_path / "skxlmr.json").unlink()
    assert len(resolve(tmp_path).weights) == 2
    with pytest.raises(CheckpointError, match=r"skxlmr\.json cannot be read"):
        verify_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ({"format_version": 2, "complete": True, "files": {}}, "Upgrade skxlmr"),
        ({"complete": True, "files": {}}, "format_version None"),
        ({"format_version": 1, "complete": False, "files": {}}, "incomplete"),
        ({"format_version": 1, "files": {}}, "incomplete"),
        ({"format_version": 1, "complete": True}, "damaged"),
        ({"format_version": 1, "complete": True, "files": []}, "damaged"),
        ({"format_version": 1, "complete": True, "files": {"config.json": 3}}, "damaged"),
        ({"format_version": 1, "complete": True, "files": {"config.json": {"bytes": "x", "sha256": ""}}}, "damaged"),
        ({"format_version": 1, "complete": True, "files": {"../x": {"bytes": 1, "sha256": ""}}}, "only plain names"),
    ],
)
def test_resolve_with_damaged_manifest_raises(tmp_path: Path, manifest: dict, message: str):
    write_shards(tmp_path)
    (tmp_path / "skxlmr.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=message):
        resolve(tmp_path)
