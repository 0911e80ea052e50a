"""Models of the Hugging Face hub: download of the few files that are needed, and the offline cache."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable
from pathlib import Path

from skxlmr.checkpoints import layout
from skxlmr.checkpoints import sentence_transformers as modules
from skxlmr.checkpoints.errors import CheckpointError, ModelNotFoundError

SMALL_FILES = (
    layout.CONFIG,
    "tokenizer_config.json",
    "special_tokens_map.json",
    layout.OUTLIERS,
    *modules.FILES,
)


def fetch(
    repo_id: str,
    *,
    revision: str | None = None,
    local_files_only: bool = False,
    cache_dir: str | os.PathLike | None = None,
) -> Path:
    """Bring one set of a model's weights, its config and its tokenizer into the cache.

    The hub is the one that the environment variable HF_ENDPOINT names, or huggingface.co. Where it cannot be reached,
    a model that is in the cache is taken from there.

    Parameters
    ----------
    repo_id : str
        "organisation/name".
    revision : str, default=None
        Branch, tag or commit; None is the main branch.
    local_files_only : bool, default=False
        Ask the cache only.
    cache_dir : str or path, default=None
        None is huggingface_hub's own.

    Returns
    -------
    Path
        The folder in the cache.

    Raises
    ------
    ModelNotFoundError
        If there is no such model or revision, access is restricted, or it is not cached and the hub not reachable.
    CheckpointError
        If the model has no config or no weights in a form that is read.
    """
    return _fetch(_download, _from_cache, repo_id, revision, local_files_only, cache_dir)


def fetch_config(
    repo_id: str,
    *,
    revision: str | None = None,
    local_files_only: bool = False,
    cache_dir: str | os.PathLike | None = None,
) -> Path:
    """Bring a model's config into the cache and nothing else; returns the folder. As `fetch` in all other respects."""
    return _fetch(_download_config, _config_from_cache, repo_id, revision, local_files_only, cache_dir)


# What brings files of a model, by its id, revision and the cache's folder; the second is also told why the hub is not.
Download = Callable[[str, str | None, str | os.PathLike | None], Path]
FromCache = Callable[[str, str | None, str | os.PathLike | None, str], Path]


def _fetch(
    download: Download,
    from_cache: FromCache,
    repo_id: str,
    revision: str | None,
    local_files_only: bool,
    cache_dir: str | os.PathLike | None,
) -> Path:
    """Download, or take from the cache what cannot be downloaded; all that can go wrong gets its own message."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    if local_files_only or constants.HF_HUB_OFFLINE:
        return from_cache(repo_id, revision, cache_dir, "offline mode is on (local_files_only or HF_HUB_OFFLINE)")
    which = f"{repo_id!r}" if revision is None else f"{repo_id!r} at revision {revision!r}"
    try:
        return download(repo_id, revision, cache_dir)
    except GatedRepoError as error:
        raise ModelNotFoundError(
            f"Access to {which} is restricted. Accept its conditions on its hub page and log in with `hf auth login`."
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ModelNotFoundError(
            f"The hub has no model {which}, and there is no such directory. "
            f"If the model is private, log in with `hf auth login`."
        ) from error
    except RevisionNotFoundError as error:
        raise ModelNotFoundError(f"The hub has the model {repo_id!r}, but no revision {revision!r} of it.") from error
    except CheckpointError:
        raise
    except Exception as error:  # whatever the HTTP library of the day raises for a broken connection, or a full disk
        reason = f"fetching it from the hub failed ({type(error).__name__}: {error})"
        try:
            return from_cache(repo_id, revision, cache_dir, reason)
        except ModelNotFoundError as not_cached:
            raise not_cached from error


def _download(repo_id: str, revision: str | None, cache_dir: str | os.PathLike | None) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    # huggingface_hub reads the variable at its import only; a notebook may set it later.
    endpoint = os.environ.get("HF_ENDPOINT") or None
    listed = {file.rfilename for file in HfApi(endpoint=endpoint).model_info(repo_id, revision=revision).siblings or ()}
    if layout.CONFIG not in listed:
        raise CheckpointError(f"The hub model {repo_id!r} has no {layout.CONFIG}")
    weights = next((name for name in layout.WEIGHTS if name in listed), None)
    if weights is None:
        raise CheckpointError(f"The hub model {repo_id!r} has no weights; looked for {', '.join(layout.WEIGHTS)}")

    def download(revision: str | None, names: list[str]) -> Path:
        patterns = [glob.escape(name) for name in names]
        return Path(
            snapshot_download(
                repo_id, revision=revision, cache_dir=cache_dir, endpoint=endpoint, allow_patterns=patterns
            )
        )

    tokenizer = layout.TOKENIZER if layout.TOKENIZER in listed else layout.TOKENIZER_JSON
    snapshot = download(revision, [*SMALL_FILES, tokenizer, weights])
    if weights.endswith(".index.json"):
        shards = sorted(set(layout.read_index(snapshot / weights).values()))
        download(snapshot.name, shards)  # the folder is named by the commit: a branch may have moved meanwhile
    return snapshot


def _download_config(repo_id: str, revision: str | None, cache_dir: str | os.PathLike | None) -> Path:
    from huggingface_hub import snapshot_download

    endpoint = os.environ.get("HF_ENDPOINT") or None
    snapshot = Path(
        snapshot_download(
            repo_id, revision=revision, cache_dir=cache_dir, endpoint=endpoint, allow_patterns=[layout.CONFIG]
        )
    )
    if not (snapshot / layout.CONFIG).exists():
        raise CheckpointError(f"The hub model {repo_id!r} has no {layout.CONFIG}")
    return snapshot


def _from_cache(repo_id: str, revision: str | None, cache_dir: str | os.PathLike | None, reason: str) -> Path:
    snapshot = _config_from_cache(repo_id, revision, cache_dir, reason)
    weights = [name for name in layout.WEIGHTS if (snapshot / name).exists()]
    if not weights:
        raise _not_cached(f"{_which(repo_id, revision)} as a whole", reason)
    if weights[0].endswith(".index.json"):
        for shard in set(layout.read_index(snapshot / weights[0]).values()):
            if not (snapshot / shard).exists():
                raise _not_cached(f"{shard} of {repo_id!r}", reason)
    return snapshot


def _config_from_cache(repo_id: str, revision: str | None, cache_dir: str | os.PathLike | None, reason: str) -> Path:
    """The cached folder of a model, if the config is in it."""
    from huggingface_hub import snapshot_download

    try:
        snapshot = Path(
            snapshot_download(
                repo_id, revision=revision, cache_dir=cache_dir, local_files_only=True, allow_patterns=[layout.CONFIG]
            )
        )
    except (OSError, ValueError) as error:  # not cached, or not even an id
        raise _not_cached(_which(repo_id, revision), reason) from error
    if not (snapshot / layout.CONFIG).exists():
        raise _not_cached(f"{_which(repo_id, revision)} as a whole", reason)
    return snapshot


def _which(repo_id: str, revision: str | None) -> str:
    return f"The model {repo_id!r}" if revision is None else f"Revision {revision!r} of {repo_id!r}"


def _not_cached(what: str, reason: str) -> ModelNotFoundError:
    return ModelNotFoundError(f"{what} is not in the cache, and {reason}. Load the model once with a connection.")
