"""Heads that are the last module of a directory of sentence-transformers, and what they are trained for."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.checkpoints.files import read_json_as
from skxlmr.checkpoints.sentence_modules import Layer, SentenceModules
from skxlmr.checkpoints.sentence_transformers import HEAD
from skxlmr.system.schema import one_of

PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")


@dataclass
class HeadFile:
    """The content of the file.

    Attributes
    ----------
    problem_type : str
        As in a config of transformers.
    classes : list of str, int, float or bool, or None
        The labels of the outputs; None for regression.
    """

    problem_type: one_of(*PROBLEM_TYPES)  # type: ignore[valid-type]
    classes: list[str | int | float | bool] | None = None

    def to_json(self) -> bytes:
        """Return the content as it is written."""
        return (json.dumps(asdict(self), indent=2) + "\n").encode()


def read_head_file(directory: Path) -> HeadFile | None:
    """Read what the last module of a directory is trained for; None if nothing says that it is a head."""
    path = directory / HEAD
    if not path.is_file():
        return None
    head = read_json_as(HeadFile, path)
    if (head.classes is None) != (head.problem_type == "regression"):
        raise CheckpointError(f"{path} must have classes, unless its problem_type is 'regression'.")
    if len(kinds := {type(label).__name__ for label in head.classes or ()}) > 1:
        raise CheckpointError(f"{path} has classes of several types, {' and '.join(sorted(kinds))}.")
    return head


def split_head(modules: SentenceModules) -> tuple[SentenceModules, Layer] | None:
    """Return the modules below a head, and the dense layer that it is; None if there is none at the end."""
    if modules.normalize or modules.truncate_dim is not None or not modules.layers:
        return None
    *below, head = modules.layers
    if head["kind"] != "Dense" or head["activation"] != "Identity" or head["residual"] is not False:
        return None
    normalize = bool(below) and below[-1]["kind"] == "Normalize"
    return replace(modules, layers=tuple(below[:-1] if normalize else below), normalize=normalize), head


def outputs_of(head: Layer) -> int:
    """Return the number of outputs of a head."""
    return len(head["weight"])
