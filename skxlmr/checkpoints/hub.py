"""Models of the Hugging Face hub: download of the files that are needed, and the offline cache."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skxlmr.checkpoints import layout, peft_adapter, sentence_transformers, tokenizer_files
from skxlmr.checkpoints.errors import CheckpointError, ModelNotFoundError
from skxlmr.system import atomic

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

TENSORS_OF_ESTIMATOR = re.compile(r"tensors-[0-9a-zA-Z_-]+\.safetensors")
SMALL_FILES = (
    layout.CONFIG,
    layout.GENERATION_CONFIG,
    *tokenizer_files.FILES,
    layout.OUTLIERS,
    *sentence_transformers.FILES,
)


def fetch(
    repo_id: str,
    *,
    revision: str | None = None,
    local_files_only: bool = False,
    cache_dir: str | os.PathLike | None = None,
    token: str | bool | None = None,
    subfolder: str = "",
    only: tuple[str, ...] = (),
    weights_names: tuple[str, ...] = layout.WEIGHTS,
) -> Path:
    """Download the config, the tokenizer and one set of weights of a model into the cache, and return the folder there.

    Of an adapter of peft, its config and weights are downloaded.

    The hub is the one of the environment variable HF_ENDPOINT, or else huggingface.co. If it cannot be reached, or
    refuses access, as with an expired token, a model that is in the cache is taken from there. A revision is a branch,
    tag or commit, None the main branch; `cache_dir` None is the cache of huggingface_hub. The `token` gives access to
    private models; None or True is the one of `hf auth login`, False none. The files are in the folder `subfolder` of
    the model. `weights_names` are those that the weights may have, in order of preference. If the names of some files
    are given, `only` these are downloaded, those that exist.

    Raises ModelNotFoundError if there is no such model or revision, access is restricted, or it is not cached and the
    hub not reachable, and CheckpointError if the model has no config or no weights in a supported format, or none of
    the files that are asked for.
    """
    from huggingface_hub import constants

    _check_options(revision, cache_dir, token)
    repo = _Repo(repo_id, revision, None if cache_dir is None else Path(cache_dir), token, subfolder, weights_names)
    if local_files_only or constants.HF_HUB_OFFLINE:
        return repo.cached(only, "offline mode is on (local_files_only or HF_HUB_OFFLINE)")
    commit = repo.cached_commit()
    try:
        return repo.download_some(only) if only else repo.download()
    except CheckpointError:
        raise
    except Exception as error:  # the errors of a broken connection depend on the HTTP library; the disk may be full
        reason = f"downloading it from the hub failed ({type(error).__name__}: {error})"
        try:
            return repo.cached(only, reason, commit)
        except ModelNotFoundError as not_cached:
            # The reason says what failed; the frames of the HTTP library add nothing.
            raise (_refusal(error, repo_id, revision) or not_cached) from None


def _check_options(revision: Any, cache_dir: Any, token: Any) -> None:
    """Raise TypeError or ValueError if an option of a user is of another type, or an empty string."""
    kinds: dict[str, tuple[Any, tuple[type, ...], str]] = {
        "revision": (revision, (str,), "a branch, tag or commit"),
        "cache_dir": (cache_dir, (str, os.PathLike), "a directory"),
        "token": (token, (str, bool), "a token of the hub, or a bool"),
    }
    for name, (value, types, what) in kinds.items():
        if value is not None and not isinstance(value, types):
            raise TypeError(f"{name} must be {what}, or None, got a value of type {type(value).__name__}.")
        if value == "":
            raise ValueError(f"{name} is an empty string: give {what}, or None.")


LOG_IN = "log in with `hf auth login`, set HF_TOKEN, or pass token=... to skxlmr.load or from_pretrained"


def _refusal(error: BaseException, repo_id: str, revision: str | None) -> ModelNotFoundError | None:
    """Return what the hub's refusal of a model means and what to do; None if it is another error."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    which = f"{repo_id!r}" if revision is None else f"{repo_id!r} at revision {revision!r}"
    if isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:  # it was not in the cache, either
        error = error.__cause__
    status = error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else None
    if isinstance(error, GatedRepoError):
        page = f"{_endpoint() or 'https://huggingface.co'}/{repo_id}"
        return ModelNotFoundError(
            f"Access to {which} is restricted. Accept its licence and conditions on {page}, and {LOG_IN}."
        )
    if isinstance(error, RepositoryNotFoundError | HFValidationError):
        return ModelNotFoundError(
            f"The hub has no model {which}, and no directory has this name. "
            f"If the model is private, or your token has expired, {LOG_IN}."
        )
    if isinstance(error, RevisionNotFoundError):
        return ModelNotFoundError(f"The hub has the model {repo_id!r}, but no revision {revision!r} of it.")
    if status == 401:
        return ModelNotFoundError(
            f"The hub refuses the token that was sent for {which} (status 401); it may be mistyped or have expired. "
            f"Make a new one on {_endpoint() or 'https://huggingface.co'}/settings/tokens, and {LOG_IN}; or pass "
            f"token=False for a public model."
        )
    if status == 403:
        return ModelNotFoundError(
            f"The hub does not let your token read {which} (status 403). Give the token the right to read this model, "
            f"or {LOG_IN} as another user."
        )
    return None


