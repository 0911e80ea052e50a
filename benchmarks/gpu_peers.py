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

BATCHES = (32, 128)  # rows: the default of sentence-transformers, and one that suits large GPUs


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
            made = transformers.AutoModel.from_config(config)
    finally:
        torch.set_default_dtype(default)
    return made.eval().requires_grad_(False).to(session.device, torch.float16)


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
    for size in BATCHES:
        encode = partial(theirs.encode, batch_size=size, show_progress_bar=False)
        yield timed(session, part, name, f"texts to vectors, batches of {size}", encode)


def bitsandbytes(session: Session, part: str, name: str) -> Iterator[Line]:
    """Embed ragged texts with transformers and 8-bit layers of bitsandbytes, in batches of similar length."""
    reason = missing("transformers", "bitsandbytes") or session.why_not(name, "float16")
    if reason:
        yield Line(part, "texts to vectors", status="skipped", remark=reason)
        return
    model = random_model(session, name)
    quantize(model.encoder)
    model.to(session.device)
    tokenizer = XLMRobertaXLTokenizer.from_pretrained("nano")

    def encode(texts: list[str], size: int) -> np.ndarray:
        windows = [tokenizer.truncate(ids, max_length=512)[0] for ids in tokenizer.encode_batch(texts)]
        return padded_means(model, windows, size, session.device)

    for size in BATCHES:
        yield timed(session, part, name, f"texts to vectors, batches of {size}", partial(encode, size=size))


def quantize(module: nn.Module) -> None:
    """Replace the linear layers, as `load_in_8bit` of transformers does; moving them to the GPU quantises them."""
    from bitsandbytes.nn import Int8Params, Linear8bitLt

    for name, child in module.named_children():
        if not isinstance(child, nn.Linear):
            quantize(child)
            continue
        sizes = child.in_features, child.out_features
        layer = Linear8bitLt(*sizes, has_fp16_weights=False, threshold=6.0, device="meta")
        layer.weight = Int8Params(child.weight.data.cpu(), requires_grad=False, has_fp16_weights=False)
        layer.bias = nn.Parameter(child.bias.data, requires_grad=False)
        setattr(module, name, layer)


def timed(session: Session, part: str, name: str, what: str, encode: Callable[[list[str]], object]) -> Line:
    """Time one pass over so many of the texts as take a few seconds."""
    texts = session.texts
    encode(texts[:8])
    few, taken = texts[: min(128, len(texts))], time.perf_counter()
    encode(few)
    taken = time.perf_counter() - taken
    texts = texts[: int(np.clip(len(few) * ENOUGH_SECONDS / taken, len(few), len(texts)))]
    synchronize(session.device)
    started = time.perf_counter()
    encode(texts)
    synchronize(session.device)
    speed = count_tokens(texts) / (time.perf_counter() - started)
    kinds = (session.half, "8-bit auto", "8-bit triton", "8-bit bitsandbytes")
    ours = {kind: session.known.get((f"{name} {kind}", "texts to vectors")) for kind in kinds}
    said = [f"skxlmr, {kind}: {value / speed:.2f} x" for kind, value in ours.items() if value]
    return Line(part, what, speed, "tokens/s", "; ".join([f"{len(texts)} texts", *said]))
