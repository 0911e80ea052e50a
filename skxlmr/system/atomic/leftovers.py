"""Temporary names, which say who writes, and the removal of what killed writers have left."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from skxlmr.system.atomic.disk import remove

# The writer's machine and process are in the name: ".config.json.0a1b2c3d-4711-89abcdef.tmp".
TEMPORARY_NAME = re.compile(r"\.(?P<name>.+)\.(?P<host>[0-9a-f]{8})-(?P<pid>[0-9]+)-[0-9a-f]{8}\.tmp", re.DOTALL)
# Names of earlier versions, which no version writes any more.
EARLIER_NAME = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{16}\.tmp|\.incomplete-.*", re.DOTALL)
# The library safetensors writes to such files, which name neither the writer nor the file.
SAFETENSORS_NAME = re.compile(r"\.tmp[0-9A-Za-z]{6}")
MAX_NAME = 150  # characters of the file's own name in a temporary one; a name may have 255 bytes
# A writer on another machine, or whose process id is in use again, is held to be dead after this time.
DEAD_AFTER_SECONDS = 24 * 3600
NOT_IN_USE_AFTER_SECONDS = 3600  # a file whose writer is unknown

_in_use: set[str] = set()  # temporary names of this process


def temporary_name(name: str) -> str:
    """Return an unused name for a temporary file or folder that is to replace `name`."""
    return f".{name[:MAX_NAME]}.{_host()}-{os.getpid()}-{secrets.token_hex(4)}.tmp"


@contextmanager
def in_use(*paths: Path) -> Iterator[None]:
    """Protect temporary paths from `remove_left_over`, and remove what is left of them at the end."""
    _in_use.update(path.name for path in paths)
    try:
        yield
    finally:
        try:
            for path in paths:
                with suppress(OSError):  # an error in the block is the one to report; the next writer removes it
                    remove(path)
        finally:
            _in_use.difference_update(path.name for path in paths)


def is_temporary(path: Path) -> bool:
    """Whether a name is that of a temporary file or folder, of a living or of a dead writer."""
    return any(pattern.fullmatch(path.name) for pattern in (TEMPORARY_NAME, EARLIER_NAME, SAFETENSORS_NAME))


def is_left_over(path: Path, *, only_ours: bool = False) -> bool:
    """Whether a path is a temporary file or folder whose writer is dead.

    With `only_ours`, no other program writes to its directory.
    """
    if EARLIER_NAME.fullmatch(path.name):
        return True
    if SAFETENSORS_NAME.fullmatch(path.name):
        return only_ours or _age(path) > NOT_IN_USE_AFTER_SECONDS
    found = TEMPORARY_NAME.fullmatch(path.name)
    if found is None or path.name in _in_use:
        return False
    if found["host"] == _host():
        pid = int(found["pid"])
        if pid == os.getpid() or not _is_running(pid):
            return True
    return _age(path) > DEAD_AFTER_SECONDS


def remove_left_over(directory: Path, name: str | None = None, *, only_ours: bool = False) -> None:
    """Remove what dead writers have left in a directory, of `name` only if it is given; errors are ignored.

    With `only_ours`, no other program writes to the directory.
    """
    with suppress(OSError):
        for path in list(directory.iterdir()):
            found = TEMPORARY_NAME.fullmatch(path.name)
            if name is not None and (found is None or found["name"] != name[:MAX_NAME]):
                continue
            if is_left_over(path, only_ours=only_ours):
                with suppress(OSError):
                    remove(path)


def has_living_writer(directory: Path, own: str) -> bool:
    """Whether another writer than `own`, a temporary name, is at work in a directory."""
    names = [path for path in directory.iterdir() if path.name != own and TEMPORARY_NAME.fullmatch(path.name)]
    return not all(map(is_left_over, names))


def _age(path: Path) -> float:
    """Seconds since a file, or an entry of a folder, was last written."""
    try:
        return time.time() - path.lstat().st_mtime
    except OSError:
        return 0.0


@cache
def _host() -> str:
    """Eight digits for the machine, or the container on it, in which process ids are unique."""
    namespace = ""
    with suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(f"{platform.node()} {namespace}".encode()).hexdigest()[:8]


def _is_running(pid: int) -> bool:
    if os.name == "nt":  # where signal 0 would end the process
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        )  # dead, not yet waited for
    except (OSError, IndexError):
        return True
