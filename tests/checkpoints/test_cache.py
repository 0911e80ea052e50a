"""The cache of quantised weights."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from skxlmr.checkpoints import cache
from skxlmr.checkpoints.cache import cached_path, clear_cached, find_cached, list_cached, write_cached
from skxlmr.cli import main
from skxlmr.model import XLMRobertaXLModel

KEY, OTHER = "a" * 64, "b" * 64


def tensors():
    generator = torch.Generator().manual_seed(0)
    return {
        "layer.weight": torch.randint(-127, 128, (300, 1001), dtype=torch.int8, generator=generator),
        "layer.SCB": torch.rand(300, generator=generator),
        "norm.weight": torch.randn(7, generator=generator).bfloat16(),
        "words": torch.randn(5, 3, generator=generator).half(),
        "packed": torch.randint(0, 255, (9, 1), dtype=torch.uint8, generator=generator),
        "columns": torch.tensor([3, 5]),
        "none": torch.empty(0, dtype=torch.int64),
        "scalar": torch.tensor(2.5),
        "strided": torch.randn(4, 6, generator=generator).t(),
    }


def same(found):
    written = tensors()
    return (
        found is not None
        and found.keys() == written.keys()
        and all(torch.equal(found[name], tensor) for name, tensor in written.items())
    )


@pytest.fixture
def path(own_cache):
    return write_cached(KEY, "int8", tensors(), model="tiny")


def test_find_cached_after_write_returns_tensors(path):
    assert same(find_cached(KEY, "int8"))
    assert find_cached(KEY, "nf4") is None
    assert find_cached(OTHER, "int8") is None
    assert [child.name for child in path.parent.iterdir()] == [path.name]


def test_write_cached_file_is_valid_safetensors(path):
    assert same(load_file(path))


def test_find_cached_tensors_are_aligned(path):
    for tensor in find_cached(KEY, "int8").values():
        assert tensor.data_ptr() % tensor.element_size() == 0


def test_find_cached_tensor_changed_in_place_keeps_file(path):
    find_cached(KEY, "int8")["layer.weight"].zero_()
    assert same(find_cached(KEY, "int8"))


def test_find_cached_with_damage_in_any_block_returns_none(own_cache, monkeypatch):
    monkeypatch.setattr(cache, "BLOCK_BYTES", 1000)
    path = write_cached(KEY, "int8", tensors(), model="tiny")
    assert same(find_cached(KEY, "int8"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.warns(UserWarning, match="made again"):
        assert find_cached(KEY, "int8") is None


@pytest.mark.parametrize(
    "place", [0, 3, 9, 20, "sha256", "format_version", "fingerprint", "shape", 4096, 5000, -1, -700]
)
def test_find_cached_with_flipped_bit_warns_and_removes_file(path, place):
    data = bytearray(path.read_bytes())
    index = data.index(place.encode()) + len(place) + 4 if isinstance(place, str) else place
    data[index] ^= 1
    path.write_bytes(data)
    with pytest.warns(UserWarning, match="made again"):
        assert find_cached(KEY, "int8") is None
    assert not path.exists()
    write_cached(KEY, "int8", tensors(), model="tiny")
    assert same(find_cached(KEY, "int8"))


@pytest.mark.parametrize(
    "change", [lambda d: d[:-1], lambda d: d[:2000], lambda d: d[:5], lambda d: b"", lambda d: d + b"x"]
)
def test_find_cached_with_wrong_length_warns(path, change):
    path.write_bytes(change(path.read_bytes()))
    with pytest.warns(UserWarning, match="made again"):
        assert find_cached(KEY, "int8") is None


def test_find_cached_with_file_of_other_checkpoint_warns(path):
    shutil.copy(path, cached_path(OTHER, "int8"))
    with pytest.warns(UserWarning, match="another checkpoint"):
        assert find_cached(OTHER, "int8") is None


def test_write_cached_without_disk_space_raises_before_writing(own_cache, monkeypatch):
    own_cache.mkdir(parents=True)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(OSError, match=r"kB are needed, and the disk of the folder has 1 kB left") as raised:
        write_cached(KEY, "int8", tensors(), model="tiny")
    assert raised.value.errno == errno.ENOSPC
    assert not list(own_cache.iterdir())


def test_write_cached_on_full_disk_leaves_no_file(own_cache, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_cached(KEY, "int8", tensors(), model="tiny")
    assert not list(own_cache.iterdir())


needs_fifo = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")


@needs_fifo
def test_find_cached_with_something_else_in_place_of_file_does_not_wait(path):
    path.unlink()
    code = f"""
