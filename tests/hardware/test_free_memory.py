from __future__ import annotations

from pathlib import Path

import pytest
import torch

from skxlmr.hardware import free_memory as module
from skxlmr.hardware.free_memory import available_memory

CPU = torch.device("cpu")
MIB = 2**20


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Linux machine with 8,000 MiB available and no control groups."""
    monkeypatch.setattr(module, "PROC", tmp_path / "proc")
    monkeypatch.setattr(module, "CGROUP", tmp_path / "cgroup")
    write(
        tmp_path / "proc" / "meminfo", f"MemTotal: 16384000 kB\nMemAvailable:   {8000 * 1024} kB\nHugePages_Total: 0\n"
    )
    return tmp_path


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{content}\n")


def version_2(folder: Path, limit: int | str, used: int, files: int = 0) -> None:
    write(folder / "memory.max", limit)
    write(folder / "memory.current", used)
    write(folder / "memory.stat", f"anon 7\nfile 9\nactive_file {files // 2}\ninactive_file {files - files // 2}")


def version_1(folder: Path, limit: int, used: int, files: int = 0) -> None:
    write(folder / "memory.limit_in_bytes", limit)
    write(folder / "memory.usage_in_bytes", used)
    write(folder / "memory.stat", f"active_file 0\ntotal_active_file {files}\ntotal_inactive_file 0")


def test_available_memory_without_control_groups_is_that_of_meminfo(system: Path):
    assert available_memory(CPU) == 8000 * MIB


def test_available_memory_of_this_machine_is_plausible():
    available = available_memory(CPU)
    assert available is None or 0 <= available < 2**50


def test_available_memory_in_a_container_is_limited_by_its_group(system: Path):
    write(system / "proc" / "self" / "cgroup", "0::/")
    version_2(system / "cgroup", 4000 * MIB, 3000 * MIB, files=1000 * MIB)
    assert available_memory(CPU) == 2000 * MIB  # the page cache counts as free


def test_available_memory_is_limited_by_parent_groups(system: Path):
    write(system / "proc" / "self" / "cgroup", "0::/user.slice/job:1/step")
    version_2(system / "cgroup" / "user.slice" / "job:1" / "step", "max", 10 * MIB)
    version_2(system / "cgroup" / "user.slice" / "job:1", 1000 * MIB, 400 * MIB)
    version_2(system / "cgroup" / "user.slice", 9000 * MIB, 500 * MIB)
    assert available_memory(CPU) == 600 * MIB


def test_available_memory_with_control_groups_version_1_is_limited(system: Path):
    write(system / "proc" / "self" / "cgroup", "9:cpu,cpuacct:/x\n4:memory:/docker/abc\n0::/")
    version_1(system / "cgroup" / "memory", 2**63 - 4096, 5000 * MIB)
    assert available_memory(CPU) == 8000 * MIB
    version_1(system / "cgroup" / "memory" / "docker" / "abc", 3000 * MIB, 2500 * MIB, files=500 * MIB)
    assert available_memory(CPU) == 1000 * MIB
    version_1(system / "cgroup" / "memory", 100 * MIB, 90 * MIB)  # a container that sees its own group as the root
    assert available_memory(CPU) == 10 * MIB


def test_available_memory_beyond_the_limit_is_zero(system: Path):
    write(system / "proc" / "self" / "cgroup", "0::/")
    version_2(system / "cgroup", 1000 * MIB, 1001 * MIB)
    assert available_memory(CPU) == 0


@pytest.mark.parametrize("meminfo", [None, "", "MemTotal: 1 kB", "MemAvailable: much kB"])
def test_available_memory_without_meminfo_is_none(system: Path, meminfo: str | None):
    (system / "proc" / "meminfo").unlink()
    if meminfo is not None:
        write(system / "proc" / "meminfo", meminfo)
    assert available_memory(CPU) is None
    assert available_memory(torch.device("mps")) is None


def test_available_memory_of_a_gpu_includes_unused_reserved(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3 * MIB, 80 * MIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 7 * MIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 5 * MIB)
    assert available_memory(torch.device("cuda", 0)) == 5 * MIB


@pytest.mark.usefixtures("gpu")
def test_available_memory_of_this_gpu_drops_by_what_is_taken():
    device = torch.device("cuda", 0)
    before = available_memory(device)
    taken = torch.empty(256 * MIB, dtype=torch.uint8, device=device)
    assert before - available_memory(device) >= taken.nbytes
    del taken  # torch keeps it reserved: it counts as available again
    assert available_memory(device) > before - 64 * MIB
