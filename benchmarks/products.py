"""The matrix products of a model by themselves: what its speed is compared with."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

import torch

from skxlmr.model import XLMRobertaXLConfig

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LAUNCHED_SECONDS = 0.05  # of products on a GPU between two waits
ROWS = {"cpu": (512, 1024, 2048, 4096), "cuda": (2048, 4096, 8192, 16_384, 32_768)}


def ceiling(config: XLMRobertaXLConfig, kind: str, device: str, rows: Sequence[int] = ()) -> float:
    """Return the tokens per second of the products of all layers, at the best of several numbers of rows.

    `kind` is "8-bit" for integers, "8-bit float" or a dtype; without `rows` those that suit the device are tried.
    """
    h, up = config.hidden_size, config.intermediate_size
    best = 0.0
    for n_rows in rows or ROWS[torch.device(device).type]:
        seconds = sum(
            n * product_seconds(n_rows, k, m, kind, device) for n, k, m in ((4, h, h), (1, h, up), (1, up, h))
        )
        best = max(best, n_rows / (seconds * config.num_hidden_layers))
    return best


def product_seconds(rows: int, k: int, n: int, kind: str, device: str, repeats: int = 5) -> float:
    """Time one product (rows, k) by (k, n); on a GPU, up to 20 are launched at once, to hide the launch time."""
    if kind == "8-bit":
        a, b = (torch.randint(-127, 128, shape, dtype=torch.int8, device=device) for shape in ((rows, k), (n, k)))
        multiply = partial(torch._int_mm, a, b.t())
    elif kind == "8-bit float":
        a, b = (torch.randn(shape, device=device).to(torch.float8_e4m3fn) for shape in ((rows, k), (n, k)))
        scales = torch.ones(rows, 1, device=device), torch.ones(1, n, device=device)
        multiply = partial(torch._scaled_mm, a, b.t(), *scales, out_dtype=torch.bfloat16)
    else:
        a, b = (torch.randn(shape, device=device).to(DTYPES[kind]) for shape in ((rows, k), (n, k)))
        multiply = partial(torch.nn.functional.linear, a, b)

    def seconds(at_once: int) -> float:
        synchronize(device)
        started = time.perf_counter()
        for _ in range(at_once):
            multiply()
        synchronize(device)
        return (time.perf_counter() - started) / at_once

    multiply()
    at_once = 1 if torch.device(device).type == "cpu" else max(1, min(20, int(LAUNCHED_SECONDS / seconds(1))))
    return min(seconds(at_once) for _ in range(repeats))


def synchronize(device: str | torch.device) -> None:
    """Wait for the device."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def layer_flops(config: XLMRobertaXLConfig) -> int:
    """Return the floating-point operations of the products of all layers for one token, two per weight."""
    h, up = config.hidden_size, config.intermediate_size
    return 2 * config.num_hidden_layers * (4 * h * h + 2 * h * up)


def model_flops(config: XLMRobertaXLConfig, lengths: Sequence[int]) -> int:
    """Return the floating-point operations of a forward pass over texts of these numbers of tokens.

    A token takes two for each weight of the layers. Attention adds 4 H n for each of the n tokens of a text in each
    layer: 2 H n for the scores, 2 H n for the sums of the values. Embeddings, norms and activations are not counted,
    nor is padding.
    """
    attention = 4 * config.num_hidden_layers * config.hidden_size * sum(int(n) ** 2 for n in lengths)
    return layer_flops(config) * sum(map(int, lengths)) + attention
