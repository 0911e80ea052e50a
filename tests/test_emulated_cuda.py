"""The emulated CUDA device of the tests: what it refuses, and what it counts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from emulated_cuda import GPUS

from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLModel


def test_tensor_moved_there_and_back_is_equal(emulate):
    emulate("A10")
    x = torch.arange(6.0).view(2, 3)
    y = x.cuda()
    assert y.is_cuda
    assert y.device == torch.device("cuda:0")
    assert torch.equal((2 * y).cpu(), 2 * x)
    with pytest.raises(TypeError, match="can't convert cuda:0"):
        y.numpy()


def test_gradients_flow_through_both_copies(emulate):
    emulate("A10")
    x = torch.ones(3, requires_grad=True)
    (x.cuda() * 2).cpu().sum().backward()
    assert x.grad.tolist() == [2, 2, 2]


def test_operator_of_two_devices_is_refused(emulate):
    emulate("A10")
    with pytest.raises(RuntimeError, match="same device, but found cuda:0 and cpu"):
        torch.ones(2, device="cuda") + torch.ones(2)


def test_memory_is_bounded_and_its_peak_known(emulate):
    gpu = emulate("A10", 1000)
    x = torch.zeros(100, dtype=torch.uint8, device="cuda")
    y = torch.cat([x, x])
    assert (torch.cuda.memory_allocated(), gpu.memory.peak) == (300, 300)
    del y
    assert (torch.cuda.memory_allocated(), gpu.memory.peak) == (100, 300)
    with pytest.raises(torch.OutOfMemoryError):
        torch.zeros(901, dtype=torch.uint8, device="cuda")


def test_products_of_8_bit_floating_point_are_refused_where_the_device_would(emulate):
    def multiply(n_rows=3, inner=32, columns=16, rows=True, dtype=torch.bfloat16, order="columns", **more):
        a = torch.ones(n_rows, inner, device="cuda").to(torch.float8_e4m3fn)
        b = torch.ones(columns, inner, device="cuda").to(torch.float8_e4m3fn).t()
        b = b if order == "columns" else b.contiguous()
        scales = [torch.full(shape if rows else (1, 1), 0.5, device="cuda") for shape in ((n_rows, 1), (1, columns))]
        return torch._scaled_mm(a, b, *scales, out_dtype=dtype, **more)

    emulate("L4")
    bias = torch.ones(16, device="cuda")
    assert torch.equal(multiply(bias=bias.bfloat16()).float().cpu(), torch.full((3, 16), 9.0))
    assert torch.equal(multiply(rows=False, dtype=torch.float32).cpu(), torch.full((3, 16), 8.0))
    for wrong, message in (
        ({"inner": 24}, "trailing dimension of mat1 to be divisible by 16"),
        ({"columns": 20}, "must be divisible by 16"),
        ({"order": "rows"}, "mat2 column-major"),
        ({"dtype": torch.float32}, "Only bf16"),
        ({"rows": False, "dtype": torch.float32, "bias": bias}, "Bias is not supported"),
        ({"bias": bias}, "Bias must be torch.bfloat16"),
    ):
        with pytest.raises(RuntimeError, match=message):
            multiply(**wrong)


@pytest.mark.parametrize("name", ["V100", "T4", "A10", "A100"])
def test_gpu_without_products_of_8_bit_floating_point_refuses_them(emulate, name):
    emulate(name)
    a = torch.ones(16, 16, device="cuda").to(torch.float8_e4m3fn)
    one = torch.ones(1, device="cuda")
    with pytest.raises(RuntimeError, match=r"compute capability >= 9\.0 or 8\.9"):
        torch._scaled_mm(a, a.t(), one, one, out_dtype=torch.bfloat16)


@pytest.mark.parametrize("name", ["V100", "T4"])
def test_kernel_that_this_gpu_lacks_is_refused(emulate, name):
    from torch.nn.attention.varlen import varlen_attn

    emulate(name)
    q = torch.zeros(4, 2, 8, dtype=torch.float16, device="cuda")
    bounds = torch.tensor([0, 4], dtype=torch.int32, device="cuda")
    with pytest.raises(RuntimeError, match="Ampere"):
        varlen_attn(q, q, q, bounds, bounds, 4, 4)
    a = torch.zeros(32, 32, dtype=torch.int8, device="cuda")
    if GPUS[name].capability < (7, 5):
        with pytest.raises(RuntimeError, match=r"compute capability 7\.5"):
            torch._int_mm(a, a)
    else:
        torch._int_mm(a, a)


@pytest.mark.parametrize(
    ("what", "reasons"),
    [
        (lambda x: x.sum().item(), ["_local_scalar_dense"]),
        (lambda x: bool((x > 0).all()), ["_local_scalar_dense"]),
        (lambda x: x.tolist(), ["tolist"]),
        (lambda x: x.nonzero(), ["nonzero"]),
        (lambda x: x[x > 1], ["index"]),
        (lambda x: x.cpu(), ["download"]),
        (lambda x: x.to("cpu", non_blocking=True), []),
        (lambda x: x[[0, 1]], ["upload"]),
        (lambda x: torch.cuda.current_stream().synchronize(), ["synchronize"]),
        (lambda x: x.masked_fill(x > 1, 0).softmax(0), []),
        (lambda x: x.repeat_interleave(torch.ones(4, dtype=torch.int64, device="cuda"), output_size=4), []),
    ],
)
def test_waits_of_the_host_are_counted_with_their_reason(emulate, what, reasons):
    gpu = emulate("A10")
    x = torch.arange(4.0).cuda()
    with gpu.counting() as counts:
        what(x)
    assert [reason for reason, _ in counts.waits.elements()] == reasons
    assert counts.n_waits == len(reasons)


def test_upload_from_pinned_memory_is_not_a_wait(emulate):
    gpu = emulate("A10")
    pinned, pageable = torch.ones(3).pin_memory(), torch.ones(3)
    assert pinned[1:].is_pinned()
    with gpu.counting() as counts:
        pinned[1:].to("cuda", non_blocking=True)
    assert (counts.n_waits, counts.n_uploads, counts.n_pinned_uploads, counts.upload_bytes) == (0, 1, 1, 8)
    with gpu.counting() as counts:
        pinned.to("cuda")
        pageable.to("cuda", non_blocking=True)
        torch.tensor([1, 2], device="cuda")
        torch.zeros(3, device="cuda").copy_(torch.empty(3, pin_memory=True), non_blocking=True)
    assert (counts.n_waits, counts.n_uploads, counts.n_pinned_uploads) == (3, 4, 2)


def test_operators_of_each_layer_are_counted(emulate):
    gpu = emulate("A10")
    shape = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    model = XLMRobertaXLModel(XLMRobertaXLConfig(vocab_size=50, **shape)).eval().to("cuda", torch.bfloat16)
    ids = torch.tensor([[0, 7, 8, 2]], device="cuda")
    with gpu.counting() as counts, torch.inference_mode():
        model(ids)
    per_layer = [layer.total() for layer in counts.operators_of_layers]
    assert len(per_layer) == 3
    assert len(set(per_layer)) == 1
    assert counts.operators_of_layers[0]["_varlen_attn"] == 1
    assert sum(per_layer) < counts.n_operators
    assert counts.kernels["flash"] + counts.kernels["flash, split as it chooses"] == 3
    assert "operators per layer" in str(counts)
    with gpu.counting() as counts:
        assert not counts.operators


def test_sums_without_an_order_are_counted(emulate):
    gpu = emulate("A10")
    x = torch.ones(3, 2, device="cuda")
    with gpu.counting() as counts:
        x.new_zeros(2, 2).index_add(0, torch.tensor([0, 0, 1], device="cuda"), x)
        x.new_zeros(3, 2).index_add(0, torch.tensor([2, 0, 1], device="cuda"), x)  # each place once
    assert [name for name, _ in counts.unordered.elements()] == ["index_add"]


def test_sums_without_a_deterministic_algorithm_are_refused_if_torch_is_to_use_one(emulate):
    emulate("A10")
    x = torch.ones(3, device="cuda")
    x.cumsum(0)
    torch.use_deterministic_algorithms(True)
    try:
        x.long().cumsum(0)
        with pytest.raises(RuntimeError, match="cumsum does not have a deterministic implementation"):
            x.cumsum(0)
    finally:
        torch.use_deterministic_algorithms(False)


def test_device_has_its_own_random_numbers(emulate):
    gpu = emulate("A10")
    before = torch.get_rng_state()
    first = torch.rand(3, device="cuda").cpu()
    assert torch.equal(torch.get_rng_state(), before)
    gpu.generator.manual_seed(0)
    assert torch.equal(torch.rand(3, device="cuda").cpu(), first)


def test_each_of_two_devices_has_its_own_memory_numbers_and_tensors(emulate):
    gpu = emulate("A10", 1000, 2)
    x = torch.zeros(2, device="cuda:1")
    assert (str(x.device), x.get_device(), torch.cuda.device_count()) == ("cuda:1", 1, 2)
    assert (torch.cuda.memory_allocated(0), torch.cuda.memory_allocated(1)) == (0, 8)
    with pytest.raises(RuntimeError, match="same device, but found"):
        x + torch.ones(2, device="cuda:0")
    assert torch.equal((x + torch.ones(2, device="cuda:0").to("cuda:1")).cpu(), torch.ones(2))
    drawn = torch.rand(3, device="cuda:1").cpu()
    assert torch.equal(torch.rand(3, device="cuda:0").cpu(), drawn)  # generators with the same seed
    assert not torch.equal(torch.rand(3, device="cuda:0").cpu(), drawn)
    with torch.cuda.device(1), gpu.counting() as counts:
        assert torch.ones(2, device="cuda").add(1).get_device() == 1
    assert counts.operators_of_devices == {1: 1}
    with pytest.raises(RuntimeError, match="invalid device ordinal"):
        torch.zeros(1, device="cuda:2")


def test_kernel_of_a_library_on_a_device_that_is_not_current_is_refused(emulate):
    emulate("A10", None, 2)
    a = torch.zeros(4, 4, dtype=torch.int8, device="cuda:1")
    multiply = torch.ops.bitsandbytes.int8_linear_matmul
    with pytest.raises(RuntimeError, match="launched on the current device cuda:0, but its tensors are on cuda:1"):
        multiply(a, a)
    with torch.cuda.device(1):
        multiply(a, a)


def test_devices_are_there_in_threads_that_start_meanwhile(emulate):
    emulate("A10", None, 2)
    with ThreadPoolExecutor(1) as thread, torch.cuda.device(1):
        assert thread.submit(lambda: str(torch.ones(1, device="cuda").device)).result() == "cuda:0"


def test_classes_of_torch_are_classes(emulate):
    """Other libraries write `torch.cuda.CUDAGraph | None`, and ask which class an object has."""
    emulate("A10")
    for name in ("CUDAGraph", "Event", "Stream", "device", "graph"):
        assert isinstance(getattr(torch.cuda, name), type), name
    assert isinstance(torch.autocast, type)
    assert isinstance(torch.cuda.current_stream(), torch.cuda.Stream)


def test_attention_takes_its_mask_by_name(emulate):
    emulate("A10")
    q, mask = torch.ones(1, 1, 2, 4, device="cuda"), torch.tensor([[True, False]] * 2).cuda()
    v = torch.tensor([[1.0], [5.0]]).cuda()[None, None]
    with torch.inference_mode():
        assert torch.nn.functional.scaled_dot_product_attention(q, q, v, attn_mask=mask).flatten().tolist() == [1, 1]


def captured(function, pool=None):
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream("cuda")
    with torch.inference_mode(), torch.cuda.graph(graph, pool=pool, stream=stream):
        return graph, function()


def test_replay_computes_again_on_the_same_storages(emulate):
    gpu = emulate("A10")
    x, w = torch.arange(4.0).cuda(), torch.full((4,), 2.0, device="cuda")
    graph, y = captured(lambda: (x.view(2, 2) * w.view(2, 2) + torch.ones(2, 2, device="cuda")).relu_())
    x.copy_(torch.tensor([1.0, 0, -1, 5]).cuda())
    with gpu.counting() as counts:
        graph.replay()
    assert y.cpu().tolist() == [[3, 1], [0, 11]]
    assert (counts.replays, counts.n_operators, counts.n_waits) == (1, 0, 0)


@pytest.mark.parametrize("what", [lambda x: x.sum().item(), lambda x: x + torch.ones(3).cuda(), lambda x: x.cpu()])
def test_capture_refuses_waits_and_copies_of_the_host(emulate, what):
    emulate("A10")
    x = torch.ones(3, device="cuda")
    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        captured(lambda: what(x))
    assert captured(lambda: x + 1)[1].tolist() == [2, 2, 2]  # the failed capture has ended


def test_capture_needs_a_stream_of_the_current_device_and_keeps_its_memory(emulate):
    gpu = emulate("A10", None, 2)
    x = torch.ones(100, device="cuda")
    with torch.cuda.device(1), pytest.raises(RuntimeError, match="a stream of cuda:0 cannot capture on cuda:1"):
        torch.cuda.graph(torch.cuda.CUDAGraph()).__enter__()
    graph, y = captured(lambda: (x + 1) * 2)
    assert gpu.memory.allocated == 3 * x.nbytes  # x, y and what is between them
    del graph
    assert gpu.memory.allocated == 2 * x.nbytes
    assert y.tolist() == [4] * 100
