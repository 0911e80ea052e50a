"""Compare this library with its alternatives, on the same weights, texts and machine, in one run.

    python benchmarks/bench.py [SECTION ...] [--device cpu] [--models nano xl-width] [--out FOLDER]

Sections: embed, predict, train, small, scale. Tokens are counted without padding, with `<s>` and `</s>`, for all
engines. Every engine takes texts and returns arrays; loading is not timed. Engines run alternately, and the best run of
each counts; an engine that has taken 20 seconds is not run again. On a GPU, engines of different kinds are loaded one
after the other, so that each has the whole GPU.

Models: "nano"; "xl-width", two layers of XL's width with random weights; "xl" and "xxl", complete, with random weights
(for machines with a GPU; they temporarily need about 45 GB of disk). Writes bench-<device>.md, .json and .png after
each section; if only some sections are run, their names are part of the file names.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import peers
import scale
import torch
import transformers
from products import DTYPES, ceiling
from report import Row, as_markdown, draw, number
from shared import Bench, count_tokens, device_name, in_turns, log_normal_texts, real_texts
from ways_to_embed import kinds_of_engines

import skxlmr
from skxlmr import XLMRXLQA, LoRA, XLMRXLClassifier, XLMRXLEmbedder, XLMRXLTagger
from skxlmr.datasets import load_reviews
from skxlmr.model import XLMRobertaXLConfig
from skxlmr.runtime.feature_cache import clear_features

RANK, BATCH = 8, 16
DRAWN = ("embed", "train", "small")  # sections in the chart


# ---------------------------------------------------------------------------------------------------------------------
# Embedding


def embed(bench: Bench, models: list[str]) -> Iterator[Row]:
    """Embed texts of different lengths."""
    for name in models:
        n_texts = bench.size(name)
        for corpus, texts in {"real": real_texts(n_texts), "log-normal": log_normal_texts(n_texts)}.items():
            yield from embed_with(bench, name, corpus, texts)


def embed_with(bench: Bench, name: str, corpus: str, texts: list[str]) -> Iterator[Row]:
    """Run all engines on one model and one set of texts."""
    directory, n_tokens = bench.directory(name), count_tokens(texts)
    setting = f"{name}, {corpus} texts: {len(texts)}, {n_tokens:,} tokens"
    seconds, vectors, remarks = {}, {}, {}
    for kind, make in kinds_of_engines(bench, name, directory):
        release(bench.device)
        try:
            found = timed(make(), texts, bench)
        except RuntimeError as error:  # out of memory, or not supported by the device
            yield Row("embed", setting, f"failed: {kind}", 0.0, "tokens/s", 0.0, str(error).splitlines()[0])
            continue
        for known, more in zip((seconds, vectors, remarks), found, strict=True):
            known.update(more)
    if not seconds:
        return
    speed, tuned = with_best_tuned({how: n_tokens / s for how, s in seconds.items()})
    base, exact = next(iter(speed.values())), vectors.get("skxlmr, float32")  # missing for XL and XXL
    config, ceilings = XLMRobertaXLConfig.from_pretrained(directory), {}
    for how, tokens_per_second in speed.items():
        said = [tuned[how].split(", ")[-1], remarks[tuned[how]]] if how in tuned else [remarks[how]]
        if how.startswith("skxlmr"):
            kind = how.split(", ")[1]
            ceilings[kind] = ceilings.get(kind) or ceiling(config, kind, bench.device)
            said.append(f"{tokens_per_second / ceilings[kind]:.2f} of the products' {ceilings[kind]:,.0f}")
        if exact is not None and "pipeline" not in how:  # a pipeline returns the states of all tokens
            of_how = np.asarray(vectors[tuned.get(how, how)])
            said.append(f"least cosine to our float32 {cosines(of_how, exact).min():.4f}")
        remark = "; ".join(filter(None, said))
        yield Row("embed", setting, how, tokens_per_second, "tokens/s", tokens_per_second / base, remark)


def timed(
    engines: dict[str, Callable[[list[str]], object]], texts: list[str], bench: Bench
) -> tuple[dict[str, float], dict[str, np.ndarray], dict[str, str]]:
    """Return the seconds and the vectors of each engine, and as a remark the peak GPU memory."""
    remarks = dict.fromkeys(engines, "")

    def run(how: str) -> object:
        if bench.device == "cpu":
            return engines[how](texts)
        torch.cuda.reset_peak_memory_stats(bench.device)
        result = engines[how](texts)
        remarks[how] = f"{torch.cuda.max_memory_allocated(bench.device) / 1e9:.1f} GB"
        return result

    for engine in engines.values():
        engine(texts[:8])
    return *in_turns({how: partial(run, how) for how in engines}, bench.repeats), remarks


def release(device: str) -> None:
    """Free the models of all engines."""
    skxlmr.release_models()
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()


def with_best_tuned(speed: dict[str, float]) -> tuple[dict[str, float], dict[str, str]]:
    """Keep only the fastest batch size of the padded batches sorted by length; also map its new name to its old one."""
    tuned = {how: int(found[1]) for how in speed if (found := re.search(r"^transformers.* by length, .* (\d+)$", how))}
    if not tuned:
        return speed, {}
    best = max(tuned, key=speed.get)
    name = f"transformers, bfloat16, by length, best of batches of {', '.join(map(str, tuned.values()))}"
    kept = {(name if how == best else how): s for how, s in speed.items() if how not in tuned or how == best}
    return kept, {name: best}


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the cosines between the rows of two matrices."""
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


