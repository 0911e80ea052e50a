"""The parts of `gpu.py`. Each yields lines as soon as they are measured.

FLOP utilisation: `products.model_flops` of the texts, divided by the seconds of the encoder and by the FLOP/s of the
matrix products of XL (`products.ceiling`, in 16 bits), which are measured in the same process.
"""

from __future__ import annotations

import importlib.util
import os
import re
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import gpu_peers
import numpy as np
import torch
from gpu_session import ENOUGH_SECONDS, Base, Line, Session
from products import DTYPES, model_flops, synchronize
from sklearn.exceptions import ConvergenceWarning

import skxlmr
from skxlmr import LoRA, XLMRXLClassifier, XLMRXLEmbedder, memory_estimate
from skxlmr.runtime.plan import make_plan
from skxlmr.runtime.run import Batch, HostBatch, encode
from skxlmr.text.batching import token_batches
from skxlmr.training import Callback

REPOSITORY = Path(__file__).resolve().parents[1]
TEST_SECONDS = 70.0
LATENCY_TOKENS = (20, 200)
STEP_ROWS, STEP_TOKENS = 64, 128  # of a training step: rows, and tokens of each

Run = Callable[[Session, str], Iterator[Line]]


@dataclass(frozen=True)
class Part:
    """Something that is measured within a time budget, in seconds; the start of a process is not in it."""

    name: str
    seconds: float
    run: Run


def all_parts(has_bfloat16: bool) -> list[Part]:
    """Return the parts, the most valuable first; on GPUs without bfloat16 float16 takes its place.

    Their time budgets together are the time that `gpu.py` takes by default.
    """
    half, other = ("bfloat16", "float16") if has_bfloat16 else ("float16", "bfloat16")
    rows: list[tuple[str, float, Run]] = [
        ("products", 20, products),
        (f"xl {half}", 45, partial(model, name="xl", kind=half)),
        ("xl 8-bit triton", 40, partial(model, name="xl", kind="8-bit triton")),
        ("sentence-transformers xl float16", 40, partial(gpu_peers.sentence_transformers, name="xl")),
        ("tests", TEST_SECONDS + 5, partial(correctness, limit=TEST_SECONDS)),
        (f"latency xl {half}", 20, partial(latency, name="xl", kind=half)),
        ("latency xl 8-bit auto", 20, partial(latency, name="xl", kind="8-bit auto")),
        (f"lora xl {half}", 25, partial(lora, name="xl", kind=half)),
        ("xl 8-bit bitsandbytes", 25, partial(model, name="xl", kind="8-bit bitsandbytes")),
        ("bitsandbytes xl 8-bit", 30, partial(gpu_peers.bitsandbytes, name="xl")),
        ("xxl 8-bit auto", 30, partial(model, name="xxl", kind="8-bit auto")),
        ("lora xl 8-bit auto", 25, partial(lora, name="xl", kind="8-bit auto")),
        ("xl 8-bit float", 20, partial(model, name="xl", kind="8-bit float")),
        (f"e5-small {half}", 15, partial(model, name="e5-small", kind=half)),
        ("sentence-transformers e5-small float16", 15, partial(gpu_peers.sentence_transformers, name="e5-small")),
        (f"latency e5-small {half}", 10, partial(latency, name="e5-small", kind=half)),
        ("xl 8-bit int_mm", 15, partial(model, name="xl", kind="8-bit int_mm")),
        ("xl 8-bit dequantize", 15, partial(model, name="xl", kind="8-bit dequantize")),
        (f"xl {other}", 15, partial(model, name="xl", kind=other)),
        ("xl 4-bit", 15, partial(model, name="xl", kind="4-bit")),
        (f"xxl {half}", 25, partial(model, name="xxl", kind=half)),
    ]
    return [Part(*row) for row in rows]


# ---------------------------------------------------------------------------------------------------------------------
# Correctness


