"""The command line: `skxlmr info`, `skxlmr predict`, `skxlmr cache`, `skxlmr convert` and `skxlmr versions`."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skxlmr.checkpoints import layout

if TYPE_CHECKING:  # commands import what they need, so that --help and --version do not wait for torch
    from skxlmr.hardware.estimate import MemoryEstimate
    from skxlmr.model import XLMRobertaXLConfig

INCOMPLETE = 3  # after a run in which rows have no prediction
READER_HAS_ENDED = 128 + 13  # what shells report of a program that the signal SIGPIPE, number 13, has ended


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : sequence of str, default=None
        Arguments; None takes them from `sys.argv`.

    Returns
    -------
    int
        0, or 1 after an error, which is reported in one line on standard error. Wrong usage exits with 2. `predict`
        returns 3 if rows have no prediction. If a program that reads the output has ended, as `head` does, it exits
        with 141, which shells report for other tools, too.

    Examples
    --------
    >>> main(["convert", "fairseq", "nowhere/model.pt", "xlm-roberta-xl"])  # stderr: ... cannot be read ...
    1
    """
    printed = io.StringIO()  # written at the end, where an error is one of the output for certain
    try:
        with contextlib.redirect_stdout(printed):
            return _run(argv)
    finally:
        _write(printed.getvalue())