# ---------------------------------------------------------------------------------------------------------------------
# Predicting


def predict(bench: Bench, models: list[str]) -> Iterator[Row]:
    """Compare classifier, tagger and question answering with the embedder, which only encodes."""
    for name in models:
        texts = [" ".join(text.split()) for text in bench.reviews(name)[0]]
        words, questions = [text.split() for text in texts], ["What is it about?"] * len(texts)
        pairs = pd.DataFrame({"question": questions, "context": texts})
        tags = [[("B-A", "I-A", "O")[i % 3] for i in range(len(row))] for row in words[:16]]
        model = {"model": str(bench.directory(name)), "device": bench.device}
        options = {**model, "max_epochs": 1, "random_state": 0}
        embedder = XLMRXLEmbedder(**model, pooling="cls")
        classifier = XLMRXLClassifier(**options).fit(texts[:16], np.arange(16) % 2)
        tagger = XLMRXLTagger(**options).fit(words[:16], tags)
        answering = XLMRXLQA(**options).fit(pairs[:16], [(text.split()[0], 0) for text in texts[:16]])
        single, double = count_tokens(texts), count_tokens(questions, texts)
        engines = {
            "embedder": (partial(embedder.fit_transform, texts), single),
            "classifier": (partial(classifier.predict, texts), single),
            "tagger (BIO)": (partial(tagger.predict, words), single),
            "embedder of pairs": (partial(embedder.fit_transform, pairs), double),
            "question answering": (partial(answering.predict, pairs), double),
        }
        seconds, _ = in_turns({how: run for how, (run, _) in engines.items()}, bench.repeats + 1)
        speed = {how: n_tokens / seconds[how] for how, (_, n_tokens) in engines.items()}
        for how, value in speed.items():
            beside = "embedder of pairs" if engines[how][1] == double else "embedder"
            yield Row("predict", f"{name}, {len(texts)} reviews", how, value, "tokens/s", value / speed[beside])


# ---------------------------------------------------------------------------------------------------------------------
# Training


def train(bench: Bench, models: list[str]) -> Iterator[Row]:
    """Time an epoch of LoRA on queries and values, from texts to fitted model, without loading."""
    for name in models:
        dtypes = ["float32"] if name == "nano" else ["bfloat16"]
        for dtype in dtypes:
            yield from train_with(bench, name, dtype)


def train_with(bench: Bench, name: str, dtype: str) -> Iterator[Row]:
    """Run all engines on one model."""
    directory = bench.directory(name)
    texts, labels = bench.reviews(name)
    clf = XLMRXLClassifier(
        str(directory), tuning=LoRA(rank=RANK, alpha=2 * RANK, dropout=0.0), dtype=dtype, load_in_8bit=False,
        device=bench.device, batch_size=BATCH, max_epochs=1, random_state=0,
    )  # fmt: skip
    settings = {"dtype": DTYPES[dtype], "device": bench.device, "rank": RANK, "batch_size": BATCH}
    engines = {
        f"transformers Trainer + peft, {dtype}": peers.trainer(directory, **settings),
        f"skxlmr, {dtype}": lambda X, y: clear_features() or clf.fit(X, y),
    }
    if name == "nano":
        engines[f"skorch + transformers + peft, {dtype}"] = peers.skorch(directory, **settings)
    for engine in engines.values():
        engine(texts[:8], [0, 1] * 4)
    seconds, _ = in_turns({how: partial(engine, texts, labels) for how, engine in engines.items()}, bench.repeats)
    n_tokens, base = count_tokens(texts), next(iter(seconds.values()))
    setting = f"{name}, LoRA of rank {RANK}, an epoch of {len(texts)} reviews, {n_tokens:,} tokens"
    for how, s in seconds.items():
        yield Row("train", setting, how, n_tokens / s, "tokens/s", base / s)


# ---------------------------------------------------------------------------------------------------------------------
# Small inputs

