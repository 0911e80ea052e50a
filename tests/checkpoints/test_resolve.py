from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from skxlmr.checkpoints import resolve as module
from skxlmr.checkpoints.checkpoint import open_checkpoint
from skxlmr.checkpoints.errors import CheckpointError, ModelNotFoundError, UnsafeCheckpointError
from skxlmr.checkpoints.resolve import resolve, resolve_config
from skxlmr.checkpoints.writing import write_checkpoint


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        pytest.fail("the hub was asked")

    monkeypatch.setattr("skxlmr.checkpoints.hub.fetch", refuse)


def test_resolve_with_directory_finds_files(checkpoint_directory: Path):
    files = resolve(checkpoint_directory)
    assert files.name == str(checkpoint_directory)
    assert files.directory == checkpoint_directory
    assert files.config == checkpoint_directory / "config.json"
    assert files.tokenizer == checkpoint_directory / "sentencepiece.bpe.model"
    assert files.weights == (checkpoint_directory / "model.safetensors",)
    assert files.index is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        files.name = "other"


def test_resolve_with_shards_finds_all(sharded_directory: Path):
    files = resolve(sharded_directory)
    assert [path.name for path in files.weights] == [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    assert files.index == sharded_directory / "model.safetensors.index.json"
    assert files.tokenizer is None


def test_resolve_with_relative_or_home_path_finds_directory(
    checkpoint_directory: Path, monkeypatch: pytest.MonkeyPatch
):
    parent, name = checkpoint_directory.parent, checkpoint_directory.name
    monkeypatch.chdir(parent)
    monkeypatch.setenv("HOME", str(parent))
    monkeypatch.setenv("USERPROFILE", str(parent))
    for written in (f"./{name}", name, f"~/{name}", f"../{parent.name}/{name}", str(checkpoint_directory), Path(name)):
        files = resolve(written)
        assert files.name == str(written)
        assert files.directory.resolve() == checkpoint_directory.resolve()
        assert files.directory.is_absolute()


def test_resolve_prefers_directory_to_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_checkpoint(tmp_path / "organisation" / "name", {"w": torch.ones(1)}, {})
    monkeypatch.chdir(tmp_path)
    assert resolve("organisation/name").directory == tmp_path / "organisation" / "name"


def test_resolve_prefers_bundled_model_to_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_checkpoint(tmp_path / "bundled", {"w": torch.ones(1)}, {})
    monkeypatch.setitem(module.BUNDLED, "nano", tmp_path / "bundled")
    write_checkpoint(tmp_path / "nano", {"w": torch.ones(1)}, {})
    monkeypatch.chdir(tmp_path)
    assert resolve("nano").directory == tmp_path / "bundled"
    assert resolve("nano").name == "nano"
    assert resolve("./nano").directory == tmp_path / "nano"
    assert resolve(Path("nano")).directory == tmp_path / "nano"


def test_resolve_prefers_safetensors_to_bin(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"has no weights; looked for model\.safetensors, "):
        resolve(tmp_path)
    (tmp_path / "x").write_bytes(b"")
    chosen, worst_first = [], ["pytorch_model.bin.index.json", "pytorch_model.bin"]
    worst_first += ["model.safetensors.index.json", "model.safetensors"]
    for name in worst_first:
        (tmp_path / name).write_text('{"weight_map": {"w": "x"}}')
        files = resolve(tmp_path)
        chosen.append((files.index or files.weights[0]).name)
        assert (files.index is None) == (not name.endswith("json"))
    assert chosen == worst_first


def test_resolve_without_config_raises(tmp_path: Path):
    save_file({"w": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        resolve(tmp_path)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("adapter_config.json", "only those of LoRA and"), ("estimator.json", "Use skxlmr.load")],
)
def test_resolve_with_directory_of_another_kind_says_what_it_is(tmp_path: Path, name: str, hint: str):
    (tmp_path / name).write_text("{}")
    with pytest.raises(CheckpointError, match=hint):
        resolve(tmp_path)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("nanno", "Did you mean 'nano'?"),
        ("Nano", "Did you mean 'nano'?"),
        ("xlm-roberta-xl", "Did you mean 'facebook/xlm-roberta-xl'?"),
        ("xlm-roberta-xxl", "Did you mean 'facebook/xlm-roberta-xxl'?"),
        ("e5_small", "Did you mean 'e5-small'?"),
        ("multilingual-e5-large", "Did you mean 'intfloat/multilingual-e5-large'?"),
        ("bge-m3", "Did you mean 'BAAI/bge-m3'?"),
        ("xlm-roberta-base", "Did you mean 'FacebookAI/xlm-roberta-base'?"),
        ("quite-different", "organisation/name"),
        ("", "one of nano, e5-small"),
        ("./missing", "not a directory"),
        ("/missing/directory", "not a directory"),
        ("~/missing", "not a directory"),
        ("~nobody-of-this-name/x", "not a directory"),
        ("a/b/c", "not a directory"),
        ("../a", "not a directory"),
        ("org/na me", "not a directory"),
        ("nul\0byte", "not a directory"),
        ("long" * 100, "not a directory"),
    ],
)
def test_resolve_with_unknown_name_suggests_similar(name: str, hint: str):
    with pytest.raises(ModelNotFoundError) as caught:
        resolve(name)
    assert hint in str(caught.value)
    assert repr(name) in str(caught.value)
    assert isinstance(caught.value, OSError)


