"""The reading of texts as vectors: pooling, prompt, and how the texts of a pair come together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import nn
from typing_extensions import Self

from skxlmr.checkpoints.resolve import CheckpointFiles
from skxlmr.columns import TextColumn, check_text_column
from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLForSequenceClassification
from skxlmr.model.heads import ClassificationHead, PairHead, PooledHead
from skxlmr.runtime.backbone import Backbone
from skxlmr.runtime.features import POOLINGS
from skxlmr.runtime.plan import WindowPlan, plan_pairs, plan_texts
from skxlmr.runtime.sentence_settings import SentenceSettings
from skxlmr.system.schema import one_of
from skxlmr.tasks.base import Export, Task


@dataclass(frozen=True, eq=False, kw_only=True)
class PooledTask(Task[TextColumn]):
    """Base class of the tasks with one output vector per text, or per pair of texts.

    Attributes
    ----------
    pooling : {"auto", "mean", "cls", "max"}
    prompt : str or None
    pairs : {"auto", "joint", "separate"} or None
        None if each row has one text; with "joint" it may have one or two.
    normalize : bool
        Whether vectors are scaled to the same length; part of what "auto" stands for.
    missing : {"error", "empty"}
        Whether missing texts are an error, or empty texts.
    """

    pooling: str = "auto"
    prompt: str | None = "auto"
    pairs: str | None = "auto"
    normalize: bool = False
    missing: str = "error"

    found: ClassVar[dict[str, str]] = {
        "pooling_": "pooling",
        "prompt_": "prompt",
        "pairs_": "pairs",
        "_normalize": "normalize",
    }

    found_types: ClassVar[dict[str, Any]] = {
        "pooling_": one_of(*POOLINGS),
        "prompt_": str,
        "pairs_": one_of("joint", "separate") | None,
        "_normalize": bool,
    }

    def check_found(self, n_features: int | None) -> None:
        possible = {None: (1,), "joint": (1, 2, None), "separate": (2,)}
        if n_features not in possible[self.pairs]:
            raise ValueError(f"it has pairs_={self.pairs!r}, but n_features_in_={n_features}")

    @property
    def n_outputs(self) -> int:
        """Number of outputs of the head."""
        raise NotImplementedError

    def read(self, X: Any) -> TextColumn:
        return check_text_column(X, missing=self.missing)

    def read_as(self, settings: SentenceSettings, column: TextColumn) -> Self:
        """Replace "auto" by what the files of the model say, and by what suits the column."""
        pooling = settings.pooling if self.pooling == "auto" else self.pooling
        pairs = None if column.pairs is None else self.pairs
        if pairs == "auto":
            pairs = "separate" if settings.is_sentence_model else "joint"
        return replace(
            self,
            pooling=pooling,
            prompt=settings.prompt if self.prompt == "auto" else self.prompt or "",
            pairs=pairs,
            normalize=settings.normalize and (self.pooling == "auto" or pooling != "cls"),
        )

    def read_as_before(self, earlier: Self) -> Self:
        """Replace "auto" by what it stood for in an earlier fit.

        Raises
        ------
        ValueError
            If the earlier fit read texts in another way.
        """
        given = {"pooling": self.pooling, "prompt": self.prompt or "", "pairs": earlier.pairs and self.pairs}
        for name, now in given.items():
            before = getattr(earlier, name)
            if now not in ("auto", before):
                raise ValueError(
                    f"The earlier fit read texts with {name}={before!r}, now it is {now!r}: training can continue with "
                    f"the same only."
                )
        return replace(self, **{name: getattr(earlier, name) for name in (*given, "normalize")})

    def continued(self, earlier: Self) -> Self:
        return super(PooledTask, self.read_as_before(earlier)).continued(earlier)

    def of_reference(self) -> Self:
        """Return this task as the reference reads texts: a head on the first token, two texts read together.

        Raises
        ------
        ValueError
            If a parameter says something else.
        """
        for name, now, theirs in (("pooling", self.pooling, "cls"), ("pairs", self.pairs, "joint")):
            if now != theirs:
                raise ValueError(f"its head is for {name}={theirs!r}, and cannot be used with {name}={now!r}.")
        if self.prompt == "auto":
            raise ValueError("its files do not say what is put before texts. Set prompt to a text, or to None.")
        return replace(self, prompt=self.prompt or "")

    def prompted(self, column: TextColumn) -> TextColumn:
        if not self.prompt:
            return column
        texts, pairs = [self.prompt + text for text in column.texts], column.pairs
        if self.pairs == "separate" and pairs is not None:
            pairs = [self.prompt + text for text in pairs]
        return replace(column, texts=texts, pairs=pairs)

    def plan(self, backbone: Backbone, column: TextColumn) -> WindowPlan:
        plan = plan_pairs if self.pairs == "separate" else plan_texts
        return plan(backbone, self.prompted(column), self.windows)

    def head(self, config: XLMRobertaXLConfig, files: CheckpointFiles | None = None) -> nn.Module:
        """Make a linear head on the vectors, or with plain "cls" pooling that of the reference."""
        if self.pairs == "separate":
            return PairHead(config, self.n_outputs, normalize=True)
        if self.pooling == "cls" and not self.normalize:
            return ClassificationHead(config, self.n_outputs)
        return PooledHead(config, self.n_outputs, self.normalize)

    @property
    def export_config(self) -> dict[str, Any]:
        """Entries of the config of an exported model."""
        raise NotImplementedError

    @property
    def export(self) -> Export:
        """Return the export of the reference's head, or of a linear head for sentence-transformers.

        Raises
        ------
        NotImplementedError
            If the two texts of a pair are read separately.
        """
        if self.pairs == "separate":
            raise NotImplementedError(
                "Neither transformers nor sentence-transformers has a class for pairs that are read separately. Fit "
                "with pairs='joint' to export, or use save."
            )
        if self.pooling == "cls" and not self.normalize:
            return Export(
                XLMRobertaXLForSequenceClassification,
                lambda head: {"classifier": head},
                self.export_config,
                "SEQ_CLS",
                prompt=self.prompt or "",
            )
        return Export(None, lambda head: {}, self.export_config, has_adapter=False, prompt=self.prompt or "")
