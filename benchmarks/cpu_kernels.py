"""Compare 8-bit layers by the kernels for x86 CPUs with those of torch's operators, on models with random weights.

    python benchmarks/cpu_kernels.py [SIZE ...] [--seconds 10]

Both take turns in one thread. The fastest turn of each counts, in seconds of CPU time, so that other work on the
machine disturbs the ratio little.
"""

from __future__ import annotations

import argparse
import time
from unittest import mock

import numpy as np
import torch

from skxlmr import Int8
from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLModel, attention
from skxlmr.model.config import XLMRobertaConfig
from skxlmr.model.int8 import Int8Linear
from skxlmr.model.packing import Packing
from skxlmr.model.quantized import int8_layers, linear_layers

SIZES = {  # hidden size, layers, heads, width of the feed-forward network, tokens in a batch
    "e5-small": (384, 12, 12, 1536, 4096),
    "base": (768, 12, 12, 3072, 2048),
    "xl-width": (2560, 2, 32, 10240, 800),
}
OUTLIERS = 4  # columns of each layer


def model_of(size: str, settings: Int8) -> XLMRobertaXLModel:
    """Return a model in 8 bits with random weights."""
    hidden, n_layers, n_heads, inner, _ = SIZES[size]
    config_class = XLMRobertaXLConfig if size == "xl-width" else XLMRobertaConfig
    config = config_class(
        vocab_size=1000,
        hidden_size=hidden,
        num_hidden_layers=n_layers,
        num_attention_heads=n_heads,
        intermediate_size=inner,
    )
    torch.manual_seed(0)
    model = XLMRobertaXLModel(config, add_pooling_layer=False)
    for name, linear in linear_layers(model).items():
        layer = Int8Linear(linear.in_features, linear.out_features, settings=settings, device="meta")
        layer.load("weight", linear.weight.detach())
        layer.bias = torch.nn.Parameter(linear.bias.detach())
        layer.set_outliers(torch.arange(OUTLIERS) * 97)
        model.set_submodule(name, layer)
    return model.eval().requires_grad_(False).to(torch.bfloat16)


def texts_of(n_tokens: int) -> dict[str, list[int]]:
    """Return the lengths of texts by kind; those of ragged ones are log-normal, and sorted, as in batches."""
    lengths = np.random.default_rng(0).lognormal(3.2, 0.8, n_tokens).clip(4, 200).astype(int)
    ragged = lengths[: np.searchsorted(lengths.cumsum(), n_tokens)]
    return {"one text of 20": [20], "texts of 20": [20] * (n_tokens // 20), "ragged texts": sorted(ragged.tolist())}


def seconds(model: XLMRobertaXLModel, engine: str, lengths: list[int]) -> float:
    """Return the seconds of CPU time to encode a batch."""
    settings = next(iter(int8_layers(model).values())).settings
    settings.engine = engine
    ids = torch.arange(sum(lengths)) % 900 + 4
    positions = torch.cat([torch.arange(length) for length in lengths]) + 2
    packing = Packing.from_lengths(lengths)
    takes_kernel = attention.takes_kernel if engine == "avx" else lambda *_: False
    with torch.inference_mode(), mock.patch.object(attention, "takes_kernel", takes_kernel):
        start = time.thread_time()
        model.encode(ids, positions, packing)
        return time.thread_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sizes", nargs="*", default=list(SIZES), metavar="SIZE", help=", ".join(SIZES))
    parser.add_argument("--seconds", type=float, default=10, help="for each kind of texts")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'':28}{'int_mm':>12}{'avx':>12}  tokens/s")
    for size in arguments.sizes:
        model = model_of(size, Int8())
        for kind, lengths in texts_of(SIZES[size][-1]).items():
            best = {"int_mm": np.inf, "avx": np.inf}
            end = time.monotonic() + arguments.seconds
            while time.monotonic() < end:
                best = {engine: min(before, seconds(model, engine, lengths)) for engine, before in best.items()}
            rates = [sum(lengths) / best[engine] for engine in ("int_mm", "avx")]
            print(f"{size + ', ' + kind:28}{rates[0]:12,.0f}{rates[1]:12,.0f}  {rates[1] / rates[0]:.2f} x", flush=True)


if __name__ == "__main__":
    main()
