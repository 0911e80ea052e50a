from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from skxlmr.system import atomic


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_write_bytes_to_existing_file_replaces_it(tmp_path: Path):
    path = tmp_path / "history.csv"
    atomic.write_bytes(path, b"old")
    atomic.write_bytes(str(path), b"new")
    assert contents(tmp_path) == {"history.csv": b"new"}


def test_write_bytes_without_directory_raises(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        atomic.write_bytes(tmp_path / "missing" / "history.csv", b"new")


@pytest.mark.parametrize("failing", ["write", "fsync", "replace"])
def test_write_bytes_on_full_disk_keeps_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str):
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "history.csv").write_bytes(b"old")
    monkeypatch.setattr(os, failing, full)
    with pytest.raises(OSError, match="No space left"):
        atomic.write_bytes(tmp_path / "history.csv", b"new")
    assert contents(tmp_path) == {"history.csv": b"old"}


def test_write_bytes_with_name_of_255_bytes_writes_it(tmp_path: Path):
    atomic.write_bytes(tmp_path / ("x" * 255), b"new")
    assert contents(tmp_path) == {"x" * 255: b"new"}


def test_replacing_with_error_in_block_keeps_old_file(tmp_path: Path):
    (tmp_path / "history.csv").write_bytes(b"old")

    def interrupted() -> None:
        with atomic.replacing(tmp_path / "history.csv") as temporary:
            temporary.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert contents(tmp_path) == {"history.csv": b"old"}


@pytest.mark.skipif(os.name == "nt", reason="permission bits of POSIX")
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_written_files_have_mode_of_umask(tmp_path: Path, umask: int):
    before = os.umask(umask)
    try:
        atomic.write_bytes(tmp_path / "one", b"")
        with atomic.replacing_version(tmp_path / "a", manifest="m", size=0, unused=lambda d: set()) as new:
            new.add_by_content("part-{}", [b"x"])
            new.add("m", [b"x"])
        with atomic.replacing_whole(tmp_path / "b", size=0) as new:
            new.add("m", [b"x"])
            new.add("sub/n", [b"x"])
    finally:
        os.umask(before)
    paths = list(tmp_path.rglob("*"))
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths if path.is_file()} == {0o666 & ~umask}
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths if path.is_dir()} == {0o777 & ~umask}
