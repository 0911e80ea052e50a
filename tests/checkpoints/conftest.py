"""A toy model, its key map and its checkpoints in every format."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from skxlmr.checkpoints import formats, torch_files


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    """Tensors of several dtypes: one is not row-major, one has two names, one is empty."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 4, generator=generator)
    return {
        "roberta.dense.weight": weight,
        "roberta.dense.bias": torch.randn(3, generator=generator).half(),
        "roberta.norm.weight": torch.randn(5, generator=generator).bfloat16(),
        "roberta.position_ids": torch.arange(6).expand(1, -1),
        "decoder.weight": weight,
        "transposed": torch.randn(2, 5, generator=generator).T,
        "empty": torch.zeros(0, 2),
    }


def write_bin(state: dict[str, torch.Tensor], directory: Path) -> None:
    torch.save(state, directory / "pytorch_model.bin")


def write_legacy_bin(state: dict[str, torch.Tensor], directory: Path) -> None:
    torch.save(state, directory / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def write_safetensors(state: dict[str, torch.Tensor], directory: Path) -> None:
    save_file(
        {key: t.clone(memory_format=torch.contiguous_format) for key, t in state.items()},
        directory / "model.safetensors",
    )


def _write_shards(state: dict[str, torch.Tensor], directory: Path, pattern: str, index: str, save: Callable) -> None:
    keys = list(state)
    weight_map = {}
    for number, part in enumerate((keys[::2], keys[1::2]), start=1):
        name = pattern.format(number)
        save({key: state[key].clone(memory_format=torch.contiguous_format) for key in part}, directory / name)
        weight_map.update(dict.fromkeys(part, name))
    (directory / index).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def write_sharded_safetensors(state: dict[str, torch.Tensor], directory: Path) -> None:
    _write_shards(state, directory, "model-0000{}-of-00002.safetensors", "model.safetensors.index.json", save_file)


def write_sharded_bin(state: dict[str, torch.Tensor], directory: Path) -> None:
    _write_shards(state, directory, "pytorch_model-0000{}-of-00002.bin", "pytorch_model.bin.index.json", torch.save)


WRITERS = {
    "safetensors": write_safetensors,
    "sharded safetensors": write_sharded_safetensors,
    "bin": write_bin,
    "legacy bin": write_legacy_bin,
    "sharded bin": write_sharded_bin,
}


@pytest.fixture(params=WRITERS)
def any_format(request: pytest.FixtureRequest, state: dict[str, torch.Tensor], tmp_path: Path) -> Path:
    """A checkpoint directory with `state`, in each format."""
    (tmp_path / "config.json").write_text('{"hidden_size": 4}')
    WRITERS[request.param](state, tmp_path)
    return tmp_path


@pytest.fixture
def every_format(state: dict[str, torch.Tensor], tmp_path: Path) -> list[Path]:
    """Checkpoint directories with `state`, one in each format."""
    directories = []
    for number, write in enumerate(WRITERS.values()):
        directories.append(tmp_path / str(number))
        directories[-1].mkdir()
        (directories[-1] / "config.json").write_text(json.dumps({"hidden_size": 4, "number": number}))
        write(state, directories[-1])
    return directories


@pytest.fixture
def checkpoint_directory(state: dict[str, torch.Tensor], tmp_path: Path) -> Path:
    """A checkpoint directory with `state` in one safetensors file, and a tokenizer."""
    (tmp_path / "config.json").write_text('{"hidden_size": 4}')
    (tmp_path / "sentencepiece.bpe.model").write_bytes(b"pieces")
    write_safetensors(state, tmp_path)
    return tmp_path


@pytest.fixture
def sharded_directory(state: dict[str, torch.Tensor], tmp_path: Path) -> Path:
    """A checkpoint directory with `state` in two safetensors files."""
    (tmp_path / "config.json").write_text('{"hidden_size": 4}')
    write_sharded_safetensors(state, tmp_path)
    return tmp_path


@pytest.fixture
def nothing_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test if the bytes of any tensor are read or memory for them is allocated."""

    def refuse(*args: object) -> None:
        pytest.fail("a tensor was read before its file had been refused")

    monkeypatch.setattr(formats.TensorFile, "read", refuse)
    monkeypatch.setattr(torch_files, "load_legacy", refuse)
