"""Text classification."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from numbers import Real
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from scipy.special import expit, log_expit, log_softmax, softmax
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.utils import Tags
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted
from typing_extensions import Self

from skxlmr.columns import as_objects, check_column_of_texts
from skxlmr.estimators.learner import XLMRXLLearner, requires_y
from skxlmr.estimators.parameters import (
    OF_REFERENCE,
    ClassWeight,
    FeatureMemory,
    Init,
    MissingTexts,
    SentenceVectors,
    Vocabulary,
)
from skxlmr.runtime.plan import Truncation, Windows
from skxlmr.saving.checkpoints_with_heads import TrainedModel
from skxlmr.system.parameters import declare_parameters, parameter
from skxlmr.system.warn import warn
from skxlmr.tasks.classification import Classification
from skxlmr.tasks.labels import check_classes, find_form

# What a CrossEncoder of sentence-transformers may do with logits: the first is `decision_function`, the second
# `predict_proba` of several labels per row; the others are `predict_proba` and `predict_log_proba`.
ACTIVATIONS = ("Identity", "Sigmoid", "Softmax", "LogSoftmax")


@declare_parameters
class XLMRXLClassifier(
    ClassifierMixin,
    SentenceVectors,
    MissingTexts,
    Truncation,
    Vocabulary,
    FeatureMemory,
    ClassWeight,
    Init,
    XLMRXLLearner[Classification],
):
    """Classify texts, or pairs of texts, by fine-tuning XLM-RoBERTa-XL.

    The base model stays frozen and is shared by all estimators of the process; trained are a small adapter and a linear
    head on the vector of the text (`tuning="lora"`), the head alone (`"head"`), or a copy of all weights (`"full"`).
    The head starts from a logistic regression on the frozen vectors. Before other weights are trained, its outputs are
    multiplied by 0.1, since a start that separates the rows leaves nothing to learn; after very few steps,
    probabilities are therefore close to each other. For a text that is longer than the model reads at once, the logits
    of its windows are averaged.

    y holds one label per row, or several: as an indicator of 0 and 1, that is a matrix, a frame with a column per label
    or a column of vectors, such as [1, 0, 1]; or as a column of lists or sets of labels, such as ["sport", "politics"].
    The same values mean the same in every container. Vectors of one length of at least 2 that hold nothing but 0 and 1
    are an indicator; where 0 and 1 are the names of labels, give sets, such as {0, 1}. In `partial_fit` vectors are an
    indicator only if they are as long as `classes`. Once fitted, y is read in the form that `fit` has found.

    y may also hold a probability for each class, (n_samples, n_classes), as `predict_proba` of a teacher returns it: a
    small model then learns what a large one predicts for texts without labels (Hinton et al., arXiv:1503.02531). The
    names of the classes are the columns of a DataFrame, or else 0, 1, ... Rows that hold only 0 and 1 are an indicator
    of several labels per row.

    Parameters
    ----------
    label_smoothing : float
        Share of the target that is spread evenly over all classes.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted; with an indicator matrix its columns.
    multilabel_ : {"indicator", "lists"} or None
        Whether there are several labels per row, and how `fit` was given them: as a matrix of 0 and 1, or as lists.
    pooling_ : str
    prompt_ : str
    pairs_ : {"joint", "separate"} or None
        The values that "auto" stood for; `pairs_` is None if there was one text per row.
    $history

    See Also
    --------
    XLMRXLEmbedder : Turn texts into vectors for any other estimator.

    Notes
    -----
    For `cv=5`, `GridSearchCV` and `cross_val_score` refuse a column of lists as a "legacy multi-label data
    representation" before it arrives here. They take sets of labels, `y.map(set)`, and with `cv=KFold(5)` lists, too.
    The metrics of scikit-learn, such as scoring="f1_micro", need a matrix: `np.array(y.tolist())` makes it of vectors
    of 0 and 1, `sklearn.preprocessing.MultiLabelBinarizer` of lists of labels. The `scoring` of early stopping
    takes a column of vectors, too.

    Examples
    --------
    >>> from skxlmr import XLMRXLClassifier
    >>> texts = ["what a lovely film", "很好看", "dreadful and dull", "难看死了"] * 4
    >>> labels = ["good", "good", "bad", "bad"] * 4
    >>> clf = XLMRXLClassifier(model="nano", learning_rate=5e-3, random_state=0).fit(texts, labels)
    >>> clf.predict(["a lovely film"])
    array(['good'], dtype='<U4')
    """

    label_smoothing: float = parameter(default=0.0, valid=[Interval(Real, 0, 1, closed="left")], order=30)

    _pretrained_parameters: ClassVar[dict[str, Any]] = OF_REFERENCE

    def _new_task(self) -> Classification:
        windows = Windows(self.max_length, self.stride, self.truncation)
        return Classification(
            windows,
            self.label_smoothing,
            self.class_weight,
            pooling=self.pooling,
            prompt=self.prompt,
            pairs=self.pairs,
            missing=self.missing,
        )

    def _restore_pretrained(self, trained: TrainedModel) -> None:
        """As other estimators; the scores of sentence-transformers must be logits or probabilities."""
        if trained.activation not in (None, *ACTIVATIONS):
            raise ValueError(
                f"its activation {trained.activation!r:.60} is not one of {', '.join(ACTIVATIONS)}, which a classifier "
                f"of several labels has. Set activation_fn in its files to torch.nn.Identity to have the outputs of "
                f"its head as `decision_function`, and their softmax as probabilities."
            )
        super()._restore_pretrained(trained)

    @_fit_context(prefer_skip_nested_validation=True)
    @requires_y
    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Train for one more epoch, on other rows each time if you like.

        The learning rate is constant, and AdamW keeps its moments from the earlier calls; they are not pickled.
        `max_epochs`, `lr_schedule` and `warmup` are not used here.

        Parameters
        ----------
        X : text column of shape (n_samples,), or two text columns
        y : array-like of shape (n_samples,)
        classes : array-like of shape (n_classes,), default=None
            All labels of this and later calls, in any order; needed in the first call. For an indicator matrix its
            columns, in their order.
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If `y` has a label that is not in `classes`, there are fewer than two, or a parameter is not supported here.
        """
        if self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True: it trains for one epoch.")
        if self.class_weight == "balanced":
            raise ValueError(
                "partial_fit does not support class_weight='balanced', which needs all of y at once. Compute the "
                "weights with sklearn.utils.class_weight.compute_class_weight and pass them as a dict."
            )
        if classes is None and not hasattr(self, "classes_"):
            raise ValueError("The first call of partial_fit needs classes: all labels of this and later calls.")
        classes = classes if classes is None else list(classes)
        form = self.multilabel_ if hasattr(self, "classes_") else find_form(y, classes)
        classes = self.classes_ if classes is None else check_classes(classes, form)
        known = replace(self._new_task(), classes=classes, form=form).weighted(np.empty(0, np.int64), np.empty(0))
        return self._fit(X, y, sample_weight, known=known)

    def decision_function(self, X: Any) -> np.ndarray:
        """Return the confidence in each class.

        Parameters
        ----------
        X : text column of shape (n_samples,), or two text columns

        Returns
        -------
        ndarray of shape (n_samples, n_classes), or (n_samples,) if there are two classes, float32
            Logits. With two classes the logit of `classes_[1]` minus that of `classes_[0]`; with several labels per
            row always one column each.
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
            In the order of `classes_`. Rows sum to 1, except with several labels per row.
        """
        logits = self._outputs(X)
        return softmax(logits, axis=1) if self.multilabel_ is None else expit(logits)

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Return the logarithm of the probability of each class.

        Parameters
        ----------
        X : text column of shape (n_samples,), or two text columns

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float32
            In the order of `classes_`; finite, also where `predict_proba` rounds to 0.
        """
        logits = self._outputs(X)
        return log_softmax(logits, axis=1) if self.multilabel_ is None else log_expit(logits)

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
        return as_objects([tuple(self.classes_[row].tolist()) for row in chosen])

    @requires_y
    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the accuracy; with several labels per row all of them must be right.

        Labels that `fit` has not seen count as wrong.

        Parameters
        ----------
        X : text column of shape (n_samples,), or two text columns
        y : labels as `fit` takes them
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        float
        """
        return self._score(X, y, sample_weight)

    def zero_shot(
        self, texts: Any, labels: Sequence[str], template: str = "This text is about {}.", *, multi_label: bool = False
    ) -> pd.DataFrame:
        """Score texts against any labels, with a classifier that was fitted on entailment.

        `skxlmr.load` returns one for a checkpoint that was trained on natural language inference.

        Each text is paired with the template filled in with each label; the score of a label is the probability that
        the text entails it (Yin et al., arXiv:1909.00161).

        Parameters
        ----------
        texts : text column of shape (n_samples,)
        labels : sequence of str
            Words for the template.
        template : str, default="This text is about {}."
            With "{}" in place of the label.
        multi_label : bool, default=False
            Whether several labels can be right for a text: the probability of each is then that of entailment against
            contradiction alone, and rows do not sum to 1.

        Returns
        -------
        DataFrame of shape (n_samples, n_labels)
            Probabilities; each row sums to 1, unless `multi_label`. With the index of `texts` if it is of pandas.

        Raises
        ------
        TypeError
            If a label is not a str.
        ValueError
            If the classifier was not fitted on pairs, there are no labels, or the template has no place for them; or
            if not exactly one of its classes begins with "entail", in upper or lower case; or, with `multi_label`, with
            "contradict" or "not".

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
        entailment, contradiction = self._beginning_with("entail"), self._beginning_with("contradict", "not")
        n_features = getattr(self, "n_features_in_", 2)  # a checkpoint of transformers reads pairs, too
        if n_features != 2 or self.multilabel_ is not None:
            raise ValueError(
                f"zero_shot needs a classifier fitted on pairs of texts, with one label each; this one was fitted on "
                f"{n_features} column(s) with {'one label' if self.multilabel_ is None else 'several labels'} per row. "
                f"Fit one on pairs of premise and hypothesis, df[['premise', 'hypothesis']]."
            )
        if len(entailment) != 1:
            raise ValueError(
                f"zero_shot needs one class 'entailment', whose name begins so; the classes of this classifier are "
                f"{self.classes_.tolist()[:5]}. If they are those of a checkpoint, name them in id2label of its "
                f"config.json."
            )
        if multi_label and len(contradiction) != 1:
            raise ValueError(
                f"zero_shot with multi_label=True needs one class 'contradiction' or 'not_entailment', whose name "
                f"begins so; the classes of this classifier are {self.classes_.tolist()[:5]}."
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
        if len(set(labels)) < len(labels):
            twice = next(label for i, label in enumerate(labels) if label in labels[:i])
            raise ValueError(f"labels has {twice!r} more than once, which would share its probability. Leave it out.")
        if len(labels) == 1 and not multi_label:
            warn(
                f"labels has {labels[0]!r} alone, whose probability is then 1 for each text. Give a second label, such "
                f"as 'something else', or set multi_label=True."
            )
        pairs = [[text, template.replace("{}", label)] for text in column.texts for label in labels]
        frame = pd.DataFrame(pairs, columns=getattr(self, "feature_names_in_", None))
        outputs = self._outputs(frame if hasattr(self, "feature_names_in_") else pairs)
        logits = outputs[:, entailment[0]].reshape(-1, len(labels))
        if multi_label:
            scores = expit(logits - outputs[:, contradiction[0]].reshape(logits.shape))
        else:
            scores = softmax(logits, axis=1)
        index = texts.index if isinstance(texts, pd.Series | pd.DataFrame) else None
        return pd.DataFrame(scores, index=index, columns=labels)

    def _beginning_with(self, *beginnings: str) -> list[int]:
        """Return the numbers of the classes whose names begin so, in upper or lower case."""
        return [i for i, label in enumerate(self.classes_) if str(label).lower().startswith(beginnings)]

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
