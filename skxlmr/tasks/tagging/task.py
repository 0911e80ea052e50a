"""The task of tagging: one tag per token."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import softmax
from torch import Tensor
from typing_extensions import Self

from skxlmr.checkpoints.resolve import CheckpointFiles
from skxlmr.columns import as_objects
from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLForTokenClassification
from skxlmr.model.heads import TokenHead
from skxlmr.model.segments import segment_sum
from skxlmr.model.transfer import upload
from skxlmr.runtime.backbone import Backbone
from skxlmr.runtime.plan import WindowPlan, rows_of
from skxlmr.system.schema import one_of, vector
from skxlmr.system.warn import warn
from skxlmr.tags.entities import entity_spans
from skxlmr.tags.infer import scheme_of_labels
from skxlmr.tags.schemes import OTHER_NAMES, SCHEMES, is_raw, read_tags, split_tag
from skxlmr.tasks.base import LossesOfOutputs, Task, not_found
from skxlmr.tasks.classification import check_class_weight, check_distinct, warn_of_similar_labels
from skxlmr.tasks.exports import Export, Serving, as_json_labels
from skxlmr.tasks.pretrained import labels_of
from skxlmr.tasks.probes import LinearStart, log_priors, logistic_start
from skxlmr.tasks.tagging.schemes import decode, scheme_of_score, tag_score
from skxlmr.tasks.tagging.sentences import TokenColumn, check_token_column, plan_tokens
from skxlmr.tasks.tagging.targets import check_tags, find_scheme, refuse_swapped
from skxlmr.tasks.tagging.tokenizers import Tokenizer, tokenizer_name
from skxlmr.training.rows import Rows


@dataclass(frozen=True, eq=False)
class Tagging(Task[TokenColumn]):
    """Tags of tokens; targets are numbers of tags, one array per row.

    Attributes
    ----------
    scheme : str
        "auto", "plain", or a scheme of `skxlmr.tags.schemes`.
    class_weight : dict, "balanced" or None
    classes : ndarray of shape (n_tags,)
    tag_weights : ndarray of shape (n_tags,)
        Weights of the tags in the loss.
    align : {"strict", "expand", "contract"}
        See `skxlmr.tasks.tagging.spans.SpanReader`.
    aggregation : {"first", "mean", "max"}
        How the pieces of a token are read; see `skxlmr.tasks.tagging.sentences.plan_tokens`.
    tokenizer : callable or None
        Splits strings.
    tokenizer_name : str or None
        Name of the tokenizer of the fit; None if it read token lists.
    spaces : bool
        Whether a bare space before a token counts as its first piece, as in transformers.
    """

    scheme: str = "auto"
    class_weight: dict | str | None = None
    classes: np.ndarray = field(default_factory=not_found)
    tag_weights: np.ndarray = field(default_factory=not_found)
    align: str = field(default="strict", kw_only=True)
    aggregation: str = field(default="mean", kw_only=True)
    tokenizer: Tokenizer | None = field(default=None, kw_only=True, repr=False)
    tokenizer_name: str | None = field(default=None, kw_only=True)
    spaces: bool = field(default=False, kw_only=True)

    found: ClassVar[dict[str, str]] = {
        "classes_": "classes",
        "scheme_": "scheme",
        "tokenizer_name_": "tokenizer_name",
    }
    found_lately: ClassVar[dict[str, str]] = {"_spaces": "spaces"}
    found_types: ClassVar[dict[str, Any]] = {
        "classes_": vector("UO", "tags"),
        "scheme_": one_of(*SCHEMES, "plain"),
        "tokenizer_name_": str | None,
        "_spaces": bool,
    }

    def check_found(self, n_features: int | None) -> None:
        check_distinct(self.classes)
        if not all(isinstance(tag, str) for tag in self.classes.tolist()) or n_features not in (1, None):
            raise ValueError("its tags are not texts, or X had several columns")
        if self.scheme != "plain":
            read_tags([self.classes.tolist()], self.scheme, name="classes_")

    def read(self, X: Any) -> TokenColumn:
        return check_token_column(X, tokenizer=self.tokenizer)

    def plan(self, backbone: Backbone, column: TokenColumn) -> WindowPlan:
        max_length, stride = self.windows.resolve(backbone)
        return plan_tokens(
            backbone.tokenizer,
            column.texts,
            max_length=max_length,
            stride=stride,
            aggregation=self.aggregation,
            spaces=self.spaces,
        )

    def find(self, y: Any, column: TokenColumn, weights: np.ndarray) -> tuple[Self, np.ndarray]:
        rows = self.check_tags(y, column)
        used = [row for row, weight in zip(rows, weights, strict=True) if weight]
        if not used:
            raise ValueError("There are no rows to learn from: all their weights are zero.")
        refuse_swapped(column, used)
        tags = [tag for row in used for tag in row]
        classes = np.unique(tags)
        if len(classes) < 2:
            raise ValueError(f"A tagger needs at least 2 tags to tell apart, but y has {classes.tolist()}.")
        warn_of_similar_labels(classes)
        scheme = find_scheme(rows, weights > 0, self.scheme, y)
        of_tags = np.repeat(weights[weights > 0], [len(row) for row in used])
        tag_weights = check_class_weight(self.class_weight, classes, np.array(tags), of_tags)
        splits = column.sources is not None or self.tokenizer is not None
        task = replace(
            self,
            classes=classes,
            scheme=scheme,
            tag_weights=tag_weights,
            tokenizer_name=tokenizer_name(self.tokenizer) if splits else None,
        )
        return task, task._numbers(rows, "y")

    def pretrained(self, config: XLMRobertaXLConfig) -> tuple[Self, np.ndarray]:
        tags = labels_of(config)
        order = np.argsort(tags)
        scheme = scheme_of_labels(tags) if self.scheme == "auto" else OTHER_NAMES.get(self.scheme, self.scheme)
        return replace(self, classes=np.array(tags)[order], scheme=scheme, spaces=True), order

    def targets(self, y: Any, column: TokenColumn, name: str = "y") -> np.ndarray:
        return self._numbers(self.check_tags(y, column, name), name)

    def check_tags(self, y: Any, column: TokenColumn, name: str = "y") -> list[list[str]]:
        """Read y as one tag per token; spans become tags of the scheme, as `classes` are written."""
        rows = check_tags(y, column, name, scheme=self.scheme, align=self.align)
        if self.scheme == "IO" and len(self.classes) and is_raw(self.classes.tolist()):
            return [[tag.removeprefix("I-") for tag in row] for row in rows]
        return rows

    def check_tags_of_score(self, y: Any, column: TokenColumn) -> list[list[str]]:
        """As `check_tags`, for a score; warn if y has entities, or tags, but none that `fit` saw."""
        rows = self.check_tags(y, column)
        wanted, known = {tag for row in rows for tag in row} - {"O"}, set(self.classes.tolist()) - {"O"}
        if self.scheme != "plain":  # the same entities in another scheme have other tags
            wanted, known = ({split_tag(tag)[1] for tag in tags} for tags in (wanted, known))
        if wanted and not wanted & known:
            warn(
                f"No row of y has a tag that fit saw, O aside, so the score is the worst. y has {min(wanted)!r:.40}, "
                f"for example, but the tags are such as {sorted(known)[:3]}."
            )
        return rows

    def _numbers(self, rows: list[list[str]], name: str) -> np.ndarray:
        """Turn tags into their numbers; a tag that only rows of weight zero have is number 0."""
        number = {tag: i for i, tag in enumerate(self.classes.tolist())}
        for i, row in enumerate(rows if name == "y_val" else ()):
            unknown = [tag for tag in row if tag not in number]
            if unknown:
                raise ValueError(f"{name}, row {i}: the tag {unknown[0]!r} is not one of those that y has.")
        return as_objects([np.array([number.get(tag, 0) for tag in row], np.int64) for row in rows])

    def continued(self, earlier: Self) -> Self:
        """As other tasks; but a warm start may lack tags, and read strings where the earlier fit read token lists."""
        task = replace(self, spaces=earlier.spaces)
        if set(self.classes.tolist()) < set(earlier.classes.tolist()):
            tag_weights = np.ones(len(earlier.classes))
            tag_weights[np.isin(earlier.classes, self.classes)] = self.tag_weights
            task = replace(task, classes=earlier.classes, tag_weights=tag_weights, scheme=earlier.scheme)
        return super(Tagging, task).continued(replace(earlier, tokenizer_name=self.tokenizer_name))

    def head(self, config: XLMRobertaXLConfig, files: CheckpointFiles | None = None) -> TokenHead:
        return TokenHead(config, len(self.classes))

    def samples(self, rows: Rows, units: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the tags of all tokens of some windows, and their weights."""
        plan = rows.plan
        counts = plan.counts_of_units
        targets = np.concatenate(self._targets_of_texts(rows))[rows_of(units, counts)]
        shares = rows.weights / self.loss_weights(rows.targets)
        return targets, np.repeat(shares[place], counts[units]) * self.tag_weights[targets]

    def start(self, features: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> LinearStart:
        """Fit a logistic regression of the tokens."""
        return logistic_start(features, targets, weights, len(self.classes))

    def constant(self, rows: Rows) -> np.ndarray:
        """Return the logarithms of the shares of tags."""
        targets = np.concatenate(list(rows.targets))
        return log_priors(targets, self._token_weights(rows), len(self.classes))

    def most_predicted(self, outputs: np.ndarray, rows: Rows) -> tuple[float, float] | None:
        """Return the shares of the most predicted tag; None if there is a scheme, where most tokens may be O."""
        if self.scheme != "plain":
            return None
        predicted = np.concatenate([row.argmax(axis=1) for row in self.per_row(outputs, rows.plan)])
        weights = self._token_weights(rows)
        of_tag = np.bincount(predicted, weights, len(self.classes)) / weights.sum()
        true = np.bincount(np.concatenate(list(rows.targets)), weights, len(self.classes)) / weights.sum()
        return float(of_tag.max()), float(true[of_tag.argmax()])

    def _token_weights(self, rows: Rows) -> np.ndarray:
        shares = rows.weights / self.loss_weights(rows.targets)
        tags = np.concatenate(list(rows.targets))
        return np.repeat(shares, [len(row) for row in rows.targets]) * self.tag_weights[tags]

    def _targets_of_texts(self, rows: Rows) -> list[np.ndarray]:
        """Return the numbers of the tags of each sentence of the plan, 0 for those that are in no row."""
        targets = [np.zeros(n, np.int64) for n in tokens_of_texts(rows.plan)]
        for text, row in zip(rows.plan.text_of_row, rows.targets, strict=True):
            targets[text] = row
        return targets

    def loss_weights(self, targets: np.ndarray) -> np.ndarray:
        """Return the sums of the weights of tags."""
        return np.array([self.tag_weights[row].sum() for row in targets])

    def losses(self, rows: Rows, device: torch.device) -> LossesOfOutputs:
        """Return the weighted mean over a row's tokens, which its windows add up to."""
        plan = rows.plan
        counts = plan.counts_of_units
        targets = self._targets_of_texts(rows)
        totals = self.loss_weights(as_objects(targets))
        totals[totals == 0] = 1.0  # of sentences that are left out
        of_text = plan.windows_per_text / totals  # the windows of a row share its weight
        shares, all_targets, of_tag = upload([of_text, np.concatenate(targets), self.tag_weights], device)

        def losses(outputs: Tensor, windows: np.ndarray, of_rows: np.ndarray) -> Tensor:
            first = np.cumsum(counts[windows]) - counts[windows]
            tokens, starts, texts = upload([rows_of(windows, counts), first, plan.text_of_window[windows]], device)
            true = all_targets[tokens]
            each = F.cross_entropy(outputs, true, reduction="none") * of_tag[true].to(outputs)
            return segment_sum(each[:, None], starts)[:, 0] * shares[texts].to(outputs)

        return losses

    def per_row(self, outputs: np.ndarray, plan: WindowPlan) -> np.ndarray:
        """Split the outputs into one array of shape (n_tokens, n_tags) per row."""
        of_text = np.split(outputs, np.cumsum(tokens_of_texts(plan))[:-1])
        return as_objects([of_text[text] for text in plan.text_of_row])

    def tags(self, outputs: np.ndarray, plan: WindowPlan) -> np.ndarray:
        """Decode one list of tags per row."""
        logits = self.per_row(outputs, plan)
        return as_objects([self.classes[row].tolist() for row in decode(logits, self.classes.tolist(), self.scheme)])

    def spans(self, outputs: np.ndarray, plan: WindowPlan) -> np.ndarray:
        """Decode the spans of each row as (first token, the one after the last, label, mean probability)."""
        logits, rows = self.per_row(outputs, plan), []
        for tags, of_row in zip(decode(logits, self.classes.tolist(), self.scheme), logits, strict=True):
            names = self.classes[tags].tolist()
            spans = self._spans_of_tags(names)
            proba = np.take_along_axis(softmax(of_row, axis=1), tags[:, None], axis=1)[:, 0] if spans else np.empty(0)
            rows.append([(start, end, label, float(proba[start:end].mean())) for start, end, label in spans])
        return as_objects(rows)

    def _spans_of_tags(self, tags: list[str]) -> list[tuple[int, int, str]]:
        """Return the spans that tags mark; without a scheme, each token with another tag than O."""
        if self.scheme == "plain":
            return [(i, i + 1, tag) for i, tag in enumerate(tags) if tag != "O"]
        return entity_spans(tags, scheme_of_score(self.scheme, strict=False))

    def score(self, outputs: np.ndarray, rows: Rows) -> float:
        true = [self.classes[row].tolist() for row in rows.targets]
        return tag_score(true, self.tags(outputs, rows.plan), self.scheme, rows.weights)

    @property
    def export(self) -> Export:
        names = {i: str(tag) for i, tag in enumerate(self.classes.tolist())}
        return Export(
            XLMRobertaXLForTokenClassification,
            lambda head: {"classifier": head.linear},
            {"id2label": names},
            "TOKEN_CLS",
        )

    @property
    def serving(self) -> Serving:
        """Return the logits of pieces, from which those of a token are made.

        Raises
        ------
        NotImplementedError
            If these cannot be computed from logits of pieces.
        """
        if self.aggregation == "max":
            raise NotImplementedError(
                "With aggregation='max' the logits of a token cannot be computed from those of its pieces. Fit with "
                "aggregation='mean' or 'first' to export."
            )
        entries = {
            "classes": as_json_labels(self.classes),
            "scheme": self.scheme,
            "aggregation": self.aggregation,
            "skips_spaces": not self.spaces,
        }
        return Serving("tagging", "logits", lambda logits: logits, entries)


def tokens_of_texts(plan: WindowPlan) -> np.ndarray:
    """Count the tokens of each sentence of a plan."""
    n_texts = len(plan.windows_per_text)
    return np.bincount(plan.text_of_window, plan.counts_of_units, minlength=n_texts).astype(np.int64)
