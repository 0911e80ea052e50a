"""Count what the host and each emulated GPU do: operators of a layer, waits and uploads of a batch, waits of a step.

    python benchmarks/emulated_gpus.py [GPU ...]

Prints a table. Nothing is timed, and no GPU is needed; `tests/support/emulated_cuda` says what an emulated one shows.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests" / "support")]

import torch  # noqa: E402
from emulated_cuda import GPUS, EmulatedCuda  # noqa: E402

import skxlmr  # noqa: E402
from skxlmr import Float8, Int8, XLMRXLClassifier, XLMRXLEmbedder  # noqa: E402
from skxlmr.hardware.device import choose_dtype  # noqa: E402
from skxlmr.model.int8_engines.choice import ENGINES  # noqa: E402
from skxlmr.model.storage import EightBit  # noqa: E402
from skxlmr.runtime.backbone import get_backbone  # noqa: E402
from skxlmr.runtime.feature_cache import clear_features  # noqa: E402
from skxlmr.training import Callback  # noqa: E402

TEXTS = [f"{word} film number {i}" for i, word in enumerate(["good", "bad", "a nice one , fine", "poor"] * 4)]
STORAGES = {
    "16 bits": {"load_in_8bit": False},
    **{f"8 bits, {name}": {"load_in_8bit": Int8(engine=name)} for name in ENGINES if name != "avx"},
    "8 bits, floating point": {"load_in_8bit": Float8(engine="scaled_mm")},
    "4 bits": {"load_in_8bit": False, "load_in_4bit": True},
}
COLUMNS = (
    "GPU",
    "dtype",
    "weights",
    "operators of a layer",
    "waits of a batch",
    "uploads of a batch",
    "waits of a step",
)


class WaitsOfSteps(Callback):
    """Notes how often the host has waited after each step."""

    def __init__(self, counts: object) -> None:
        self.counts, self.after = counts, []

    def on_step_end(self, trainer: object) -> None:
        self.after.append(self.counts.n_waits)


def rows(name: str) -> Iterator[list[object]]:
    """Yield a row for each storage of weights that runs on a GPU."""
    with EmulatedCuda(GPUS[name]) as gpu:
        for storage, load in STORAGES.items():
            clear_features()
            settings = {"model": "nano", "device": "cuda", "batch_tokens": 64, **load}
            if isinstance(load["load_in_8bit"], EightBit):
                try:
                    load["load_in_8bit"].engine_on(torch.device("cuda", 0))
                except ValueError:  # it has no such products
                    continue
            base = get_backbone("nano", device="cuda", **load).model
            embedder = XLMRXLEmbedder(**settings).fit(TEXTS)
            embedder.transform(TEXTS)
            clear_features()
            with gpu.counting() as counts:
                embedder.transform(TEXTS)
            n_batches = len(counts.operators_of_layers) / base.config.num_hidden_layers
            per_layer = max(layer.total() for layer in counts.operators_of_layers)
            with gpu.counting() as of_steps:
                steps = WaitsOfSteps(of_steps)
                XLMRXLClassifier(**settings, callbacks=[steps], max_epochs=1, batch_size=4, random_state=0).fit(
                    TEXTS, ["yes", "no"] * 8
                )
            of_a_step = max(b - a for a, b in zip(steps.after, steps.after[1:], strict=False))
            dtype = str(choose_dtype("auto", base.device, base.config)).removeprefix("torch.")
            yield [name, dtype, storage, per_layer, counts.n_waits / n_batches, counts.n_uploads / n_batches, of_a_step]
        del base, embedder
        skxlmr.release_models()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gpus", nargs="*", metavar="GPU", help=f"of {', '.join(GPUS)}; all by default")
    names = parser.parse_args().gpus or list(GPUS)
    warnings.simplefilter("ignore")  # a training of one epoch
    skxlmr.set_cuda_graphs(0)  # whose replays run no operators
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SKXLMR_CACHE"] = folder
        for name in names:
            for row in rows(name):
                print("| " + " | ".join(f"{x:g}" if isinstance(x, float) else str(x) for x in row) + " |", flush=True)


if __name__ == "__main__":
    main()
