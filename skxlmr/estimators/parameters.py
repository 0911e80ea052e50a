"""Parameters, and fitted attributes, that several of the estimators have."""

from __future__ import annotations

import os
from typing import Any, ClassVar

import joblib
import numpy as np
import pandas as pd
from sklearn.utils._param_validation import HasMethods, StrOptions

from skxlmr.system.parameters import parameter, parameter_group
from skxlmr.system.schema import COUNT, POSITIVE
from skxlmr.training.rows import Outcome
from skxlmr.tuning import TUNINGS, Tuning


@parameter_group
class Tuned:
    """Which weights are trained.

    Parameters
    ----------
    tuning : {"lora", "bias", "head", "full"} or Tuning
        Which weights are trained; `LoRA(rank=16)` in place of "lora" sets its parameters.
    """

    tuning: str | Tuning = parameter(default="lora", valid=[StrOptions(set(TUNINGS)), Tuning], order=10)

    _named: ClassVar[dict[str, dict[str, type]]] = {"tuning": TUNINGS}


@parameter_group
class Vocabulary:
    """Which pieces of the vocabulary are kept.

    Parameters
    ----------
    vocabulary : {"full", "trim"}
        With "trim" only those pieces of the vocabulary are kept that the training texts use, and all single characters,
        from which other words are then composed: predictions for texts of the same words stay the same. For XL this
        frees up to 1.2 GB (on a GPU after loading), and `tuning="full"` trains no other pieces. A warm start keeps the
        original vocabulary.
    """

    vocabulary: str = parameter(default="full", valid=[StrOptions({"full", "trim"})], order=60)


@parameter_group
class MissingTexts:
    """What is done about missing texts.

    Parameters
    ----------
    missing : {"error", "empty"}
        What to do about missing texts (None, NaN, pd.NA, NaT): raise an error that names the row, or read them as empty
        texts. skrub's `TableVectorizer`, for one, turns empty texts into missing ones.
    """

    missing: str = parameter(default="error", valid=[StrOptions({"error", "empty"})], order=20)


@parameter_group
class SentenceVectors:
    """How a text, or a pair of texts, becomes the vector that the head takes.

    Parameters
    ----------
    pooling : {"auto", "mean", "cls", "max"}
        How the tokens of a text become one vector: their mean or maximum, or the first token. "auto" is what a
        directory of sentence-transformers says, with the modules after its pooling, which are not trained (Dense,
        LayerNorm, Normalize, `truncate_dim`), and without the tokens of the prompt if it excludes them
        (`include_prompt`); otherwise the mean. "cls" is the head of the reference, on the first token:
        `export_pretrained` then writes a model for transformers, otherwise one for sentence-transformers.
    prompt : str or None
        What is put before each text (of two that are read together, before the first); None is nothing. "auto" is what
        a directory of sentence-transformers says, and otherwise "query: " for the multilingual-e5 models, which were
        trained so (but for "-instruct").
    pairs : {"auto", "joint", "separate"}
        How two texts are read: together, so that the tokens of each see those of the other, or each by itself, with a
        head on both vectors u and v, abs(u - v) and u * v (arXiv:1705.02364). "auto" is "separate" for models that were
        trained to embed sentences, and "joint" for masked language models.
    """

    pooling: str = parameter(default="auto", valid=[StrOptions({"auto", "mean", "cls", "max"})], order=20)
    prompt: str | None = parameter(default="auto", valid=[str, None], order=20)
    pairs: str = parameter(default="auto", valid=[StrOptions({"auto", "joint", "separate"})], order=20)


# The values of these parameters with which transformers reads texts.
OF_REFERENCE: dict[str, Any] = {"pooling": "cls", "prompt": None, "pairs": "joint"}


