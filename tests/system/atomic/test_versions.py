from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from skxlmr.system import atomic
from skxlmr.system.atomic import leftovers


def unused(directory: Path) -> set[str]:
    present = (directory / "manifest").read_text() if (directory / "manifest").exists() else None
    return {path.name for path in directory.glob("part-*") if path.name != present}


def write(directory: Path, content: bytes) -> None:
    with atomic.replacing_version(directory, manifest="manifest", size=len(content), unused=unused) as new:
        entry = new.add_by_content("part-{}", [content])
        new.add("manifest", [str(entry["file"]).encode()])


def read(directory: Path) -> bytes:
    return (directory / (directory / "manifest").read_text()).read_bytes()


def test_replacing_version_creates_directory_and_replaces(tmp_path: Path):
    for content in (b"old", b"new", b"new"):
        write(tmp_path / "a" / "b", content)
        assert read(tmp_path / "a" / "b") == content
        assert len(os.listdir(tmp_path / "a" / "b")) == 2


def test_replacing_version_names_files_by_content(tmp_path: Path):
    write(tmp_path / "a", b"same")
    write(tmp_path / "b", b"same")
    write(tmp_path / "c", b"other")
    assert sorted(os.listdir(tmp_path / "a")) == sorted(os.listdir(tmp_path / "b"))
    assert {path.name for path in (tmp_path / "a").iterdir()} != {path.name for path in (tmp_path / "c").iterdir()}


def test_replacing_version_keeps_files_that_are_not_its_own(tmp_path: Path):
    write(tmp_path, b"old")
    (tmp_path / "notes").write_text("mine")
    write(tmp_path, b"new")
    assert (tmp_path / "notes").read_text() == "mine"


def test_replacing_version_with_error_in_block_leaves_no_new_directory(tmp_path: Path):
    def interrupted() -> None:
        with atomic.replacing_version(tmp_path / "new", manifest="m", size=0, unused=unused) as new:
            new.add("m", [b"x"])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert os.listdir(tmp_path) == []


def test_replacing_version_without_lock_keeps_files_while_another_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The other writer has renamed its files already, and its manifest not yet."""

    def refuse(*args: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    fcntl = pytest.importorskip("fcntl", reason="Windows has no lock of directories")
    monkeypatch.setattr(fcntl, "flock", refuse)
    other = tmp_path / leftovers.temporary_name("manifest")
    other.mkdir()
    (tmp_path / "part-of-the-other").write_bytes(b"other")
    with leftovers.in_use(other):
        write(tmp_path, b"new")
        assert (tmp_path / "part-of-the-other").exists()
    write(tmp_path, b"newer")
    assert not (tmp_path / "part-of-the-other").exists()
    assert read(tmp_path) == b"newer"