import os, warnings
from pathlib import Path
warnings.simplefilter("ignore")
path = Path({str(path)!r})
for make, remove in ((os.mkfifo, os.unlink), (os.mkdir, os.rmdir), (lambda p: p.symlink_to("/dev/zero"), os.unlink)):
    make(path)
    print(find_cached({KEY!r}, "int8"), list_cached(), flush=True)
    if os.path.lexists(path):
        remove(path)
"""
    process = run(code, path.parents[1])
    try:
        assert process.communicate(timeout=300)[0] == "None []\n" * 3
    finally:
        process.kill()


def test_find_cached_removed_after_it_was_opened_is_mapped(path, monkeypatch):
    real = cache._checksum

    def removing(file, header):
        path.unlink()
        return real(file, header)

    monkeypatch.setattr(cache, "_checksum", removing)
    assert same(find_cached(KEY, "int8"))


def test_find_cached_removed_and_replaced_keeps_mapped_content(path):
    found = find_cached(KEY, "int8")
    path.unlink()
    path.write_bytes(b"x")
    assert same(found)


def test_find_cached_shortened_after_its_checksum_warns(path, monkeypatch):
    real = cache._checksum

    def shortening(file, header):
        result = real(file, header)
        os.truncate(path, 5000)
        return result

    monkeypatch.setattr(cache, "_checksum", shortening)
    with pytest.warns(UserWarning, match="damaged and made again: .*truncated"):
        assert find_cached(KEY, "int8") is None


def test_find_cached_that_cannot_be_mapped_warns(path, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(cache.mmap, "mmap", refuse)
    with pytest.warns(UserWarning, match="cannot be read: .*Cannot allocate memory.* SKXLMR_CACHE chooses"):
        assert find_cached(KEY, "int8") is None
    assert path.exists()


@pytest.fixture
def without_home(monkeypatch):
    """A user without a home directory: no HOME, and an id that is not in the list of users."""
    for name in ("SKXLMR_CACHE", "HOME", "USERPROFILE", "XDG_CACHE_HOME", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    pwd = pytest.importorskip("pwd", reason="needs the list of users of Unix")

    def unknown(uid):
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)


def test_cache_directory_without_home_raises(without_home):
    with pytest.raises(FileNotFoundError, match=r"no home directory.* Set the environment variable SKXLMR_CACHE"):
        cache.cache_directory()


def test_cache_directory_of_platformdirs_that_returns_relative_path_raises(without_home, monkeypatch):
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: Path("~/.cache") / name)  # its older versions
    with pytest.raises(FileNotFoundError, match="SKXLMR_CACHE"):
        cache.cache_directory()


def test_from_pretrained_without_home_warns_and_quantises(without_home, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="SKXLMR_CACHE") as caught:
        model = XLMRobertaXLModel.from_pretrained("nano", load_in_8bit=True, add_pooling_layer=False)
    assert len(caught) == 1
    assert str(caught[0].message).count("SKXLMR_CACHE") == 1
    assert model(torch.tensor([[0, 5, 6, 2]])).last_hidden_state.isfinite().all()
    assert list(tmp_path.iterdir()) == []


def test_main_without_home_reports_it(without_home, capsys):
    assert main(["cache", "list"]) == 1
    assert "SKXLMR_CACHE" in capsys.readouterr().err


def test_building_without_locks_continues(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("SKXLMR_CACHE", str(tmp_path / "file"))
    with cache.building(KEY, "int8"):
        entered = True
    assert entered


def test_building_with_error_in_block_raises_it(own_cache):
    with pytest.raises(OSError, match="mine"), cache.building(KEY, "int8"):
        raise OSError("mine")


def test_clear_cached_removes_files_of_cache_only(path):
    write_cached(OTHER, "nf4", tensors(), model="other")
    assert [(file.model, file.kind) for file in list_cached()] == [("tiny", "int8"), ("other", "nf4")]
    assert list_cached()[0].nbytes == path.stat().st_size
    assert [file.model for file in clear_cached("tiny")] == ["tiny"]
    assert [file.model for file in list_cached()] == ["other"]
    (path.parent / f".{path.name}.0123456789abcdef.tmp").write_bytes(b"left over")
    (path.parent / "notes.txt").write_text("not ours")
    assert [file.model for file in clear_cached()] == ["other"]
    assert [child.name for child in path.parent.iterdir()] == ["notes.txt"]


def test_list_cached_without_directory_is_empty(own_cache):
    assert list_cached() == []
    assert clear_cached() == []


def run(code, directory, *arguments, **options):
    environment = {**os.environ, "SKXLMR_CACHE": str(directory), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", "import torch\nfrom skxlmr.checkpoints.cache import *\n" + code, *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, **options)


WRITE = """
tensors = {str(i): torch.full((1_000_000,), i, dtype=torch.int8) for i in range(20)}
print("go", flush=True)
for _ in range(%d):
    write_cached("a" * 64, "int8", tensors, model="x")
