"""Text classification."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.special import softmax
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.validation import _check_sample_weight
from torch import Tensor

from skxlmr.backbone import Backbone
from skxlmr.base import TrainableXLMRXL
from skxlmr.inference import Plan, pool_windows
from skxlmr.model.heads import ClassificationHead
from skxlmr.training.adapters import Tuning, as_tuning
from skxlmr.training.learned import Learned, first_token, seeded
from skxlmr.training.loop import train
from skxlmr.validation import check_labels, check_several_classes
from skxlmr.weights.quantization import Int8


class XLMRXLClassifier(ClassifierMixin, TrainableXLMRXL):
    """Classify texts, or pairs of texts, by fine-tuning XLM-RoBERTa-XL.

    The base model stays frozen and is shared by all estimators of the process; what is learned is a small adapter
    and a head on the first token (`tuning="lora"`), the head alone (`"head"`), or a copy of everything (`"full"`).

    Parameters
    ----------
    model : str or path, default="facebook/xlm-roberta-xl"
        Id of a checkpoint on the hub, a local directory, or "nano", the small one that is bundled.
    tuning : {"lora", "head", "full"} or Tuning, default="lora"
        What of the model learns; `LoRA(rank=16)` in place of "lora" sets its parameters.
    max_length : int, default=None
        Most tokens that the model reads at once; None takes all it can, 512.
    stride : int or "auto", default="auto"
        Tokens that neighbouring windows of a text longer than `max_length` share; "auto" is an
        eighth of `max_length`. The decision for a long text is the mean over its windows.
    truncation : bool, default=False
        Read only the beginning of a long text. How many were cut is told in a warning.
    batch_size : int, default=32
        Rows in an optimiser step. The default is that of the XLM-R-XL paper (arXiv:2105.00572).
    batch_tokens : int or "auto", default="auto"
        Tokens that are run at once; changes memory and speed, not results (but for the draws of dropout).
    learning_rate : float or "auto", default="auto"
        The highest rate, after warm-up; "auto" takes that of the tuning.
    max_epochs : int, default=10
        Passes over the rows. The default is that of the paper.
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes in the loss, as in scikit-learn.
    load_in_8bit : "auto", bool or Int8, default="auto"
        Hold the frozen base in 8 bits: a quarter of float32's memory, and faster on CPUs. "auto" does so for XL and
        XXL, on a GPU only where 16 bits would take more than half of its memory. `Int8` opens the settings to a grid.
    load_in_4bit : bool, default=False
        Hold it in 4 bits (NF4): half the memory of 8, slower and less exact.
    dtype : {"auto", "float32", "bfloat16", "float16"}, default="auto"
        Of the base's activations, and of its weights unless these are in 8 or 4 bits; "auto" is bfloat16 where the
        hardware has it (on a CPU not for small models), else float16 on CUDA and float32 elsewhere.
        What is learned is float32.
    device : str, default="auto"
        "auto", "cpu", "cuda", "cuda:1" or "mps".
    random_state : int, RandomState or None, default=None
        Of the start of what is learned, the order of the rows and dropout.
    verbose : int, default=0
        1 shows progress bars.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted.
    history_ : DataFrame
        One row per epoch: epoch, loss, learning_rate, seconds.
    loss_curve_ : list of float
        Mean training loss of each epoch.
    n_iter_ : int
        Epochs run.
    n_features_in_ : int
        1, or 2 for pairs.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, where X had any.

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
        "class_weight": [dict, StrOptions({"balanced"}), None],
    }

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
        class_weight: dict | str | None = None,
        load_in_8bit: bool | str | Int8 = "auto",
        load_in_4bit: bool = False,
        dtype: str = "auto",
        device: str = "auto",
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
        self.class_weight = class_weight
        self.load_in_8bit = load_in_8bit
        self.load_in_4bit = load_in_4bit
        self.dtype = dtype
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> XLMRXLClassifier:
        """Fine-tune on labelled texts.

        Parameters
        ----------
        X : text column of shape (n_samples,), or two text columns
            List, array, Series or DataFrame of str.
        y : array-like of shape (n_samples,)
            Labels of any sortable type, at least two different ones.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows in the loss. Rows of weight zero are left out.

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            If a column is not what it should be; the message names the column and the row.
        FloatingPointError
            If the loss diverges. An earlier fit stays usable.
        """
        column = self._check_column(X)
        y = check_labels(y, column, self)
        classes, targets = np.unique(y, return_inverse=True)
        weights = _check_sample_weight(sample_weight, column.texts, dtype=np.float64, ensure_non_negative=True)
        weights = weights * compute_class_weight(self.class_weight, classes=classes, y=y)[targets]
        rows = np.flatnonzero(weights)
        check_several_classes(targets[rows], type(self).__name__)
        random_state = check_random_state(self.random_state)

        backbone = self._load_backbone()
        plan = self._plan(backbone, column).take(rows)
        learned, history = self._learn(backbone, plan, targets[rows], weights[rows], len(classes), random_state)
        self._become_fitted(
            backbone,
            column,
            classes_=classes,
            history_=history,
            loss_curve_=history["loss"].tolist(),
            n_iter_=len(history),
            _learned=learned,
        )
        return self

    def _learn(
        self,
        backbone: Backbone,
        plan: Plan,
        targets: np.ndarray,
        weights: np.ndarray,
        n_classes: int,
        random_state: np.random.RandomState,
    ) -> tuple[Learned, pd.DataFrame]:
        """Train an adapter and a head; returns them and the history."""
        base, tuning = backbone.model, as_tuning(self.tuning)
        schedule = self._schedule(tuning, backbone)
        targets = torch.from_numpy(targets).to(base.device)
        with seeded(random_state.randint(2**31 - 1), base.device):
            learned = Learned(tuning, base, ClassificationHead(base.config, n_classes)).train()
            features = learned.features(base, plan, first_token, schedule.batch_tokens, self.verbose)

            def losses(windows: np.ndarray, rows: np.ndarray) -> Tensor:
                return F.cross_entropy(learned.head(features(windows)), targets[rows], reduction="none")

            history = train(losses, learned.parameters(), plan, weights, schedule, random_state, self.verbose)
        return learned.eval().requires_grad_(False), history

    def _logits(self, X: Any) -> np.ndarray:
        """The head's output for each row, (n_samples, n_classes)."""
        column = self._check_fitted_column(X)
        backbone = self._fitted_backbone()
        plan = self._plan(backbone, column)
        logits = self._learned.run(
            backbone.model, plan.windows, first_token, self._choose_batch_tokens(backbone), self.verbose
        )
        return pool_windows(logits, plan.text_of_window, "mean")[plan.text_of_row]

    def decision_function(self, X: Any) -> np.ndarray:
        """Return the confidence in each class.

        Parameters
        ----------
        X : text column of shape (n_samples,), or two text columns

        Returns
        -------
        ndarray of shape (n_samples, n_classes), or (n_samples,) if there are two classes, float32
            Logits. With two classes the logit of `classes_[1]` minus that of `classes_[0]`.
        """
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class.

        Parameters
        ----------
        X : text column of shape (n_samples,), or two text columns

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float32
            In the order of `classes_`.
        """
        return softmax(self._logits(X), axis=1)

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable class.

        Parameters
        ----------
        X : text column of shape (n_samples,), or two text columns

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        best = self._logits(X).argmax(axis=1)
        return self.classes_[best]
