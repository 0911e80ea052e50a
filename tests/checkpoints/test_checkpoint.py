from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from skxlmr.checkpoints.checkpoint import load_into, open_checkpoint
from skxlmr.checkpoints.errors import CheckpointError, CheckpointMismatchError
from skxlmr.checkpoints.keymap import KeyMap, match
from skxlmr.checkpoints.resolve import resolve
from skxlmr.checkpoints.writing import write_checkpoint

INDEX = "model.safetensors.index.json"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def test_open_checkpoint_in_every_format_reads_same_tensors(any_format: Path, state: dict[str, torch.Tensor]):
    with open_checkpoint(resolve(any_format)) as checkpoint:
        assert set(checkpoint.tensors) == set(state)
        for key, tensor in state.items():
            info = checkpoint.tensors[key]
            assert (info.shape, info.dtype) == (tuple(tensor.shape), tensor.dtype)
            assert info.file.parent == any_format
            read = checkpoint.read(key)
            assert read.dtype == tensor.dtype
            assert torch.equal(read, tensor)
            read.fill_(1)  # must not change other tensors
        for key, tensor in state.items():
            assert torch.equal(checkpoint.read(key), tensor)


def test_read_with_unknown_key_raises(checkpoint_directory: Path):
    with open_checkpoint(resolve(checkpoint_directory)) as checkpoint, pytest.raises(KeyError):
        checkpoint.read("unknown")


def test_checkpoint_tensors_are_read_only(checkpoint_directory: Path):
    with open_checkpoint(resolve(checkpoint_directory)) as checkpoint, pytest.raises(TypeError):
        checkpoint.tensors["x"] = None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_read_with_nan_or_infinity_raises(tmp_path: Path, value: float):
    (tmp_path / "config.json").write_text("{}")
    save_file({"good": torch.ones(3), "bad": torch.tensor([1.0, value])}, tmp_path / "model.safetensors")
    with open_checkpoint(resolve(tmp_path)) as checkpoint:
        checkpoint.read("good")
        with pytest.raises(CheckpointError, match=r"model\.safetensors: tensor 'bad' contains NaN or infinity"):
            checkpoint.read("bad")


def edit_index(directory: Path, change: dict[str, str | None]) -> None:
    index = json.loads((directory / INDEX).read_text())
    index["weight_map"].update(change)
    index["weight_map"] = {key: name for key, name in index["weight_map"].items() if name is not None}
    (directory / INDEX).write_text(json.dumps(index))


@pytest.mark.usefixtures("nothing_read")
def test_open_checkpoint_with_tensor_in_two_shards_raises(sharded_directory: Path):
    second = load_file(sharded_directory / SECOND)
    save_file({**second, "roberta.dense.weight": torch.zeros(3, 4)}, sharded_directory / SECOND)
    files = resolve(sharded_directory)
    with pytest.raises(CheckpointError, match=rf"'roberta\.dense\.weight' is in two shards, .*{FIRST} and .*{SECOND}"):
        open_checkpoint(files)


@pytest.mark.usefixtures("nothing_read")
def test_open_checkpoint_with_listed_tensor_missing_raises(sharded_directory: Path):
    edit_index(sharded_directory, {"ghost": FIRST})
    files = resolve(sharded_directory)
    with pytest.raises(CheckpointError, match=f"'ghost' in {FIRST}, which does not contain it"):
        open_checkpoint(files)


@pytest.mark.usefixtures("nothing_read")
def test_open_checkpoint_with_tensor_in_other_shard_raises(sharded_directory: Path):
    index = json.loads((sharded_directory / INDEX).read_text())["weight_map"]
    edit_index(sharded_directory, {"transposed": SECOND if index["transposed"] == FIRST else FIRST})
    files = resolve(sharded_directory)
    with pytest.raises(CheckpointError, match="'transposed'"):
        open_checkpoint(files)


@pytest.mark.usefixtures("nothing_read")
def test_open_checkpoint_with_unlisted_tensor_raises(sharded_directory: Path):
    edit_index(sharded_directory, {"transposed": None})
    files = resolve(sharded_directory)
    with pytest.raises(CheckpointError, match=r"'transposed', which .* does not list"):
        open_checkpoint(files)


@pytest.mark.usefixtures("nothing_read")
def test_open_checkpoint_with_damaged_shard_closes_others(sharded_directory: Path):
    (sharded_directory / SECOND).write_bytes(b"nonsense, and long enough to be looked at")
    files = resolve(sharded_directory)
    with pytest.raises(CheckpointError, match=SECOND):  # an open file would raise a ResourceWarning
        open_checkpoint(files)