"""


def test_write_cached_from_two_processes_leaves_one_complete_file(own_cache):
    two = "import os\nchild = os.fork()\n" + WRITE % 3 + "if child:\n    assert os.waitpid(child, 0)[1] == 0\n"
    writer = run(two, own_cache.parent)
    assert writer.wait(300) == 0
    writer.stdout.close()
    found = find_cached(KEY, "int8")
    assert all((found[str(i)] == i).all() for i in range(20))
    assert len(list(own_cache.iterdir())) == 1


def test_find_cached_after_killed_writer_is_complete_or_none(own_cache):
    writer = run(WRITE % 1000, own_cache.parent)
    writer.stdout.readline()
    deadline = time.monotonic() + 30
    while not list(own_cache.glob(".*.tmp")) and time.monotonic() < deadline:
        time.sleep(0.001)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    found = find_cached(KEY, "int8")  # an earlier round may have been complete
    assert found is None or all((found[str(i)] == i).all() for i in range(20))


# VmHWM is the maximum of this program alone; ru_maxrss begins at the memory of the process that started it.
MEMORY = """
def maximum():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
tensors = {"w": torch.ones(200_000_000, dtype=torch.int8), "b": torch.ones(10)}
before = maximum()
write_cached("c" * 64, "int8", tensors, model="x")
print(maximum() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux, to measure memory")
def test_write_cached_does_not_copy_tensors(own_cache):
    process = run(MEMORY, own_cache.parent)
    grown = int(process.communicate(timeout=300)[0])
    assert process.returncode == 0
    assert grown < 120_000  # KiB: the blocks that are being hashed, 16 MiB in each of up to four threads


SHARED = """
import multiprocessing, os, sys
def read(both):
    found = find_cached("c" * 64, "int8")
    total = found["w"].view(torch.int64).sum()
    both.wait(300)
    sizes, inside = {"Pss": 0, "Rss": 0}, False
    for line in open("/proc/self/smaps"):
        name, _, value = line.partition(":")
        if name in sizes and inside:
            sizes[name] += int(value.split()[0])
        elif "-" in name.split()[0]:  # the first line of a mapping, which ends with the name of its file
            inside = sys.argv[1] in line
    os.write(1, f"{sizes['Pss']} {sizes['Rss']}\\n".encode())
    both.wait(300)
fork = multiprocessing.get_context("fork")
both = fork.Barrier(2)
child = fork.Process(target=read, args=[both])
child.start()
read(both)
child.join()
"""


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux, to measure shared memory")
def test_find_cached_in_two_processes_shares_memory(own_cache):
    write_cached("c" * 64, "int8", {"w": torch.ones(40_000_000, dtype=torch.int8)}, model="x")
    lines = run(SHARED, own_cache.parent, own_cache.name).communicate(timeout=300)[0].splitlines()
    assert len(lines) == 2
    for line in lines:  # of the mapped file, in KiB
        proportional, resident = map(int, line.split())
        assert resident > 39_000
        assert proportional < 0.55 * resident, "half of the file is counted for the other process"
