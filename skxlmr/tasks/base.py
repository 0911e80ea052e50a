"""What a task is: its column, its targets, its head, its loss and its score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import Self

from skxlmr.checkpoints.resolve import CheckpointFiles
from skxlmr.columns import TextColumn, check_text_column
from skxlmr.model import XLMRobertaXLConfig
from skxlmr.model.pretrained import PretrainedModel
from skxlmr.model.transfer import upload, upload_one
from skxlmr.runtime.backbone import Backbone
from skxlmr.runtime.feature_cache import Keep
from skxlmr.runtime.finetuned import Finetuned
from skxlmr.runtime.plan import WindowPlan, Windows, plan_texts, rows_of
from skxlmr.runtime.run import pool_windows
from skxlmr.runtime.sentence_settings import SentenceSettings
from skxlmr.tasks.probes import LinearStart
from skxlmr.training.convergence import Quality
from skxlmr.training.fit import Objective
from skxlmr.training.rows import Rows

# From the outputs of a head for some windows, the numbers of these windows, and the row of each, to their losses.
LossesOfOutputs = Callable[[Tensor, np.ndarray, np.ndarray], Tensor]


not_found = partial(np.empty, 0)  # makes the value of an array that `find` has not set yet


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
    """

    model_class: type[PretrainedModel] | None
    heads: Callable[[Any], dict[str, nn.Module]]
    config: dict[str, Any] = field(default_factory=dict)
    peft_task: str | None = None
    has_adapter: bool = True
    prompt: str = ""
    include_prompt: bool = True


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


Column = TypeVar("Column", bound=TextColumn)