@parameter_group
class Init:
    """Where the head starts from.

    Parameters
    ----------
    init : {"auto", "random", "probe"}
        "probe" starts the head from a linear model of the frozen model's features, so that fine-tuning does not begin
        by distorting them (arXiv:2202.10054): a logistic or ridge regression, whose penalty is chosen by
        cross-validation, or for the similarity of two texts a line along the cosine of their vectors. "auto" is
        "probe". The first call of `partial_fit` always starts from random weights, and a warm start from the earlier
        ones.
    """

    init: str = parameter(default="auto", valid=[StrOptions({"auto", "random", "probe"})], order=30)


@parameter_group
class FeatureMemory:
    """Where features of texts are kept.

    Parameters
    ----------
    memory : str, path, joblib.Memory or None
        A folder where the base's features of the texts are kept, for other processes (`n_jobs`) and later sessions;
        used if only the head is trained (`tuning="head"`), and by an `XLMRXLEmbedder` without an `objective`. Within a
        process they are cached anyway; see `skxlmr.set_feature_cache`.
    """

    memory: str | os.PathLike | joblib.Memory | None = parameter(
        default=None, valid=[None, str, os.PathLike, HasMethods("cache")], order=80
    )


@parameter_group
class ClassWeight:
    """Weights of classes.

    Parameters
    ----------
    class_weight : dict, "balanced" or None
        Weights of the classes, or of the tags, in the loss, as in scikit-learn; they are multiplied by `sample_weight`,
        with which "balanced" also counts the rows. With several labels per row a dict has weights of the labels'
        positives, those of negatives being 1, and with "balanced" the positives of a label count as much as its
        negatives.
    """

    class_weight: dict | str | None = parameter(default=None, valid=[dict, StrOptions({"balanced"}), None], order=40)


# The types of the fitted attributes that every training leaves.
OF_TRAINING: dict[str, Any] = {
    "history_": pd.DataFrame,
    "loss_curve_": list[float],
    "start_metrics_": dict[str, float] | None,
    "validation_scores_": list[float] | None,
    "best_validation_score_": float | None,
    "n_iter_": COUNT,
    "max_length_": POSITIVE,
}

# The types of what is known of the training rows, for model cards; earlier versions did not save it.
OF_ROWS: dict[str, Any] = {"_n_rows": POSITIVE, "_scripts": list[str]}


def of_training(outcome: Outcome, history: pd.DataFrame) -> dict[str, Any]:
    """Return what a training leaves; `history` is its own, or continues that of earlier ones."""
    return {
        "history_": history,
        "loss_curve_": history["loss"].tolist(),
        "start_metrics_": outcome.start_metrics,
        "validation_scores_": outcome.validation_scores,
        "best_validation_score_": outcome.best_score,
        "n_iter_": len(history),
        "_finetuned": outcome.finetuned,
    }


def of_no_training() -> dict[str, Any]:
    """Return the same where trained weights were loaded, and there was no training; without the weights."""
    numbers = dict.fromkeys(("loss", "learning_rate", "seconds"), np.empty(0))
    return {
        "history_": pd.DataFrame({"epoch": np.empty(0, np.int64), **numbers}),
        "loss_curve_": [],
        "start_metrics_": None,
        "validation_scores_": None,
        "best_validation_score_": None,
        "n_iter_": 0,
    }


HISTORY = """\
history_ : DataFrame
    One row per epoch: epoch, loss, learning_rate, seconds; validation_score and validation_loss if there are
    validation rows.
start_metrics_ : dict, or None
    Training loss of the linear model that training started from, on a sample of the rows; and its validation_score and
    validation_loss if there are validation rows. None if the head started from random weights.
validation_scores_ : list of float, or None
    Score on the validation rows after each epoch.
best_validation_score_ : float, or None
    The highest of them, that of the start included.
loss_curve_ : list of float
    Mean training loss of each epoch.
n_iter_ : int
    Number of epochs run.
max_length_ : int
    The number of tokens that `max_length=None` stands for.
n_features_in_ : int
    Number of columns of X: 1, or 2 for pairs; for multiple choice as many as it had. A model of transformers that
    `skxlmr.load` returns has none before `fit`.
feature_names_in_ : ndarray of shape (n_features,)
    Names of the columns, if X had any."""
