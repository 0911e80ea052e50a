"""What a task must know to write what was learned in the formats of other programs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn

from skxlmr.model.pretrained import PretrainedModel


@dataclass(frozen=True)
class Export:
    """How what was learned is written for transformers and peft.

    Attributes
    ----------
    model_class : type or None
        The class of the reference; None if only sentence-transformers has such a model.
    heads : callable
        From a head to its parts, by the names that they have in that class.
    config : dict
        Entries of its config.
    peft_task : str or None
        The name of the task in peft; None if peft has none.
    has_adapter : bool
        Whether peft can save the head.
    prompt : str
        What the model expects before each text.
    include_prompt : bool
        Whether the pooling takes the tokens of the prompt.
    classes : list or None
        The labels of the outputs as values of JSON, if they are those of a classifier.
    activation : str or None
        What is done with the outputs of the head: the name of a class of torch; None if no class of the reference and
        of sentence-transformers does more than the head.
    written : callable
        From a copy of the head that was fitted to the head that is written.
    """

    model_class: type[PretrainedModel] | None
    heads: Callable[[Any], dict[str, nn.Module]]
    config: dict[str, Any] = field(default_factory=dict)
    peft_task: str | None = None
    has_adapter: bool = True
    prompt: str = ""
    include_prompt: bool = True
    classes: list[Any] | None = None
    activation: str | None = None
    written: Callable[[Any], nn.Module] = lambda head: head


@dataclass(frozen=True)
class Serving:
    """What a graph for serving computes; see `skxlmr.saving.serving`.

    Attributes
    ----------
    kind : {"classification", "regression", "tagging"}
    output : str
        The name of what the graph returns.
    finish : callable
        From the outputs of the head, (B, n_outputs), or (B, L, n_outputs) of pieces, to what the graph returns.
    entries : dict
        What else a server needs to know of the results; JSON.
    pooling : str or None
        How the tokens of a text become the vector that the head takes; None for a head on each token.
    prompt : str
        What the model expects before each text.
    include_prompt : bool
        Whether the pooling takes the tokens of the prompt.
    pairs : {"joint", "separate"} or None
        How the two texts of a row are read.
    """

    kind: str
    output: str
    finish: Callable[[Tensor], Tensor]
    entries: dict[str, Any]
    pooling: str | None = None
    prompt: str = ""
    include_prompt: bool = True
    pairs: str | None = None


def as_json_labels(classes: np.ndarray) -> list[Any]:
    """Return labels as values of JSON: numbers, truth values and texts as they are, others as texts."""
    return [label if isinstance(label, str | bool | int | float) else str(label) for label in classes.tolist()]
