"""Safetensors files that contain their own checksum."""

from __future__ import annotations

from contextlib import closing

import pytest
import torch
from safetensors.torch import load_file, save_file

from skxlmr.checkpoints.checksum import NO_CHECKSUM, add_checksum, open_verified
from skxlmr.checkpoints.errors import CheckpointError


@pytest.fixture
def sealed(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.arange(5.0), "b": torch.zeros(2, 3, dtype=torch.uint8)}, path, metadata=NO_CHECKSUM)
    add_checksum(path)
    return path


def test_file_with_checksum_is_read_by_safetensors(sealed):
    with closing(open_verified(sealed)) as file:
        assert file.read("a").tolist() == [0, 1, 2, 3, 4]
    assert load_file(sealed)["a"].tolist() == [0, 1, 2, 3, 4]


def test_open_verified_finds_every_flipped_bit(sealed):
    data = sealed.read_bytes()
    for i in range(len(data)):
        for bit in range(8):
            sealed.write_bytes(data[:i] + bytes([data[i] ^ 1 << bit]) + data[i + 1 :])
            with pytest.raises(CheckpointError):
                open_verified(sealed)


def test_file_replaced_after_it_was_opened_is_read_as_it_was(sealed, tmp_path):
    with closing(open_verified(sealed)) as file:
        save_file({"a": torch.zeros(5)}, tmp_path / "other.safetensors", metadata=NO_CHECKSUM)
        (tmp_path / "other.safetensors").replace(sealed)
        assert file.read("a").tolist() == [0, 1, 2, 3, 4]


def test_open_verified_of_file_without_one_raises(tmp_path):
    save_file({"a": torch.arange(5.0)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="has no checksum"):
        open_verified(tmp_path / "x.safetensors")
