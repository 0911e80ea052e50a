from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from skxlmr.system import atomic
from skxlmr.system.atomic import whole
from skxlmr.system.atomic.exchange import can_exchange, exchange


@pytest.fixture(params=["exchanged", "in place"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "in place":
        monkeypatch.setattr(whole, "can_exchange", lambda directory: False)
    elif sys.platform != "linux":
        pytest.skip("only Linux exchanges directories")
    return request.param


def contents(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def write(directory: Path, content: bytes, *names: str) -> None:
    with atomic.replacing_whole(directory, size=0, is_obsolete=lambda name: name.startswith("shard")) as new:
        for name in names:
            new.add(name, [content])


@pytest.mark.usefixtures("way")
def test_replacing_whole_replaces_all_and_removes_obsolete_files(tmp_path: Path):
    directory = tmp_path / "a" / "model"
    write(directory, b"old", "config", "shard-1", "shard-2", "sub/x")
    (directory / "README.md").write_bytes(b"mine")
    (directory / "sub" / "notes").write_bytes(b"mine")
    write(directory, b"new", "config", "shard-1", "sub/x", "other/y")
    new = dict.fromkeys(("config", "shard-1", "sub/x", "other/y"), b"new")
    assert contents(directory) == {**new, "README.md": b"mine", "sub/notes": b"mine"}
    assert os.listdir(tmp_path / "a") == ["model"]


@pytest.mark.usefixtures("way")
def test_replacing_whole_keeps_other_folders_and_links(tmp_path: Path):
    directory = tmp_path / "model"
    write(directory, b"old", "config")
    (directory / "runs").mkdir()
    (directory / "runs" / "log").write_bytes(b"mine")
    (directory / "link").symlink_to("runs")
    write(directory, b"new", "config")
    assert contents(directory) == {"config": b"new", "runs/log": b"mine"}
    assert (directory / "link").is_symlink()


@pytest.mark.usefixtures("way")
def test_replacing_whole_through_link_keeps_link(tmp_path: Path):
    write(tmp_path / "model", b"old", "config")
    (tmp_path / "link").symlink_to("model")
    write(tmp_path / "link", b"new", "config")
    assert (tmp_path / "link").is_symlink()
    assert contents(tmp_path / "model") == {"config": b"new"}


@pytest.mark.usefixtures("way")
@pytest.mark.skipif(os.name == "nt", reason="permission bits of POSIX")
def test_replacing_whole_keeps_mode_of_directory(tmp_path: Path):
    write(tmp_path / "model", b"old", "config")
    (tmp_path / "model").chmod(0o750)
    write(tmp_path / "model", b"new", "config")
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == 0o750


@pytest.mark.usefixtures("way")
def test_replacing_whole_with_error_in_block_changes_nothing(tmp_path: Path):
    def interrupted(directory: Path) -> None:
        with atomic.replacing_whole(directory, size=0) as new:
            new.add("config", [b"new"])
            raise KeyboardInterrupt

    write(tmp_path / "model", b"old", "config")
    for name in ("model", "absent"):
        with pytest.raises(KeyboardInterrupt):
            interrupted(tmp_path / name)
    assert contents(tmp_path) == {"model/config": b"old"}
    assert os.listdir(tmp_path) == ["model"]


def test_replacing_whole_in_current_directory_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path, b"old", "config")
    monkeypatch.chdir(tmp_path)
    write(Path(), b"new", "config")
    assert Path("config").read_bytes() == b"new"
    assert os.path.samefile(".", tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux exchanges directories")
def test_replacing_whole_while_another_program_adds_file_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    directory = tmp_path / "model"
    write(directory, b"old", "config")

    def late(first: Path, second: Path) -> None:
        (second / "late").write_bytes(b"mine")
        exchange(first, second)

    monkeypatch.setattr(whole, "exchange", late)
    write(directory, b"new", "config")
    assert contents(directory) == {"config": b"new", "late": b"mine"}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux exchanges directories")
def test_exchange_exchanges_directories(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    assert can_exchange(tmp_path / "a")
    exchange(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a" / "file").read_text() == "b"
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "a", tmp_path / "absent")


def test_can_exchange_of_root_and_missing_directory_is_false(tmp_path: Path):
    assert not can_exchange(Path("/"))
    assert not can_exchange(tmp_path / "missing")
