from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention.varlen import varlen_attn

from skxlmr.model import attention
from skxlmr.model.attention import attend, attend_in_buckets
from skxlmr.model.packing import Packing

REPOSITORY = Path(__file__).resolve().parents[2]
LENGTHS = [3, 40, 1, 17, 130]


def queries_keys_values(lengths, head_size=8, dtype=torch.float64):
    return torch.randn(3, sum(lengths), 2, head_size, generator=torch.Generator().manual_seed(0)).to(dtype)


def reference(q, k, v, lengths, causal=False):
    """One text at a time, in float64."""
    texts = zip(*(x.double().split(lengths) for x in (q, k, v)), strict=True)
    outputs = [F.scaled_dot_product_attention(*(x.transpose(0, 1) for x in text), is_causal=causal) for text in texts]
    return torch.cat([x.transpose(0, 1) for x in outputs])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("attention", [attend, attend_in_buckets])
def test_attention_equals_that_of_single_texts(attention, causal):
    q, k, v = queries_keys_values(LENGTHS)
    y = attention(q, k, v, Packing.from_lengths(LENGTHS, causal=causal), 0.0)
    torch.testing.assert_close(y, reference(q, k, v, LENGTHS, causal))


def test_attention_in_buckets_of_a_text_does_not_depend_on_its_batch():
    qkv = queries_keys_values(LENGTHS, dtype=torch.float32)
    together = attend_in_buckets(*qkv, Packing.from_lengths(LENGTHS), 0.0).split(LENGTHS)
    for length, text, *of_text in zip(LENGTHS, together, *(x.split(LENGTHS) for x in qkv), strict=True):
        assert torch.equal(attend_in_buckets(*of_text, Packing.from_lengths([length]), 0.0), text)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("head_size", [8, 12, 20, 80])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.usefixtures("gpu")
def test_attention_on_cuda_equals_that_of_single_texts(dtype, head_size, causal):
    qkv = queries_keys_values(LENGTHS, head_size, dtype)
    q, k, v = (x.cuda().requires_grad_() for x in qkv)
    y = attend(q, k, v, Packing.from_lengths(LENGTHS, "cuda", causal=causal))
    expected = [x.double().requires_grad_() for x in qkv]
    of_single = reference(*expected, LENGTHS, causal)
    tolerance = 2e-4 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(y.detach().cpu().double(), of_single.detach(), rtol=0, atol=tolerance)
    y.float().sum().backward()
    of_single.sum().backward()
    for x, e in zip((q, k, v), expected, strict=True):
        torch.testing.assert_close(x.grad.cpu().double(), e.grad, rtol=0, atol=4 * tolerance)


@pytest.mark.parametrize(
    ("gpu_name", "head_size", "dtype", "kernel"),
    [
        ("V100", 64, torch.float16, "sdpa"),
        ("T4", 64, torch.float16, "sdpa"),
        ("T4", 64, torch.bfloat16, "sdpa"),
        ("A100", 64, torch.float16, "flash"),
        ("L4", 20, torch.bfloat16, "flash"),
        ("H100", 128, torch.bfloat16, "flash"),
        ("H100", 264, torch.bfloat16, "sdpa"),
        ("H100", 64, torch.float32, "sdpa"),
        ("B200", 128, torch.bfloat16, "flash"),
    ],
)
def test_attention_kernel_by_gpu(emulate, gpu_name, head_size, dtype, kernel):
    """Also for long texts, where torch 2.14 prefers the kernel of cuDNN, FlashAttention does not split their keys."""
    gpu = emulate(gpu_name)
    q, k, v = (x.cuda() for x in queries_keys_values([300, 5], head_size, dtype))
    with gpu.counting() as counts:
        attend(q, k, v, Packing.from_lengths([300, 5], "cuda"))
    assert set(counts.kernels) == {kernel}


@pytest.mark.parametrize("gpu_name", ["A10", "H100"])
def test_attention_to_heads_above_192_with_gradients_runs_on_any_gpu(emulate, gpu_name):
    emulate(gpu_name)
    q, k, v = (x.cuda().requires_grad_() for x in queries_keys_values([5, 3], 224, torch.bfloat16))
    attend(q, k, v, Packing.from_lengths([5, 3], "cuda")).float().sum().backward()
    assert q.grad.isfinite().all()


def test_attention_on_gpus_of_amd_runs_in_buckets(emulate, monkeypatch):
    gpu = emulate("A100")
    monkeypatch.setattr(torch.version, "hip", "7.0")
    q = torch.randn(5, 2, 8, dtype=torch.bfloat16, device="cuda")
    with gpu.counting() as counts:
        attend(q, q, q, Packing.from_lengths([3, 2], "cuda"))
    assert set(counts.kernels) == {"sdpa"}


def test_attention_with_dropout_on_cuda_runs_in_buckets(emulate):
    gpu = emulate("H100")
    q, k, v = (x.cuda() for x in queries_keys_values(LENGTHS, dtype=torch.bfloat16))
    packing = Packing.from_lengths(LENGTHS, "cuda")
    with gpu.counting() as counts:
        y = attend(q, k, v, packing, 0.5)
    assert not torch.equal(y, attend(q, k, v, packing))
    assert counts.kernels["sdpa"] == len(packing.buckets.sizes) == 4


def test_oldest_torch_has_the_arguments_of_the_kernel():
    """`window_size` and `scale` came with torch 2.11; `num_splits` is optional."""
    project = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    oldest = (REPOSITORY / "constraints-oldest.txt").read_text(encoding="utf-8")
    assert '"torch>=2.11"' in project
    assert "torch==2.11.0" in oldest.split()
    assert {"scale", "window_size"} <= inspect.signature(varlen_attn).parameters.keys()


def test_attention_with_a_kernel_without_num_splits_runs(emulate, monkeypatch):
    gpu = emulate("H100")
    monkeypatch.setattr(attention, "_arguments", lambda function: frozenset())
    q, k, v = (x.cuda() for x in queries_keys_values(LENGTHS, dtype=torch.bfloat16))
    with gpu.counting() as counts:
        attend(q, k, v, Packing.from_lengths(LENGTHS, "cuda"))
    assert counts.n_operators
