"""Text classification."""

from __future__ import annotations

import os
from collections.abc import Sequence
from numbers import Real
from typing import Any

import joblib
import numpy as np
import pandas as pd
from scipy.special import expit, softmax
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.utils import Tags
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from skxlmr.columns import TextColumn, check_column_of_texts
from skxlmr.estimators.learner import TrainableXLMRXL
from skxlmr.estimators.parameters import documented
from skxlmr.model.int8 import Int8
from skxlmr.tasks.base import Classification, Multilabel, Task
from skxlmr.tasks.classification import (
    check_class_weight,
    check_classes,
    check_labels,
    check_multilabel,
    check_several_classes,
    find_labels,
    multilabel_form,
)
from skxlmr.training.callbacks import Callback
from skxlmr.training.schedule import MAX_GRAD_NORM, WARMUP, WEIGHT_DECAY
from skxlmr.tuning import Tuning


@documented
class XLMRXLClassifier(ClassifierMixin, TrainableXLMRXL):
    """Classify texts, or pairs of texts, by fine-tuning XLM-RoBERTa-XL.

    The base model stays frozen and is shared by all estimators of the process; what is learned is a small adapter
    and a head on the first token (`tuning="lora"`), the head alone (`"head"`), or a copy of everything (`"full"`).
    A text that is longer than the model reads at once is decided by the mean over its windows.

    Parameters
    ----------
    $reading
    $truncation
    $training
    label_smoothing : float, default=0.0
        Share of the target that goes to all classes evenly.
    $stopping
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes in the loss, as in scikit-learn.
    $going_on
    $loading

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted; with an indicator matrix its columns.
    multilabel_ : {"indicator", "lists"} or None
        Whether a row may have several labels, and how `fit` was given them: as a matrix of 0 and 1, or as lists.
    $history

    See Also
    --------
    XLMRXLEmbedder : Turn texts into vectors for any other estimator.

    Examples
    --------
    >>> from skxlmr import XLMRXLClassifier
    >>> texts = ["what a lovely film", "很好看", "dreadful and dull", "难看死了"] * 4
    >>> labels = ["good", "good", "bad", "bad"] * 4
    >>> clf = XLMRXLClassifier(model="nano", learning_rate=5e-3, random_state=0).fit(texts, labels)
    >>> clf.predict(["a lovely film"])
    array(['good'], dtype='<U4')
    """

    _parameter_constraints: dict = {
        **TrainableXLMRXL._parameter_constraints,
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
        "class_weight": [dict, StrOptions({"balanced"}), None],
    }

    _needed_attributes = ("classes_", "multilabel_")

    def __init__(
        self,
        model: str | os.PathLike = "facebook/xlm-roberta-xl",
        *,
        tuning: str | Tuning = "lora",
        max_length: int | None = None,
        stride: int | str = "auto",
        truncation: bool = False,
        batch_size: int = 32,
        batch_tokens: int | str = "auto",
        learning_rate: float | str = "auto",
        max_epochs: int = 10,
        lr_schedule: str = "linear",
        warmup: float = WARMUP,
        weight_decay: float = WEIGHT_DECAY,
        max_grad_norm: float | None = MAX_GRAD_NORM,
        optimizer: str = "adamw",
        label_smoothing: float = 0.0,
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
        self.truncation = truncation
        self.batch_size = batch_size
        self.batch_tokens = batch_tokens
        self.learning_rate = learning_rate
        self.max_epochs = max_epochs
        self.lr_schedule = lr_schedule
        self.warmup = warmup
        self.weight_decay = weight_decay
        self.max_grad_norm = max_grad_norm
        self.optimizer = optimizer
        self.label_smoothing = label_smoothing
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

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> XLMRXLClassifier:
        """Train for one more epoch, on rows of which there may be others each time.

        The learning rate is constant, and AdamW goes on with the moments that it has gathered; these are not
        pickled. `max_epochs`, `lr_schedule` and `warmup` do not count here.

        Parameters
        ----------
        X : text column of shape (n_samples,), or two text columns
        y : array-like of shape (n_samples,)
        classes : array-like of shape (n_classes,), default=None
            All labels that will ever come, in any order; needed in the first call. Of an indicator matrix its columns,
            in their order.
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If `y` has a label that `classes` has not, there are fewer than two, or a parameter makes no sense here.
        """
        if self.class_weight == "balanced":
            raise ValueError(
                "partial_fit does not support class_weight='balanced', which needs all of y at once. Compute the "
                "weights with sklearn.utils.class_weight.compute_class_weight and pass them as a dict."
            )
        if classes is None and not hasattr(self, "classes_"):
            raise ValueError("The first call of partial_fit needs classes: all labels that will ever come.")
        form = multilabel_form(y)
        known = self.classes_ if classes is None else check_classes(classes, form)
        return self._fit_one_epoch(X, y, self._task(known, form), sample_weight)

    def _task(self, classes: np.ndarray, form: str | None) -> Classification | Multilabel:
        if form is None:
            return Classification(classes, self.label_smoothing)
        return Multilabel(classes, form, self.label_smoothing)

    def _learn_task(self, y: Any, column: TextColumn, weights: np.ndarray) -> Classification | Multilabel:
        form = multilabel_form(y)
        if form is None:
            return self._task(np.unique(check_labels(y, column, self, several=False)), None)
        return self._task(find_labels(y, column, form), form)

    def _targets(self, y: Any, column: TextColumn, task: Task, name: str = "y") -> np.ndarray:
        if isinstance(task, Multilabel):
            return check_multilabel(y, column, task.classes, task.form, name)
        y = check_labels(y, column, self, several=False)
        known = "y" if name == "y_val" else "classes"
        unknown = sorted(set(y.tolist()) - set(task.classes.tolist()))
        if unknown:
            raise ValueError(f"{name} has labels that {known} has not: {unknown[:5]}.")
        return np.searchsorted(task.classes, y)

    def _factors(self, targets: np.ndarray, task: Task) -> np.ndarray | float:
        if isinstance(task, Multilabel):
            if self.class_weight is not None:
                raise ValueError("class_weight is for labels of which a row has one; use sample_weight.")
            return 1.0
        labels = task.classes[targets]
        return check_class_weight(self.class_weight, task.classes, labels)[targets]

    def _check_enough(self, targets: np.ndarray, task: Task) -> None:
        if isinstance(task, Classification):
            check_several_classes(task.classes[targets], type(self).__name__)

    def _check_same_task(self, task: Task) -> None:
        same = np.array_equal(task.classes, self.classes_) and task.attributes["multilabel_"] == self.multilabel_
        if not same:
            raise ValueError(
                f"y has the labels {task.classes.tolist()[:5]}, but this {type(self).__name__} has learned "
                f"{self.classes_.tolist()[:5]}: it can go on with the same ones only."
            )

    @property
    def _n_outputs(self) -> int:
        return len(self.classes_)

    def _exported_config(self) -> dict[str, Any]:
        return {
            "id2label": {i: str(label) for i, label in enumerate(self.classes_)},
            "problem_type": "multi_label_classification" if self.multilabel_ else "single_label_classification",
        }

    def decision_function(self, X: Any) -> np.ndarray:
        """Return the confidence in each class.

        Parameters
        ----------
        X : text column of shape (n_samples,), or two text columns

        Returns
        -------
        ndarray of shape (n_samples, n_classes), or (n_samples,) if there are two classes, float32
            Logits. With two classes the logit of `classes_[1]` minus that of `classes_[0]`; of labels of which a row
            may have several always one column each.
        """
        logits = self._outputs(X)
        if self.multilabel_ is None and len(self.classes_) == 2:
            return logits[:, 1] - logits[:, 0]
        return logits

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class.

        Parameters
        ----------
        X : text column of shape (n_samples,), or two text columns

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float32
            In the order of `classes_`. Rows add up to 1, unless a row may have several labels.
        """
        logits = self._outputs(X)
        return softmax(logits, axis=1) if self.multilabel_ is None else expit(logits)

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable class, or all labels that are more probable than not.

        Parameters
        ----------
        X : text column of shape (n_samples,), or two text columns

        Returns
        -------
        ndarray of shape (n_samples,), or (n_samples, n_classes)
            In the form that `fit` was given: labels, an indicator matrix of 0 and 1, or tuples of labels.
        """
        logits = self._outputs(X)
        if self.multilabel_ is None:
            return self.classes_[logits.argmax(axis=1)]
        chosen = logits > 0
        if self.multilabel_ == "indicator":
            return chosen.astype(np.int64)
        labels = np.empty(len(chosen), object)
        labels[:] = [tuple(self.classes_[row].tolist()) for row in chosen]
        return labels

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the accuracy; where a row may have several labels all of them must be right.

        Parameters
        ----------
        X : text column of shape (n_samples,), or two text columns
        y : labels as `fit` takes them
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        float
        """
        check_is_fitted(self)
        if self.multilabel_ is None:
            return super().score(X, y, sample_weight)
        column = self._check_column(X)
        task = self._task(self.classes_, self.multilabel_)
        targets = self._targets(y, column, task)
        weights = _check_sample_weight(sample_weight, column.texts, dtype=np.float64)
        return task.score(self._outputs(X), targets, weights)

    def zero_shot(self, texts: Any, labels: Sequence[str], template: str = "This text is about {}.") -> pd.DataFrame:
        """Tell how well each of any labels fits texts, with a classifier that was fitted on entailment.

        Each text is paired with the template filled in with each label; how probable it is that the second follows
        from the first is the label's score (Yin et al., arXiv:1909.00161).

        Parameters
        ----------
        texts : text column of shape (n_samples,)
        labels : sequence of str
            Words for the template.
        template : str, default="This text is about {}."
            With a place for the label.

        Returns
        -------
        DataFrame of shape (n_samples, n_labels)
            Probabilities; a row adds up to 1. With the index of `texts`, where that is of pandas.

        Raises
        ------
        TypeError
            If a label is no str.
        ValueError
            If the classifier was not fitted on pairs, none of its classes is called "entailment", there are no labels,
            or the template has no place for them.

        Examples
        --------
        >>> from skxlmr import XLMRXLClassifier
        >>> pairs = [["it rains", "it is wet"], ["it rains", "it is dry"]] * 4
        >>> nli = XLMRXLClassifier("nano", max_epochs=1, random_state=0)
        >>> nli = nli.fit(pairs, ["entailment", "contradiction"] * 4)
        >>> nli.zero_shot(["the sun shines"], ["weather", "sport"]).columns.tolist()
        ['weather', 'sport']
        """
        check_is_fitted(self)
        column = self._check_column(texts)
        entailment = [i for i, label in enumerate(self.classes_) if str(label).lower().startswith("entail")]
        if self.n_features_in_ != 2 or self.multilabel_ is not None or len(entailment) != 1:
            raise ValueError(
                f"zero_shot needs a classifier fitted on pairs of texts with a class 'entailment'; this one was fitted "
                f"on {self.n_features_in_} column(s) with the classes {self.classes_.tolist()[:5]}."
            )
        if column.pairs is not None:
            raise ValueError("texts has 2 columns; zero_shot makes the second itself, from the labels.")
        if not isinstance(template, str) or "{}" not in template:
            raise ValueError(
                f"template must have a place for the label, as in 'This is about {{}}.', got {template!r}."
            )
        if isinstance(labels, str):
            raise TypeError(f"labels is a single str. Put it into a list: [{labels!r}].")
        labels = check_column_of_texts(list(labels), "labels", None)
        if not labels:
            raise ValueError("labels is empty: give one word or phrase at least.")
        pairs = [[text, template.replace("{}", label)] for text in column.texts for label in labels]
        frame = pd.DataFrame(pairs, columns=getattr(self, "feature_names_in_", None))
        logits = self._outputs(frame if hasattr(self, "feature_names_in_") else pairs)[:, entailment[0]]
        index = texts.index if isinstance(texts, pd.Series | pd.DataFrame) else None
        return pd.DataFrame(softmax(logits.reshape(-1, len(labels)), axis=1), index=index, columns=labels)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
