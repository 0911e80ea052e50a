"""Similarity: vectors of texts that belong together come closer, those of others move apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self

from skxlmr.checkpoints.resolve import CheckpointFiles
from skxlmr.columns import TextColumn
from skxlmr.model import XLMRobertaXLConfig
from skxlmr.model.segments import segment_max, segment_sum
from skxlmr.model.transfer import upload, upload_one
from skxlmr.runtime.backbone import Backbone
from skxlmr.runtime.feature_cache import Keep
from skxlmr.runtime.finetuned import Finetuned
from skxlmr.runtime.plan import PairPlan, WindowPlan, plan_pairs, plan_texts
from skxlmr.runtime.run import pool_texts
from skxlmr.tasks.base import Task, not_found
from skxlmr.tasks.labels import check_labels
from skxlmr.tasks.regression import check_numbers
from skxlmr.tasks.targets import refuse_y_as_text
from skxlmr.text.batching import deduplicate
from skxlmr.training.gradients import BatchLosses
from skxlmr.training.learnable import Objective
from skxlmr.training.rows import Rows

# Cosines of pairs are divided by it. It is the default of sentence-transformers, where it is called scale=20.
TEMPERATURE = 0.05

# The same for classes. At 0.05, a model whose vectors do not tell the classes apart first learns to make all vectors
# equal, since that alone lowers the loss. On SIB-200 with e5-small 0.05 to 0.5 are equally good.
CLASS_TEMPERATURE = 0.2

# Rows that are compared with each other in validation. It does not depend on batch_size, so scores can be compared.
VALIDATION_ROWS = 256


@dataclass(frozen=True, eq=False, kw_only=True)
class SimilarityLearning(Task[TextColumn]):
    """Vectors whose cosines follow classes, pairs of texts, or numbers of such pairs.

    The head has no parameters: it takes the pooled vectors as they are. Targets are numbers of classes, (n_rows,); the
    numbers of the distinct texts of each pair, (n_rows, 2); or the ranks of the similarities of pairs, (n_rows,).

    Attributes
    ----------
    goal : {"classes", "pairs", "similarities"}
        `find` turns "pairs" into "similarities" if y has numbers.
    prompt : str
        What is put before each text; of two that are read together, before the first.
    include_prompt : bool
        Whether the pooling takes the tokens of the prompt.
    dims : tuple of int
        The loss is the mean over vectors that are truncated to these numbers of dimensions.
    classes : ndarray of shape (n_classes,)
        The labels that the numbers of classes stand for.
    """

    goal: str
    prompt: str = ""
    include_prompt: bool = True
    dims: tuple[int, ...] = ()
    classes: np.ndarray = field(default_factory=not_found)

    needs_y: ClassVar[bool] = False

    def find(self, y: Any, column: TextColumn, weights: np.ndarray) -> tuple[Self, np.ndarray]:
        task = replace(self, goal="similarities") if self.goal == "pairs" and y is not None else self
        if self.goal == "classes" and y is not None:
            labels = check_labels(y, column)
            refuse_y_as_text(column, labels)
            classes, targets = np.unique(labels, return_inverse=True)
            task = replace(task, classes=classes)
        else:
            targets = task.targets(y, column)
        if problem := task._problem(targets):
            raise ValueError(problem)
        return task, targets

    def targets(self, y: Any, column: TextColumn, name: str = "y") -> np.ndarray:
        if self.goal == "classes":
            if y is None:
                raise ValueError(
                    f"objective='classes' requires y to be passed, but the target {name} is None. Pass one label per "
                    f"text, fit(X, y), or use objective=None for the model as it is."
                )
            return np.unique(check_labels(y, column, name), return_inverse=True)[1]
        if column.pairs is None:
            raise ValueError(
                "objective='pairs' needs two columns of texts, whose rows are the pairs, but X has one. Pass them as "
                "df[['question', 'answer']], or use objective='classes' to learn from labels of single texts."
            )
        if self.goal == "pairs":
            return deduplicate(column.strings)[1].reshape(2, -1).T
        numbers = check_numbers(y, column, name)
        if numbers.shape[1] != 1:
            raise ValueError(f"{name} has {numbers.shape[1]} columns; one similarity per pair is needed.")
        return np.unique(numbers, return_inverse=True)[1].reshape(-1)

    def _problem(self, targets: np.ndarray) -> str | None:
        """Say why nothing can be learned from the targets; None if something can."""
        if self.goal == "pairs":
            alone = len(targets) < 2
            return "objective='pairs' needs two pairs or more: each is compared with others." if alone else None
        values, counts = np.unique(targets, return_counts=True)
        if self.goal == "similarities":
            alike = "y has the same number for all pairs, so there is no order of them to learn. Pass y=None if all "
            return alike + "are pairs of texts that belong together." if len(values) == 1 else None
        if len(values) == 1:
            return "objective='classes' needs at least 2 classes to tell apart, but y has 1 class."
        if counts.max() == 1:
            return "Each row of y has a class of its own; objective='classes' needs classes of two rows or more."
        return None

    def prompted(self, column: TextColumn) -> TextColumn:
        pairs = column.pairs
        if self.goal != "classes" and pairs is not None:
            pairs = [self.prompt + text for text in pairs]
        return replace(column, texts=[self.prompt + text for text in column.texts], pairs=pairs)

    def plan(self, backbone: Backbone, column: TextColumn) -> WindowPlan:
        column, left_out = self.prompted(column), "" if self.include_prompt else self.prompt
        if self.goal == "classes":
            return replace(plan_texts(backbone, column, self.windows, left_out), texts_are_whole=True)
        return plan_pairs(backbone, column, self.windows, left_out)

    def strata(self, targets: np.ndarray) -> np.ndarray | None:
        return self.classes[targets] if self.goal == "classes" else None

    def head(self, config: XLMRobertaXLConfig, files: CheckpointFiles | None = None) -> nn.Module:
        return nn.Identity()

    def objective(
        self, finetuned: Finetuned, backbone: Backbone, rows: Rows, batch_tokens: int, memory: object, verbose: int
    ) -> Objective:
        features = finetuned.features(backbone, rows.plan, batch_tokens)
        device = backbone.model.device
        targets = upload_one(rows.targets, device)

        def encode(windows: np.ndarray, of_rows: np.ndarray, recompute: bool) -> Tensor:
            return self.pool(features(windows, recompute), rows.plan, windows, of_rows)

        def compare(vectors: Tensor, of_rows: np.ndarray) -> Tensor:
            return self.compare(vectors, targets[upload_one(of_rows, device)])

        order = partial(order_by_twos, rows.targets) if self.goal == "classes" else None
        return Objective(rows, BatchLosses(encode, compare, device), [], order)

    def pool(self, features: Tensor, plan: WindowPlan, windows: np.ndarray, of_rows: np.ndarray) -> Tensor:
        """Turn features of windows, (n, H), into vectors of rows: (n_rows, H), or (n_rows, 2, H) of pairs.

        `of_rows` is the row of each window; those of a row are next to each other.
        """
        of_pairs = isinstance(plan, PairPlan)
        side = 2 * of_rows + plan.is_second[windows] if isinstance(plan, PairPlan) else of_rows
        starts = np.flatnonzero(np.diff(side, prepend=-1))
        text = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(windows)))
        if len(starts) < len(windows):
            features = pool_features(features, text, plan.n_pooled[windows], self.pooling)
        return features.view(-1, 2, features.shape[1]) if of_pairs else features

    def compare(self, vectors: Tensor, targets: Tensor) -> Tensor:
        """Compute one loss per row of a batch, (n,), averaged over the truncations of the vectors."""
        loss = LOSSES[self.goal]
        each = [loss(F.normalize(vectors[..., :n_dims], dim=-1), targets) for n_dims in self.dims]
        return torch.stack(each).mean(0)

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
        """Return the mean loss of rows that are compared in batches of `VALIDATION_ROWS`, and minus it as the score."""
        plan = rows.plan.sides() if isinstance(rows.plan, PairPlan) else rows.plan
        outputs = finetuned.run(backbone, plan, batch_tokens, keep=keep, verbose=verbose)
        vectors = torch.from_numpy(pool_texts(outputs, plan, self.pooling))
        if isinstance(rows.plan, PairPlan):
            vectors = vectors.view(-1, 2, vectors.shape[1])
        parts = zip(vectors.split(VALIDATION_ROWS), torch.from_numpy(rows.targets).split(VALIDATION_ROWS), strict=True)
        loss = float(torch.cat([self.compare(*part) for part in parts]).mean())
        return {"validation_score": -loss, "validation_loss": loss}


def class_losses(vectors: Tensor, classes: Tensor) -> Tensor:
    """Compute the supervised contrastive loss of each row, L_out of Khosla et al. (arXiv:2004.11362), (n, H) -> (n,).

    Rows without another of their class have none; those of the others are scaled so that the mean is theirs.
    """
    logits = vectors @ vectors.T / CLASS_TEMPERATURE
    itself = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    positive = (classes[:, None] == classes) & ~itself
    n_positive = positive.sum(1)
    log_p = logits - logits.masked_fill(itself, -torch.inf).logsumexp(1, keepdim=True)
    each = -log_p.masked_fill(~positive, 0).sum(1) / n_positive.clamp(min=1)
    return each * len(vectors) / (n_positive > 0).sum().clamp(min=1)


def pair_losses(vectors: Tensor, texts: Tensor) -> Tensor:
    """Compute the cross-entropy of finding the other text of each pair among those of the batch, (n, 2, H) -> (n,).

    It is the mean of both directions (multiple negatives ranking, arXiv:1705.00652, made symmetric). Pairs that share a
    text, by its number in `texts`, (n, 2), are not negatives of each other.
    """
    logits = vectors[:, 0] @ vectors[:, 1].T / TEMPERATURE
    shared = (texts[:, None, :, None] == texts[None, :, None, :]).flatten(2).any(2)
    itself = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    logits = logits.masked_fill(shared & ~itself, -torch.inf)
    own = torch.arange(len(vectors), device=vectors.device)
    there, back = (F.cross_entropy(scores, own, reduction="none") for scores in (logits, logits.T))
    return (there + back) / 2


def similarity_losses(vectors: Tensor, similarities: Tensor) -> Tensor:
    """Compute the CoSENT loss of a batch of pairs, as that of each row, (n, 2, H) -> (n,).

    It asks for the order of the cosines to be that of the similarities, whatever the unit of these. The squared error
    of the cosines would first have to move all of them, since those of a model such as e5 lie between 0.7 and 1.
    """
    cosines = (vectors[:, 0] * vectors[:, 1]).sum(1) / TEMPERATURE
    differences, is_wrong = cosines[:, None] - cosines, similarities[:, None] < similarities
    # On a GPU the host would wait for the number of those that are selected.
    wrong = differences.masked_fill(~is_wrong, -torch.inf).flatten() if cosines.is_cuda else differences[is_wrong]
    return torch.cat([wrong.new_zeros(1), wrong]).logsumexp(0).expand(len(vectors))


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "classes": class_losses,
    "pairs": pair_losses,
    "similarities": similarity_losses,
}


def pool_features(features: Tensor, text: np.ndarray, n_tokens: np.ndarray, pooling: str) -> Tensor:
    """Pool windows of the same text, (n_windows, H) -> (n_texts, H), as `transform` does.

    Vectors are averaged, those of "mean" by their numbers of tokens; with "max" the highest values are taken.
    """
    n_windows = np.bincount(text)
    starts = np.cumsum(n_windows) - n_windows
    if pooling == "max":
        return segment_max(features, upload_one(n_windows, features.device))
    tokens = n_tokens if pooling == "mean" else np.ones(len(text))
    shares = tokens / np.bincount(text, tokens)[text]
    on_device, first = upload([shares, starts], features.device)
    return segment_sum(features * on_device.to(features.dtype)[:, None], first)


def order_by_twos(classes: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """Shuffle rows so that two of a class follow each other, and a batch of an even size has positives for each.

    The last row of a class with an odd number of them is followed by one of another such class.
    """
    shuffled = random.permutation(len(classes))
    shuffled = shuffled[np.argsort(classes[shuffled], kind="stable")]
    of_class = classes[shuffled]
    starts = np.flatnonzero(np.diff(of_class, prepend=-1))
    counts = np.diff(starts, append=len(classes))
    odd = np.zeros(len(classes), bool)
    odd[(starts + counts - 1)[counts % 2 == 1]] = True
    rows = np.concatenate([shuffled[~odd], random.permutation(shuffled[odd])])
    n_twos = len(rows) // 2
    twos = random.permutation(rows[: 2 * n_twos].reshape(n_twos, 2))
    return np.concatenate([twos.ravel(), rows[2 * n_twos :]])
