"""The process-wide pool of frozen base models: one copy of the weights for all estimators, clones and folds."""

from __future__ import annotations

import functools
import gc
import hashlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from joblib.parallel import get_active_backend
from torch import Tensor

from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.checkpoints.fingerprint import Identity, tokenizer_identity
from skxlmr.checkpoints.resolve import BUNDLED, CheckpointFiles, expanded, resolve
from skxlmr.checkpoints.sentence_transformers import lowercases
from skxlmr.hardware.advice import check_memory
from skxlmr.hardware.device import choose_devices, choose_dtype, choose_quantization
from skxlmr.hardware.estimate import MemoryEstimate, SeveralProcesses, memory_estimate
from skxlmr.hardware.footprint import default_batch_tokens
from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLModel, XLMRobertaXLTokenizer
from skxlmr.model.opening import read_config
from skxlmr.model.storage import EightBit, Storage
from skxlmr.model.word_embedding import read_words
from skxlmr.system.current_device import on_device
from skxlmr.system.forks import after_fork, gate
from skxlmr.system.warn import warn
from skxlmr.tuning import Tuning


class Structure(XLMRobertaXLModel):
    """A base model without weights, all of whose parts an estimator replaces with its own."""

    def __init__(self, config: XLMRobertaXLConfig, dtype: torch.dtype, device: torch.device) -> None:
        with torch.device("meta"):
            super().__init__(config, add_pooling_layer=False)
        self.eval().requires_grad_(False).to(dtype)
        self._place = device

    @property
    def device(self) -> torch.device:
        """The device of the weights that it is run with."""
        return self._place


@dataclass(eq=False)
class Backbone:
    """A frozen base model and its tokenizer; never changed, so any number of threads may run it."""

    files: CheckpointFiles
    model: XLMRobertaXLModel  # in evaluation mode, without gradients
    tokenizer: XLMRobertaXLTokenizer
    key: tuple  # in the pool: fingerprint, dtype, device, settings of the storage, pieces
    storage: Storage | None = None  # of the matrices of the layers: 8 bits, "nf4", or None for `model.dtype`
    pieces: np.ndarray | None = None  # (V,), int64: ids in the checkpoint of the pieces that it has; None means all
    copies: tuple[Backbone, ...] = ()  # with device="cuda:all" that of each GPU, this one first

    @property
    def name(self) -> str:
        return self.files.name

    @property
    def fingerprint(self) -> str:
        return self.key[0]

    @property
    def results_key(self) -> tuple:
        """What its results depend on: as `key`, but GPUs of the same name give the same results."""
        fingerprint, dtype, device, *rest = self.key
        same = torch.cuda.get_device_name(device) if device.type == "cuda" else device
        return (fingerprint, dtype, same, *rest)

    @property
    def has_weights(self) -> bool:
        """Whether it can run by itself; see `get_backbone`."""
        return not isinstance(self.model, Structure)

    @property
    def everywhere(self) -> tuple[Backbone, ...]:
        """The copies on all devices that predict, this one first; mostly it is the only one."""
        return self.copies or (self,)

    @property
    def devices(self) -> list[torch.device]:
        """The devices that predict."""
        return [each.model.device for each in self.everywhere]

    def on_each(self, compute: Callable[[Backbone, Any], Tensor]) -> dict[torch.device, Callable[[Any], Tensor]]:
        """Return for each device a function that computes with its copy, for `skxlmr.runtime.run.run`."""
        return {each.model.device: functools.partial(compute, each) for each in self.everywhere}

    def batch_tokens(self, requested: int | str) -> int:
        """Return the number of tokens to run at once; "auto" is the least that keeps the device busy."""
        if requested == "auto":
            return default_batch_tokens(self.model.config, self.model.dtype, self.model.device)
        return int(requested)

    @property
    def reader(self) -> Backbone:
        """This base with the full tokenizer of the checkpoint, to tokenise texts, not to run them."""
        if self.pieces is None:
            return self
        return replace(self, tokenizer=_tokenizer_in(self.files.tokenizer_directory), pieces=None, copies=())


_lock = threading.Lock()
_pool: WeakValueDictionary[tuple, Backbone] = WeakValueDictionary()
# Keeps the latest base in the pool even if no estimator refers to it, as between two folds of a cross-validation.
_latest: list[Backbone] = []


