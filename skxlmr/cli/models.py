"""The commands about models and this machine: `info`, `convert`, `cache` and `versions`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skxlmr.checkpoints import layout
from skxlmr.cli.parsing import add_command

if TYPE_CHECKING:  # commands import what they need, so that --help and --version do not wait for torch
    from skxlmr.hardware.estimate import MemoryEstimate
    from skxlmr.model import XLMRobertaXLConfig

USES = {"predict": None, "train head": "head", "train LoRA": "lora", "train full": "full"}  # and what is tuned


def add_commands(commands: Any) -> None:
    """Add the commands."""
    _add_info(commands)
    _add_convert(commands)
    _add_cache(commands)
    versions = add_command(
        commands,
        "versions",
        _versions,
        "print the versions of skxlmr, Python and the dependencies, and the hardware",
        "For bug reports.",
    )
    _add_json(versions)


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_info(commands: Any) -> None:
    parser = add_command(
        commands,
        "info",
        _info,
        "estimate the memory a model needs, for prediction and for training",
        "Prints the shape of the model and the memory it needs in each precision: for the weights, for prediction, and "
        "for training a head, a LoRA adapter, or all weights. No weights are loaded or downloaded.",
        ["skxlmr info facebook/xlm-roberta-xl", "skxlmr info e5-small --json"],
    )
    parser.add_argument("model", metavar="MODEL", help="nano, e5-small, a directory, or the id of a model on the hub")
    _add_json(parser)


def _info(arguments: argparse.Namespace) -> None:
    from skxlmr.hardware.estimate import find_config, memory_estimate

    config = find_config(arguments.model)
    auto = memory_estimate(config)
    half = "float16" if auto.dtype == "float16" else "bfloat16"
    precisions: dict[str, dict[str, Any]] = {
        "float32": {"load_in_8bit": False, "dtype": "float32"},
        half: {"load_in_8bit": False, "dtype": half},
        "8-bit": {"load_in_8bit": True},
        "4-bit": {"load_in_8bit": False, "load_in_4bit": True},
    }
    table = {name: _needed(config, precision) for name, precision in precisions.items()}
    chosen = {"int8": "8-bit", "nf4": "4-bit", None: auto.dtype}[auto.quantization]
    if arguments.json:
        print(json.dumps(_as_json(arguments.model, config, auto, chosen, table), ensure_ascii=False))
    else:
        _print_info(arguments.model, config, auto, chosen, table)


def _as_json(
    model: str,
    config: XLMRobertaXLConfig,
    auto: MemoryEstimate,
    chosen: str,
    table: dict[str, dict[str, int | None]],
) -> dict[str, Any]:
    return {
        "model": model,
        "layers": config.num_hidden_layers,
        "width": config.hidden_size,
        "heads": config.num_attention_heads,
        "vocabulary": config.vocab_size,
        "parameters": config.num_parameters,
        "precision": chosen,
        "device": auto.device,
        "available_bytes": auto.available,
        "batch_tokens": auto.batch_tokens,
        "bytes": {
            name: {use.lower().replace(" ", "_"): nbytes for use, nbytes in row.items()} for name, row in table.items()
        },
    }


def _print_info(
    model: str,
    config: XLMRobertaXLConfig,
    auto: MemoryEstimate,
    chosen: str,
    table: dict[str, dict[str, int | None]],
) -> None:
    from skxlmr.hardware.estimate import in_gigabytes
    from skxlmr.hardware.footprint import maps_words

    print(
        f"{model}: {config.num_hidden_layers} layers of width {config.hidden_size}, "
        f"{config.num_attention_heads} heads, {config.vocab_size} tokens, {_count(config.num_parameters)} parameters\n"
    )
    widths = {"weights": 9, "predict": 9}
    print("GB".ljust(10) + "".join(name.rjust(widths.get(name, 12)) for name in ("weights", *USES)))
    for name, row in table.items():
        mark = " *" if name == chosen else ""
        cells = {use: "-" if nbytes is None else in_gigabytes(nbytes) for use, nbytes in row.items()}
        print((name + mark).ljust(10) + "".join(cell.rjust(widths.get(use, 12)) for use, cell in cells.items()))
    left = "" if auto.available is None else f", which has {in_gigabytes(auto.available)} GB of memory left"
    print(f'\n* what "auto" takes on {auto.device}{left}.')
    if maps_words(config, auto.device):
        embedding_bytes = 2 * config.vocab_size * config.hidden_size
        print(
            f"The word embedding, {in_gigabytes(embedding_bytes)} GB in 16 bits, stays on disk: "
            f"memory grows by the words used."
        )
    print(f"Batches are those of batch_tokens='auto', {auto.batch_tokens} tokens in row *; smaller ones take less.")


def _needed(config: XLMRobertaXLConfig, precision: dict[str, Any]) -> dict[str, int | None]:
    """Return the bytes of the weights, and the total for each use; None where a use is not possible."""
    from skxlmr.hardware.estimate import memory_estimate

    weights: int | None = None
    needed: dict[str, int | None] = {}
    for use, tuning in USES.items():
        try:
            estimate = memory_estimate(config, tuning=tuning, **precision)
        except ValueError:  # quantised weights cannot be trained
            needed[use] = None
        else:
            needed[use] = estimate.total
            weights = estimate.weights if tuning is None else weights
    return {"weights": weights, **needed}


def _count(number: int) -> str:
    return f"{number / 10**9:.2f} billion" if number >= 10**9 else f"{number / 10**6:.1f} million"


def _add_convert(commands: Any) -> None:
    summary = "turn a checkpoint of another format into a directory that from_pretrained loads"
    parser = add_command(commands, "convert", None, summary)
    formats = parser.add_subparsers(metavar="FORMAT", required=True)
    fairseq = add_command(
        formats,
        "fairseq",
        _convert_fairseq,
        "an original XLM-RoBERTa-XL or XXL file",
        "Turns the model.pt of XLM-RoBERTa-XL or XXL, as fairseq wrote it, into a directory that "
        "from_pretrained loads, here and in transformers. No code in the file is run. Weights keep their precision. "
        f"A {layout.TOKENIZER} beside the file is copied along.",
        ["skxlmr convert fairseq xlmr.xl/model.pt xlm-roberta-xl"],
    )
    fairseq.add_argument("model", type=Path, metavar="FILE", help="the model.pt")
    fairseq.add_argument("out", type=Path, metavar="DIR", help="the directory to write")
    fairseq.add_argument("--heads", type=int, metavar="N", help="number of attention heads, if the file does not say")
    fairseq.add_argument("--force", action="store_true", help="replace a checkpoint that is already in DIR")


def _convert_fairseq(arguments: argparse.Namespace) -> None:
    from skxlmr.checkpoints.convert.fairseq import convert_fairseq

    config = convert_fairseq(
        arguments.model, arguments.out, num_attention_heads=arguments.heads, overwrite=arguments.force
    )
    print(
        f"{arguments.out}: {config['num_hidden_layers']} layers of width {config['hidden_size']}, "
        f"{config['num_attention_heads']} heads, {config['vocab_size']} tokens, {config['torch_dtype']}"
    )
    if not (arguments.out / layout.TOKENIZER).exists():
        print(f"There was no {layout.TOKENIZER} beside {arguments.model}: put it into {arguments.out} to read texts.")


def _add_cache(commands: Any) -> None:
    summary = "list or remove cached files: quantised weights and decoded models"
    actions = add_command(commands, "cache", None, summary).add_subparsers(metavar="ACTION", required=True)
    _add_json(add_command(actions, "list", _list_cache, "list the cached files"))
    clearing = add_command(
        actions,
        "clear",
        _clear_cache,
        "remove the cached files of one model, or all",
        "They are made again when needed.",
        ["skxlmr cache clear facebook/xlm-roberta-xl"],
    )
    clearing.add_argument("model", metavar="MODEL", nargs="?", help="as `skxlmr cache list` names it; default: all")


def _list_cache(arguments: argparse.Namespace) -> None:
    from skxlmr.checkpoints.cache import cache_directory, list_cached

    files = list_cached()
    if arguments.json:
        rows = [
            {"model": file.model, "kind": file.kind, "bytes": file.nbytes, "modified": file.modified.isoformat()}
            for file in files
        ]
        print(json.dumps({"directory": str(cache_directory()), "files": rows}, ensure_ascii=False))
        return
    print(cache_directory())
    for file in files:
        print(f"{_size(file.nbytes):>10}  {file.kind:<8} {file.modified:%Y-%m-%d %H:%M}  {file.model}")


def _clear_cache(arguments: argparse.Namespace) -> None:
    from skxlmr.checkpoints.cache import clear_cached

    removed = clear_cached(arguments.model)
    if arguments.model is not None and not removed:
        raise ValueError(f"Nothing is cached for {arguments.model!r}; see `skxlmr cache list`.")
    for file in removed:
        print(f"removed {_size(file.nbytes)}: {file.model}, {file.kind}")


def _size(nbytes: int) -> str:
    return f"{nbytes / 10**9:.2f} GB" if nbytes >= 10**9 else f"{nbytes / 10**6:.1f} MB"


def _versions(arguments: argparse.Namespace) -> None:
    from skxlmr.hardware.versions import show_versions, versions

    if arguments.json:
        print(json.dumps(versions(), ensure_ascii=False))
    else:
        show_versions()
