from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from skxlmr.system import atomic

LEFT_OVER = ".index.json.0123456789abcdef.tmp"


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def write_parts(directory: Path, content: bytes, *parts: str, **options: object) -> None:
    with atomic.replacing_files(directory, last="index.json", **options) as staging:
        for part in parts:
            (staging / part).write_bytes(content)
        (staging / "index.json").write_bytes(content)


def fail_in_call(monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
    """Make the `number`-th call of a function of `os` fail, and succeed in all others."""
    original, calls = getattr(os, name), []

    def wrapper(*args: object) -> None:
        calls.append(args)
        if len(calls) == number:
            raise OSError(28, "No space left on device")
        original(*args)

    monkeypatch.setattr(os, name, wrapper)


def test_write_bytes_to_existing_file_replaces_it(tmp_path: Path):
    path = tmp_path / "history.csv"
    atomic.write_bytes(path, b"old")
    atomic.write_bytes(str(path), b"new")
    assert contents(tmp_path) == {"history.csv": b"new"}


def test_write_bytes_without_directory_raises(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        atomic.write_bytes(tmp_path / "missing" / "history.csv", b"new")


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_write_bytes_on_full_disk_keeps_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str):
    (tmp_path / "history.csv").write_bytes(b"old")
    fail_in_call(monkeypatch, failing, 1)
    with pytest.raises(OSError, match="No space left"):
        atomic.write_bytes(tmp_path / "history.csv", b"new")
    assert contents(tmp_path) == {"history.csv": b"old"}


def test_replacing_with_error_in_block_keeps_old_file(tmp_path: Path):
    (tmp_path / "history.csv").write_bytes(b"old")

    def interrupted() -> None:
        with atomic.replacing(tmp_path / "history.csv") as temporary:
            temporary.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert contents(tmp_path) == {"history.csv": b"old"}


def write_private(path: Path) -> None:
    """Write as safetensors does: another file, readable to its owner alone, takes the place of an existing one."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)


def replace_one(directory: Path) -> None:
    with atomic.replacing(directory / "index.json") as temporary:
        write_private(temporary)


def replace_several(directory: Path) -> None:
    with atomic.replacing_files(directory, last="index.json") as staging:
        write_private(staging / "part")
        write_private(staging / "index.json")


@pytest.mark.skipif(os.name == "nt", reason="permission bits of POSIX")
@pytest.mark.parametrize("write", [replace_one, replace_several])
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_written_files_have_mode_of_umask(tmp_path: Path, write: Callable[[Path], None], umask: int):
    before = os.umask(umask)
    try:
        write(tmp_path)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o666 & ~umask}


def test_replacing_files_creates_directory(tmp_path: Path):
    write_parts(tmp_path / "new" / "model", b"new", "part-1", "part-2")
    assert contents(tmp_path / "new" / "model") == {"index.json": b"new", "part-1": b"new", "part-2": b"new"}


def test_replacing_files_removes_obsolete_files_only(tmp_path: Path):
    write_parts(tmp_path, b"old", "part-1", "part-2")
    (tmp_path / "README.md").write_bytes(b"mine")
    write_parts(tmp_path, b"new", "part-1", until_then=b"wait", obsolete=lambda path: path.name.startswith("part"))
    assert contents(tmp_path) == {"index.json": b"new", "part-1": b"new", "README.md": b"mine"}


@pytest.mark.parametrize("failing", ["fsync", "replace"])
@pytest.mark.parametrize("call", [1, 2])
def test_replacing_files_on_full_disk_keeps_old_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, call: int
):
    write_parts(tmp_path, b"old", "part-1")
    fail_in_call(monkeypatch, failing, call)
    with pytest.raises(OSError, match="No space left"):
        write_parts(tmp_path, b"new", "part-2", obsolete=lambda path: path.name == "part-1")
    assert contents(tmp_path) == {"index.json": b"old", "part-1": b"old"}


def test_replacing_files_on_full_disk_removes_new_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fail_in_call(monkeypatch, "fsync", 1)
    with pytest.raises(OSError, match="No space left"):
        write_parts(tmp_path / "new", b"new", "part-1")
    assert names(tmp_path) == []


def test_replacing_files_interrupted_after_last_rename_keeps_new_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_parts(tmp_path, b"old", "part-1")
    replace = os.replace

    def interrupted(source: Path, target: Path) -> None:
        replace(source, target)
        if target.name == "index.json":
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_parts(tmp_path, b"new", "part-2")
    assert contents(tmp_path) == {"index.json": b"new", "part-1": b"old", "part-2": b"new"}


def test_replacing_files_with_marker_renames_last_file_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_parts(tmp_path, b"old", "part-1", "part-2")
    replace, seen = os.replace, []

    def observed(source: Path, target: Path) -> None:
        replace(source, target)
        seen.append((target.name, (tmp_path / "index.json").read_bytes()))

    monkeypatch.setattr(os, "replace", observed)
    write_parts(tmp_path, b"new", "part-1", "part-2", until_then=b"wait")
    assert seen[0] == ("index.json", b"wait")
    assert sorted(seen[1:3]) == [("part-1", b"wait"), ("part-2", b"wait")]
    assert seen[3:] == [("index.json", b"new")]


@pytest.mark.parametrize("present", [None, b"damaged"])
def test_replacing_directory_replaces_damaged_one(tmp_path: Path, present: bytes | None):
    directory = tmp_path / "model"
    if present is not None:
        directory.mkdir()
        (directory / "file").write_bytes(present)
    with atomic.replacing_directory(directory, is_complete=lambda path: False) as temporary:
        temporary.mkdir()
        (temporary / "file").write_bytes(b"new")
    assert names(tmp_path) == ["model"]
    assert contents(directory) == {"file": b"new"}


def test_replacing_directory_keeps_complete_one_of_other_process(tmp_path: Path):
    directory = tmp_path / "model"
    with atomic.replacing_directory(directory, is_complete=Path.exists) as temporary:
        for path, content in ((temporary, b"late"), (directory, b"early")):
            path.mkdir()
            (path / "file").write_bytes(content)
    assert names(tmp_path) == ["model"]
    assert contents(directory) == {"file": b"early"}


def test_replacing_directory_with_error_in_block_leaves_nothing(tmp_path: Path):
    def interrupted() -> None:
        with atomic.replacing_directory(tmp_path / "model", is_complete=Path.exists) as temporary:
            temporary.mkdir()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert names(tmp_path) == []


def test_remove_left_over_removes_temporary_files_and_folders(tmp_path: Path):
    for name in (LEFT_OVER, "index.json", ".index.json.tmp", ".other.0123456789abcdef.tmp"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / LEFT_OVER.replace("0", "f")).mkdir()
    (tmp_path / LEFT_OVER.replace("0", "f") / "part").write_bytes(b"")
    atomic.remove_left_over(tmp_path)
    assert names(tmp_path) == [".index.json.tmp", "index.json"]
    atomic.remove_left_over(tmp_path / "missing")


def test_is_left_over_with_name_ignores_files_of_others():
    assert atomic.is_left_over(Path(LEFT_OVER), "index.json")
    assert not atomic.is_left_over(Path(LEFT_OVER), "config.json")
    assert not atomic.is_left_over(Path("index.json"), "index.json")


KILLED = """
import os, signal, sys
from pathlib import Path
from skxlmr.system import atomic

with atomic.{writer} as temporary:
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
@pytest.mark.parametrize(
    "writer", ["replacing(Path(sys.argv[1]) / 'index.json')", "replacing_files(sys.argv[1], last='index.json')"]
)
def test_killed_writer_leaves_only_what_remove_left_over_removes(tmp_path: Path, writer: str):
    command = [sys.executable, "-c", KILLED.format(writer=writer), str(tmp_path)]
    assert subprocess.run(command, timeout=60).returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert atomic.is_left_over(left, "index.json")
    atomic.remove_left_over(tmp_path)
    assert names(tmp_path) == []


def test_remove_missing_file_does_nothing(tmp_path: Path):
    atomic.remove(tmp_path / "missing")


def test_remove_link_to_folder_keeps_folder(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    atomic.remove(tmp_path / "link")
    assert names(tmp_path) == ["folder"]
