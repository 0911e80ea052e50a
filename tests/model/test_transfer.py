"""Copies between the host and a GPU for which the host does not wait."""

import numpy as np
import torch

from skxlmr.model import transfer
from skxlmr.model.transfer import Download, downloads, upload, upload_one

ARRAYS = [
    np.arange(5),
    np.ones((2, 3), np.float32),
    np.empty((0, 4), np.int32),
    np.array([True, False, True]),
    np.array(3.5),
    np.arange(3, dtype=np.int8),
    torch.ones(3, dtype=torch.bfloat16),
]


def equal(uploaded, array):
    expected = torch.as_tensor(array)
    return uploaded.dtype == expected.dtype and torch.equal(uploaded.cpu(), expected)


def test_upload_to_cpu_shares_memory():
    array = np.arange(3)
    upload_one(array, torch.device("cpu"))[0] = 7
    assert array[0] == 7


def test_upload_to_gpu_is_one_pinned_copy_of_all_arrays(gpu):
    if gpu is None:
        uploaded = upload(ARRAYS, torch.device("cuda"))
    else:
        with gpu.counting() as counts:
            uploaded = upload(ARRAYS, torch.device("cuda"))
        assert (counts.n_waits, counts.n_uploads, counts.n_pinned_uploads) == (0, 1, 1)
    assert all(tensor.is_cuda for tensor in uploaded)
    assert all(map(equal, uploaded, ARRAYS))


def test_upload_of_large_arrays_is_not_pinned(emulate, monkeypatch):
    monkeypatch.setattr(transfer, "LARGEST_PINNED", 50)
    gpu = emulate("A10")
    with gpu.counting() as counts:
        uploaded = upload(ARRAYS, torch.device("cuda"))
    assert counts.n_pinned_uploads == 0
    assert all(map(equal, uploaded, ARRAYS))


def test_upload_of_nothing_is_nothing(gpu):
    assert upload([], torch.device("cuda")) == []


def test_downloads_return_each_tensor_in_order(gpu):
    for device in ("cpu", "cuda"):
        found = [tensor.tolist() for tensor in downloads(torch.full((2,), float(i), device=device) for i in range(4))]
        assert found == [[float(i)] * 2 for i in range(4)]


def test_downloads_from_gpu_request_the_next_tensor_before_the_host_waits(emulate):
    gpu, events = emulate("A10"), []

    def computed():
        for i in range(3):
            events.append(("computed", i, counts.n_waits))
            yield torch.full((1,), float(i), device="cuda")

    with gpu.counting() as counts:
        for tensor in downloads(computed()):
            events.append(("read", int(tensor), counts.n_waits))
    assert events == [
        ("computed", 0, 0), ("computed", 1, 0), ("read", 0, 1), ("computed", 2, 1), ("read", 1, 2), ("read", 2, 3),
    ]  # fmt: skip
    assert counts.waits.total() == 3


def test_download_polls_without_waiting(emulate):
    gpu = emulate("A10")
    download = Download(torch.arange(3, device="cuda"))
    with gpu.counting() as counts:
        assert download.poll().tolist() == [0, 1, 2]
    assert counts.n_waits == 0
    assert download.wait().is_pinned()