def correctness(
    session: Session, part: str, limit: float = TEST_SECONDS, folders: Sequence[str] = ("tests",)
) -> Iterator[Line]:
    """Run `pytest -m gpu` in a process of its own; what had ended within the limit counts."""
    if importlib.util.find_spec("pytest") is None:
        yield Line(part, "pytest -m gpu", status="skipped", remark="pytest is not installed")
        return
    if session.quick:
        folders = ("tests/model/test_segments.py",)
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "COLUMNS": "300"}
    command = [sys.executable, "-m", "pytest", "-v", "--tb=line", "-m", "gpu", "-p", "no:cacheprovider"]
    command += ["--continue-on-collection-errors", *folders]
    started, cut = time.perf_counter(), ""
    log = session.folder / "pytest.txt"
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=out, stderr=subprocess.STDOUT, env=environment)
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            cut = f"cut off after {limit:.0f} s; "
        finally:
            process.kill()
            process.wait()
    yield from counted(part, log.read_text(errors="replace"), cut, time.perf_counter() - started)


def counted(part: str, text: str, cut: str, seconds: float) -> Iterator[Line]:
    """Count the results in the output of `pytest -v`."""
    results = re.findall(r"^(\S+::.+?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL)\b", text, re.MULTILINE)
    n_passed = sum(result == "PASSED" for _, result in results)
    bad = {name: "" for name, result in results if result in ("FAILED", "ERROR")}
    # Those at the end of the output, which is missing if it was cut off.
    reasons = re.findall(
        r"^(?:FAILED|ERROR) (\S+::.+?|\S+)(?: - (.*))?$", text, re.MULTILINE
    )  # at the end of the output
    bad |= {name: f": {why[:150]}" * bool(why) for name, why in reasons}
    remark = f"{cut}{sum(result == 'SKIPPED' for _, result in results)} skipped, {seconds:.0f} s"
    if not results and not bad:
        yield Line(part, "pytest -m gpu", status="failed", remark=f"{cut}no test ended: {text.strip()[-300:]}")
        return
    yield Line(part, "tests passed", n_passed, "tests", remark)
    yield Line(part, "tests failed", len(bad), "tests", "; ".join(name + why for name, why in [*bad.items()][:20]))


# ---------------------------------------------------------------------------------------------------------------------
# Speed and memory


def products(session: Session, part: str) -> Iterator[Line]:
    """Measure the matrix products of XL's layers, and copying in the memory of the device."""
    other = "float16" if session.half == "bfloat16" else "bfloat16"
    for kind in (session.half, "8-bit", "8-bit float", other):
        try:
            rate = session.rate(kind)
        except RuntimeError as error:  # no such products on this device
            yield Line(part, f"products in {kind}", status="skipped", remark=first_line(error))
            continue
        yield Line(part, f"products in {kind}", rate / 1e12, "TFLOP/s", "XL's layers, best number of rows")
    n = 2**16 if session.quick else 2**30
    a = torch.zeros(n, dtype=torch.uint8, device=session.device)
    b = torch.empty_like(a)
    b.copy_(a)
    yield Line(part, "copy in memory", 2 * n / session.seconds(lambda: b.copy_(a), 5) / 1e9, "GB/s", "read and written")


