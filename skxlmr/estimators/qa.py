"""Answers to questions, found in their contexts."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any

import joblib
import numpy as np
import pandas as pd
import torch
from scipy.special import softmax
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import _check_sample_weight, check_is_fitted
from torch import Tensor, nn

from skxlmr.columns import TextColumn, as_objects
from skxlmr.estimators.learner import TrainableXLMRXL
from skxlmr.estimators.parameters import documented
from skxlmr.metrics import squad_scores
from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLForQuestionAnswering
from skxlmr.model.heads import SpanHead
from skxlmr.model.int8 import Int8
from skxlmr.model.packing import segment_logsumexp
from skxlmr.runtime.backbone import Backbone
from skxlmr.runtime.finetuned import Learned
from skxlmr.runtime.plan import WindowPlan
from skxlmr.tasks.base import Answering, Task
from skxlmr.tasks.questions import (
    QuestionPlan,
    best_spans,
    check_answers,
    check_questions,
    plan_questions,
    target_units,
)
from skxlmr.training.callbacks import Callback
from skxlmr.training.rows import Rows
from skxlmr.training.schedule import MAX_GRAD_NORM, WARMUP, WEIGHT_DECAY
from skxlmr.tuning import Tuning


@documented
class XLMRXLQA(TrainableXLMRXL):
    """Find the answers to questions in their contexts, by fine-tuning XLM-RoBERTa-XL.

    X has two columns, question and context. y has for each row its answer: a text that stands in the context, (text,
    start), a dict as SQuAD has it ({"text": [...], "answer_start": [...]}), or a list of several; None, "" or empty
    lists where there is no answer. Of several the first is learned, and all count in the score. Long contexts are read
    in overlapping windows, and nothing of them is cut.

    Parameters
    ----------
    $reading
    max_answer_length : int, default=30
        Most pieces in a predicted answer.
    null_threshold : float, default=0.0
        Where `fit` has seen questions without an answer: how much more must speak for "no answer" than for the best
        one before "" is predicted; in logits.
    $training
    $stopping
    $going_on
    $loading

    Attributes
    ----------
    has_unanswerable_ : bool
        Whether `fit` has seen questions without an answer; else one is always predicted.
    $history

    See Also
    --------
    skxlmr.datasets.read_squad : Questions from a file.

    Examples
    --------
    >>> import pandas as pd
    >>> from skxlmr import XLMRXLQA
    >>> questions, contexts = ["Who wrote it?", "Where is it?"], ["Ada wrote it.", "It is in Rome."]
    >>> X = pd.DataFrame({"question": questions, "context": contexts})
    >>> qa = XLMRXLQA("nano", learning_rate=5e-3, random_state=0).fit(pd.concat([X] * 8), ["Ada", "Rome"] * 8)
    >>> qa.predict(X).shape
    (2,)
    """

    _parameter_constraints: dict = {
        **TrainableXLMRXL._parameter_constraints,
        "max_answer_length": [Interval(Integral, 1, None, closed="left")],
        "null_threshold": [Interval(Real, None, None, closed="neither")],
    }
    del _parameter_constraints["truncation"]

    _needed_attributes = ("has_unanswerable_",)

    def __init__(
        self,
        model: str | os.PathLike = "facebook/xlm-roberta-xl",
        *,
        tuning: str | Tuning = "lora",
        max_length: int | None = None,
        stride: int | str = "auto",
        max_answer_length: int = 30,
        null_threshold: float = 0.0,
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
        self.max_answer_length = max_answer_length
        self.null_threshold = null_threshold
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

    def _check_column(self, X: Any) -> TextColumn:
        return check_questions(X)

    def _plan(self, backbone: Backbone, column: TextColumn) -> QuestionPlan:
        max_length, stride = self._window(backbone)
        return plan_questions(backbone.tokenizer, column, max_length=max_length, stride=stride)

    def _learn_task(self, y: Any, column: TextColumn, weights: np.ndarray) -> Answering:
        answers = check_answers(y, column, warn_ambiguous=False)  # _targets will
        answered = [bool(of_row) for of_row, weight in zip(answers, weights, strict=True) if weight]
        if not any(answered):
            raise ValueError("y has no answer in any row: there is nothing to learn from.")
        return Answering(not all(answered))

    def _targets(self, y: Any, column: TextColumn, task: Task, name: str = "y") -> np.ndarray:
        """Starts and ends of each row's answers, in characters of its context: start, end, start, end..."""
        answers = check_answers(y, column, name)
        targets = np.empty(len(answers), object)
        for i, of_row in enumerate(answers):
            spans = [edge for text, start in of_row for edge in (start, start + len(text))]
            targets[i] = np.array(spans, np.int64)
        return targets

    def _losses_of_outputs(
        self, task: Task, rows: Rows, device: torch.device
    ) -> Callable[[Tensor, np.ndarray, np.ndarray], Tensor]:
        """The mean of the cross-entropies of start and end over the positions of a window."""
        plan, answers = rows.plan, [None] * len(rows.plan.contexts)
        for text, spans in zip(plan.text_of_row, rows.targets, strict=True):
            answers[text] = spans[:2] if len(spans) else None
        units, counts = torch.from_numpy(target_units(plan, answers)).to(device), plan.counts

        def losses(outputs: Tensor, windows: np.ndarray, of_rows: np.ndarray) -> Tensor:
            n = torch.from_numpy(counts[windows]).to(device)
            first = n.cumsum(0) - n
            true = outputs.gather(0, first[:, None] + units[torch.from_numpy(windows).to(device)])
            return (segment_logsumexp(outputs, n) - true).mean(1)

        return losses

    def _score_rows(
        self, learned: Learned, backbone: Backbone, rows: Rows, task: Task, batch_tokens: int, began: int
    ) -> float:
        outputs = learned.run(backbone, rows.plan, batch_tokens, memory=self.memory, keep=began)
        predicted = self._choose(outputs, rows.plan, task.has_unanswerable)
        contexts = [rows.plan.contexts[text] for text in rows.plan.text_of_row]
        scores = [
            squad_scores([answer], [[context[a:b] for a, b in spans.reshape(-1, 2)]])["f1"]
            for answer, context, spans in zip(predicted, contexts, rows.targets, strict=True)
        ]
        return float(np.average(scores, weights=rows.weights))

    def _of_rows(self, outputs: np.ndarray, plan: WindowPlan) -> np.ndarray:
        return outputs

    def _choose(self, outputs: np.ndarray, plan: QuestionPlan, may_be_none: bool) -> list[str]:
        """The best answer of each row."""
        spans, null = best_spans(outputs, plan, self.max_answer_length, 1)
        answers = []
        for text, of_row, without in zip(plan.text_of_row, spans, null, strict=True):
            none = not of_row or (may_be_none and without - of_row[0][0] > self.null_threshold)
            answers.append("" if none else plan.contexts[text][of_row[0][1] : of_row[0][2]])
        return answers

    def _new_head(self, config: XLMRobertaXLConfig, n_outputs: int) -> SpanHead:
        return SpanHead(config)

    @property
    def _n_outputs(self) -> int:
        return 2

    _exported_class = XLMRobertaXLForQuestionAnswering
    _peft_task = "QUESTION_ANS"

    def _exported_heads(self, head: nn.Module) -> dict[str, nn.Module]:
        return {"qa_outputs": head.linear}

    def predict(self, X: Any) -> np.ndarray:
        """Return the best answer to each question.

        Parameters
        ----------
        X : two columns, question and context

        Returns
        -------
        ndarray of shape (n_samples,) of str
            Parts of the contexts; "" where there is none.
        """
        return self._run(X, lambda outputs, plan: as_objects(self._choose(outputs, plan, self.has_unanswerable_)))

    def predict_answers(self, X: Any, top_k: int = 3, null_threshold: float | None = None) -> pd.DataFrame:
        """Return the best answers to each question.

        Parameters
        ----------
        X : two columns, question and context
        top_k : int, default=3
            At most so many for each question.
        null_threshold : float, default=None
            In the place of the parameter of this name.

        Returns
        -------
        DataFrame
            One row per answer, the best first: row (its position in X), answer, start, end, score, no_answer_score,
            is_answered. `context[start:end]` is the answer. Scores are probabilities among the answers listed and "no
            answer"; is_answered says whether `predict` would give the best of them, rather than "".

        Raises
        ------
        ValueError
            If `top_k` is no whole number, or less than 1; or `null_threshold` no number.
        """
        if not isinstance(top_k, Integral) or top_k < 1:
            raise ValueError(f"top_k must be a whole number and at least 1, got {top_k!r}.")
        threshold = self.null_threshold if null_threshold is None else null_threshold
        if not isinstance(threshold, Real):
            raise ValueError(f"null_threshold must be a number, got {threshold!r}.")

        def best(outputs: np.ndarray, plan: QuestionPlan) -> np.ndarray:
            rows = zip(*best_spans(outputs, plan, self.max_answer_length, top_k), plan.text_of_row, strict=True)
            return as_objects([(spans, null, plan.contexts[text]) for spans, null, text in rows])

        found = []
        for row, (spans, null, context) in enumerate(self._run(X, best)):
            *scores, none = softmax([*(score for score, _, _ in spans), null])
            answered = bool(spans) and not (self.has_unanswerable_ and null - spans[0][0] > threshold)
            for score, (_, start, end) in zip(scores, spans, strict=True):
                found.append((row, context[start:end], start, end, score, none, answered))
        columns = ["row", "answer", "start", "end", "score", "no_answer_score", "is_answered"]
        of_numbers = {"row": int, "start": int, "end": int, "score": float, "no_answer_score": float}
        return pd.DataFrame(found, columns=columns).astype(
            {**of_numbers, "is_answered": bool}
        )  # where it is empty, too

    def metrics(self, X: Any, y: Any, language: str | None = None) -> dict[str, float]:
        """Return F1 and exact match as SQuAD's scorer computes them.

        Parameters
        ----------
        X : two columns, question and context
        y : answers as `fit` takes them
        language : str, default=None
            A code such as "zh": the rules of MLQA for that language; see `skxlmr.metrics.normalize_answer`.

        Returns
        -------
        dict
            f1 and exact_match, from 0 to 1.
        """
        check_is_fitted(self)
        answers = check_answers(y, self._check_column(X))
        return squad_scores(self.predict(X), [[text for text, _ in of_row] for of_row in answers], language)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the mean F1 of the words of answers, as SQuAD's scorer computes it.

        Parameters
        ----------
        X : two columns, question and context
        y : answers as `fit` takes them
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        float
        """
        check_is_fitted(self)
        column = self._check_column(X)
        answers = check_answers(y, column)
        weights = _check_sample_weight(sample_weight, column.texts, dtype=np.float64)
        each = [
            squad_scores([answer], [[text for text, _ in of_row]])["f1"]
            for answer, of_row in zip(self.predict(X), answers, strict=True)
        ]
        return float(np.average(each, weights=weights))