@dataclass(frozen=True)
class _Repo:
    """A model on the hub, at one revision."""

    repo_id: str
    revision: str | None
    cache_dir: Path | None
    token: str | bool | None
    subfolder: str  # with the files; "" is the model's own folder
    weights_names: tuple[str, ...]

    @property
    def beginning(self) -> str:
        """What the paths of the files begin with."""
        return f"{self.subfolder}/" if self.subfolder else ""

    def snapshot(self, names: list[str], *, revision: str | None = None, local_files_only: bool = False) -> Path:
        """Download those of the files that exist, and return the folder with them in the cache."""
        from huggingface_hub import snapshot_download

        root = Path(
            snapshot_download(
                self.repo_id,
                revision=revision or self.revision,
                cache_dir=self.cache_dir,
                endpoint=_endpoint(),
                token=self.token,
                local_files_only=local_files_only,
                allow_patterns=[glob.escape(self.beginning + name) for name in names],
            )
        )
        return root / self.subfolder

    def download(self) -> Path:
        from huggingface_hub import HfApi

        info = HfApi(endpoint=_endpoint(), token=self.token).model_info(self.repo_id, revision=self.revision)
        paths = [file.rfilename for file in info.siblings or ()]
        return self._download(paths)

    def _download(self, paths: list[str]) -> Path:
        """Download the files of a model that has files with these paths."""
        listed = {path.removeprefix(self.beginning) for path in paths if path.startswith(self.beginning)}
        if peft_adapter.CONFIG in listed and not listed.intersection(layout.WEIGHTS):
            weights_of_adapter = [name for name in peft_adapter.ADAPTER_WEIGHTS if name in listed][:1]
            return self.snapshot([*SMALL_FILES, peft_adapter.CONFIG, peft_adapter.LABELS, *weights_of_adapter])
        if layout.ESTIMATOR in listed:
            tensors = [name for name in listed if TENSORS_OF_ESTIMATOR.fullmatch(name)]
            return self.snapshot([layout.ESTIMATOR, *tensors])
        if layout.CONFIG not in listed:
            if (folder := self._download_old(paths, listed)) is not None:
                return folder
            hint = layout.other_formats(listed) or self._hint_at_folders(listed)
            raise CheckpointError(f"The hub model {self.repo_id!r} has no {self.beginning}{layout.CONFIG}{hint}")
        weights = next((name for name in self.weights_names if name in listed), None)
        if weights is None:
            raise CheckpointError(
                f"The hub model {self.repo_id!r} has no weights; looked for {', '.join(self.weights_names)}"
                f"{layout.other_variants(listed, self.weights_names) or layout.other_formats(listed)}"
            )
        folder = self.snapshot([*SMALL_FILES, weights])
        shards = [*layout.shard_names(folder / weights), *_files_of_modules(folder, listed)]
        if shards:
            self.snapshot(shards, revision=self._commit(folder))  # the same one, even if the branch has moved since
        return folder

    def _download_old(self, paths: list[str], listed: set[str]) -> Path | None:
        """Download an old model of sentence-transformers, whose transformer has a folder; None if it is not one."""
        if sentence_transformers.MODULES not in listed:
            return None
        folder = self.snapshot([name for name in sentence_transformers.FILES if name in listed])
        transformer = sentence_transformers.transformer_directory(folder)
        if transformer == folder:
            return None
        same = replace(self, revision=self._commit(folder))
        same.snapshot(_files_of_modules(folder, listed))
        replace(same, subfolder=self.beginning + transformer.relative_to(folder).as_posix())._download(paths)
        return folder

    def _commit(self, folder: Path) -> str:
        """Return the commit of a folder that was downloaded."""
        return (folder, *folder.parents)[len(Path(self.subfolder).parts)].name

    def _hint_at_folders(self, listed: set[str]) -> str:
        hint = layout.folders_of_models(listed)
        return f"{hint}, as subfolder=... of skxlmr.load or from_pretrained" if hint else ""

    def download_some(self, names: tuple[str, ...]) -> Path:
        folder = self.snapshot(list(names))
        if not any((folder / name).exists() for name in names):
            raise CheckpointError(f"The hub model {self.repo_id!r} has no {' and no '.join(self._paths(names))}")
        return folder

    def _paths(self, names: tuple[str, ...]) -> list[str]:
        return [self.beginning + name for name in names]

    @property
    def _reference(self) -> Path:
        """The file in the cache that has the commit of a branch or tag."""
        from huggingface_hub import constants
        from huggingface_hub.file_download import repo_folder_name

        cache = self.cache_dir or Path(constants.HF_HUB_CACHE)
        return (
            cache.expanduser()
            / repo_folder_name(repo_id=self.repo_id, repo_type="model")
            / "refs"
            / (self.revision or constants.DEFAULT_REVISION)
        )

    def cached_commit(self) -> str | None:
        """Return the commit to which the cache has the branch or tag; None if it has none."""
        try:
            return self._reference.read_text(encoding="utf-8")
        except (OSError, ValueError, RuntimeError):
            return None

    def cached(self, only: tuple[str, ...], reason: str, commit: str | None = None) -> Path:
        """Return the folder in the cache; `reason` says why the hub is not used.

        The folder is that of the branch or tag as it was when it was last downloaded as a whole: `commit` is where it
        was before a download that failed, and to which it is then put back.
        """
        try:
            return self._cached(only, reason)
        except ModelNotFoundError as not_cached:
            if commit is None or commit == self.cached_commit():
                raise
            try:
                folder = replace(self, revision=commit)._cached(only, reason)
            except ModelNotFoundError:
                raise not_cached from None
            with suppress(OSError):  # of a cache that cannot be written
                atomic.write_bytes(self._reference, commit.encode())
            return folder

    def _cached(self, only: tuple[str, ...], reason: str) -> Path:
        name = repr(self.repo_id)
        which = f"The model {name}" if self.revision is None else f"Revision {self.revision!r} of {name}"

        def not_cached(what: str) -> ModelNotFoundError:
            return ModelNotFoundError(
                f"{what} is not in the cache, and {reason}. Load the model once with a connection."
            )

        try:
            folder = self.snapshot(list(only or (layout.CONFIG,)), local_files_only=True)
        except (OSError, ValueError) as error:  # not cached, or not a valid id
            raise not_cached(which) from error
        except RuntimeError as error:  # of pathlib
            raise ModelNotFoundError(
                f"{which} cannot be downloaded: there is no home directory for the cache of the hub. Set the "
                f"environment variable HF_HOME to a folder."
            ) from error
        if only:
            if not any((folder / name).exists() for name in only):
                raise not_cached(f"{' or '.join(self._paths(only))} of {name}")
            return folder
        if peft_adapter.is_adapter(folder) and any((folder / name).exists() for name in peft_adapter.ADAPTER_WEIGHTS):
            return folder
        if (folder / layout.ESTIMATOR).exists():
            return folder
        inner = folder
        if not (folder / layout.CONFIG).exists():
            inner = sentence_transformers.transformer_directory(folder)
        weights = next((name for name in self.weights_names if (inner / name).exists()), None)
        if not (inner / layout.CONFIG).exists() or weights is None:
            raise not_cached(f"{which} as a whole")
        for shard in layout.shard_names(inner / weights):
            if not (inner / shard).exists():
                raise not_cached(f"{shard} of {name}")
        return folder


