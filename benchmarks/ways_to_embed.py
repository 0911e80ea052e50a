"""All ways to embed with a model, and the time of its matrix products alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import peers
import torch
from shared import DTYPES, Bench

from skxlmr import Int8, XLMRXLEmbedder
from skxlmr.model import XLMRobertaXLConfig

Engines = dict[str, Callable[[list[str]], object]]


def kinds_of_engines(bench: Bench, name: str, directory: Path) -> Iterator[tuple[str, Callable[[], Engines]]]:
    """Return functions that create engines, by name: on a GPU one per kind, on a CPU one for all, which alternate."""
    kinds = {
        pipelines: name in ("nano", "xl-width"),
        sentence_transformers: name in ("nano", "xl-width"),
        padded: True,
        ours_in_float32: name in ("nano", "xl-width"),
        ours_in_bfloat16: True,
        ours_in_8_bits: True,
        ours_in_8_bits_by_int_mm: bench.device != "cpu",
    }
    chosen = [kind for kind, is_asked in kinds.items() if is_asked]
    if bench.device == "cpu":
        yield "all", lambda: {how: run for kind in chosen for how, run in kind(directory, "cpu").items()}
    else:
        yield from ((kind.__name__, partial(kind, directory, bench.device)) for kind in chosen)


def pipelines(directory: Path, device: str) -> Engines:
    """Return pipelines of transformers: one text per batch (the default), and batches in the order of the caller."""
    return {
        "transformers pipeline, float32, its default of one text at a time": peers.pipeline(directory, device, 1),
        "transformers pipeline, float32, batches of 32 as they come": peers.pipeline(directory, device, 32),
    }


def sentence_transformers(directory: Path, device: str) -> Engines:
    """Return sentence-transformers with its defaults."""
    name = "sentence-transformers, float32, its default of batches of 32 by length"
    return {name: peers.sentence_transformers(directory, device)}


def padded(directory: Path, device: str) -> Engines:
    """Return transformers in bfloat16 on padded batches; on a GPU also on large ones."""
    model = peers.Padded(directory, dtype=torch.bfloat16, device=device)
    sizes = (4, 8, 16, 32, 64) if device == "cpu" else (16, 32, 64, 128, 256, 512)
    return {"transformers, bfloat16, batches of 32 as they come": model} | {
        f"transformers, bfloat16, by length, batches of {size}": model.with_batches(size, by_length=True)
        for size in sizes
    }


def ours_in_float32(directory: Path, device: str) -> Engines:
    return {"skxlmr, float32": _ours(directory, device, dtype="float32", load_in_8bit=False)}


def ours_in_bfloat16(directory: Path, device: str) -> Engines:
    return {"skxlmr, bfloat16": _ours(directory, device, dtype="bfloat16", load_in_8bit=False)}


def ours_in_8_bits(directory: Path, device: str) -> Engines:
    return {"skxlmr, 8-bit": _ours(directory, device, dtype="bfloat16", load_in_8bit=True)}


def ours_in_8_bits_by_int_mm(directory: Path, device: str) -> Engines:
    """Return transformers with bitsandbytes, which is slower than 16 bits on some GPUs."""
    name = "skxlmr, 8-bit, torch._int_mm"
    return {name: _ours(directory, device, dtype="bfloat16", load_in_8bit=Int8(engine="int_mm"))}


def _ours(directory: Path, device: str, **settings: object) -> Callable[[list[str]], object]:
    return XLMRXLEmbedder(str(directory), device=device, pooling="mean", **settings).fit(["warm"]).transform


def ceiling(config: XLMRobertaXLConfig, kind: str, device: str) -> float:
    """Return the tokens per second of the matrix products alone, at the best of several numbers of rows."""
    h, up = config.hidden_size, config.intermediate_size
    best = 0.0
    for rows in (512, 1024, 2048, 4096) if device == "cpu" else (2048, 4096, 8192, 16_384, 32_768):
        seconds = sum(n * product_seconds(rows, k, m, kind, device) for n, k, m in ((4, h, h), (1, h, up), (1, up, h)))
        best = max(best, rows / (seconds * config.num_hidden_layers))
    return best


def product_seconds(rows: int, k: int, n: int, kind: str, device: str, repeats: int = 5) -> float:
    """Time one product (rows, k) by (k, n); on a GPU, many are launched at once, to hide the launch time."""
    if kind == "8-bit":
        a, b = (torch.randint(-127, 128, shape, dtype=torch.int8, device=device) for shape in ((rows, k), (n, k)))
        multiply = partial(torch._int_mm, a, b.t())
    else:
        a, b = (torch.randn(shape, device=device).to(DTYPES[kind]) for shape in ((rows, k), (n, k)))
        multiply = partial(torch.nn.functional.linear, a, b)
    at_once = 1 if device == "cpu" else 20
    multiply()
    best = float("inf")
    for _ in range(repeats):
        synchronize(device)
        started = time.perf_counter()
        for _ in range(at_once):
            multiply()
        synchronize(device)
        best = min(best, (time.perf_counter() - started) / at_once)
    return best


def synchronize(device: str) -> None:
    """Wait for the device."""
    if device != "cpu":
        torch.cuda.synchronize(device)
