"""Saving of fitted estimators in directories: tensors and JSON, no pickles, so that reading executes nothing."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn

from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.checkpoints.files import file_identity, read_json, sha256_of_file
from skxlmr.checkpoints.formats import open_weights
from skxlmr.checkpoints.layout import ESTIMATOR, check_base_name
from skxlmr.checkpoints.safetensors_content import SafetensorsContent
from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLModel
from skxlmr.runtime.finetuned import Finetuned
from skxlmr.saving import cards
from skxlmr.saving.cards import CardFacts, card_files
from skxlmr.saving.values import Decoder, Encoder
from skxlmr.system import atomic
from skxlmr.system.schema import Rule, parse, shown
from skxlmr.tuning import Tuning

FORMAT = 3
NAME = ESTIMATOR
TENSORS = "tensors-{}.safetensors"
FINETUNED = "finetuned/"  # before the names of trained weights
READING_ATTEMPTS = 100
MAX_JSON_BYTES = 2**27  # the labels and the history of a large fit
MAX_JSON_VALUES = 4_000_000

FINGERPRINT = Annotated[str, Rule("64 hexadecimal digits", re.compile("[0-9a-f]{64}").fullmatch)]
PIECES = Annotated[
    np.ndarray,
    Rule(
        "an array of ascending int64, from 0 on",
        lambda ids: ids.dtype == np.int64 and ids.ndim == 1 and len(ids) and ids[0] == 0 and (np.diff(ids) > 0).all(),
    ),
]


@dataclass
class SavedEstimator:
    """The content of a saved estimator."""

    class_name: str
    parameters: dict[str, Any]  # of the constructor
    fitted: dict[str, Any]  # fitted attributes
    fingerprint: str  # of the base model's checkpoint
    pieces: np.ndarray | None = None  # (V,), int64: the pieces of the vocabulary that were kept; None means all
    finetuned: Finetuned | SavedWeights | None = None  # modules to write, or weights that were read
    facts: CardFacts | None = None  # for a card to write


@dataclass
class SavedWeights:
    """Trained weights that were read; `build` makes modules of them."""

    tuning: Tuning
    config: XLMRobertaXLConfig
    where: str | Path  # they were read from, for error messages
    tensors: dict[str, Tensor] = field(repr=False)

    def build(self, make_head: Callable[[XLMRobertaXLConfig], nn.Module], pooling: str, causal: bool) -> Finetuned:
        """Build the modules, raising CheckpointError unless the tensors are exactly theirs."""
        with torch.device("meta"):
            base = XLMRobertaXLModel(self.config, add_pooling_layer=False)
            finetuned = Finetuned(self.tuning, base, make_head(self.config), pooling, causal).float()
        need, have = (
            {name: (tuple(p.shape), p.dtype) for name, p in tensors.items()}
            for tensors in (finetuned.state_dict(), self.tensors)
        )
        if need != have:
            wrong = sorted(name for name in need.keys() | have.keys() if need.get(name) != have.get(name))
            raise CheckpointError(f"{self.where} is damaged: its tensors are not those of its tuning: {wrong[:3]}")
        finetuned.load_state_dict(self.tensors, assign=True)
        return finetuned.eval().requires_grad_(False)


@dataclass
class TensorsEntry:
    """What the JSON says about the file of tensors."""

    file: str
    bytes: int
    sha256: str


@dataclass
class BaseEntry:
    """What the JSON says about the base model."""

    fingerprint: FINGERPRINT
    pieces: Any  # not decoded yet


@dataclass
class FinetunedEntry:
    """What the JSON says about trained weights."""

    tuning: Any  # not decoded yet
    config: dict[str, Any]


@contextmanager
def damaged(where: str | Path) -> Iterator[None]:
    """Turn the errors that invalid content causes into a CheckpointError, which says where the content is."""
    try:
        yield
    except CheckpointError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RuntimeError, MemoryError) as error:
        reason = str(error) if isinstance(error, ValueError) else repr(error)
        raise CheckpointError(f"{where} is damaged: {reason:.500}") from error


def write_estimator(directory: str | os.PathLike, saved: SavedEstimator) -> None:
    """Write an estimator; see `XLMRXLEstimator.save`."""
    encoder = Encoder()
    content: dict[str, Any] = {
        "format": FORMAT,
        "library": f"skxlmr {_own_version()}",
        "class": saved.class_name,
        "parameters": {name: _encode_parameter(encoder, name, value) for name, value in saved.parameters.items()},
        "fitted": {name: encoder.encode(value, f"the attribute {name}") for name, value in saved.fitted.items()},
        "base": {"fingerprint": saved.fingerprint, "pieces": encoder.encode(saved.pieces, "the pieces")},
    }
    tensors = dict(encoder.arrays)
    if isinstance(saved.finetuned, Finetuned):
        content["finetuned"] = {
            "tuning": encoder.encode(saved.finetuned.tuning, "tuning"),
            "config": saved.finetuned.config.to_dict(),
        }
        tensors |= {f"{FINETUNED}{name}": value for name, value in saved.finetuned.state_dict().items()}
    directory = Path(directory).expanduser()
    if directory.is_file():
        raise FileExistsError(f"{directory} is a file; an estimator is saved as a directory. Choose another name.")
    if directory.exists() and not (directory / NAME).exists() and not all(map(_is_own, directory.iterdir())):
        raise FileExistsError(
            f"{directory} holds other files already. Choose a directory that is new, empty, or a saved estimator, "
            f"which is replaced."
        )
    _write(directory, content, tensors, card_files(directory, saved.facts, "skxlmr"))


def _is_own(path: Path) -> bool:
    """Return whether a file is written by `write_estimator`, now or by one that was killed."""
    is_card = path.name == cards.NAME and cards.is_unchanged_card(path)
    return path.match(TENSORS.format("*")) or atomic.is_temporary(path) or is_card


def _encode_parameter(encoder: Encoder, name: str, value: Any) -> Any:
    try:
        return encoder.encode(value, f"the parameter {name}")
    except TypeError as error:
        raise TypeError(f"{error} Set it to something else before saving: set_params({name}=...).") from error


def _write(directory: Path, content: dict[str, Any], tensors: dict[str, Tensor], card: dict[str, bytes]) -> None:
    """Write the tensors under a new name, then the JSON that refers to them; until then the earlier save is valid."""
    written = SafetensorsContent(tensors, {})
    draft = _to_json(content)
    size = written.nbytes + len(draft) + sum(map(len, card.values()))
    with atomic.replacing_version(directory, manifest=NAME, size=size, unused=_unused, descriptions=card) as new:
        content["tensors"] = new.add_by_content(TENSORS, written)
        new.add(NAME, [_to_json(content)])
        for name, text in card.items():
            new.add(name, [text])


def _to_json(content: dict[str, Any]) -> bytes:
    return json.dumps(content, allow_nan=False, indent=1).encode()  # ASCII, since a label may have a lone surrogate


def _unused(directory: Path) -> set[str]:
    """Return the tensor files that the present estimator does not refer to."""
    with suppress(CheckpointError, KeyError, TypeError):
        present = read_json(directory / NAME, MAX_JSON_BYTES)["tensors"]["file"]
        return {path.name for path in directory.glob(TENSORS.format("*"))} - {present}
    return set()


def read_estimator(directory: str | os.PathLike) -> SavedEstimator:
    """Read a saved estimator, as a whole, also while it is being replaced.

    Raises FileNotFoundError if there is none, and CheckpointError if the files are damaged, from a newer version, or
    not written by this library.
    """
    directory = Path(directory).expanduser()
    path = directory / NAME
    for _ in range(READING_ATTEMPTS):
        before = file_identity(path)
        if before is None or not path.is_file():
            raise FileNotFoundError(f"{directory} holds no saved estimator: there is no {NAME} in it.")
        try:
            return _read(directory)
        except CheckpointError:
            # Another process may have replaced the estimator, and removed its tensors, meanwhile.
            if file_identity(path) == before:
                raise
    raise CheckpointError(f"{directory} is being replaced all the time, by other processes. Load it again.")


def _read(directory: Path) -> SavedEstimator:
    path = directory / NAME
    content = read_json(path, MAX_JSON_BYTES, MAX_JSON_VALUES)
    if content.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} was written by {shown(content.get('library'))} in format {shown(content.get('format'))}; this "
            f"version reads format {FORMAT}. Load it with the version that wrote it."
        )
    with damaged(path):
        kind = parse(str, content["class"], "class")
        base = parse(BaseEntry, content["base"], "base")
        parameters, fitted = (parse(dict[str, Any], content[part], part) for part in ("parameters", "fitted"))
        tensors = _read_tensors(directory, parse(TensorsEntry, content["tensors"], "tensors"))
        decoder = Decoder(tensors, path)
        saved = SavedEstimator(
            class_name=kind,
            parameters={name: decoder.decode(value) for name, value in parameters.items()},
            fitted={name: decoder.decode(value) for name, value in fitted.items()},
            fingerprint=base.fingerprint,
            pieces=parse(PIECES | None, decoder.decode(base.pieces), "base.pieces"),
        )
        if "finetuned" in content:
            finetuned = parse(FinetunedEntry, content["finetuned"], "finetuned")
            saved.finetuned = SavedWeights(
                parse(Tuning, decoder.decode(finetuned.tuning), "finetuned.tuning"),
                XLMRobertaXLConfig.from_dict(finetuned.config),
                path,
                {name.removeprefix(FINETUNED): t for name, t in tensors.items() if name.startswith(FINETUNED)},
            )
    return saved


def _read_tensors(directory: Path, entry: TensorsEntry) -> dict[str, Tensor]:
    path = directory / check_base_name(entry.file, directory / NAME)
    try:
        is_whole = path.is_file() and path.stat().st_size == entry.bytes and sha256_of_file(path) == entry.sha256
    except FileNotFoundError:  # removed since the first look
        is_whole = False
    if not is_whole:
        raise CheckpointError(f"{path} is missing or damaged: it is not the file that was saved.")
    with closing(open_weights(path)) as file:
        return {name: file.read(name) for name in file.tensors}


def _own_version() -> str:
    try:
        return version("skxlmr")
    except PackageNotFoundError:
        return "unknown"