def upload(
    directory: str | os.PathLike,
    repo_id: str,
    *,
    commit_message: str,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    is_obsolete: Callable[[str], bool] = lambda name: False,
) -> CommitInfo:
    """Upload the files of a folder to a model of the hub in one commit, and return what the hub says about it.

    The model is created if it does not exist, `private` or not; None is what its owner has set. Files of the model that
    have no new content are kept, unless `is_obsolete` says otherwise of their name. The manifest is not uploaded: files
    on the hub are changed one by one. Errors are those of huggingface_hub.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi(endpoint=_endpoint(), token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    paths = sorted(path for path in Path(directory).iterdir() if path.is_file() and path.name != layout.MANIFEST)
    new = {path.name for path in paths}
    if revision is not None and not create_pr:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    present = [file.rfilename for file in api.model_info(repo_id, revision=revision).siblings or ()]
    operations: list[Any] = [CommitOperationAdd(path.name, path) for path in paths]
    operations += [CommitOperationDelete(name) for name in present if name not in new and is_obsolete(name)]
    return api.create_commit(repo_id, operations, commit_message=commit_message, revision=revision, create_pr=create_pr)


def _files_of_modules(folder: Path, listed: set[str]) -> list[str]:
    """Return the files in the folders of the modules of a model of sentence-transformers, such as "2_Dense"."""
    if not sentence_transformers.is_sentence_model(folder):
        return []
    modules = sentence_transformers.read_module_list(folder)
    others = [module for kind, module in modules if module != folder and kind != "Transformer"]
    folders = tuple(f"{module.relative_to(folder).as_posix()}/" for module in others)
    return [name for name in listed if name.startswith(folders)]


def _endpoint() -> str | None:
    """Return the hub's address; huggingface_hub itself reads the variable only when it is imported."""
    return os.environ.get("HF_ENDPOINT") or None
