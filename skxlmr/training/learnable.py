"""What training needs of a task."""

from __future__ import annotations

from typing import ClassVar, NamedTuple, Protocol

import numpy as np
from torch import nn

from skxlmr.checkpoints.resolve import CheckpointFiles
from skxlmr.model import XLMRobertaXLConfig
from skxlmr.runtime.backbone import Backbone
from skxlmr.runtime.feature_cache import Keep
from skxlmr.runtime.finetuned import Finetuned
from skxlmr.training.callbacks import Callback
from skxlmr.training.convergence import Quality
from skxlmr.training.gradients import BatchLosses, Losses
from skxlmr.training.loop import RowOrder
from skxlmr.training.rows import Rows
from skxlmr.training.start import Startable


class Objective(NamedTuple):
    """What a trainer minimises: the losses of rows, and the callbacks and the order of rows that they need."""

    rows: Rows
    losses: Losses | BatchLosses
    callbacks: list[Callback]
    order: RowOrder | None = None


class Learnable(Startable, Protocol):
    """The part of a task that training needs; see `skxlmr.tasks.base.Task`."""

    causal: ClassVar[bool]
    language_model: ClassVar[str | None]

    @property
    def pooling(self) -> str: ...

    def head(self, config: XLMRobertaXLConfig, files: CheckpointFiles | None = None) -> nn.Module: ...

    def learning_rate_factor(self, n_rows: int) -> float: ...

    def start_factor(self, targets: np.ndarray) -> float: ...

    def strata(self, targets: np.ndarray) -> np.ndarray | None: ...

    def held_out(self, rows: Rows) -> Rows: ...

    def objective(
        self, finetuned: Finetuned, backbone: Backbone, rows: Rows, batch_tokens: int, memory: object, verbose: int
    ) -> Objective: ...

    def evaluate(
        self, finetuned: Finetuned, backbone: Backbone, rows: Rows, batch_tokens: int, memory: object, keep: Keep
    ) -> dict[str, float]: ...

    def quality(
        self, finetuned: Finetuned, backbone: Backbone, rows: Rows, batch_tokens: int, memory: object
    ) -> Quality | None: ...