def get_backbone(
    model: str | os.PathLike,
    *,
    load_in_8bit: bool | str | EightBit = "auto",
    load_in_4bit: bool = False,
    dtype: str = "auto",
    device: str = "auto",
    tuning: Tuning | None = None,
    batch_tokens: int | str = "auto",
    whole: bool = True,
    processes: SeveralProcesses | None = None,
    language_model: str | None = None,
    trains: bool = True,
    weights: bool = True,
) -> Backbone:
    """Return a base model from the pool, loading it if necessary; for the parameters see `BaseChoice`.

    If it `trains`, the check that there is enough memory includes training with `tuning`, `batch_tokens` and
    `language_model`, in one of several `processes`; "auto" then needs no more than one text at a time with gradient
    checkpointing. For `trim`, a base that is not `whole`, without some of the pieces, will do. For an estimator that
    has trained copies of all weights, one without `weights` will do: they are not loaded unless they are in the pool.

    Raises ModelNotFoundError or CheckpointError if the checkpoint is missing or damaged, NotEnoughMemoryError, and
    ValueError if there is no such device or the parameters exclude each other. Warns if one of several parallel workers
    asks for a model on a GPU that is not its own. With device="cuda:all" there is one copy per GPU; the first
    one trains.
    """
    devices = choose_devices(device)
    worker = get_active_backend()[0]
    if devices[0].type == "cuda" and worker.nesting_level and not getattr(worker, "has_own_gpu", False):
        warn(
            "n_jobs > 1 gains nothing on a GPU: the workers take turns there, and each process loads its own copy of "
            "the model. Use n_jobs=1, where all candidates and folds share one."
        )
    files = find_checkpoint(model)
    config = read_config(files)
    # Copies give the same results, so what not all GPUs can do none does.
    dtypes = {choose_dtype(dtype, each, config) for each in devices}
    torch_dtype = dtypes.pop() if len(dtypes) == 1 else torch.float16
    storages = [choose_quantization(load_in_8bit, load_in_4bit, each, config, tuning) for each in devices]
    settings = next((each for each in storages if each is not None), None)
    trained = tuning if trains else None
    # Inside the gate, since in a child that is forked meanwhile, a module that is imported here would stay locked.
    with _lock, gate.inside(), ThreadPoolExecutor(1) as thread:
        reading = functools.cache(lambda: thread.submit(_tokenizer_in, files.tokenizer_directory))
        if all(known.files.directory != files.directory for known in list(_pool.values())):
            reading()  # beside all that follows: for small models it takes as long
        bases: list[Backbone] = []
        for each in devices:
            known = _from_pool((files.fingerprint, torch_dtype, each, repr(settings)), files, whole)
            if known is None and not weights:
                known = _without_weights(files, config, torch_dtype, settings, each, reading)
            if known is None:
                minimal = batch_tokens == "auto" and trained is not None and not bases
                estimate = memory_estimate(
                    config,
                    tuning=None if bases else trained,  # the first one is trained
                    batch_tokens=config.max_length if minimal else batch_tokens,
                    load_in_8bit=settings if isinstance(settings, EightBit) else False,
                    load_in_4bit=settings == "nf4",
                    dtype=dtype,
                    device=device if len(devices) == 1 else str(each),
                    gradient_checkpointing=minimal,
                    processes=processes if trains and not bases else None,
                    language_model=language_model,
                )
                known = _load(files, config, torch_dtype, settings, each, estimate, reading)
            bases.append(known)
        backbone = bases[0] if len(bases) == 1 else replace(bases[0], copies=tuple(bases))
        if backbone.has_weights:
            _latest[:] = [backbone]
        return backbone


def _without_weights(
    files: CheckpointFiles,
    config: XLMRobertaXLConfig,
    dtype: torch.dtype,
    settings: Storage | None,
    device: torch.device,
    reading: Callable[[], Future[XLMRobertaXLTokenizer]],
) -> Backbone:
    """Make a base whose weights are not loaded. It is not in the pool, where others would find it."""
    tokenizer = reading().result()
    _check_vocabulary(tokenizer, files, config)
    key = (files.fingerprint, dtype, device, repr(settings))
    return Backbone(files, Structure(config, dtype, device), tokenizer, key, settings)


def _from_pool(key: tuple, files: CheckpointFiles, whole: bool) -> Backbone | None:
    """Return a base model that the pool has, or one that shares the layers of a trimmed one; None if there is none."""
    backbone = _pool.get(key) or _share_layers(key, files, whole)
    if backbone is not None and not backbone.files.exist:
        backbone.files = files  # the same content in another directory
    return backbone


def _load(
    files: CheckpointFiles,
    config: XLMRobertaXLConfig,
    dtype: torch.dtype,
    settings: Storage | None,
    device: torch.device,
    estimate: MemoryEstimate,
    reading: Callable[[], Future[XLMRobertaXLTokenizer]],
) -> Backbone:
    """Load a base model into the pool, if there is enough memory; another thread reads its tokenizer."""
    tokenizer = reading()
    if files.tokenizer is None:
        tokenizer.result()  # reports what is missing before anything is loaded
    if estimate.fits is False:  # what nobody uses is freed first
        _latest.clear()
        gc.collect()  # cycles may refer to estimators, and these to their models
        estimate = memory_estimate(**estimate.parameters)
    check_memory(estimate, model=files.name)
    with on_device(device):
        base = XLMRobertaXLModel.from_pretrained(
            files,
            dtype=dtype,
            device=device,
            load_in_8bit=settings if isinstance(settings, EightBit) else False,
            load_in_4bit=settings == "nf4",
            map_word_embedding=True,
            add_pooling_layer=False,
        ).requires_grad_(False)
    key = (files.fingerprint, dtype, device, repr(settings))
    _check_vocabulary(tokenizer.result(), files, config)
    backbone = _pool[key] = Backbone(files, base, tokenizer.result(), key, settings)
    return backbone


