"""The reading of a column of texts as vectors, with a frozen model or a fine-tuned one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import joblib
import numpy as np
import torch

from skxlmr.checkpoints.sentence_modules import Layer
from skxlmr.columns import TextColumn
from skxlmr.model.sentence_layers import SentenceLayers
from skxlmr.runtime.backbone import Backbone
from skxlmr.runtime.features import frozen_features
from skxlmr.runtime.finetuned import Finetuned
from skxlmr.runtime.plan import WindowPlan, Windows, plan_texts
from skxlmr.runtime.run import pool_texts
from skxlmr.runtime.streaming import run_in_parts


@dataclass(frozen=True, eq=False)
class Reading:
    """How texts become vectors, before PCA and scaling."""

    pooling: str
    normalize: bool
    prompt: str
    n_dims: int | None
    separate: bool  # whether the texts of a pair are read one by one
    layers: tuple[Layer, ...] = ()  # of the model's own modules, after the pooling
    include_prompt: bool = True  # whether the pooling takes the tokens of the prompt
    max_length: int | None = None  # what the parameter of this name stands for if it is None; None is all

    @property
    def left_out(self) -> str:
        """The beginning of each text that the pooling leaves out."""
        return "" if self.include_prompt else self.prompt

    def whole_width(self, hidden_size: int) -> int:
        """Return the number of dimensions of the vectors before they are truncated to `n_dims`."""
        return SentenceLayers(self.layers, hidden_size * len(self.pooling.split("+"))).width

    def width(self, hidden_size: int) -> int:
        """Return the number of dimensions of the vectors."""
        return self.whole_width(hidden_size) if self.n_dims is None else self.n_dims

    def texts(self, column: TextColumn) -> TextColumn:
        """Return a column of what is read at once; of separate pairs the first text, then the second."""
        if not self.separate or column.pairs is None:
            return column
        texts = [text for pair in zip(column.texts, column.pairs, strict=True) for text in pair]
        return replace(column, texts=texts, pairs=None)


def with_prompt(column: TextColumn, prompt: str) -> TextColumn:
    """Put the prompt before each text of a column."""
    return replace(column, texts=[prompt + text for text in column.texts])


def embed_texts(
    backbone: Backbone,
    column: TextColumn,
    reading: Reading,
    windows: Windows,
    finetuned: Finetuned | None,
    *,
    layers: Sequence[int],
    batch_tokens: int | str,
    memory: str | os.PathLike | joblib.Memory | None,
    verbose: int,
) -> np.ndarray:
    """Return the vectors of a column: one per row, (n_rows, d) float32, or (n_rows, 2, d) of separate pairs.

    A model that is not fine-tuned is read at the hidden states `layers`.
    """
    at_once = backbone.batch_tokens(batch_tokens)

    def compute(plan: WindowPlan, description: str) -> np.ndarray:
        if finetuned is not None:
            vectors = finetuned.run(backbone, plan, at_once, verbose=verbose, description=description)
        else:
            vectors = frozen_features(
                backbone,
                plan.windows,
                reading.pooling,
                layers=layers,
                left_out=plan.left_out,
                batch_tokens=at_once,
                memory=memory,
                verbose=verbose,
                description=description,
            )
        return pool_texts(vectors, plan, reading.pooling)

    vectors = run_in_parts(
        reading.texts(column),
        lambda rows: plan_texts(backbone, with_prompt(rows, reading.prompt), windows, reading.left_out),
        compute,
        at_once,
        backbone.devices,
        description="embed",
        verbose=verbose,
    )
    if reading.layers:
        with torch.no_grad():
            vectors = SentenceLayers(reading.layers, vectors.shape[1])(torch.from_numpy(vectors)).numpy()
    if reading.n_dims is not None:
        vectors = np.ascontiguousarray(vectors[:, : reading.n_dims])
    return vectors if len(vectors) == len(column.texts) else vectors.reshape(len(column.texts), 2, -1)