def model(session: Session, part: str, name: str, kind: str) -> Iterator[Line]:
    """Load a model; embed ragged texts, by the encoder alone and from texts to vectors."""
    if reason := session.why_not(name, kind):
        yield Line(part, "tokens/s", status="skipped", remark=reason)
        return
    with session.base(name, kind) as base:
        yield from loading(part, base)
        texts, windows = session.texts, make_windows(base, session.texts)
        lengths = np.array([len(window) for window in windows])
        session.reset_peak()
        before, budget = session.allocated(), base.backbone.batch_tokens("auto")
        rows = token_batches(lengths, budget)[:1]
        first = on_device(base, windows, rows)
        run_batches(base, first)  # chooses and compiles kernels
        speed = lengths[rows[0]].sum() / session.once(partial(run_batches, base, first))
        n = int(np.clip(speed * ENOUGH_SECONDS / lengths.mean(), min(64, len(texts)), len(texts)))
        texts, windows, lengths = texts[:n], windows[:n], lengths[:n]
        rows = token_batches(lengths, budget)
        seconds = session.seconds(partial(run_batches, base, on_device(base, windows, rows)))
        n_tokens, flops = int(lengths.sum()), model_flops(base.config, lengths)
        said = f"{n} texts, {n_tokens:,} tokens, batches of {budget:,}"
        yield Line(part, "encoder", n_tokens / seconds, "tokens/s", said)
        yield Line(part, "FLOP/s of the model", flops / seconds / 1e12, "TFLOP/s")
        beside = kind if kind in DTYPES else session.half
        share, said = flops / seconds / session.rate(beside), of_8bit(session, kind, flops / seconds)
        yield Line(part, "of the measured product", share, "", f"product in {beside}{said}")
        if before is not None:
            largest = max(int(lengths[batch].sum()) for batch in rows)
            yield beside_weights(session, part, base, before, batch_tokens=largest)
        embedder = base.embedder()
        embedder.transform(texts[: min(32, n)])
        synchronize(session.device)
        started = time.perf_counter()
        embedder.transform(texts)
        yield Line(
            part, "texts to vectors", n_tokens / (time.perf_counter() - started), "tokens/s", "tokenised as well"
        )
        half = session.known.get((f"{name} {session.half}", "encoder"))
        if half and kind.startswith("8-bit"):
            yield Line(part, f"times {session.half}", n_tokens / seconds / half, "x", "encoder")


def loading(part: str, base: Base) -> Iterator[Line]:
    """Yield the seconds and the memory of a load."""
    yield Line(part, "load", base.seconds, "s", "random numbers drawn on the device, converted or quantised; no disk")
    if base.weights is not None and base.peak is not None:
        weights = base.weights / 1e9
        yield Line(part, "weights", weights, "GB", compared(weights, base.estimate.weights))
        yield Line(part, "peak while loading", base.peak / 1e9, "GB")


def beside_weights(session: Session, part: str, base: Base, before: int, **training: object) -> Line:
    """Compare the peak since the last `reset_peak`, less what was there before, with what is estimated."""
    settings = {key: value for key, value in base.options.items() if key != "model"}
    estimate = memory_estimate(base.config, **settings, **training)
    peak = (session.peak() - before) / 1e9
    said = compared(peak, estimate.total - estimate.weights)
    return Line(part, "beside the weights", peak, "GB", f"{said}; {estimate.batch_tokens:,} tokens at once")


def compared(gigabytes: float, estimate: int) -> str:
    return f"memory_estimate {estimate / 1e9:.3g} GB, {100 * (gigabytes / max(estimate / 1e9, 1e-12) - 1):+.1f} %"


def of_8bit(session: Session, kind: str, per_second: float) -> str:
    if not kind.startswith("8-bit"):
        return ""
    product = kind if kind == "8-bit float" else "8-bit"
    try:
        return f"; {per_second / session.rate(product):.2f} of the product in {product}"
    except RuntimeError:
        return "; no products in 8 bits here"


def make_windows(base: Base, texts: list[str]) -> list[np.ndarray]:
    tokenizer, longest = base.backbone.tokenizer, base.config.max_length
    return make_plan(tokenizer, texts, max_length=longest, stride=0, truncation=True).windows


def on_device(base: Base, windows: list[np.ndarray], batches: list[np.ndarray]) -> list[Batch]:
    """Upload batches of windows."""
    model = base.backbone.model
    return [HostBatch.of([windows[i] for i in batch], model).to(model.device) for batch in batches]


@torch.inference_mode()
def run_batches(base: Base, batches: list[Batch]) -> None:
    """Run the encoder; nothing is read back."""
    for batch in batches:
        encode(base.backbone.model, batch)


def latency(session: Session, part: str, name: str, kind: str) -> Iterator[Line]:
    """Time single texts one after the other, from text to vector and by the encoder alone: the median."""
    if reason := session.why_not(name, kind):
        yield Line(part, "one text", status="skipped", remark=reason)
        return
    with session.base(name, kind) as base:
        embedder = base.embedder()
        for n_tokens in LATENCY_TOKENS:
            yield from one_text(session, part, base, embedder, n_tokens)
            if session.device.type == "cuda":
                skxlmr.set_cuda_graphs(0)
                try:
                    yield from one_text(session, part, base, embedder, n_tokens, ", without CUDA graphs")
                finally:
                    skxlmr.set_cuda_graphs()