def test_resolve_with_dissimilar_name_suggests_nothing():
    with pytest.raises(ModelNotFoundError) as caught:
        resolve("quite-different")
    assert "Did you mean" not in str(caught.value)


def test_resolve_with_missing_path_object_does_not_ask_hub():
    with pytest.raises(ModelNotFoundError, match="not a directory"):
        resolve(Path("organisation/name"))


def test_resolve_with_file_raises(checkpoint_directory: Path):
    with pytest.raises(ModelNotFoundError, match="is a file; give the directory"):
        resolve(checkpoint_directory / "config.json")


def test_resolve_with_file_of_weights_chooses_it(checkpoint_directory: Path):
    expected = resolve(checkpoint_directory)
    (checkpoint_directory / "model.other.safetensors").write_bytes(expected.weights[0].read_bytes())
    for name in ("model.safetensors", "model.other.safetensors"):
        for model in (checkpoint_directory / name, str(checkpoint_directory / name)):
            files = resolve(model)
            assert (files.name, files.weights) == (str(model), (checkpoint_directory / name,))
            assert files.fingerprint == expected.fingerprint
    assert resolve_config(checkpoint_directory / "model.other.safetensors") == expected.config
    with pytest.raises(ValueError, match="revision='main' applies to hub models only"):
        resolve(checkpoint_directory / "model.safetensors", revision="main")
    with pytest.raises(ModelNotFoundError, match="has no subfolder 'x'"):
        resolve(checkpoint_directory / "model.safetensors", subfolder="x")


def test_resolve_with_index_of_shards(sharded_directory: Path):
    expected = resolve(sharded_directory).weights
    assert resolve(sharded_directory / "model.safetensors.index.json").weights == expected
    with pytest.raises(ModelNotFoundError, match="is a file; give the directory"):
        resolve(expected[0])


def test_resolve_with_missing_bundled_model_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(module.BUNDLED, "nano", tmp_path / "missing")
    with pytest.raises(ModelNotFoundError, match="Install skxlmr again"):
        resolve("nano")


@pytest.mark.parametrize("model", [None, 3, b"nano"])
def test_resolve_with_other_type_raises(model: object):
    with pytest.raises(TypeError):
        resolve(model)


def test_resolve_with_revision_of_directory_raises(checkpoint_directory: Path):
    with pytest.raises(ValueError, match="revision='main' applies to hub models only"):
        resolve(checkpoint_directory, revision="main")