FIRST_STEP = """
import sys, time
from skxlmr import XLMRXLClassifier
from skxlmr.training import Callback
class First(Callback):
    def on_epoch_begin(self, trainer):
        print(time.perf_counter() - began)
texts = [f"text {i} of some words" for i in range(64)]
began = time.perf_counter()
clf = XLMRXLClassifier(sys.argv[1], device=sys.argv[2], max_epochs=1, random_state=0, callbacks=[First()])
clf.fit(texts, [0, 1] * 32)
"""


def small(bench: Bench, models: list[str]) -> Iterator[Row]:
    """Time single texts, and `fit` up to its first step, each in separate processes."""
    directory, exported = bench.directory("nano"), bench.folder / "exported"
    peers.tokenizer(directory)
    texts = load_reviews().text[:8].tolist()
    clf = XLMRXLClassifier("nano", device=bench.device, max_epochs=1, random_state=0).fit(texts, [0, 1] * 4)
    clf.export_pretrained(exported)
    engines = {
        "transformers pipeline, text-classification": ("pipeline", exported),
        "skxlmr classifier, predict": ("classifier", directory),
        "sentence-transformers, encode": ("sentence-transformers", directory),
        "skxlmr embedder, transform": ("embedder", directory),
    }
    script, base = Path(__file__).with_name("one_text.py"), 0.0
    for i, (how, engine) in enumerate(engines.items()):
        value = min(float(python(script, *engine, "--device", bench.device)) for _ in range(bench.repeats))
        base = base if i % 2 else value  # each row of skxlmr follows the row it is compared with
        yield Row("small", "nano, float32, one text, median", how, value, "ms", base / value)
    first = min(float(python("-c", FIRST_STEP, "nano", bench.device)) for _ in range(bench.repeats))
    yield Row("small", "nano, fresh process", "skxlmr, from the call of fit to its first step", first, "s", 1.0)


def python(*arguments: object) -> str:
    """Run Python in a new process and return the last line that it prints."""
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout.splitlines()[-1]


def growth(bench: Bench, models: list[str]) -> Iterator[Row]:
    """Measure time and memory for increasing numbers of texts; scale.py also runs a million."""
    sizes = [3_000, 10_000, 30_000]
    rows = scale.in_processes("nano", sizes, device=bench.device)
    for row in rows:
        remark = (
            f"planning {row['planning_share']:.3f} of the time; {row['beyond_vectors_mb']:.0f} MB beyond the vectors"
        )
        ratio = row["tokens_per_second"] / rows[0]["tokens_per_second"]
        yield Row(
            "scale",
            "nano, log-normal texts",
            f"{row['texts']:,} texts",
            row["tokens_per_second"],
            "tokens/s",
            ratio,
            remark,
        )


SECTIONS = {"embed": embed, "predict": predict, "train": train, "small": small, "scale": growth}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], default=[])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--models", nargs="+", choices=["nano", "xl-width", "xl", "xxl"])
    parser.add_argument("--texts", type=int, default=600)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    on_gpu = arguments.device.startswith("cuda")
    models = arguments.models or ["nano", "xl-width", *(["xl", "xxl"] if on_gpu else [])]
    skxlmr.set_feature_cache(0)
    about = {
        "device": device_name(arguments.device),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SKXLMR_CACHE"] = str(Path(folder) / "cache")
        bench = Bench(arguments.device, Path(folder), arguments.texts, arguments.repeats)
        for section in arguments.sections or SECTIONS:
            for row in SECTIONS[section](bench, [m for m in models if section == "embed" or m in ("nano", "xl-width")]):
                said = f"{number(row.value)} {row.unit} | {row.ratio:.2f} | {row.remark}"
                print(f"{row.section} | {row.setting} | {row.how} | {said}", flush=True)
                rows.append(row)
            release(arguments.device)
            stem = save(rows, about, arguments.out, arguments.sections)
    print(f"written: {stem}.md, .json, .png")


def save(rows: list[Row], about: dict[str, str], folder: Path, sections: list[str]) -> Path:
    """Write the results so far; return the common stem of the files."""
    folder.mkdir(exist_ok=True, parents=True)
    name = re.sub(r"[^A-Za-z0-9]+", "-", " ".join([about["device"], *sections])).strip("-").lower()
    stem = folder / f"bench-{name}"
    stem.with_suffix(".json").write_text(json.dumps(about | {"rows": [asdict(row) for row in rows]}, indent=1) + "\n")
    stem.with_suffix(".md").write_text(as_markdown(rows, about))
    drawn = [row for row in rows if row.section in DRAWN]
    draw(drawn, f"How often as fast as the first line ({about['device']})", stem.with_suffix(".png"))
    return stem


if __name__ == "__main__":
    main()
