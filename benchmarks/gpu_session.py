"""What the parts of `gpu.py` share: the device, random models on it, texts, and clocks."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from products import ceiling, layer_flops, synchronize
from random_models import random_weights, stand_in
from shared import log_normal_texts

import skxlmr
from skxlmr import Float8, Int8, XLMRXLEmbedder, memory_estimate
from skxlmr.hardware.device import choose_dtype
from skxlmr.hardware.estimate import MemoryEstimate
from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLTokenizer
from skxlmr.model.config import BertConfig
from skxlmr.runtime.backbone import Backbone, get_backbone
from skxlmr.runtime.plan import make_plan

MODELS = {"xl": XLMRobertaXLConfig.xl, "xxl": XLMRobertaXLConfig.xxl, "e5-small": BertConfig}
TINY = {"vocab_size": 10_000, "num_hidden_layers": 2, "num_attention_heads": 2}
MEAN_TOKENS = 100  # of the texts
ENOUGH_SECONDS = 2.5  # of one timed pass


@dataclass(frozen=True)
class Line:
    """One figure, or the reason why it is missing."""

    part: str
    what: str
    value: float | None = None
    unit: str = ""
    remark: str = ""
    status: str = "measured"  # or "skipped" or "failed", with the reason as the remark
    target: str = ""
    met: bool | None = None


@dataclass
class Base:
    """A base model with random weights that was loaded on the device."""

    backbone: Backbone
    options: dict[str, object]  # for estimators, `model` and `device` included
    estimate: MemoryEstimate
    seconds: float
    peak: int | None  # bytes while it was loaded; None where the device does not tell
    weights: int | None

    @property
    def config(self) -> XLMRobertaXLConfig:
        return self.backbone.model.config

    def embedder(self) -> XLMRXLEmbedder:
        """Return a fitted embedder on this base."""
        fitted = XLMRXLEmbedder(**self.options, pooling="mean").fit(["a text"])
        assert fitted._fitted_backbone() is self.backbone, "the estimator loaded another base"
        return fitted


def eight_bit(kind: str) -> Int8 | Float8:
    """Return the storage of "8-bit float", or of "8-bit ENGINE" for integers."""
    engine = kind.removeprefix("8-bit ")
    return Float8(engine="scaled_mm") if engine == "float" else Int8(engine=engine)


@dataclass
class Session:
    """A device, a folder for small files, and what earlier parts have measured.

    With `quick`, models are tiny and texts few: it only shows that everything runs.
    """

    device: torch.device
    folder: Path
    quick: bool = False
    known: dict[tuple[str, str], float] = field(default_factory=dict)  # by part and what
    _rates: dict[str, float] = field(default_factory=dict)

    @cached_property
    def half(self) -> str:
        """The dtype of 16 bits that estimators choose on this device."""
        chosen = choose_dtype("auto", self.device, XLMRobertaXLConfig.xl())
        return "float16" if chosen is torch.float16 else "bfloat16"

    @cached_property
    def texts(self) -> list[str]:
        """Texts with log-normal lengths, 100 tokens in the mean and up to a full window."""
        return log_normal_texts(16 if self.quick else 4000, mean=20 if self.quick else MEAN_TOKENS)

    def config(self, name: str) -> XLMRobertaXLConfig:
        """Return the config of a model."""
        config = MODELS[name]()
        if self.quick:
            width = {"xl": 64, "xxl": 128, "e5-small": 32}[name]
            config = replace(config, **TINY, hidden_size=width, intermediate_size=4 * width)
        return config

    def options(self, kind: str) -> dict[str, object]:
        """Return the parameters of estimators for a kind: a dtype, "4-bit", "8-bit float" or "8-bit ENGINE"."""
        device = {"device": str(self.device)}
        if kind == "4-bit":
            return {"dtype": self.half, "load_in_8bit": False, "load_in_4bit": True, **device}
        if kind.startswith("8-bit "):
            return {"dtype": self.half, "load_in_8bit": eight_bit(kind), **device}
        return {"dtype": kind, "load_in_8bit": False, **device}

    def why_not(self, name: str, kind: str) -> str | None:
        """Return why a model cannot run in this way on the device; None if it can."""
        on_gpu = self.device.type == "cuda"
        if kind == "bfloat16" and on_gpu and not torch.cuda.is_bf16_supported(including_emulation=False):
            return "this GPU has no bfloat16"
        if kind == "8-bit triton" and not on_gpu:
            return "the kernels of Triton run on CUDA only"
        if kind.startswith("8-bit "):
            try:
                eight_bit(kind).engine_on(self.device)
            except (ValueError, ImportError) as error:
                return str(error)
        estimate = memory_estimate(self.config(name), **self.options(kind))
        if estimate.fits is False:
            return f"needs {estimate.total / 1e9:.1f} GB, and {estimate.available / 1e9:.1f} GB are free"
        return None

    @contextlib.contextmanager
    def base(self, name: str, kind: str) -> Iterator[Base]:
        """Load a model with random weights; it is freed at the end. Features of texts are not kept from now on."""
        skxlmr.set_feature_cache(0)
        self.release()
        config, options = self.config(name), self.options(kind)
        directory = self.folder / name
        if not directory.exists():
            stand_in(config, directory)
        options = {"model": str(directory), **options}
        estimate = memory_estimate(config, **{k: v for k, v in options.items() if k != "model"})
        before = self.allocated()
        self.reset_peak()
        synchronize(self.device)
        started = time.perf_counter()
        with random_weights(self.device):
            backbone = get_backbone(**options)
        synchronize(self.device)
        seconds, after, peak = time.perf_counter() - started, self.allocated(), self.peak()
        on_gpu = after is not None
        yield Base(
            backbone, options, estimate, seconds, peak - before if on_gpu else None, after - before if on_gpu else None
        )
        del backbone
        self.release()

    def release(self) -> None:
        """Free models that nothing refers to."""
        skxlmr.release_models()
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def allocated(self) -> int | None:
        return torch.cuda.memory_allocated(self.device) if self.device.type == "cuda" else None

    def peak(self) -> int | None:
        return torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else None

    def reset_peak(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def rate(self, kind: str) -> float:
        """Return the operations per second of XL's matrix products on this machine: of a dtype or as `ceiling` says."""
        if kind not in self._rates:
            config = self.config("xl")
            rows = (64,) if self.quick else ()
            self._rates[kind] = ceiling(config, kind, str(self.device), rows) * layer_flops(config)
        return self._rates[kind]

    def seconds(self, run: Callable[[], object], repeats: int = 3) -> float:
        """Return the least seconds of several runs, by the clock of the GPU where there is one."""
        return min(self.once(run) for _ in range(repeats))

    def once(self, run: Callable[[], object]) -> float:
        """Return the seconds of one run."""
        if self.device.type != "cuda":
            started = time.perf_counter()
            run()
            return time.perf_counter() - started
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000  # of milliseconds

    def texts_of(self, n_tokens: int, n_texts: int, tokenizer: XLMRobertaXLTokenizer) -> list[str]:
        """Return distinct texts of this number of tokens, special tokens included, or one or two more or fewer."""
        windows = make_plan(tokenizer, self.texts[:400], max_length=512, stride=0).windows
        ids = np.concatenate([window[1:-1] for window in windows])
        starts = np.random.RandomState(n_tokens).randint(max(1, len(ids) - n_tokens), size=n_texts)
        return [tokenizer.decode(ids[start : start + n_tokens - 2].tolist()) for start in starts]
