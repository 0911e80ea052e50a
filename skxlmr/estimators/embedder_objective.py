"""What an embedder learns if it has an `objective`."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any, Literal

from sklearn.utils._param_validation import Interval, StrOptions

from skxlmr.runtime.plan import Windows
from skxlmr.runtime.reading import Reading
from skxlmr.system.parameters import parameter, parameter_group
from skxlmr.tasks.similarity import SimilarityLearning
from skxlmr.tuning import Head, as_tuning

AT_LEAST_1 = Interval(Integral, 1, None, closed="left")
TRAINED_POOLINGS = ("mean", "cls", "max")


@parameter_group
class ObjectiveParameters:
    """What an embedder learns.

    Parameters
    ----------
    objective : {"classes", "pairs"} or None
        What `fit` learns; None leaves the model as it is and ignores y. With "classes", y has one label per row: texts
        of a class are pulled together, and away from the others of the batch, by the supervised contrastive loss
        (arXiv:2004.11362); with a classifier on the vectors this is the recipe of SetFit (arXiv:2209.11055). Two texts
        in a row are read together, as one. With "pairs", X has two columns of texts, which are read separately. Without
        y each row is a pair that belongs together, such as a question and its answer, and is told apart from those of
        the other rows of the batch (arXiv:1705.00652); with numbers in y the order of the cosines follows theirs, and
        their unit does not matter (the CoSENT loss).
    matryoshka_dims : sequence of int or None
        Also learn vectors that are truncated to each of these numbers of dimensions, such as (64, 128): the loss is
        the mean over them and the whole vector (arXiv:2205.13147).
    max_epochs : int or "auto"
        Passes over the rows. "auto" is 10 for few rows, and down to 3 for thousands.
    """

    objective: str | None = parameter(default=None, valid=[StrOptions({"classes", "pairs"}), None], order=12)
    matryoshka_dims: Sequence[int] | None = parameter(default=None, valid=["array-like", None], order=12)
    max_epochs: int | Literal["auto"] = parameter(default="auto", valid=[AT_LEAST_1, StrOptions({"auto"})], order=30)


def similarity_task(embedder: Any, reading: Reading, windows: Windows) -> SimilarityLearning | None:
    """Make the task of the objective, None without one; raises ValueError if other parameters do not go with it."""
    objective = embedder.objective
    if objective is None:
        if embedder.matryoshka_dims is not None:
            raise ValueError("matryoshka_dims needs an objective to train with, such as objective='classes'.")
        return None
    last = "is trained on the last layer; use "
    if reading.pooling not in TRAINED_POOLINGS or reading.layers:
        raise ValueError(f"objective={objective!r} {last}pooling='mean', 'cls' or 'max', or objective=None.")
    if embedder.layer != -1:
        raise ValueError(f"objective={objective!r} {last}layer=-1 (it is {embedder.layer}), or objective=None.")
    if isinstance(as_tuning(embedder.tuning), Head):
        raise ValueError(
            "tuning='head' trains nothing here, since vectors have no head. Use tuning='lora', 'bias' or 'full', "
            "or objective=None."
        )
    if embedder.scoring is not None:
        raise ValueError("scoring is of no use for vectors: their validation score is minus the loss. Leave it None.")
    return SimilarityLearning(
        windows,
        pooling=reading.pooling,
        goal=objective,
        prompt=reading.prompt,
        include_prompt=reading.include_prompt,
    )


def trained_dims(matryoshka_dims: Sequence[int] | None, width: int) -> tuple[int, ...]:
    """Return the numbers of dimensions of the vectors that are trained; the last one is `width`."""
    smaller = () if matryoshka_dims is None else tuple(matryoshka_dims)
    for n_dims in smaller:
        if not isinstance(n_dims, Integral) or not 1 <= n_dims <= width:
            raise ValueError(f"matryoshka_dims must be integers from 1 to {width}, got {n_dims!r}.")
    return tuple(sorted({*map(int, smaller), width}))
