from __future__ import annotations

import errno
import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from skxlmr.system import atomic
from skxlmr.system.atomic.disk import sync_directory


def test_write_file_returns_size_and_checksum(tmp_path: Path):
    parts = [b"ab", bytearray(b"c"), memoryview(np.arange(3, dtype=np.int16)), b""]
    entry = atomic.write_file(tmp_path / "file", parts)
    data = (tmp_path / "file").read_bytes()
    assert data == b"abc\0\0\1\0\2\0"
    assert entry == {"bytes": 9, "sha256": hashlib.sha256(data).hexdigest()}
    with pytest.raises(FileExistsError):
        atomic.write_file(tmp_path / "file", [])


def test_write_file_with_partial_writes_writes_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
    atomic.write_file(tmp_path / "file", [b"0123456789"])
    assert (tmp_path / "file").read_bytes() == b"0123456789"


def test_write_file_on_full_disk_raises_oserror_that_names_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match=r"No space left on device: .*file") as raised:
        atomic.write_file(tmp_path / "file", [b"x"])
    assert raised.value.errno == errno.ENOSPC


def test_overwrite_changes_some_bytes(tmp_path: Path):
    atomic.write_file(tmp_path / "file", [b"0123456789"])
    atomic.overwrite(tmp_path / "file", 3, b"ab")
    assert (tmp_path / "file").read_bytes() == b"012ab56789"


def test_check_space_of_missing_folder_raises_with_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 0, 1_234_000_000))
    atomic.check_space(tmp_path / "a" / "b", 1_234_000_000)
    with pytest.raises(OSError, match=r"13\.9 GB are needed, and the disk of the folder has 1\.23 GB left") as raised:
        atomic.check_space(tmp_path / "a" / "b", 13_900_000_000)
    assert raised.value.errno == errno.ENOSPC


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 bytes"), (999, "999 bytes"), (24_000_000, "24 MB"), (5 * 10**12, "5,000 GB")]
)
def test_format_bytes(number: int, text: str):
    assert atomic.format_bytes(number) == text


def test_remove_of_missing_file_does_nothing(tmp_path: Path):
    atomic.remove(tmp_path / "missing")
    sync_directory(tmp_path / "missing")


def test_remove_of_link_to_folder_keeps_folder(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    atomic.remove(tmp_path / "link")
    assert os.listdir(tmp_path) == ["folder"]
