"""The process-wide pool of frozen bases: one copy of the weights for all estimators, clones and folds."""

from __future__ import annotations

import functools
import hashlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
import torch
from joblib.parallel import get_active_backend

from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.checkpoints.resolve import BUNDLED, CheckpointFiles, resolve
from skxlmr.hardware.advice import check_memory
from skxlmr.hardware.device import choose_device, choose_dtype, choose_quantization
from skxlmr.hardware.estimate import memory_estimate
from skxlmr.hardware.footprint import default_batch_tokens
from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLModel, XLMRobertaXLTokenizer
from skxlmr.model.int8 import Int8
from skxlmr.model.pretrained import read_config
from skxlmr.model.word_embedding import read_words
from skxlmr.system.forks import after_fork
from skxlmr.system.warn import warn
from skxlmr.tuning import Tuning


@dataclass(eq=False)
class Backbone:
    """A frozen base and its tokenizer; never changed, so any number of threads may run it.

    Attributes
    ----------
    files : CheckpointFiles
    model : XLMRobertaXLModel
        In evaluation mode, without gradients.
    tokenizer : XLMRobertaXLTokenizer
    key : tuple
        All that its numbers depend on: fingerprint, dtype, device, settings of its storage; what words it has.
    storage : Int8, "nf4" or None
        How the matrices of the layers are stored; None is in `model.dtype`.
    pieces : ndarray of shape (V,), int64, or None
        The checkpoint's ids of the words that it has; None means all.
    """

    files: CheckpointFiles
    model: XLMRobertaXLModel
    tokenizer: XLMRobertaXLTokenizer
    key: tuple
    storage: Int8 | str | None = None
    pieces: np.ndarray | None = None

    @property
    def name(self) -> str:
        """As the user gave it."""
        return self.files.name

    @property
    def fingerprint(self) -> str:
        """Of the checkpoint's content."""
        return self.key[0]

    def batch_tokens(self, requested: int | str) -> int:
        """Return how many tokens are run at once; "auto" asks for what keeps the device busy."""
        if requested == "auto":
            return default_batch_tokens(self.model.config, self.model.dtype, self.model.device)
        return int(requested)

    @property
    def reader(self) -> Backbone:
        """The same with the checkpoint's own tokenizer, whatever words the base has: to read texts, not to run."""
        if self.pieces is None:
            return self
        return replace(self, tokenizer=_read_tokenizer(self.files.directory, self.fingerprint), pieces=None)


_lock = threading.Lock()
_pool: WeakValueDictionary[tuple, Backbone] = WeakValueDictionary()
# The latest base stays although no estimator holds it: between two folds of a cross-validation none does.
_latest: list[Backbone] = []


def get_backbone(
    model: str | os.PathLike,
    *,
    load_in_8bit: bool | str | Int8 = "auto",
    load_in_4bit: bool = False,
    dtype: str = "auto",
    device: str = "auto",
    tuning: Tuning | None = None,
    batch_tokens: int | str = "auto",
    whole: bool = True,
) -> Backbone:
    """Return the base of that name from the pool, loading it if it is not there.

    Parameters
    ----------
    model : str or path
        "nano", "e5-small", a local directory or a hub id.
    load_in_8bit : "auto", bool or Int8, default="auto"
        See `skxlmr.hardware.device.choose_quantization`.
    load_in_4bit : bool, default=False
    dtype : {"auto", "float32", "bfloat16", "float16"}, default="auto"
        See `skxlmr.hardware.device.choose_dtype`.
    device : str, default="auto"
    tuning : Tuning, default=None
        What will learn on the base.
    batch_tokens : int or "auto", default="auto"
        How much of it at once. Both are for the memory that there has to be; to train, "auto" can do with one text
        at a time, and gradient checkpointing.
    whole : bool, default=True
        Whether it must have all words; one that has not will do for `trim`.

    Raises
    ------
    ModelNotFoundError, CheckpointError
        If the checkpoint is not there or not sound.
    NotEnoughMemoryError
        If the model does not fit.
    ValueError
        If the device is not there, or the parameters exclude each other.

    Warns
    -----
    UserWarning
        If one of several parallel workers asks for a model on a GPU.
    """
    torch_device = choose_device(device)
    if torch_device.type == "cuda" and get_active_backend()[0].nesting_level:
        warn(
            "n_jobs > 1 gains nothing on a GPU: the workers take turns there, and each process loads a model of its "
            "own. Use n_jobs=1, where all candidates and folds share one."
        )
    files = find_checkpoint(model)
    config = read_config(files)
    torch_dtype = choose_dtype(dtype, torch_device, config)
    settings = choose_quantization(load_in_8bit, load_in_4bit, torch_device, config, tuning)
    key = (files.fingerprint, torch_dtype, torch_device, repr(settings))
    with _lock:
        backbone = _pool.get(key) or _with_layers_of_the_pool(key, files, whole)
        if backbone is not None and not backbone.files.directory.exists():
            backbone.files = files  # the same content in another directory
        if backbone is None:
            if files.tokenizer is None:
                _read_tokenizer(files.directory, files.fingerprint)  # says what is missing before anything is loaded
            asked = {"load_in_8bit": load_in_8bit, "load_in_4bit": load_in_4bit, "dtype": dtype, "device": device}
            if batch_tokens == "auto" and tuning is not None:
                batch_tokens, asked["gradient_checkpointing"] = config.max_length, True
            check_memory(memory_estimate(config, tuning=tuning, batch_tokens=batch_tokens, **asked), model=files.name)
            with ThreadPoolExecutor(1) as beside:  # of small models the tokenizer takes as long as the weights
                tokenizer = beside.submit(_tokenizer_of, files, config)
                base = XLMRobertaXLModel.from_pretrained(
                    files,
                    dtype=torch_dtype,
                    device=torch_device,
                    load_in_8bit=False if settings == "nf4" else settings or False,
                    load_in_4bit=settings == "nf4",
                    map_word_embedding=True,
                    add_pooling_layer=False,
                ).requires_grad_(False)
            backbone = _pool[key] = Backbone(files, base, tokenizer.result(), key, settings)
        _latest[:] = [backbone]
        return backbone


