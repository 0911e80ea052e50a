"""All ways to embed with a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import peers
import torch
from shared import Bench

from skxlmr import Int8, XLMRXLEmbedder

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