def one_text(
    session: Session, part: str, base: Base, embedder: XLMRXLEmbedder, n_tokens: int, how: str = ""
) -> Iterator[Line]:
    n_warm, n_timed = (3, 3) if session.quick else (10, 50)
    texts = session.texts_of(n_tokens, n_warm + n_timed, base.backbone.tokenizer)
    windows = make_windows(base, texts)
    batches = on_device(base, windows, [np.array([i]) for i in range(len(windows))])
    whole = [wall_seconds(session, partial(embedder.transform, [text])) for text in texts][n_warm:]
    alone = [session.once(partial(run_batches, base, [batch])) for batch in batches]
    said = f"{statistics.mean(map(len, windows)):.0f} tokens, median of {n_timed}"
    yield Line(part, f"one text of {n_tokens}{how}", 1000 * statistics.median(whole), "ms", said)
    yield Line(part, f"encoder, {n_tokens}{how}", 1000 * statistics.median(alone[n_warm:] or alone), "ms", said)


def wall_seconds(session: Session, run: Callable[[], object]) -> float:
    synchronize(session.device)
    started = time.perf_counter()
    run()
    synchronize(session.device)
    return time.perf_counter() - started


# ---------------------------------------------------------------------------------------------------------------------
# Training


class StepSeconds(Callback):
    """Records when each optimizer step has ended on the device."""

    def __init__(self, session: Session) -> None:
        self.session, self.ended = session, []

    def on_fit_begin(self, trainer: object) -> None:
        self._now()

    def on_step_end(self, trainer: object) -> None:
        self._now()

    def _now(self) -> None:
        synchronize(self.session.device)
        self.ended.append(time.perf_counter())


def lora(session: Session, part: str, name: str, kind: str) -> Iterator[Line]:
    """Time steps of LoRA with its defaults: rank 8 on all matrices of the upper half of the layers."""
    if reason := session.why_not(name, kind):
        yield Line(part, "LoRA step", status="skipped", remark=reason)
        return
    rows, tokens, steps = (4, 16, 3) if session.quick else (STEP_ROWS, STEP_TOKENS, 4)
    with session.base(name, kind) as base:
        tuning = LoRA()
        texts = session.texts_of(tokens, rows * steps, base.backbone.tokenizer)
        n_tokens = sum(map(len, make_windows(base, texts))) / steps
        budget = training_tokens(base, tuning, rows * tokens * 9 // 8)  # texts may have a token or two more
        seconds = StepSeconds(session)
        clf = XLMRXLClassifier(
            **base.options, tuning=tuning, init="random", batch_size=rows, batch_tokens=budget, max_epochs=1,
            random_state=0, callbacks=[seconds],
        )  # fmt: skip
        before = session.allocated()
        session.reset_peak()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # of random weights in a few steps
            clf.fit(texts, np.arange(len(texts)) % 2)
        step = statistics.median(np.diff(seconds.ended)[1:])
        yield Line(part, "LoRA step", step, "s", f"{rows} rows, {n_tokens:,.0f} tokens, upper half of the layers")
        yield Line(part, "trained", n_tokens / step, "tokens/s")
        if before is not None:
            yield beside_weights(session, part, base, before, batch_tokens=min(int(n_tokens), budget), tuning=tuning)


def training_tokens(base: Base, tuning: LoRA, wanted: int) -> int:
    """Halve the number of tokens at once until the estimate fits beside the weights, which are there already."""
    settings = {key: value for key, value in base.options.items() if key != "model"}
    while wanted > base.config.max_length:
        estimate = memory_estimate(base.config, tuning=tuning, batch_tokens=wanted, **settings)
        if estimate.available is None or estimate.total - estimate.weights < 0.95 * estimate.available:
            break
        wanted //= 2
    return wanted


def first_line(error: BaseException) -> str:
    """Return the type of an error and the first line of its message, at most 300 characters."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}"