def move_and_link(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    path.rename(target)
    path.symlink_to(os.path.relpath(target, path.parent))


LINKED = ["config.json", "sentencepiece.bpe.model", "model.safetensors"]


@pytest.mark.parametrize("name", LINKED)
def test_resolve_with_link_out_of_directory_raises(
    checkpoint_directory: Path, tmp_path_factory: pytest.TempPathFactory, name: str
):
    move_and_link(checkpoint_directory / name, tmp_path_factory.mktemp("outside") / "x")
    with pytest.raises(UnsafeCheckpointError, match=f"{name} is a link to .*/x, outside"):
        resolve(checkpoint_directory)


def test_resolve_with_shard_linked_from_outside_raises(
    sharded_directory: Path, tmp_path_factory: pytest.TempPathFactory
):
    shard = "model-00002-of-00002.safetensors"
    move_and_link(sharded_directory / shard, tmp_path_factory.mktemp("outside") / "x")
    with pytest.raises(UnsafeCheckpointError, match=f"{shard} is a link"):
        resolve(sharded_directory)


@pytest.mark.parametrize("name", LINKED)
def test_resolve_with_dangling_link_raises(checkpoint_directory: Path, name: str):
    (checkpoint_directory / name).unlink()
    (checkpoint_directory / name).symlink_to("nothing")
    with pytest.raises(CheckpointError, match=f"{name} cannot be read"):
        resolve(checkpoint_directory)


@pytest.mark.parametrize("name", LINKED)
def test_resolve_with_folder_in_place_of_file_raises(checkpoint_directory: Path, name: str):
    (checkpoint_directory / name).unlink()
    (checkpoint_directory / name).mkdir()
    with pytest.raises(CheckpointError, match=f"{name} is not a regular file"):
        resolve(checkpoint_directory)


def test_resolve_follows_links_inside_directory(checkpoint_directory: Path, tmp_path_factory: pytest.TempPathFactory):
    move_and_link(checkpoint_directory / "model.safetensors", checkpoint_directory / "blobs" / "x")
    link = tmp_path_factory.mktemp("links") / "latest"
    link.symlink_to(checkpoint_directory)
    files = resolve(link)
    assert files.directory == link
    with open_checkpoint(files) as checkpoint:
        assert "transposed" in checkpoint.tensors


@pytest.fixture
def hub_cache(tmp_path: Path) -> Path:
    """The layout of the hub's cache: snapshots of links to blobs."""
    snapshot = tmp_path / "models--organisation--name" / "snapshots" / "0123abc"
    write_checkpoint(snapshot, {"w": torch.ones(1)}, {})
    (snapshot / "skxlmr.json").unlink()
    for name in ("config.json", "model.safetensors"):
        move_and_link(snapshot / name, snapshot.parents[1] / "blobs" / f"hash-of-{name}")
    return snapshot


def test_resolve_follows_links_inside_hub_cache(hub_cache: Path):
    files = resolve(hub_cache)
    assert files.weights == (hub_cache / "model.safetensors",)
    with open_checkpoint(files) as checkpoint:
        assert torch.equal(checkpoint.read("w"), torch.ones(1))


def test_resolve_with_link_out_of_hub_cache_raises(hub_cache: Path):
    (hub_cache / "model.safetensors").unlink()
    move_and_link(hub_cache.parents[1] / "blobs" / "hash-of-config.json", hub_cache.parents[2] / "other" / "x")
    with pytest.raises(UnsafeCheckpointError, match=r"config\.json is a link"):
        resolve(hub_cache)


def test_resolve_config_needs_no_weights(checkpoint_directory: Path, tmp_path_factory: pytest.TempPathFactory):
    (checkpoint_directory / "model.safetensors").unlink()
    assert resolve_config(checkpoint_directory) == checkpoint_directory / "config.json"
    assert resolve_config("nano") == module.BUNDLED["nano"] / "config.json"
    with pytest.raises(ModelNotFoundError, match="Did you mean 'nano'"):
        resolve_config("nanno")
    with pytest.raises(ValueError, match="revision='main' applies to hub models only"):
        resolve_config(checkpoint_directory, revision="main")
    move_and_link(checkpoint_directory / "config.json", tmp_path_factory.mktemp("outside") / "x")
    with pytest.raises(UnsafeCheckpointError, match=r"config\.json is a link"):
        resolve_config(checkpoint_directory)
    (checkpoint_directory / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        resolve_config(checkpoint_directory)


def test_resolve_with_missing_shard_raises(sharded_directory: Path):
    shard = "model-00002-of-00002.safetensors"
    (sharded_directory / shard).unlink()
    with pytest.raises(CheckpointError, match=shard):
        resolve(sharded_directory)


def test_resolve_with_subfolder_of_directory(checkpoint_directory: Path):
    parent, name = checkpoint_directory.parent, checkpoint_directory.name
    assert resolve(parent, subfolder=name).directory == checkpoint_directory
    assert resolve_config(parent, subfolder=name) == checkpoint_directory / "config.json"
    with pytest.raises(ModelNotFoundError, match="has no subfolder 'nowhere'"):
        resolve(parent, subfolder="nowhere")


@pytest.mark.parametrize("subfolder", ["..", "a/../../b", "/etc", "..\\a", "C:/a"])
def test_resolve_with_subfolder_outside_raises(checkpoint_directory: Path, subfolder: str):
    for find in (resolve, resolve_config):
        with pytest.raises(ValueError, match="must be a path inside the folder of the model"):
            find(checkpoint_directory, subfolder=subfolder)
