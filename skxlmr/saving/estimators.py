"""Estimators in directories: tensors and JSON, no pickle, nothing that could run when it is read."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from contextlib import closing
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.checkpoints.files import describe_file, read_json, sha256_of_file
from skxlmr.checkpoints.formats import TensorInfo, open_weights
from skxlmr.checkpoints.layout import check_base_name
from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLModel
from skxlmr.runtime.finetuned import Learned
from skxlmr.saving.values import Decoder, Encoder
from skxlmr.system import atomic

if TYPE_CHECKING:
    from skxlmr.estimators.base import BaseXLMRXL

FORMAT = 1
NAME = "estimator.json"
TENSORS = "tensors-{}.safetensors"
MAX_JSON_BYTES = 2**28  # the labels and the history of a large fit

# What a fitted estimator holds beside its parameters, and need not be written: the base, and things of the moment.
NOT_SAVED = {"_learned", "_backbone", "_asked", "_skl_callbacks", "_metadata_request"}

# Parameters that do not travel: joblib unpickles what lies in the folder that is named here.
NOT_TRAVELLING = {"memory"}

# The estimators that can be loaded, by name; they put themselves here.
ESTIMATORS: dict[str, type[BaseXLMRXL]] = {}


def same_class(one: type, other: type) -> bool:
    """Whether two classes are one, perhaps defined again, as a notebook does when a cell is run twice."""
    return (one.__module__, one.__qualname__) == (other.__module__, other.__qualname__)


def save_estimator(estimator: BaseXLMRXL, directory: str | os.PathLike) -> None:
    """Write a fitted estimator; see `BaseXLMRXL.save`."""
    check_is_fitted(estimator, "_fingerprint")
    name = type(estimator).__name__
    if not same_class(ESTIMATORS[name], type(estimator)):
        raise TypeError(f"This {name} could not be loaded again: another class has that name. Rename yours.")
    parameters = estimator.get_params(deep=False)
    state = estimator.__getstate__()
    encoder = Encoder()
    learned: Learned | None = state.get("_learned")
    content = {
        "format": FORMAT,
        "library": f"skxlmr {_own_version()}",
        "class": type(estimator).__name__,
        "parameters": {
            name: _encode_parameter(encoder, name, value)
            for name, value in parameters.items()
            if name not in NOT_TRAVELLING
        },
        "fitted": {
            name: encoder.encode(value, f"the attribute {name}")
            for name, value in state.items()
            if name not in parameters and name not in NOT_SAVED
        },
    }
    tensors = dict(encoder.arrays)
    if learned is not None:
        content["learned"] = {
            "tuning": encoder.encode(learned.tuning, "tuning"),
            "base": learned.config.to_dict(),
            "n_outputs": estimator._n_outputs,
        }
        tensors |= {f"learned/{name}": value for name, value in learned.state_dict().items()}
    directory = Path(directory).expanduser()
    if directory.exists() and not (directory / NAME).exists() and not all(map(_is_own, directory.iterdir())):
        raise FileExistsError(f"{directory} holds other files already. Choose a folder that is new, empty, or a saved "
                              f"estimator, which is replaced.")  # fmt: skip
    _write(directory, content, tensors)


def _is_own(path: Path) -> bool:
    """Whether a file is one that a save writes, or has left when it was killed."""
    return path.match(TENSORS.format("*")) or atomic.is_left_over(path, NAME)


def _encode_parameter(encoder: Encoder, name: str, value: Any) -> Any:
    try:
        return encoder.encode(value, f"the parameter {name}")
    except TypeError as error:
        raise TypeError(f"{error} Set it to something else before saving: set_params({name}=...).") from error


def _write(directory: Path, content: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write the tensors under a new name, then the JSON, which names them: until then the earlier ones count."""
    with atomic.replacing_files(directory, last=NAME, obsolete=_is_own) as staging:
        path = staging / TENSORS.format(secrets.token_hex(8))
        safetensors.torch.save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, path)
        content["tensors"] = {"file": path.name, **describe_file(path)}
        text = json.dumps(content, allow_nan=False, indent=1)  # ASCII: a label may hold a lone surrogate
        (staging / NAME).write_text(text)


