"""Multiple choice: prompts, each with several choices, of which one is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from skxlmr.checkpoints.resolve import CheckpointFiles
from skxlmr.columns import lengths
from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLForMultipleChoice, XLMRobertaXLTokenizer
from skxlmr.model.heads import ChoiceHead
from skxlmr.model.segments import segment_logsumexp
from skxlmr.model.transfer import upload
from skxlmr.runtime.backbone import Backbone
from skxlmr.runtime.plan import WindowPlan
from skxlmr.runtime.run import pool_windows
from skxlmr.system.schema import COUNT, one_of, shown
from skxlmr.tasks.base import LossesOfOutputs, Task
from skxlmr.tasks.choice_columns import ChoiceColumn, check_choices
from skxlmr.tasks.exports import Export
from skxlmr.tasks.right_choices import FORMS, check_right_choices
from skxlmr.text.batching import deduplicate
from skxlmr.training.rows import Rows


@dataclass(frozen=True, eq=False, kw_only=True)
class ChoicePlan(WindowPlan):
    """Windows over pairs of prompt and choice; what a plan calls a text is a prompt with all its choices.

    `n_choices` is (n_texts,); `choice_of_window` numbers the choices of all texts consecutively, (n_windows,).
    """

    n_choices: np.ndarray
    most_choices: int
    choice_of_window: np.ndarray


@dataclass(frozen=True, eq=False)
class Choosing(Task[ChoiceColumn]):
    """The right one of a row's choices; targets are their indices.

    `form` is what y holds, one of `skxlmr.tasks.right_choices.FORMS`; `prompts` are the positions of the columns that
    are the prompt, and `prompt_columns` their names if the user says so.
    """

    prompt_columns: Sequence[str] | Sequence[int] | None = None
    form: str = "index"
    prompts: list[int] = field(default_factory=list)

    found: ClassVar[dict[str, str]] = {"target_form_": "form", "prompt_columns_": "prompts"}
    found_types: ClassVar[dict[str, Any]] = {"target_form_": one_of(*FORMS), "prompt_columns_": list[COUNT]}

    def check_found(self, n_features: int | None) -> None:
        if n_features is None and not self.prompts:  # the head of a checkpoint, before it is trained here
            return
        columns = set(self.prompts)
        if not columns or not columns < set(range(n_features or 0)) or len(columns) < len(self.prompts):
            raise ValueError(f"its prompt_columns_ are not some of {n_features} columns: {shown(self.prompts)}")

    def read(self, X: Any) -> ChoiceColumn:
        return check_choices(X, self.prompts or self.prompt_columns)

    def plan(self, backbone: Backbone, column: ChoiceColumn) -> ChoicePlan:
        max_length, stride = self.windows.resolve(backbone)
        return plan_choices(backbone.tokenizer, column, max_length=max_length, stride=stride)

    def find(self, y: Any, column: ChoiceColumn, weights: np.ndarray) -> tuple[Self, np.ndarray]:
        targets, form = check_right_choices(y, column)
        if max(len(choices) for choices, weight in zip(column.choices, weights, strict=True) if weight) < 2:
            raise ValueError("X has only one choice in every row: there is nothing to learn from.")
        return replace(self, form=form, prompts=list(column.prompts)), targets

    def pretrained(self, config: XLMRobertaXLConfig) -> tuple[Self, None]:
        """As other tasks; which columns are the prompt is found anew in each X, and choices are told by their index."""
        return self, None

    def continued(self, earlier: Self) -> Self:
        """As other tasks; but a head of a checkpoint is for any columns, and any form of y."""
        return super().continued(earlier) if earlier.prompts else self

    def targets(self, y: Any, column: ChoiceColumn, name: str = "y") -> np.ndarray:
        return check_right_choices(y, column, name)[0]

    def head(self, config: XLMRobertaXLConfig, files: CheckpointFiles | None = None) -> ChoiceHead:
        return ChoiceHead(config)

    def constant(self, rows: Rows) -> np.ndarray:
        """Return the same score for all choices."""
        return np.zeros(1)

    def losses(self, rows: Rows, device: torch.device) -> LossesOfOutputs:
        """Return the cross-entropy over a row's choices, for each of its windows; they come together."""
        plan, targets = rows.plan, rows.targets
        assert isinstance(plan, ChoicePlan)
        choice_of_window = plan.choice_of_window

        def losses(outputs: Tensor, windows: np.ndarray, of_rows: np.ndarray) -> Tensor:
            choices, n_windows = _runs(np.stack([of_rows, choice_of_window[windows]], axis=1))
            row_of_choice, n_choices = _runs(choices[:, :1])
            right = np.cumsum(n_choices) - n_choices + targets[row_of_choice[:, 0]]
            windows_per_row = np.add.reduceat(n_windows, np.cumsum(n_choices) - n_choices)
            of_choice, of_row, right_ones, repeats = upload([n_windows, n_choices, right, windows_per_row], device)
            scores = torch.segment_reduce(outputs, "mean", lengths=of_choice, axis=0, unsafe=True)
            each = segment_logsumexp(scores, of_row) - scores[right_ones]
            return each[:, 0].repeat_interleave(repeats, output_size=len(windows))

        return losses

    def per_row(self, outputs: np.ndarray, plan: WindowPlan) -> np.ndarray:
        """Return the scores of the choices, (n_rows, most choices), -inf where a row has fewer."""
        assert isinstance(plan, ChoicePlan)
        of_choices = pool_windows(outputs, plan.choice_of_window, "mean")[:, 0]
        return padded(of_choices, plan.n_choices, plan.most_choices)[plan.text_of_row]

    def row_score(self, results: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
        return float(np.average(results.argmax(axis=1) == targets, weights=weights))

    @property
    def export(self) -> Export:
        # peft has no name for this task
        return Export(
            XLMRobertaXLForMultipleChoice,
            lambda head: {"roberta.pooler": head.pooler, "classifier": head.linear},
            {"id2label": None, "num_labels": 1},
        )


def _runs(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Collapse equal neighbouring rows: each such row, and how many there are."""
    starts = np.flatnonzero(np.r_[True, (keys[1:] != keys[:-1]).any(axis=1)])
    return keys[starts], np.diff(starts, append=len(keys))


def plan_choices(tokenizer: XLMRobertaXLTokenizer, column: ChoiceColumn, *, max_length: int, stride: int) -> ChoicePlan:
    """Tokenise prompts and choices, each distinct text once, and cut pairs that are too long into windows."""
    rows = column.keys
    first, text_of_row = deduplicate(rows)
    distinct = [rows[i] for i in first]
    texts = list(dict.fromkeys(text for prompt, choices in distinct for text in (prompt, *choices)))
    ids = dict(zip(texts, tokenizer.encode_batch(texts), strict=True))
    windows, text_of_window, choice_of_window, n_before = [], [], [], 0
    for i, (prompt, choices) in enumerate(distinct):
        for choice in choices:
            of_pair = tokenizer.windows(ids[prompt], ids[choice], max_length=max_length, stride=stride)
            windows += [window.input_ids for window in of_pair]
            text_of_window += [i] * len(of_pair)
            choice_of_window += [n_before] * len(of_pair)
            n_before += 1
    return ChoicePlan(
        windows,
        np.asarray(text_of_window, np.int64),
        text_of_row,
        texts_are_whole=True,
        n_choices=lengths([choices for _, choices in distinct]),
        most_choices=column.most_choices,
        choice_of_window=np.asarray(choice_of_window, np.int64),
    )


def padded(scores: np.ndarray, counts: np.ndarray, width: int) -> np.ndarray:
    """Put the scores of all choices, one row after the other, into a matrix, with -inf where a row has fewer.

    Examples
    --------
    >>> padded(np.array([1.0, 2.0, 3.0]), np.array([1, 2]), 2)
    array([[  1., -inf],
           [  2.,   3.]])
    """
    matrix = np.full((len(counts), width), -np.inf, scores.dtype)
    matrix[np.arange(width) < counts[:, None]] = scores
    return matrix
