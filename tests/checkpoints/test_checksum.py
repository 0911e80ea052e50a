"""Safetensors files that contain their own checksum."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from skxlmr.checkpoints.checksum import NO_CHECKSUM, add_checksum, verify_checksum
from skxlmr.checkpoints.errors import CheckpointError


@pytest.fixture
def sealed(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.arange(5.0), "b": torch.zeros(2, 3, dtype=torch.uint8)}, path, metadata=NO_CHECKSUM)
    add_checksum(path)
    return path


def test_file_with_checksum_is_read_by_safetensors(sealed):
    verify_checksum(sealed)
    assert load_file(sealed)["a"].tolist() == [0, 1, 2, 3, 4]


def test_verify_checksum_finds_every_flipped_bit(sealed):
    data = sealed.read_bytes()
    for i in range(len(data)):
        for bit in range(8):
            sealed.write_bytes(data[:i] + bytes([data[i] ^ 1 << bit]) + data[i + 1 :])
            with pytest.raises(CheckpointError):
                verify_checksum(sealed)


def test_verify_checksum_of_file_without_one_raises(tmp_path):
    save_file({"a": torch.arange(5.0)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="has no checksum"):
        verify_checksum(tmp_path / "x.safetensors")
