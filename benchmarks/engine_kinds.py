"""The engines of `engines.py`: how each loads a model, and how it embeds.

Notation: B texts, L tokens of the longest of them, H hidden size.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

import numpy as np
import torch
from engine_models import Model, pad

from skxlmr.runtime.backbone import get_backbone
from skxlmr.runtime.features import frozen_features

THREADS = 2  # of all workers of an engine together
BATCH_SIZES = (4, 8, 16, 32)  # texts; the best one of each engine counts

Ids = Sequence[np.ndarray]
Embed = Callable[[Ids], np.ndarray]  # ids of B texts -> (B, H), float32


@dataclass(frozen=True)
class Engine:
    """A way to embed texts."""

    load: Callable[[Model], Embed]
    packages: tuple[str, ...] = ()
    workers: int = 1  # threads that call it side by side, each with a batch
    makes_batches: bool = False  # so that it takes all texts at once
    takes_one: bool = True  # whether it is timed on single texts
    compiles: bool = False  # for minutes; the result is cached

    @property
    def missing(self) -> list[str]:
        """Its packages that are not installed."""
        return not_installed(self.packages)


def not_installed(packages: Iterable[str]) -> list[str]:
    """Return the packages that are not installed."""
    return [package for package in packages if not find_spec(package)]


def environment() -> dict[str, str]:
    """Return the environment of the processes that measure.

    numpy has one thread: those of OpenBLAS wait actively for more work, at the cost of the engine's own.
    """
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(THREADS)) | {"OPENBLAS_NUM_THREADS": "1"}
    return {**os.environ, **threads, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}


def in_batches(engine: Engine, embed: Embed, ids: Ids, size: int) -> np.ndarray:
    """Embed texts in batches of this many of similar length, longest first; (n, H)."""
    if engine.makes_batches:
        return embed(ids)
    order = np.argsort([-len(row) for row in ids], kind="stable")
    batches = [order[start : start + size] for start in range(0, len(ids), size)]
    rows = ([ids[i] for i in batch] for batch in batches)
    if engine.workers == 1:
        parts = list(map(embed, rows))
    else:
        with ThreadPoolExecutor(engine.workers) as pool:
            parts = list(pool.map(embed, rows))
    vectors = np.empty((len(ids), parts[0].shape[1]), np.float32)
    for batch, part in zip(batches, parts, strict=True):
        vectors[batch] = part
    return vectors


# ---------------------------------------------------------------------------------------------------------------------
# Each returns a function that embeds


def ours(model: Model, **settings: object) -> Embed:
    """Run this library from token ids to vectors, as its estimators do, without the cache of features."""
    import skxlmr

    skxlmr.set_feature_cache(0)
    backbone = get_backbone(model.directory, device="cpu", **settings)
    return partial(frozen_features, backbone, pooling="mean", batch_tokens=backbone.batch_tokens("auto"))


def padded_batches(run: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Embed:
    """Return the function that pads texts and runs a model of torch on ids and mask (B, L)."""

    @torch.no_grad()
    def embed(ids: Ids) -> np.ndarray:
        return run(*map(torch.from_numpy, pad(ids))).float().numpy()

    return embed


def transformers(model: Model, dtype: torch.dtype) -> Embed:
    """Run transformers; the mean of the states is computed in float32."""
    import transformers
    from peers import mean_of_tokens

    loaded = transformers.AutoModel.from_pretrained(model.directory, dtype=dtype, add_pooling_layer=False).eval()
    return padded_batches(lambda ids, mask: mean_of_tokens(loaded(input_ids=ids, attention_mask=mask), mask))


def torchao(model: Model) -> Embed:
    """Compile the padded encoder with inductor: int8 weights, activations quantised per token, the rest bfloat16."""
    import torch._inductor.config as inductor
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(model.folder / "inductor")
    inductor.freezing = True
    encoder = model.padded(fused_attention=True).to(torch.bfloat16)
    quantize_(encoder, Int8DynamicActivationInt8WeightConfig())
    return padded_batches(torch.compile(encoder, dynamic=True))


def ctranslate2(model: Model, workers: int = 1) -> Embed:
    """Run CTranslate2 in 8 bits; the rest is float32."""
    import ctranslate2
    from ctranslate2 import StorageView

    encoder = ctranslate2.Encoder(
        str(model.folder / "ctranslate2"), compute_type="int8_float32", inter_threads=workers,
        intra_threads=THREADS // workers,
    )  # fmt: skip

    def embed(ids: Ids) -> np.ndarray:
        padded, mask = pad(ids, np.int32)
        lengths = mask.sum(1)
        output = encoder.forward_batch(StorageView.from_array(padded), StorageView.from_array(lengths.astype(np.int32)))
        sums = np.matmul(mask[:, None].astype(np.float32), np.asarray(output.last_hidden_state))[:, 0]
        return sums / lengths[:, None]

    return embed


def openvino(model: Model, file: str, precision: str, streams: int = 1) -> Embed:
    """Run OpenVINO; with several streams, each thread that calls it has a request of its own."""
    import openvino

    hint = "LATENCY" if streams == 1 else "THROUGHPUT"
    settings = {
        "INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": THREADS, "NUM_STREAMS": streams,
        "PERFORMANCE_HINT": hint,
    }  # fmt: skip
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(model.folder / file), "CPU", settings)
    requests = threading.local()

    def embed(ids: Ids) -> np.ndarray:
        if not hasattr(requests, "own"):
            requests.own = compiled.create_infer_request()
        return requests.own.infer(list(pad(ids)))[0].astype(np.float32)

    return embed


def onnxruntime(model: Model, file: str) -> Embed:
    """Run ONNX Runtime with all of its own optimisations."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = THREADS, 1
    session = onnxruntime.InferenceSession(str(model.folder / file), options, providers=["CPUExecutionProvider"])

    def embed(ids: Ids) -> np.ndarray:
        padded, mask = pad(ids)
        return session.run(None, {"input_ids": padded, "attention_mask": mask})[0]

    return embed


