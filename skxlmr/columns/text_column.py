"""A column of texts: one text for each row, or two that are read together."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from skxlmr.columns.rows import lengths

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True, eq=False)
class TextColumn:
    """One or two columns of texts, as plain strings, in the caller's order.

    `pairs` is the second column, if there are two; `feature_names` are the names of the columns, if X is a frame whose
    columns have names.
    """

    texts: list[Any]
    pairs: list[str] | None
    feature_names: np.ndarray | None
    n_features: int

    @property
    def keys(self) -> Sequence[Hashable]:
        """A key per row; rows with equal keys have equal content."""
        return self.texts if self.pairs is None else list(zip(self.texts, self.pairs, strict=True))

    @property
    def strings(self) -> list[str]:
        """All strings of the column, in no particular order, with repetitions."""
        return [*self.texts, *(self.pairs or ())]

    @property
    def sizes(self) -> np.ndarray:
        """Number of characters in each row, (n_rows,)."""
        in_texts = lengths(self.texts)
        return in_texts if self.pairs is None else in_texts + lengths(self.pairs)

    def take(self, rows: Sequence[int] | np.ndarray) -> Self:
        """Select rows."""
        taken: dict[str, Any] = {
            name: [values[i] for i in rows] for name, values in vars(self).items() if isinstance(values, list)
        }
        return replace(self, **taken)