class Toy(nn.Module):
    """An embedding tied to a decoder, two layers, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.word = nn.Embedding(10, 4)
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.decoder = nn.Linear(4, 10, bias=False)
        self.decoder.weight = self.word.weight
        self.head = nn.Linear(4, 2)
        self.layers[0].bias.requires_grad_(False)


TOY_KEYS = KeyMap(
    [
        ("roberta.word_embeddings.weight", "word.weight"),
        ("roberta.layer.{i}.{p}", "layers.{i}.{p}"),
        ("classifier.{p}", "head.{p}"),
    ],
    ignored=["lm_head.decoder.weight"],
)


def toy_tensors(model: Toy) -> dict[str, torch.Tensor]:
    return {TOY_KEYS.to_theirs(name): p for name, p in model.named_parameters()}


def load_toy(directory: Path, dtype: torch.dtype | None = torch.float32, **optional: list[str]) -> Toy:
    with torch.device("meta"):
        model = Toy()
    with open_checkpoint(resolve(directory)) as checkpoint:
        shapes = {name: p.shape for name, p in model.named_parameters()}
        plan = match(checkpoint.tensors, shapes, TOY_KEYS, **optional)
        load_into(model, checkpoint, plan, dtype=dtype, device="cpu")
    return model


@pytest.mark.parametrize("max_shard_bytes", [10**9, 100])
def test_load_into_after_write_checkpoint_restores_parameters(tmp_path: Path, max_shard_bytes: int):
    original = Toy()
    write_checkpoint(tmp_path, toy_tensors(original), {}, max_shard_bytes=max_shard_bytes)
    loaded = load_toy(tmp_path)
    for (name, parameter), (_, other) in zip(original.named_parameters(), loaded.named_parameters(), strict=True):
        assert torch.equal(parameter, other), name
        assert parameter.requires_grad == other.requires_grad
    assert loaded.decoder.weight is loaded.word.weight
    assert isinstance(loaded.word.weight, nn.Parameter)


def test_load_into_ignores_second_name_of_tied_weight(tmp_path: Path):
    original = Toy()
    tensors = {**toy_tensors(original), "lm_head.decoder.weight": original.decoder.weight}
    write_checkpoint(tmp_path, tensors, {})
    loaded = load_toy(tmp_path)
    assert loaded.decoder.weight is loaded.word.weight
    assert torch.equal(loaded.word.weight, original.word.weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_load_into_with_dtype_converts(tmp_path: Path, dtype: torch.dtype):
    original = Toy()
    write_checkpoint(tmp_path, toy_tensors(original), {})
    loaded = load_toy(tmp_path, dtype)
    assert {p.dtype for p in loaded.parameters()} == {dtype}
    assert torch.equal(loaded.head.weight, original.head.weight.to(dtype))
    assert {p.dtype for p in load_toy(tmp_path, None).parameters()} == {torch.float32}


def test_load_into_with_overflow_raises(tmp_path: Path):
    original = Toy()
    nn.init.constant_(original.head.bias, 1e6)
    write_checkpoint(tmp_path, toy_tensors(original), {})
    with pytest.raises(CheckpointError, match=r"'classifier\.bias' overflows in torch\.float16: use torch\.bfloat16"):
        load_toy(tmp_path, torch.float16)
    load_toy(tmp_path, torch.bfloat16)


def test_load_into_with_new_head_keeps_it_on_meta_device(tmp_path: Path):
    tensors = {key: t for key, t in toy_tensors(Toy()).items() if not key.startswith("classifier")}
    write_checkpoint(tmp_path, tensors, {})
    loaded = load_toy(tmp_path, may_be_new=["head."])
    assert loaded.head.weight.is_meta
    assert loaded.head.bias.is_meta
    assert not loaded.word.weight.is_meta


@pytest.mark.usefixtures("nothing_read")
def test_load_into_with_mismatch_reads_nothing(tmp_path: Path):
    tensors = toy_tensors(Toy())
    tensors["classifier.weight"] = torch.zeros(3, 4)
    write_checkpoint(tmp_path, tensors, {})
    with pytest.raises(CheckpointMismatchError, match=r"file has \(3, 4\), config requires \(2, 4\)"):
        load_toy(tmp_path)


def test_load_into_reads_one_tensor_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Before each tensor is read, all earlier ones have been loaded into the model."""
    write_checkpoint(tmp_path, toy_tensors(Toy()), {})
    with torch.device("meta"):
        model = Toy()
    with open_checkpoint(resolve(tmp_path)) as checkpoint:
        plan = match(checkpoint.tensors, {name: p.shape for name, p in model.named_parameters()}, TOY_KEYS)
        read = checkpoint.read
        loaded_before = []

        def observed(key: str) -> torch.Tensor:
            loaded_before.append(sum(not p.is_meta for p in model.parameters()))
            return read(key)

        monkeypatch.setattr(checkpoint, "read", observed)
        load_into(model, checkpoint, plan, dtype=None, device="cpu")
    assert loaded_before == list(range(len(plan.assignments)))


def test_load_into_model_does_not_need_files(tmp_path: Path):
    directory = tmp_path / "checkpoint"
    original = Toy()
    write_checkpoint(directory, toy_tensors(original), {})
    loaded = load_toy(directory)
    shutil.rmtree(directory)
    assert torch.equal(loaded.word.weight, original.word.weight)