def load(directory: str | os.PathLike) -> BaseXLMRXL:
    """Read an estimator that `save` has written.

    No base is loaded until the first prediction. Nothing in the files is executed. `memory` is None: a folder of
    pickles that a file names is not to be trusted.

    Parameters
    ----------
    directory : str or path

    Returns
    -------
    estimator
        Fitted, of the class that was saved.

    Raises
    ------
    FileNotFoundError
        If there is no saved estimator.
    CheckpointError
        If the files are damaged, from a newer version, or not what this library writes.

    Examples
    --------
    >>> import tempfile
    >>> import skxlmr
    >>> clf = skxlmr.XLMRXLClassifier("nano", tuning="head", random_state=0).fit(["good", "bad"], ["yes", "no"])
    >>> directory = tempfile.mkdtemp()
    >>> clf.save(directory)
    >>> skxlmr.load(directory).predict(["good"])
    array(['yes'], dtype='<U3')
    """
    directory = Path(directory).expanduser()
    path = directory / NAME
    if not path.is_file():
        raise FileNotFoundError(f"{directory} holds no saved estimator: there is no {NAME} in it.")
    content = read_json(path, MAX_JSON_BYTES)
    if content.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} was written by {content.get('library')!r} in format {content.get('format')!r}; this version reads "
            f"format {FORMAT}. Upgrade skxlmr."
        )
    cls = ESTIMATORS.get(str(content.get("class")))
    if cls is None:
        raise CheckpointError(
            f"{path} holds a {content.get('class')!r}, which is none of {', '.join(sorted(ESTIMATORS))}."
        )
    try:
        tensors = _read_tensors(directory, content["tensors"])
        decoder = Decoder(tensors, path)
        parameters = {k: decoder.decode(v) for k, v in content["parameters"].items() if k not in NOT_TRAVELLING}
        estimator = cls(**parameters)
        fitted = {name: decoder.decode(value) for name, value in content["fitted"].items()}
        if "learned" in content:
            fitted["_learned"] = _rebuild(estimator, content["learned"], decoder, tensors)
        _check_names(fitted, cls, path)
        vars(estimator).update(fitted, _backbone=None, _asked=None)
        if "learned" in content and estimator._n_outputs != content["learned"]["n_outputs"]:
            raise ValueError(f"{content['learned']['n_outputs']} outputs for {estimator._n_outputs}")
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError, MemoryError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} is damaged: {error!r}") from error
    return estimator


def _check_names(fitted: Mapping[str, Any], cls: type[BaseXLMRXL], path: Path) -> None:
    """Attributes must be such as a fit leaves, and all that predictions need; they must not hide methods."""
    for name in ("_fingerprint", "n_features_in_", *cls._needed_attributes):
        if name not in fitted:
            raise CheckpointError(f"{path} is damaged: it has no attribute {name!r}")
    if not isinstance(fitted["_fingerprint"], str):
        raise CheckpointError(f"{path} is damaged: its attribute '_fingerprint' is no text")
    for name in fitted:
        if not name.isidentifier() or name.startswith("__") or hasattr(cls, name):
            raise CheckpointError(f"{path} is damaged: it has an attribute {name!r}")


def _read_tensors(directory: Path, entry: dict[str, Any]) -> dict[str, Tensor]:
    path = directory / check_base_name(entry["file"], directory / NAME)
    if not path.is_file() or path.stat().st_size != entry["bytes"] or sha256_of_file(path) != entry["sha256"]:
        raise CheckpointError(f"{path} is missing or damaged: it is not the file that was saved.")
    with closing(open_weights(path)) as file:
        return {name: file.read(name) for name in file.tensors}


def _rebuild(estimator: BaseXLMRXL, content: dict[str, Any], decoder: Decoder, tensors: dict[str, Tensor]) -> Learned:
    """What was learned, in modules that are built by tuning and config and must fit the tensors exactly."""
    config = XLMRobertaXLConfig.from_dict(content["base"])
    state = {name.removeprefix("learned/"): tensor for name, tensor in tensors.items() if name.startswith("learned/")}
    with torch.device("meta"):
        base = XLMRobertaXLModel(config, add_pooling_layer=False)
        learned = estimator._new_learned(decoder.decode(content["tuning"]), base, content["n_outputs"])
    need = {name: TensorInfo(tuple(p.shape), p.dtype, decoder.where) for name, p in learned.state_dict().items()}
    have = {name: TensorInfo(tuple(p.shape), p.dtype, decoder.where) for name, p in state.items()}
    if need != have:
        wrong = sorted(name for name in need.keys() | have.keys() if need.get(name) != have.get(name))
        raise CheckpointError(f"{decoder.where} is damaged: its tensors are not those of its tuning: {wrong[:3]}")
    learned.load_state_dict(state, assign=True)
    return learned.eval().requires_grad_(False)


def _own_version() -> str:
    try:
        return version("skxlmr")
    except PackageNotFoundError:
        return "unknown"