@dataclass(frozen=True, eq=False)
class Task(Generic[Column]):
    """Base class of the tasks.

    A task is made from an estimator's parameters; `find` returns it with what `y` tells of it. To write a task,
    override `find`, `targets`, `head`, `row_losses` and `row_score`; the other methods are those of a task with
    one output vector per text.

    Attributes
    ----------
    windows : Windows
    found : dict of str to str
        The fields that `find` sets, and properties that follow from them, by the names of the estimator's attributes
        that show them.
    found_lately : dict of str to str
        More of them, which estimators of earlier versions lack: the default of the field stands for these.
    found_types : dict of str to type
        The types of these attributes, as `skxlmr.system.schema.parse` takes them: they are compared when an estimator
        is read from a file. Attributes that are not listed are not compared.
    needs_y : bool
        Whether there is nothing to learn without y.
    causal : bool
        Whether a token sees only itself and those before it.
    language_model : str or None
        Which language model is trained, as `skxlmr.memory_estimate` takes it.
    pooling : str
        How the tokens of a window become the vector that the head takes; a key of `skxlmr.runtime.features.POOLINGS`.
    """

    windows: Windows = field(default_factory=Windows)

    found: ClassVar[dict[str, str]] = {}
    found_lately: ClassVar[dict[str, str]] = {}
    found_types: ClassVar[dict[str, Any]] = {}
    needs_y: ClassVar[bool] = True
    causal: ClassVar[bool] = False
    language_model: ClassVar[str | None] = None
    pooling: str = field(default="cls", kw_only=True)

    def read(self, X: Any) -> Any:
        """Check X and return it as a column."""
        return check_text_column(X)

    def select(self, X: Any) -> Any:
        """Select those columns of X that are read, if they are found by name."""
        return X

    def read_as(self, settings: SentenceSettings, column: Column) -> Self:
        """Return this task with what the files of the model say about reading texts."""
        return self.limited(settings.max_length)

    def limited(self, max_length: int | None) -> Self:
        """Return this task with the number of tokens at once that `max_length=None` stands for, if it is not all."""
        return replace(self, windows=replace(self.windows, limit=max_length))

    def prompted(self, column: Column) -> Column:
        """Return a column with all that is put before its texts."""
        return column

    @property
    def prompts_alone(self) -> tuple[str, ...]:
        """The prompts that are also tokenised by themselves, so that a trimmed vocabulary keeps their pieces."""
        return ()

    def plan(self, backbone: Backbone, column: Column) -> WindowPlan:
        """Tokenise a column into windows."""
        return plan_texts(backbone, column, self.windows)

    def find(self, y: Any, column: Column, weights: np.ndarray) -> tuple[Self, np.ndarray]:
        """Return this task with what y tells of it, and the targets of the rows, as `targets` would.

        Parameters
        ----------
        y : array-like of shape (n_rows,)
        column : TextColumn
        weights : ndarray of shape (n_rows,)
            The sample weights.
        """
        raise NotImplementedError

    def targets(self, y: Any, column: Column, name: str = "y") -> np.ndarray:
        """Check y and return it as `row_losses` takes it, one target per row; messages call it `name`."""
        raise NotImplementedError

    def targets_of_score(self, y: Any, column: Column) -> np.ndarray:
        """Return the targets that `row_score` takes; labels that fit has not seen are wrong there, not an error."""
        return self.targets(y, column)

    def as_y(self, targets: np.ndarray) -> np.ndarray | None:
        """Return targets as the y that scikit-learn's metrics take; None, the default, if they take no such y."""
        return None

    def loss_weights(self, targets: np.ndarray) -> np.ndarray | float:
        """Return the factors of rows in the loss, beside their sample weights."""
        return 1.0

    def rows(
        self, backbone: Backbone, column: Column, targets: np.ndarray, sample_weight: np.ndarray | None = None
    ) -> Rows:
        """Tokenise rows, without those of weight zero.

        Parameters
        ----------
        sample_weight : ndarray of shape (n_rows,), default=None
            Weights to train with; None means rows to validate on, which all count alike.
        """
        weights = np.ones(len(targets)) if sample_weight is None else sample_weight * self.loss_weights(targets)
        kept = np.flatnonzero(weights)
        if not len(kept):
            raise ValueError("There are no rows to learn from: all their weights are zero.")
        plan = self.plan(backbone, column if len(kept) == len(weights) else column.take(kept))
        plan.warn_of_cut()
        return Rows(plan, targets[kept], weights[kept], kept)

    def strata(self, targets: np.ndarray) -> np.ndarray | None:
        """Return the classes by which held-out rows are stratified, by the user's names; None for no stratification."""
        return None

    def held_out(self, rows: Rows) -> Rows:
        """Return rows that were set aside from the training, with their sample weights alone, as scores take them."""
        return replace(rows, weights=rows.weights / self.loss_weights(rows.targets))

    def head(self, config: XLMRobertaXLConfig, files: CheckpointFiles | None = None) -> nn.Module:
        """Make a head with random weights, or with those that the files of the checkpoint have for it."""
        raise NotImplementedError

    def samples(self, rows: Rows, units: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the targets and weights that `start` takes, one for each feature vector of some units.

        `place` is the row of each unit; the units of a row share its weight.
        """
        return rows.targets[place], (rows.weights / np.bincount(place, minlength=len(rows.weights)))[place]

    def start(self, features: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> LinearStart | None:
        """Fit a linear model from which the last layer of the head starts; None, the default, is a random start.

        Parameters
        ----------
        features : ndarray of shape (n, n_features)
            Inputs of the last layer, computed by the frozen base.
        targets : ndarray of shape (n, ...)
        weights : ndarray of shape (n,)
        """
        return None

    def start_factor(self, targets: np.ndarray) -> float:
        """Return the factor of the outputs of a started head, if more than the head is trained; see `SoftStart`."""
        return 1.0

    def learning_rate_factor(self, n_rows: int) -> float:
        """Return by what `learning_rate="auto"` multiplies the rate of the tuning, for a head that has been started."""
        return 1.0

    def constant(self, rows: Rows) -> np.ndarray | None:
        """Return the outputs of the best constant model, (n_outputs,); None, the default, if there is none."""
        return None

    def row_losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Compute one loss per row: (n, n_outputs), (n, ...) -> (n,)."""
        raise NotImplementedError

    def losses(self, rows: Rows, device: torch.device) -> LossesOfOutputs:
        """Return the function that computes one loss per window."""
        targets = upload_one(rows.targets, device)

        def losses(outputs: Tensor, windows: np.ndarray, of_rows: np.ndarray) -> Tensor:
            starts = rows.plan.unit_starts(windows)
            n_windows = np.diff(starts, append=len(windows))
            of_units, counts = upload([of_rows[starts], n_windows], device)
            of_unit = self.row_losses(outputs, targets[of_units])
            if len(starts) == len(windows):
                return of_unit
            return of_unit.repeat_interleave(counts, output_size=len(windows))  # the windows of a unit share its loss

        return losses

    def mean_loss(self, outputs: np.ndarray, rows: Rows) -> float:
        """Compute the weighted mean loss of rows from the head's outputs for the units of their plan."""
        plan, of_units = rows.plan, torch.from_numpy(np.require(outputs, requirements=["C", "W"]))
        windows, place = plan.windows_of_rows(np.arange(len(rows.weights)))
        starts, n_windows = windows[plan.unit_starts(windows)], plan.windows_per_unit
        units = np.searchsorted(np.cumsum(n_windows), starts, side="right")
        if plan.positions is not None:
            units = rows_of(units, plan.counts_of_units)
        each = self.losses(rows, torch.device("cpu"))(of_units[units], windows, place).double().numpy()
        shares = (rows.weights / np.bincount(place))[place]
        return float((each * shares).sum() / rows.weights.sum())

    def objective(
        self, finetuned: Finetuned, backbone: Backbone, rows: Rows, batch_tokens: int, memory: object, verbose: int
    ) -> Objective:
        """Return what a trainer minimises."""
        plan, device = rows.plan, backbone.model.device
        features = finetuned.features(backbone, plan, batch_tokens, memory, verbose)
        losses_of = self.losses(rows, device)

        def losses(windows: np.ndarray, of_rows: np.ndarray, recompute: bool) -> Tensor:
            combination = upload(plan.combination(windows), device)
            outputs = finetuned.head(plan.combine(features(windows, recompute), combination))
            return losses_of(outputs, windows, of_rows)

        return Objective(rows, losses, [])

    def per_row(self, outputs: np.ndarray, plan: WindowPlan) -> np.ndarray:
        """Combine the head's outputs for the windows of a plan to one result per row, (n_rows, ...)."""
        return pool_windows(outputs, plan.text_of_unit, "mean")[plan.text_of_row]

    def row_score(self, results: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
        """Score the results of rows against their targets; higher is better."""
        raise NotImplementedError

    def score(self, outputs: np.ndarray, rows: Rows) -> float:
        """Score the head's outputs for the windows of rows."""
        return self.row_score(self.per_row(outputs, rows.plan), rows.targets, rows.weights)

    def evaluate(
        self,
        finetuned: Finetuned,
        backbone: Backbone,
        rows: Rows,
        batch_tokens: int,
        memory: object = None,
        keep: Keep | None = None,
        verbose: int = 0,
    ) -> dict[str, float]:
        """Run rows, which have their sample weights alone; returns their score, and their mean loss as in training."""
        outputs = finetuned.run(backbone, rows.plan, batch_tokens, memory=memory, keep=keep, verbose=verbose)
        in_loss = replace(rows, weights=rows.weights * self.loss_weights(rows.targets))
        loss = self.mean_loss(outputs, in_loss) if in_loss.weights.any() else float("nan")
        return {"validation_score": self.score(outputs, rows), "validation_loss": loss}

    def quality(
        self, finetuned: Finetuned, backbone: Backbone, rows: Rows, batch_tokens: int, memory: object = None
    ) -> Quality | None:
        """Measure a model on some of its training rows; None if the task has no constant model to compare with."""
        constant = self.constant(rows)
        if constant is None:
            return None
        outputs = finetuned.run(backbone, rows.plan, batch_tokens, memory=memory)
        same = np.broadcast_to(constant.astype(np.float32), outputs.shape)
        return Quality(
            self.mean_loss(outputs, rows),
            self.mean_loss(same, rows),
            score=None if self.start_factor(rows.targets) == 1 else self.score(outputs, rows),
            most_predicted=self.most_predicted(outputs, rows),
        )

    def most_predicted(self, outputs: np.ndarray, rows: Rows) -> tuple[float, float] | None:
        """Return the shares of the most predicted class among predictions and labels; None without classes."""
        return None

    def fitted(self) -> dict[str, Any]:
        """Return the fitted attributes that show what was found."""
        return {attribute: getattr(self, name) for attribute, name in (self.found | self.found_lately).items()}

    def restore(self, attributes: dict[str, Any]) -> Self:
        """Return this task with what an earlier fit found, from its attributes."""
        own = {of_class.name for of_class in fields(self)}
        of_found = {name: attributes[key] for key, name in self.found.items() if name in own}
        lately = {name: attributes[key] for key, name in self.found_lately.items() if key in attributes}
        return replace(self, **of_found, **lately).limited(attributes.get("max_length_"))

    def check_found(self, n_features: int | None) -> None:
        """Raise a ValueError if what was found, when it comes from a file, does not belong to X of so many columns.

        None if their number is not known, since the head is that of a checkpoint.
        """

    def pretrained(self, config: XLMRobertaXLConfig) -> tuple[Self, np.ndarray | None]:
        """Return this task with what the config of a checkpoint says that its head was trained for.

        The head is that of `export`.

        Returns
        -------
        task : Task
            With all that `find` sets.
        order : ndarray of shape (n_outputs,), int64, or None
            Which output of the checkpoint each of the head's is; None if they are the same.

        Raises
        ------
        ValueError
            If the labels are not those of such a task, or a parameter does not go with the head.
        """
        raise NotImplementedError

    def continued(self, earlier: Self) -> Self:
        """Return the task with which training continues from an earlier one.

        Raises
        ------
        ValueError
            If they differ in anything that was found.
        """
        for attribute, name in self.found.items():
            now, before = getattr(self, name), getattr(earlier, name)
            if not np.array_equal(now, before):
                raise ValueError(
                    f"y has {attribute}={_shown(now)}, but the earlier fit found {_shown(before)}: training can "
                    f"continue with the same only, in the same order."
                )
        return self

    @property
    def export(self) -> Export | None:
        """How to export what was learned; None, the default, if there is no such format."""
        return None

    @property
    def serving(self) -> Serving | None:
        """What a graph for serving computes; None, the default, if there is no such graph."""
        return None


def as_json_labels(classes: np.ndarray) -> list[Any]:
    """Return labels as values of JSON: numbers, truth values and texts as they are, others as texts."""
    return [label if isinstance(label, str | bool | int | float) else str(label) for label in classes.tolist()]


def _shown(value: object) -> str:
    return f"{value.tolist()[:5]}" if isinstance(value, np.ndarray) else repr(value)
