"""Tagging of tokens: entities, parts of speech, anything that has a tag for each word."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import joblib
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.special import softmax
from sklearn.utils import Tags
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.validation import _check_sample_weight, check_is_fitted
from torch import Tensor, nn

from skxlmr.columns import as_objects
from skxlmr.estimators.learner import TrainableXLMRXL
from skxlmr.estimators.parameters import documented
from skxlmr.metrics import entity_spans
from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLForTokenClassification
from skxlmr.model.heads import TokenHead
from skxlmr.model.int8 import Int8
from skxlmr.runtime.backbone import Backbone
from skxlmr.runtime.plan import WindowPlan, rows_of
from skxlmr.tasks.base import Tagging, Task
from skxlmr.tasks.classification import check_class_weight
from skxlmr.tasks.tagging.schemes import SCHEMES, check_scheme, decode, infer_scheme, tag_score
from skxlmr.tasks.tagging.sentences import TokenColumn, check_token_column, plan_tokens
from skxlmr.tasks.tagging.targets import check_tags
from skxlmr.training.callbacks import Callback
from skxlmr.training.rows import Rows
from skxlmr.training.schedule import MAX_GRAD_NORM, WARMUP, WEIGHT_DECAY
from skxlmr.tuning import Tuning


@documented
class XLMRXLTagger(TrainableXLMRXL):
    """Give each token of a sentence a tag, by fine-tuning XLM-RoBERTa-XL.

    X is a column of token lists, or of strings; strings are split at white space, and each punctuation mark and each
    Chinese or Japanese character is a token of its own (`skxlmr.text.words.split_words`). y has a list of tags for each
    row, in BIO, BIOES, IO or without a scheme, or a list of spans (start, end, label): of characters where X is
    strings, of tokens where it is token lists. The first piece of a token decides; a bare space, as before most Chinese
    words, is none of its pieces. Long sentences are read in overlapping windows, and nothing of them is cut.

    Parameters
    ----------
    $reading
    scheme : {"auto", "BIO", "BIOES", "IO", "plain"}, default="auto"
        What the tags mean; "auto" tells it from y. In BIO and BIOES only sequences are predicted that the scheme
        allows; "IO" is for IOB1, too.
    $training
    $stopping
    class_weight : dict, "balanced" or None, default=None
        Weights of the tags in the loss, as in scikit-learn.
    $going_on
    $loading

    Attributes
    ----------
    classes_ : ndarray of shape (n_tags,)
        The tags, sorted.
    scheme_ : {"BIO", "BIOES", "IO", "plain"}
    $history

    See Also
    --------
    skxlmr.datasets.read_conll : Tagged sentences from a file.
    skxlmr.datasets.read_conllu : Treebanks of Universal Dependencies.

    Examples
    --------
    >>> from skxlmr import XLMRXLTagger
    >>> sentences = [["Ada", "lives", "in", "Rome"], ["Rome", "is", "old"], ["I", "saw", "Ada"]] * 4
    >>> tags = [["B-PER", "O", "O", "B-LOC"], ["B-LOC", "O", "O"], ["O", "O", "B-PER"]] * 4
    >>> tagger = XLMRXLTagger("nano", learning_rate=5e-3, random_state=0).fit(sentences, tags)
    >>> tagger.predict([["Ada", "is", "old"]]).tolist()
    [['B-PER', 'O', 'O']]
    """

    _parameter_constraints: dict = {
        **TrainableXLMRXL._parameter_constraints,
        "scheme": [StrOptions({"auto", *SCHEMES})],
        "class_weight": [dict, StrOptions({"balanced"}), None],
    }
    del _parameter_constraints["truncation"]

    _needed_attributes = ("classes_", "scheme_")

    def __init__(
        self,
        model: str | os.PathLike = "facebook/xlm-roberta-xl",
        *,
        tuning: str | Tuning = "lora",
        max_length: int | None = None,
        stride: int | str = "auto",
        scheme: str = "auto",
        batch_size: int = 32,
        batch_tokens: int | str = "auto",
        learning_rate: float | str = "auto",
        max_epochs: int = 10,
        lr_schedule: str = "linear",
        warmup: float = WARMUP,
        weight_decay: float = WEIGHT_DECAY,
        max_grad_norm: float | None = MAX_GRAD_NORM,
        optimizer: str = "adamw",
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 3,
        tol: float = 1e-4,
        class_weight: dict | str | None = None,
        warm_start: bool = False,
        callbacks: Sequence[Callback] | None = None,
        checkpoint_dir: str | os.PathLike | None = None,
        checkpoint_steps: int = 100,
        vocabulary: str = "full",
        load_in_8bit: bool | str | Int8 = "auto",
        load_in_4bit: bool = False,
        dtype: str = "auto",
        device: str = "auto",
        memory: str | os.PathLike | joblib.Memory | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.model = model
        self.tuning = tuning
        self.max_length = max_length
        self.stride = stride
        self.scheme = scheme
        self.batch_size = batch_size
        self.batch_tokens = batch_tokens
        self.learning_rate = learning_rate
        self.max_epochs = max_epochs
        self.lr_schedule = lr_schedule
        self.warmup = warmup
        self.weight_decay = weight_decay
        self.max_grad_norm = max_grad_norm
        self.optimizer = optimizer
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.class_weight = class_weight
        self.warm_start = warm_start
        self.callbacks = callbacks
        self.checkpoint_dir = checkpoint_dir
        self.checkpoint_steps = checkpoint_steps
        self.vocabulary = vocabulary
        self.load_in_8bit = load_in_8bit
        self.load_in_4bit = load_in_4bit
        self.dtype = dtype
        self.device = device
        self.memory = memory
        self.random_state = random_state
        self.verbose = verbose

    def _check_column(self, X: Any) -> TokenColumn:
        return check_token_column(X)

    def _plan(self, backbone: Backbone, column: TokenColumn) -> WindowPlan:
        max_length, stride = self._window(backbone)
        return plan_tokens(backbone.tokenizer, column.texts, max_length=max_length, stride=stride)

    def _learn_task(self, y: Any, column: TokenColumn, weights: np.ndarray) -> Tagging:
        rows = [row for row, weight in zip(check_tags(y, column), weights, strict=True) if weight]
        tags = [tag for row in rows for tag in row]
        classes = np.unique(tags)
        if len(classes) < 2:
            raise ValueError(f"XLMRXLTagger needs at least 2 tags to tell apart, but y has {classes.tolist()}.")
        scheme = infer_scheme(rows) if self.scheme == "auto" else self.scheme
        check_scheme(classes.tolist(), scheme)
        return Tagging(classes, scheme, check_class_weight(self.class_weight, classes, np.array(tags)))

    def _targets(self, y: Any, column: TokenColumn, task: Task, name: str = "y") -> np.ndarray:
        rows = check_tags(y, column, name)
        number = {tag: i for i, tag in enumerate(task.classes.tolist())}
        targets = np.empty(len(rows), object)
        for i, row in enumerate(rows):
            unknown = [tag for tag in row if tag not in number]
            if unknown and name == "y_val":
                raise ValueError(f"{name}, row {i}: the tag {unknown[0]!r} is none of those that y has.")
            targets[i] = np.array([number.get(tag, 0) for tag in row], np.int64)
        return targets

    def _factors(self, targets: np.ndarray, task: Task) -> np.ndarray:
        return np.array([task.tag_weights[row].sum() for row in targets])

    def _split(self, rows: Rows, task: Task, seed: int) -> tuple[Rows, Rows]:
        kept, held = super()._split(rows, task, seed)
        # The weights of tags are for the loss: in the score a row counts by its own.
        return kept, replace(held, weights=held.weights / self._factors(held.targets, task))

    def _check_enough(self, targets: np.ndarray, task: Task) -> None:
        if not len(targets):
            raise ValueError("XLMRXLTagger has no rows to learn from: all their weights are zero.")

    def _losses_of_outputs(
        self, task: Task, rows: Rows, device: torch.device
    ) -> Callable[[Tensor, np.ndarray, np.ndarray], Tensor]:
        """The weighted mean over a row's tokens; a row counts by the weights of its tokens."""
        plan, of_tag = rows.plan, task.tag_weights
        counts = plan.counts
        targets = [np.zeros(n, np.int64) for n in _tokens_of_texts(plan)]  # of sentences that do not take part, too
        for text, row in zip(plan.text_of_row, rows.targets, strict=True):
            targets[text] = row
        totals = np.array([of_tag[row].sum() for row in targets])
        totals[totals == 0] = 1.0  # of sentences that do not take part
        shares = torch.from_numpy(plan.windows_per_text / totals).to(device)  # the windows of a row share its weight
        every, of_tag = torch.from_numpy(np.concatenate(targets)).to(device), torch.from_numpy(of_tag).to(device)

        def losses(outputs: Tensor, windows: np.ndarray, of_rows: np.ndarray) -> Tensor:
            true = every[torch.from_numpy(rows_of(windows, counts)).to(device)]
            each = F.cross_entropy(outputs, true, reduction="none") * of_tag[true].to(outputs)
            window = torch.from_numpy(np.repeat(np.arange(len(windows)), counts[windows])).to(device)
            of_window = each.new_zeros(len(windows)).index_add(0, window, each)
            return of_window * shares[torch.from_numpy(plan.text_of_window[windows]).to(device)].to(outputs)

        return losses

    def _of_rows(self, outputs: np.ndarray, plan: WindowPlan) -> np.ndarray:
        of_text = np.split(outputs, np.cumsum(_tokens_of_texts(plan))[:-1])
        rows = np.empty(len(plan.text_of_row), object)
        for i, text in enumerate(plan.text_of_row):
            rows[i] = of_text[text]
        return rows

    def _new_head(self, config: XLMRobertaXLConfig, n_outputs: int) -> TokenHead:
        return TokenHead(config, n_outputs)

    @property
    def _n_outputs(self) -> int:
        return len(self.classes_)

    _exported_class = XLMRobertaXLForTokenClassification
    _peft_task = "TOKEN_CLS"

    def _exported_config(self) -> dict[str, Any]:
        return {"id2label": {i: str(tag) for i, tag in enumerate(self.classes_.tolist())}}

    def _exported_heads(self, head: nn.Module) -> dict[str, nn.Module]:
        return {"classifier": head.linear}

    def _check_same_task(self, task: Task) -> None:
        if not np.array_equal(task.classes, self.classes_) or task.scheme != self.scheme_:
            raise ValueError(
                f"y has the tags {task.classes.tolist()[:5]}, but this {type(self).__name__} has learned "
                f"{self.classes_.tolist()[:5]}: it can go on with the same ones only."
            )

    def predict(self, X: Any) -> np.ndarray:
        """Return a tag for every token.

        Parameters
        ----------
        X : column of token lists or of strings, of shape (n_samples,)

        Returns
        -------
        ndarray of shape (n_samples,) of lists of str
            Each as long as the row has tokens.
        """

        def tags(outputs: np.ndarray, plan: WindowPlan) -> np.ndarray:
            decoded = decode(self._of_rows(outputs, plan), self.classes_.tolist(), self.scheme_)
            return as_objects([self.classes_[row].tolist() for row in decoded])

        return as_objects([row.copy() for row in self._run(X, tags)])  # equal rows of a long column share one

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each tag for every token.

        Parameters
        ----------
        X : column of token lists or of strings, of shape (n_samples,)

        Returns
        -------
        ndarray of shape (n_samples,) of ndarray of shape (n_tokens, n_tags)
            In the order of `classes_`. Each token by itself, whatever the scheme allows.
        """
        logits = self._outputs(X)
        for i, of_row in enumerate(logits):
            logits[i] = softmax(of_row, axis=1)
        return logits

    def predict_spans(self, X: Any) -> pd.DataFrame:
        """Return the spans that the predicted tags mark.

        Parameters
        ----------
        X : column of token lists or of strings, of shape (n_samples,)

        Returns
        -------
        DataFrame
            One row per span: row (its position in X), label, start, end, text, score. Where X is strings, start and
            end are characters and text is that part of the string; of token lists they count tokens, and text is a
            list. So text is `X[row][start:end]`. The score is the mean probability of the span's tags. Tags without
            a scheme are spans of one token each.
        """
        column, found = self._check_fitted_column(X), []
        for row, spans in enumerate(self._run(X, self._spans)):
            source = list(column.texts[row]) if column.sources is None else column.sources[row]
            for start, end, label, score in spans:
                a, b = start, end
                if column.offsets is not None:
                    a, b = column.offsets[row][[start, end - 1], [0, 1]].tolist()
                found.append((row, label, a, b, source[a:b], score))
        table = pd.DataFrame(found, columns=["row", "label", "start", "end", "text", "score"])
        return table.astype({"row": int, "start": int, "end": int, "score": float})  # where it is empty, too

    def _spans(self, outputs: np.ndarray, plan: WindowPlan) -> np.ndarray:
        """Of each row its spans as (first token, the one after the last, label, mean probability)."""
        logits, rows = self._of_rows(outputs, plan), []
        for tags, of_row in zip(decode(logits, self.classes_.tolist(), self.scheme_), logits, strict=True):
            names = self.classes_[tags].tolist()
            spans = entity_spans(names) if self.scheme_ != "plain" else [(i, i + 1, n) for i, n in enumerate(names)]
            if spans:
                proba = np.take_along_axis(softmax(of_row, axis=1), tags[:, None], axis=1)[:, 0]
                spans = [(start, end, label, float(proba[start:end].mean())) for start, end, label in spans]
            rows.append(spans)
        return as_objects(rows)

    def score(self, X: Any, y: Any, sample_weight: Any = None, *, strict: bool = False) -> float:
        """Return the F1 of entities, each right in label and both ends; of tags without a scheme the accuracy.

        Parameters
        ----------
        X : column of token lists or of strings, of shape (n_samples,)
        y : tags or spans as `fit` takes them
        sample_weight : array-like of shape (n_samples,), default=None
            A row's entities, or its tokens, count so often.
        strict : bool, default=False
            Count only well-formed entities of the scheme; otherwise they are read as CoNLL's scorer does.

        Returns
        -------
        float
        """
        check_is_fitted(self)
        column = self._check_column(X)
        true = check_tags(y, column)
        weights = _check_sample_weight(sample_weight, column.texts, dtype=np.float64)
        return tag_score(true, self.predict(X), self.scheme_, weights, strict)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags


def _tokens_of_texts(plan: WindowPlan) -> np.ndarray:
    """Tokens in each sentence of a plan."""
    n_texts = len(plan.windows_per_text)
    return np.bincount(plan.text_of_window, plan.counts, minlength=n_texts).astype(np.int64)