def _run(argv: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(
        prog="skxlmr", description="Inspect, convert and cache the models that skxlmr runs."
    )
    parser.add_argument("--version", action="version", version=f"skxlmr {version('skxlmr')}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for add_command in COMMANDS:  # each sets the default `run`, the function that carries the command out
        add_command(commands)
    arguments = parser.parse_args(argv)
    try:
        return arguments.run(arguments) or 0
    except (OSError, ValueError, ImportError) as error:
        return _report(error)


def _write(text: str) -> None:
    """Write to standard output; exit if its reader has ended, or its disk is full."""
    if sys.stdout is None:  # it was closed by the caller
        return
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        with contextlib.suppress(OSError):  # otherwise Python tries again, at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(READER_HAS_ENDED if isinstance(error, BrokenPipeError) else _report(error))


def _report(error: Exception) -> int:
    print(f"skxlmr: error: {_one_line(error)}", file=sys.stderr)
    return 1


def _one_line(error: Exception) -> str:
    first, *rest = (line.strip() for line in str(error).splitlines())
    return " ".join([first, "; ".join(rest)]).strip()


def _add_convert(commands: argparse._SubParsersAction) -> None:
    summary = "turn a checkpoint of another format into a directory that from_pretrained loads"
    parser = commands.add_parser("convert", help=summary, description=summary.capitalize() + ".")
    formats = parser.add_subparsers(metavar="FORMAT", required=True)
    fairseq = formats.add_parser(
        "fairseq",
        help="an original XLM-RoBERTa-XL or XXL file",
        description="Turn the model.pt of XLM-RoBERTa-XL or XXL, as fairseq wrote it, into a directory that "
        "from_pretrained loads, here and in transformers. No code in the file is run. Weights keep their precision. "
        f"A {layout.TOKENIZER} beside the file is copied along.",
    )
    fairseq.add_argument("model", type=Path, metavar="MODEL", help="the model.pt")
    fairseq.add_argument("out", type=Path, metavar="OUT", help="the directory to write")
    fairseq.add_argument("--heads", type=int, metavar="N", help="number of attention heads, if the file does not say")
    fairseq.add_argument("--force", action="store_true", help="replace a checkpoint that is already in OUT")
    fairseq.set_defaults(run=_convert_fairseq)


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


def _add_info(commands: argparse._SubParsersAction) -> None:
    summary = "estimate the memory a model needs, for prediction and for training"
    parser = commands.add_parser(
        "info",
        help=summary,
        description="Print the shape of a model and the memory it needs in each precision: for the weights, for "
        "prediction, and for training a head, a LoRA adapter, or all weights. No weights are loaded or downloaded.",
    )
    parser.add_argument("model", metavar="MODEL", help="nano, a directory, or the id of a model on the hub")
    parser.set_defaults(run=_info)


def _info(arguments: argparse.Namespace) -> None:
    from skxlmr.hardware.estimate import find_config, in_gigabytes, memory_estimate
    from skxlmr.model.word_embedding import WORTH_MAPPING

    config = find_config(arguments.model)
    auto = memory_estimate(config)
    half = "float16" if auto.dtype == "float16" else "bfloat16"
    precisions: dict[str, dict[str, Any]] = {
        "float32": {"load_in_8bit": False, "dtype": "float32"},
        half: {"load_in_8bit": False, "dtype": half},
        "8-bit": {"load_in_8bit": True},
        "4-bit": {"load_in_8bit": False, "load_in_4bit": True},
    }
    chosen = {"int8": "8-bit", "nf4": "4-bit", None: auto.dtype}[auto.quantization]
    print(
        f"{arguments.model}: {config.num_hidden_layers} layers of width {config.hidden_size}, "
        f"{config.num_attention_heads} heads, {config.vocab_size} tokens, {_count(config.num_parameters)} parameters\n"
    )
    print(f"{'GB':<10}{'weights':>9}{'predict':>9}{'train head':>12}{'train LoRA':>12}{'train full':>12}")
    for name, precision in precisions.items():
        weights, predict, head, lora, full = _needed(config, precision)
        mark = " *" if name == chosen else ""
        print(f"{name + mark:<10}{weights:>9}{predict:>9}{head:>12}{lora:>12}{full:>12}")
    left = "" if auto.available is None else f", which has {in_gigabytes(auto.available)} GB of memory left"
    print(f'\n* what "auto" takes on {auto.device}{left}.')
    embedding_bytes = 2 * config.vocab_size * config.hidden_size
    stored_in = config.extra.get("dtype", config.extra.get("torch_dtype"))  # newer and older name of the entry
    if auto.device == "cpu" and embedding_bytes >= WORTH_MAPPING and stored_in in ("float16", "bfloat16"):
        print(
            f"The word embedding, {in_gigabytes(embedding_bytes)} GB in 16 bits, stays on disk: "
            f"memory grows by the words used."
        )
    print(f"Batches are those of batch_tokens='auto', {auto.batch_tokens} tokens in row *; smaller ones take less.")


def _needed(config: XLMRobertaXLConfig, precision: dict[str, Any]) -> list[str]:
    """Return the GB of the weights, and the total for each use; a dash where a use is not possible."""
    from skxlmr.hardware.estimate import in_gigabytes, memory_estimate

    estimates: list[MemoryEstimate | None] = []
    for tuning in (None, "head", "lora", "full"):
        try:
            estimates.append(memory_estimate(config, tuning=tuning, **precision))
        except ValueError:  # quantised weights cannot be trained
            estimates.append(None)
    weights = None if estimates[0] is None else estimates[0].weights
    sizes = [weights, *(None if estimate is None else estimate.total for estimate in estimates)]
    return ["-" if size is None else in_gigabytes(size) for size in sizes]


def _count(number: int) -> str:
    return f"{number / 10**9:.2f} billion" if number >= 10**9 else f"{number / 10**6:.1f} million"


def _add_predict(commands: argparse._SubParsersAction) -> None:
    summary = "predict the rows of large files, in parts"
    parser = commands.add_parser(
        "predict",
        help=summary,
        description="Predict the rows of files of Parquet, JSON lines or CSV, and write files of Parquet, and a "
        "_manifest.json of what was predicted. Needs the extra: pip install 'skxlmr[scale]'. Exits with 3 if rows have "
        "an error instead of a prediction, or are missing.",
    )
    parser.add_argument("estimator", metavar="ESTIMATOR", help="a directory that save has written, or a checkpoint")
    parser.add_argument("source", type=Path, nargs="+", metavar="SOURCE", help="files, or folders of them")
    parser.add_argument("target", type=Path, metavar="TARGET", help="the folder for the predictions")
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help="default: %(default)s")
    parser.add_argument("--resume", action="store_true", help="continue an earlier run in TARGET, if there is one")
    parser.add_argument("--id-column", default="id", metavar="NAME", help="the column of ids; default: %(default)s")
    parser.add_argument(
        "--column", action="append", metavar="NAME", help="the column of texts; several for pairs; default: text"
    )
    parser.add_argument("--method", default="predict", help="default: %(default)s")
    parser.add_argument("--device", metavar="DEVICE", help="such as cpu or cuda; default: as saved")
    parser.add_argument(
        "--rows-per-part", type=int, default=4096, metavar="N", help="rows written at once; default: %(default)s"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="actors of the engine ray; default: what fits")
    parser.set_defaults(run=_predict)


def _predict(arguments: argparse.Namespace) -> int:
    from skxlmr.scale.dataset import predict_dataset
    from skxlmr.scale.ray_engine import WorkerError

    columns = arguments.column or ["text"]
    try:
        manifest = predict_dataset(
            arguments.estimator,
            arguments.source,
            arguments.target,
            arguments.id_column,
            column=columns[0] if len(columns) == 1 else columns,
            method=arguments.method,
            engine=arguments.engine,
            resume=arguments.resume,
            rows_per_part=arguments.rows_per_part,
            parameters=None if arguments.device is None else {"device": arguments.device},
            workers=arguments.workers,
            verbose=1,
        )
    except WorkerError as error:
        return _report(error)
    print(manifest)
    return 0 if manifest.complete else INCOMPLETE


def _add_cache(commands: argparse._SubParsersAction) -> None:
    summary = "list or remove cached files: quantised weights and decoded models"
    parser = commands.add_parser("cache", help=summary, description=summary.capitalize() + ".")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="list the cached files", description="List the cached files.")
    listing.set_defaults(run=_list_cache)
    summary = "remove the cached files of one model, or all"
    clearing = actions.add_parser(
        "clear", help=summary, description=summary.capitalize() + ". They are made again when needed."
    )
    clearing.add_argument("model", metavar="MODEL", nargs="?", help="as `skxlmr cache list` names it; default: all")
    clearing.set_defaults(run=_clear_cache)


def _list_cache(arguments: argparse.Namespace) -> None:
    from skxlmr.checkpoints.cache import cache_directory, list_cached

    print(cache_directory())
    for file in list_cached():
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


def _add_versions(commands: argparse._SubParsersAction) -> None:
    summary = "print the versions of skxlmr, Python and the dependencies, and the hardware"
    parser = commands.add_parser("versions", help=summary, description=summary.capitalize() + ", for bug reports.")
    parser.set_defaults(run=_versions)


def _versions(arguments: argparse.Namespace) -> None:
    from skxlmr.hardware.versions import show_versions

    show_versions()


COMMANDS = (_add_info, _add_predict, _add_convert, _add_cache, _add_versions)
