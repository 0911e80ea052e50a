"""Write a checkpoint of full size with random float16 weights, in shards, like those of the hub.

The tokenizer is that of nano, so that texts can be encoded. Only time and memory are realistic.

    python benchmarks/make_checkpoint.py base OUT    # 0.5 GiB
    python benchmarks/make_checkpoint.py large OUT   # 1.0 GiB
    python benchmarks/make_checkpoint.py xl OUT      # 6.5 GiB
    python benchmarks/make_checkpoint.py xxl OUT     # 20 GiB
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

from skxlmr.checkpoints import layout
from skxlmr.checkpoints.resolve import resolve
from skxlmr.model import XLMRobertaConfig, XLMRobertaXLConfig, XLMRobertaXLForMaskedLM
from skxlmr.model.key_maps import key_map

SIZES = {
    "base": XLMRobertaConfig.base,
    "large": XLMRobertaConfig.large,
    "xl": XLMRobertaXLConfig.xl,
    "xxl": XLMRobertaXLConfig.xxl,
}
SHARD_BYTES = 2 * 10**9


def random_tensors(config: XLMRobertaXLConfig) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield keys and tensors, initialised like the reference model."""
    with torch.device("meta"):
        model = XLMRobertaXLForMaskedLM(config)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        tensor = torch.zeros(parameter.shape, dtype=torch.float16)
        if parameter.ndim > 1:
            for rows in tensor.split(1024):
                rows.copy_(torch.empty(rows.shape).normal_(0, config.initializer_range, generator=generator))
        elif "norm" in name and name.endswith("weight"):
            tensor.fill_(1)
        yield key_map(config.model_type).to_theirs(name), tensor


def write(config: XLMRobertaXLConfig, out: Path) -> int:
    """Write the files; return the total bytes of the tensors."""
    out.mkdir(parents=True)
    shards: list[dict[str, torch.Tensor]] = [{}]
    filled, total, names = 0, 0, []

    def flush() -> None:
        path = out / f"part-{len(names) + 1:05}.safetensors"
        save_file(shards[-1], path, metadata={"format": "pt"})
        names.append((path, list(shards[-1])))
        shards[-1] = {}

    for key, tensor in random_tensors(config):
        if shards[-1] and filled + tensor.nbytes > SHARD_BYTES:
            flush()
            filled = 0
        shards[-1][key] = tensor
        filled += tensor.nbytes
        total += tensor.nbytes
    flush()
    weight_map = {}
    for number, (path, keys) in enumerate(names, start=1):
        final = path.rename(out / f"model-{number:05}-of-{len(names):05}.safetensors")
        weight_map |= dict.fromkeys(keys, final.name)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (out / layout.SAFETENSORS_INDEX).write_text(json.dumps(index))
    about = {**config.to_dict(), "architectures": [f"{config.architecture}ForMaskedLM"], "torch_dtype": "float16"}
    (out / layout.CONFIG).write_text(json.dumps(about))
    shutil.copy(resolve("nano").tokenizer, out / layout.TOKENIZER)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", type=int, help="use fewer layers than the real model")
    arguments = parser.parse_args()
    config = SIZES[arguments.size]()
    if arguments.layers:
        config.num_hidden_layers = arguments.layers
    total = write(config, arguments.out)
    print(f"{arguments.out}: {total / 2**30:.1f} GiB")


if __name__ == "__main__":
    main()