INT8, FLOAT32 = "openvino-int8/int8.xml", "openvino/float32.xml"

ENGINES = {
    "skxlmr, 8 bits": Engine(partial(ours, load_in_8bit=True, dtype="bfloat16"), makes_batches=True),
    "skxlmr, bfloat16": Engine(partial(ours, load_in_8bit=False, dtype="bfloat16"), makes_batches=True),
    "skxlmr, float32": Engine(partial(ours, load_in_8bit=False, dtype="float32"), makes_batches=True),
    "OpenVINO, int8 and bfloat16": Engine(
        partial(openvino, file=INT8, precision="bf16"), ("openvino", "nncf")
    ),
    "OpenVINO, int8 and bfloat16, 2 streams": Engine(
        partial(openvino, file=INT8, precision="bf16", streams=2), ("openvino", "nncf"), workers=2, takes_one=False
    ),
    "OpenVINO, bfloat16": Engine(partial(openvino, file=FLOAT32, precision="bf16"), ("openvino",)),
    "OpenVINO, bfloat16, 2 streams": Engine(
        partial(openvino, file=FLOAT32, precision="bf16", streams=2), ("openvino",), workers=2, takes_one=False
    ),
    "CTranslate2, int8": Engine(ctranslate2, ("ctranslate2",)),
    "CTranslate2, int8, 2 workers": Engine(
        partial(ctranslate2, workers=2), ("ctranslate2",), workers=2
    ),
    "ONNX Runtime, int8, fused": Engine(partial(onnxruntime, file="onnx/int8.onnx"), ("onnxruntime", "onnx")),
    "torchao, int8, compiled": Engine(torchao, ("torchao",), compiles=True),
    "transformers, bfloat16": Engine(partial(transformers, dtype=torch.bfloat16), ("transformers",)),
}  # fmt: skip
