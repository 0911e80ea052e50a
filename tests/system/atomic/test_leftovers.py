from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from skxlmr.system import atomic
from skxlmr.system.atomic import leftovers
from skxlmr.system.atomic.leftovers import in_use, is_left_over, remove_left_over, temporary_name

DAY = 24 * 3600


def made(path: Path, age: float = 0) -> Path:
    path.write_bytes(b"")
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def name_of(pid: int, host: str | None = None) -> str:
    return f".config.json.{host or leftovers._host()}-{pid}-0123abcd.tmp"


@pytest.fixture  # for each test anew: other processes get the number again after a while
def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize(
    ("name", "age", "expected"),
    [
        (".config.json.0123456789abcdef.tmp", 0, True),  # of an earlier version
        (".incomplete-1234", 0, True),
        (".tmpA1b2C3", 0, False),  # of safetensors, which may be in use
        (".tmpA1b2C3", DAY, True),
        (name_of(1), 0, False),  # a process that is running
        (name_of(1), 2 * DAY, True),
        (name_of(1, "00000000"), 0, False),  # on another machine
        (name_of(1, "00000000"), 2 * DAY, True),
        ("config.json", 2 * DAY, False),
        (".config.json.tmp", 2 * DAY, False),
        (".hidden", 2 * DAY, False),
    ],
)
def test_is_left_over_by_process_and_age(tmp_path: Path, name: str, age: float, expected: bool):
    assert is_left_over(made(tmp_path / name, age)) is expected


def test_is_left_over_of_this_process_or_of_one_that_had_its_number(tmp_path: Path):
    assert is_left_over(made(tmp_path / name_of(os.getpid()), age=0))


def test_is_left_over_of_dead_process(tmp_path: Path, dead_pid: int):
    assert is_left_over(made(tmp_path / name_of(dead_pid)))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_is_left_over_of_process_that_nobody_waited_for(tmp_path: Path):
    process = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    process.stdout.read()
    deadline = time.monotonic() + 30
    while not is_left_over(made(tmp_path / name_of(process.pid))) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert is_left_over(tmp_path / name_of(process.pid))
    process.wait()
    process.stdout.close()


def test_in_use_protects_and_removes(tmp_path: Path):
    path = tmp_path / temporary_name("config.json")
    with in_use(path):
        made(path)
        remove_left_over(tmp_path)
        assert path.exists()
    assert not path.exists()


def test_remove_left_over_removes_files_and_folders(tmp_path: Path, dead_pid: int):
    folder = tmp_path / name_of(dead_pid)
    folder.mkdir()
    made(folder / "part")
    for name in ("config.json", ".incomplete-0", ".hidden"):
        made(tmp_path / name)
    remove_left_over(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".hidden", "config.json"]
    remove_left_over(tmp_path / "missing")


def test_remove_left_over_with_name_keeps_those_of_others(tmp_path: Path, dead_pid: int):
    made(tmp_path / name_of(dead_pid))
    remove_left_over(tmp_path, "other")
    assert len(os.listdir(tmp_path)) == 1
    remove_left_over(tmp_path, "config.json")
    assert os.listdir(tmp_path) == []


def test_is_temporary_of_living_and_dead_writers(dead_pid: int):
    for name in (name_of(1), name_of(dead_pid), temporary_name("x"), ".incomplete-0", ".tmpA1b2C3"):
        assert atomic.is_temporary(Path(name))
    assert not atomic.is_temporary(Path("config.json"))


def test_temporary_name_of_long_name_is_short_enough():
    assert len(temporary_name("x" * 255)) < 255
