"""Embedding ragged texts: packed by this library, against the same encoder on padded batches.

The peer pads batches of 32 texts in the caller's order, as a feature-extraction pipeline does, and runs the same
weights with every pad token computed. Prints a table and writes benchmarks/results/packing-<device>.json.

    python benchmarks/packing.py [--texts 512] [--layers 2 --hidden 2560] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from skxlmr.datasets import load_reviews, load_udhr
from skxlmr.inference import default_batch_tokens, encode, plan, run
from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLModel, XLMRobertaXLTokenizer


def padded(model: XLMRobertaXLModel, windows: list[np.ndarray], batch_size: int = 32) -> np.ndarray:
    """Mean-pooled states by padded batches in the caller's order; pads go through every layer."""
    vectors = []
    heads, size = model.config.num_attention_heads, model.config.head_size
    with torch.inference_mode():
        for start in range(0, len(windows), batch_size):
            batch = [torch.from_numpy(w.astype(np.int64)) for w in windows[start : start + batch_size]]
            ids = nn.utils.rnn.pad_sequence(batch, batch_first=True, padding_value=1).to(model.device)
            mask = ids != 1
            positions = mask.cumsum(1) * mask + 1
            x = model.embeddings(model.embeddings.word(ids), positions, None)
            for layer in model.layers:
                y = layer.attention_norm(x)
                q, k, v = (
                    f(y).unflatten(2, (heads, size)).transpose(1, 2)
                    for f in (layer.attention.query, layer.attention.key, layer.attention.value)
                )
                y = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
                x = x + layer.attention.output(y.transpose(1, 2).flatten(2))
                x = x + layer.ffn(layer.ffn_norm(x), {})
            x = model.norm(x).float() * mask[..., None]
            vectors.append((x.sum(1) / mask.sum(1, keepdim=True)).cpu().numpy())
    return np.concatenate(vectors)


def packed(model: XLMRobertaXLModel, windows: list[np.ndarray]) -> np.ndarray:
    """Mean-pooled states as XLMRXLEmbedder computes them."""

    def mean(batch: np.ndarray) -> torch.Tensor:
        hidden, packing = encode(model, [windows[i] for i in batch])
        return packing.mean(hidden[-1].float())

    lengths = np.fromiter(map(len, windows), np.int64)
    return run(mean, lengths, batch_tokens=default_batch_tokens(model.config, model.dtype, model.device))


def timed(function, *args, repeats: int) -> tuple[float, np.ndarray]:
    """Best of several runs, in seconds, and the result."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        result = function(*args)
        seconds.append(time.perf_counter() - started)
    return min(seconds), result


def ragged_texts(n: int) -> list[str]:
    """Reviews and paragraphs of many languages, shuffled."""
    texts = [*load_reviews().text, *load_udhr().text]
    return np.random.RandomState(0).choice(np.array(texts, object), n, replace=False).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=1024)
    parser.add_argument("--hidden", type=int, help="width of a random model in place of nano")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    tokenizer = XLMRobertaXLTokenizer.from_pretrained("nano")
    if options.hidden:
        heads = options.hidden // 80
        config = XLMRobertaXLConfig(
            vocab_size=len(tokenizer), hidden_size=options.hidden, num_hidden_layers=options.layers,
            num_attention_heads=heads, intermediate_size=4 * options.hidden,
        )  # fmt: skip
        model, name = XLMRobertaXLModel(config, add_pooling_layer=False).eval(), f"{options.layers} x {options.hidden}"
    else:
        model, name = XLMRobertaXLModel.from_pretrained("nano", add_pooling_layer=False), "nano"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(device, getattr(torch, options.dtype))

    windows = plan(tokenizer, ragged_texts(options.texts), max_length=512, stride=64).windows
    tokens = sum(map(len, windows))
    rows = []
    for how, function in (("padded, batches of 32 in the caller's order", padded), ("packed", packed)):
        function(model, windows[:64])
        seconds, vectors = timed(function, model, windows, repeats=options.repeats)
        rows.append({"how": how, "seconds": seconds, "tokens_per_s": tokens / seconds, "vectors": vectors})
    difference = float(np.abs(rows[0].pop("vectors") - rows[1].pop("vectors")).max())
    ratio = rows[0]["seconds"] / rows[1]["seconds"]

    print(f"{name}, {options.dtype}, {len(windows)} windows, {tokens} tokens (mean {tokens / len(windows):.0f})")
    print("| how | seconds | real tokens/s |\n|---|---|---|")
    for row in rows:
        print(f"| {row['how']} | {row['seconds']:.2f} | {row['tokens_per_s']:,.0f} |")
    print(f"packed is {ratio:.2f}x as fast; largest difference of the vectors {difference:.1e}")

    device_name = (
        torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()}-{options.threads}-threads"
    )
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    result = {
        "model": name,
        "dtype": options.dtype,
        "device": device_name,
        "torch": torch.__version__,
        "windows": len(windows),
        "tokens": tokens,
        "rows": rows,
        "ratio": ratio,
        "difference": difference,
    }
    file = folder / f"packing-{name.replace(' ', '')}-{options.dtype}-{device_name.replace(' ', '-')}.json"
    file.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
