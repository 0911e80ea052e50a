"""The alternatives in `gpu.py`, with random weights on the device: sentence-transformers, transformers + bitsandbytes.

Each is skipped where its packages are not installed.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from gpu_session import ENOUGH_SECONDS, Line, Session
from products import synchronize
from random_models import stand_in
from shared import count_tokens, padded_means
from torch import nn

from skxlmr.model import XLMRobertaXLTokenizer

BATCHES = (32, 128, 512)  # rows: the default of sentence-transformers, and two that suit large GPUs
ATTENTIONS = ("flash_attention_2", "sdpa")  # of transformers, the fastest first


def missing(*packages: str) -> str | None:
    """Return why packages cannot be used; None if they can be imported."""
    for package in packages:
        try:
            importlib.import_module(package)
        except Exception as error:  # a broken installation raises anything
            return f"{package} is not installed or does not work here ({type(error).__name__}: {str(error)[:200]})"
    return None


def random_model(session: Session, name: str) -> nn.Module:
    """Return the model of transformers in float16 with random weights, made on the device."""
    import transformers

    session.release()
    directory = session.folder / name
    if not directory.exists():
        stand_in(session.config(name), directory)
    config = transformers.AutoConfig.from_pretrained(directory)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float16)
    try:
        with torch.device(session.device):
            made = with_fastest_attention(partial(transformers.AutoModel.from_config, config), session.device)
    finally:
        torch.set_default_dtype(default)
    return made.eval().requires_grad_(False).to(session.device, torch.float16)


def with_fastest_attention(make: Callable[..., nn.Module], device: torch.device) -> nn.Module:
    """Make a model with the first of `ATTENTIONS` that is installed, runs on the device and supports the model."""
    for attention in ATTENTIONS:
        if attention == "flash_attention_2" and device.type != "cuda":
            continue
        try:
            return make(attn_implementation=attention)
        except (ImportError, ValueError):  # transformers says so in one of these ways
            continue
    return make()


def attention_of(model: nn.Module) -> str:
    return f"attention: {getattr(model.config, '_attn_implementation', 'unknown')}"


def sentence_transformers(session: Session, part: str, name: str) -> Iterator[Line]:
    """Embed ragged texts with sentence-transformers in float16."""
    reason = missing("transformers", "sentence_transformers", "peers") or session.why_not(name, "float16")
    if reason:
        yield Line(part, "texts to vectors", status="skipped", remark=reason)
        return
    import peers
    from sentence_transformers import SentenceTransformer

    small = session.folder / "sentence-transformers"
    if not small.exists():
        peers.export("nano", small)
    theirs = SentenceTransformer(str(small), device=str(session.device))
    theirs[0].auto_model = random_model(session, name)  # nano's tokenizer and pooling around another model
    theirs.max_seq_length = 512
    for size in BATCHES:  # it sorts texts by length itself
        encode = partial(theirs.encode, batch_size=size, show_progress_bar=False)
        yield timed(session, part, name, size, encode, attention_of(theirs[0].auto_model))


def bitsandbytes(session: Session, part: str, name: str) -> Iterator[Line]:
    """Embed ragged texts with transformers and 8-bit layers of bitsandbytes, in batches of similar length."""
    reason = missing("transformers", "bitsandbytes") or session.why_not(name, "float16")
    if reason:
        yield Line(part, "texts to vectors", status="skipped", remark=reason)
        return
    model = random_model(session, name)
    quantize(model.encoder)
    tokenizer = XLMRobertaXLTokenizer.from_pretrained("nano")

    def encode(texts: list[str], size: int) -> np.ndarray:
        windows = [tokenizer.truncate(ids, max_length=512)[0] for ids in tokenizer.encode_batch(texts)]
        return padded_means(model, windows, size, session.device)

    for size in BATCHES:
        yield timed(session, part, name, size, partial(encode, size=size), attention_of(model))


def quantize(module: nn.Module) -> None:
    """Replace the linear layers, as `load_in_8bit` of transformers does; the weights stay on their device."""
    from bitsandbytes.functional import int8_vectorwise_quant
    from bitsandbytes.nn import Int8Params, Linear8bitLt

    for name, child in module.named_children():
        if not isinstance(child, nn.Linear):
            quantize(child)
            continue
        sizes = child.in_features, child.out_features
        layer = Linear8bitLt(*sizes, has_fp16_weights=False, threshold=6.0, device="meta")
        numbers, scales, _ = int8_vectorwise_quant(child.weight.data)
        layer.weight = Int8Params(numbers, requires_grad=False, has_fp16_weights=False, CB=numbers, SCB=scales)
        layer.bias = nn.Parameter(child.bias.data, requires_grad=False)
        setattr(module, name, layer)


def timed(
    session: Session, part: str, name: str, size: int, encode: Callable[[list[str]], object], remark: str
) -> Line:
    """Time one pass over so many of the texts as take a few seconds, in batches of `size` rows."""
    what = f"texts to vectors, batches of {size}"
    try:
        speed, n_texts = speed_of(session, encode, size)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return Line(part, what, status="skipped", remark=f"out of memory; {remark}")
    kinds = (session.half, "8-bit auto", "8-bit triton", "8-bit bitsandbytes")
    ours = {kind: session.known.get((f"{name} {kind}", "texts to vectors")) for kind in kinds}
    said = [f"skxlmr, {kind}: {value / speed:.2f} x" for kind, value in ours.items() if value]
    return Line(part, what, speed, "tokens/s", "; ".join([f"{n_texts} texts", remark, *said]))


def speed_of(session: Session, encode: Callable[[list[str]], object], size: int) -> tuple[float, int]:
    """Return tokens per second, and the number of texts, of which there are several batches."""
    texts = session.texts
    encode(texts[:8])
    few, taken = texts[: min(max(128, size), len(texts))], time.perf_counter()
    encode(few)
    taken = time.perf_counter() - taken
    texts = texts[: int(np.clip(len(few) * ENOUGH_SECONDS / taken, min(2 * len(few), len(texts)), len(texts)))]
    synchronize(session.device)
    started = time.perf_counter()
    encode(texts)
    synchronize(session.device)
    return count_tokens(texts) / (time.perf_counter() - started), len(texts)
