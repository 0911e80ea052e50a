from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from skxlmr.checkpoints.errors import CheckpointError, UnsafeCheckpointError
from skxlmr.checkpoints.files import checked_file, read_json, read_limited


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1, "a": 2}', "'a' appears twice"),
        (b'{"outer": {"b": 1, "b": 1}}', "'b' appears twice"),
        (b'{"a": NaN}', "NaN is not"),
        (b'{"a": -Infinity}', "-Infinity is not"),
        (b'{"a": 1e999}', "1e999 is too large"),
        (b'["a"]', "a JSON list"),
        (b"3", "a JSON int"),
        (b"", "not valid JSON"),
        (b'{"a": 1', "not valid JSON"),
        (b'{"a": "\xff"}', "utf-8"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested deeper than 100"),
        (b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}", "nested deeper than 100"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_read_json_with_invalid_content_raises(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_json(path)
    assert str(path) in str(caught.value)


def test_read_json_returns_object(tmp_path: Path):
    path = tmp_path / "config.json"
    path.write_text('{"eps": 1e-05, "id2label": {"0": "gut ✓"}, "none": null}', encoding="utf-8")
    assert read_json(path) == {"eps": 1e-05, "id2label": {"0": "gut ✓"}, "none": None}


def test_read_json_with_large_file_raises(tmp_path: Path):
    path = tmp_path / "config.json"
    path.write_text('{"a": "' + "x" * 92 + '"}')
    assert path.stat().st_size == 101
    with pytest.raises(CheckpointError, match="larger than the 100 bytes"):
        read_json(path, max_bytes=100)
    assert read_json(path, max_bytes=101)["a"] == "x" * 92


def test_read_json_with_missing_file_or_directory_raises(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        read_json(tmp_path / "config.json")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_json(tmp_path)


def test_checked_file_with_link_out_of_root_raises(tmp_path: Path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "file").write_bytes(b"")
    (tmp_path / "secret").write_bytes(b"")
    (root / "inside").symlink_to("file")
    (root / "outside").symlink_to(tmp_path / "secret")
    (root / "dangling").symlink_to("nothing")
    (root / "loop").symlink_to("loop")
    assert checked_file(root / "inside", root) == root / "inside"
    with pytest.raises(UnsafeCheckpointError, match="outside is a link to"):
        checked_file(root / "outside", root)
    for name in ("dangling", "loop", "missing"):
        with pytest.raises(CheckpointError, match=f"{name} cannot be read"):
            checked_file(root / name, root)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes of POSIX")
def test_checked_file_with_named_pipe_raises(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="pipe is not a regular file"):
        checked_file(tmp_path / "pipe", tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes of POSIX")
def test_read_limited_with_named_pipe_raises_without_waiting(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor(1) as thread:
        reading = thread.submit(read_limited, tmp_path / "pipe")
        try:
            with pytest.raises(CheckpointError, match="pipe cannot be read: it is not a regular file"):
                reading.result(timeout=30)
        finally:
            os.close(os.open(tmp_path / "pipe", os.O_RDWR))  # ends a read that waits
