"""Shared by the benchmarks: texts, models with random weights, padded batches of transformers, timing."""

from __future__ import annotations

import platform
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from make_checkpoint import SIZES, write

from skxlmr.checkpoints.resolve import resolve
from skxlmr.datasets import load_reviews, load_udhr
from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLModel, XLMRobertaXLTokenizer
from skxlmr.runtime.plan import make_plan

Result = TypeVar("Result")


@dataclass(frozen=True)
class Bench:
    """The settings of all sections of `bench.py`."""

    device: str
    folder: Path
    n_texts: int
    repeats: int

    def directory(self, name: str) -> Path:
        """Return the checkpoint of a model; create it unless it is nano."""
        directory = self.folder / name
        if name == "nano":
            copy_nano(directory)
        elif not directory.exists() and name == "xl-width":
            make_model(directory, hidden=2560, layers=2, head_size=80)
        elif not directory.exists():
            write(SIZES[name](), directory)
        return directory

    def size(self, name: str) -> int:
        """Return the number of texts for a model: fewer for wide ones on a CPU, several batches on a GPU."""
        if self.device != "cpu":
            return 4 * self.n_texts
        return self.n_texts if name == "nano" else max(self.n_texts // 4, 16)

    def reviews(self, name: str) -> tuple[list[str], list[int]]:
        """Return texts and labels for training."""
        reviews = load_reviews().drop_duplicates("text").sample(self.size(name), random_state=0)
        return reviews.text.tolist(), (reviews.label == "positive").astype(int).tolist()


def count_tokens(texts: list[str], pairs: list[str] | None = None) -> int:
    """Count the tokens that the model reads."""
    tokenizer = XLMRobertaXLTokenizer.from_pretrained("nano")
    return int(make_plan(tokenizer, texts, pairs, max_length=512, stride=64).lengths.sum())


def real_texts(n: int) -> list[str]:
    """Return distinct reviews and paragraphs of many languages, shuffled; most are short, some long."""
    texts = np.array(list(dict.fromkeys([*load_reviews().text, *load_udhr().text])), object)
    return np.random.RandomState(0).choice(texts, n, replace=n > len(texts)).tolist()


def log_normal_texts(n: int, mean: float = 35.0, sigma: float = 0.8) -> list[str]:
    """Return distinct texts of random words of the reviews, with log-normal lengths in pieces."""
    random = np.random.RandomState(0)
    tokenizer = XLMRobertaXLTokenizer.from_pretrained("nano")
    words = np.array(sorted({word for text in load_reviews().text for word in text.split()}), object)
    pieces = np.array([len(ids) for ids in tokenizer.encode_batch(words.tolist())])
    lengths = np.clip(random.lognormal(np.log(mean) - sigma**2 / 2, sigma, n), 2, 480) / pieces.mean()
    chosen = iter(random.randint(len(words), size=int(np.ceil(lengths).sum())))
    return [f"{i} " + " ".join(words[next(chosen)] for _ in range(int(np.ceil(m)))) for i, m in enumerate(lengths)]


def copy_nano(directory: Path) -> Path:
    """Copy the files of nano, so that others may add files to them."""
    if not directory.exists():
        shutil.copytree(resolve("nano").directory, directory)
    return directory


def make_model(directory: Path, hidden: int, layers: int, head_size: int = 64) -> None:
    """Write a model with XL's architecture, nano's vocabulary and random weights, without dropout."""
    nano = XLMRobertaXLConfig.from_pretrained("nano")
    torch.manual_seed(0)
    config = XLMRobertaXLConfig(
        vocab_size=nano.vocab_size, hidden_size=hidden, num_hidden_layers=layers,
        num_attention_heads=hidden // head_size, intermediate_size=4 * hidden,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    XLMRobertaXLModel(config, add_pooling_layer=False).save_pretrained(directory)
    XLMRobertaXLTokenizer.from_pretrained("nano").save_pretrained(directory)


def padded_means(
    model: torch.nn.Module, windows: Sequence[Sequence[int]], n_rows: int, device: str | torch.device
) -> np.ndarray:
    """Run a model of transformers on padded batches of texts of similar length; return the mean states, (n, H)."""
    order = sorted(range(len(windows)), key=lambda i: len(windows[i]))
    vectors = np.empty((len(windows), model.config.hidden_size), np.float32)
    with torch.inference_mode():
        for start in range(0, len(order), n_rows):
            rows = order[start : start + n_rows]
            ids = [torch.as_tensor(windows[i], dtype=torch.int64) for i in rows]
            ids = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=1)
            mask = ids.ne(1).long()
            states = model(ids.to(device), attention_mask=mask.to(device)).last_hidden_state.float().cpu()
            vectors[rows] = ((states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)).numpy()
    return vectors


def in_turns(
    functions: Mapping[str, Callable[[], Result]], repeats: int, enough_seconds: float = 20.0
) -> tuple[dict[str, float], dict[str, Result]]:
    """Call the functions alternately; return the seconds of the best call of each, and its last result.

    A function that has taken more than `enough_seconds` is not called again.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    results = {}
    for _ in range(repeats):
        for name, function in functions.items():
            if sum(seconds[name]) > enough_seconds:
                continue
            started = time.perf_counter()
            results[name] = function()
            seconds[name].append(time.perf_counter() - started)
    return {name: min(times) for name, times in seconds.items()}, results


def device_name(device: str) -> str:
    """Describe the device of the measurements."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    flags = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    has = [name for name in ("avx512_bf16", "avx512_vnni", "amx_int8") if flags.get(name)]
    return f"{platform.machine()}, {torch.get_num_threads()} threads, {' '.join(has) or 'no 16-bit or 8-bit products'}"