def _with_layers_of_the_pool(key: tuple, files: CheckpointFiles, whole: bool) -> Backbone | None:
    """A base that shares its layers with one of other words in the pool; None where there is none."""
    relative = next((other for other in list(_pool.values()) if other.key[: len(key)] == key), None)
    if relative is None:
        return None
    if not whole:
        return replace(relative, files=files)  # its own may be gone by now
    words = read_words(files, relative.model.embeddings.word.weight.dtype).to(relative.model.device)
    tokenizer = _read_tokenizer(files.directory, files.fingerprint)
    backbone = _pool[key] = Backbone(files, relative.model.with_words(words), tokenizer, key, relative.storage)
    return backbone


def trim(backbone: Backbone, pieces: np.ndarray) -> Backbone:
    """Return the same base with fewer words, from the pool or new; the layers are shared.

    The words that `backbone` has beyond that are let go of once nothing else holds it.

    Parameters
    ----------
    backbone : Backbone
        With whatever words.
    pieces : ndarray of int
        The checkpoint's ids of the word pieces to keep; single characters are kept in any case.

    Returns
    -------
    Backbone
    """
    tokenizer, kept = backbone.reader.tokenizer.trim(pieces)
    key = (*backbone.key[:4], hashlib.sha256(kept.tobytes()).hexdigest())
    with _lock:
        trimmed = _pool.get(key)
        if trimmed is None:
            words = backbone.model.embeddings.word.weight
            if backbone.pieces is not None:
                words = read_words(backbone.files, words.dtype)
            rows = words[torch.from_numpy(kept).to(words.device)].to(backbone.model.device)
            model = backbone.model.with_words(rows)
            trimmed = _pool[key] = Backbone(backbone.files, model, tokenizer, key, backbone.storage, kept)
        _latest[:] = [trimmed]
        return trimmed


def _tokenizer_of(files: CheckpointFiles, config: XLMRobertaXLConfig) -> XLMRobertaXLTokenizer:
    """The tokenizer of a checkpoint, which must be this model's."""
    tokenizer = _read_tokenizer(files.directory, files.fingerprint)
    if tokenizer.mask_token_id > config.vocab_size:  # a model may lack <mask>, which is last and in no text
        raise CheckpointError(
            f"{files.directory}: its tokenizer has {tokenizer.vocab_size} ids, its model {config.vocab_size}. The "
            f"tokenizer is that of another model."
        )
    return tokenizer


@functools.lru_cache(maxsize=2)
def _read_tokenizer(directory: Path, fingerprint: str) -> XLMRobertaXLTokenizer:
    """The tokenizer of a checkpoint, which is read anew where its content has changed."""
    return XLMRobertaXLTokenizer.from_directory(directory)


def find_checkpoint(model: str | os.PathLike) -> CheckpointFiles:
    """Find the files; what is on this machine is looked at each time, the hub is asked once in a process."""
    if model in BUNDLED or os.path.isdir(model):
        return resolve(model)
    return _find_on_hub(model)


_find_on_hub = functools.cache(resolve)


def release_models() -> None:
    """Let go of the base that the pool keeps for the next fit; its memory is free once no estimator holds it.

    Features of texts stay; `skxlmr.set_feature_cache(0)` frees these. On a CPU, what a thread needs to add up 8-bit
    products, at most 128 MiB, stays until that thread ends.
    """
    with _lock:
        _latest.clear()
        _read_tokenizer.cache_clear()


@after_fork
def _make_usable_in_child() -> None:
    """OpenMP's threads are not copied either: a child of a process that has run a model must do with its own."""
    global _lock
    _lock = threading.Lock()
    if _pool:
        torch.set_num_threads(1)