def _share_layers(key: tuple, files: CheckpointFiles, whole: bool) -> Backbone | None:
    """Make a base that shares its layers with a trimmed one in the pool; None if there is none."""
    relative = next((other for other in list(_pool.values()) if other.key[: len(key)] == key), None)
    if relative is None:
        return None
    if not whole:
        return replace(relative, files=files)  # its own files may be gone by now
    words = read_words(files, relative.model.embeddings.word.weight.dtype).to(relative.model.device)
    tokenizer = _tokenizer_in(files.tokenizer_directory)
    backbone = _pool[key] = Backbone(files, relative.model.with_words(words), tokenizer, key, relative.storage)
    return backbone


def trim(backbone: Backbone, pieces: np.ndarray) -> Backbone:
    """Return the same base with the given pieces of the vocabulary and single characters only; it shares the layers.

    `pieces` are ids in the checkpoint, of which `backbone` may already lack some.
    """
    if backbone.copies:
        copies = tuple(trim(each, pieces) for each in backbone.copies)
        everywhere = replace(copies[0], copies=copies)
        with _lock:
            _latest[:] = [everywhere]
        return everywhere
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


def _check_vocabulary(tokenizer: XLMRobertaXLTokenizer, files: CheckpointFiles, config: XLMRobertaXLConfig) -> None:
    """Raise CheckpointError if a tokenizer does not fit the model."""
    n_needed = len(tokenizer)
    if n_needed == tokenizer.vocab_size:  # without added tokens; a model may lack <mask>, the last id, in no text
        n_needed -= 1
    if n_needed > config.vocab_size:
        raise CheckpointError(
            f"{files.tokenizer_directory}: its tokenizer has {len(tokenizer)} ids, its model {config.vocab_size}. The "
            f"tokenizer is that of another model."
        )


def _tokenizer_in(directory: Path) -> XLMRobertaXLTokenizer:
    """Return the tokenizer of a checkpoint; the latest two are kept."""
    return _read_tokenizer(directory, tokenizer_identity(directory))


@functools.lru_cache(maxsize=2)
def _read_tokenizer(directory: Path, files: tuple[Identity, ...]) -> XLMRobertaXLTokenizer:
    """Read a tokenizer; the identities of its files are part of the cache's key, so changed ones are read again."""
    return read_tokenizer(directory)


def read_tokenizer(directory: Path) -> XLMRobertaXLTokenizer:
    """Read the tokenizer of a checkpoint; texts become lower case where sentence-transformers does so with it."""
    tokenizer = XLMRobertaXLTokenizer.from_directory(directory)
    return tokenizer.lowercased() if lowercases(directory) else tokenizer


def find_checkpoint(model: str | os.PathLike) -> CheckpointFiles:
    """Find the files of a checkpoint; local ones are looked up each time, the hub is asked once per process.

    It is asked again if the files that it gave have been removed. The options are those of `use_hub_options`.
    """
    name = os.fspath(model)
    if model in BUNDLED or os.path.exists(expanded(name)):
        return resolve(model, find_base=find_checkpoint)
    files = _find_on_hub(name)
    if all(path.exists() for path in (files.config, *files.weights)):
        return files
    _find_on_hub.cache_clear()
    return _find_on_hub(name)


def use_hub_options(model: str, options: dict[str, Any]) -> None:
    """Let `find_checkpoint` look for a model of the hub with options of `resolve`, in this process.

    They are `token`, `cache_dir` and `local_files_only`, which belong to a process and not to an estimator: they are
    not saved with it. Without any, those of an earlier call stay.
    """
    if options and _hub_options.get(model) != options:
        _hub_options[model] = options
        _find_on_hub.cache_clear()


_hub_options: dict[str, dict[str, Any]] = {}  # by the names of models


@functools.cache
def _find_on_hub(name: str) -> CheckpointFiles:
    return resolve(name, find_base=find_checkpoint, **_hub_options.get(name, {}))


def release_models() -> None:
    """Free the cached base model; its memory is released once no estimator refers to it.

    Estimators that `skxlmr.scale.Predictor` has loaded for its next call are freed, too. Features of texts stay
    cached; `skxlmr.set_feature_cache(0)` frees them. On a CPU, the buffers of a thread for
    8-bit products, at most 128 MiB, stay until the thread ends.
    """
    with _lock:
        _latest.clear()
        _read_tokenizer.cache_clear()
    for callback in _callbacks:
        callback()


_callbacks: list[Callable[[], object]] = []


def on_release(callback: Callable[[], object]) -> None:
    """Have `release_models` call a function that frees estimators which are kept for later calls."""
    _callbacks.append(callback)


@after_fork
def _renew_lock() -> None:
    global _lock
    _lock = threading.Lock()
