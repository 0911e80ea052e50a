"""The reading of texts as vectors: pooling, prompt, and how the texts of a pair come together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn
from typing_extensions import Self

from skxlmr.checkpoints.resolve import CheckpointFiles
from skxlmr.checkpoints.sentence_modules import Layer
from skxlmr.columns import TextColumn, check_text_column
from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLForSequenceClassification
from skxlmr.model.heads import ClassificationHead, PairHead, PooledHead
from skxlmr.model.sentence_layers import SentenceLayers, check_layers
from skxlmr.runtime.backbone import Backbone
from skxlmr.runtime.features import POOLING
from skxlmr.runtime.plan import WindowPlan, plan_pairs, plan_texts
from skxlmr.runtime.sentence_settings import SentenceSettings
from skxlmr.system.schema import one_of
from skxlmr.tasks.base import Task
from skxlmr.tasks.exports import Export, Serving


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
    layers : tuple of Layer
        The checkpoint's own modules between the pooling and the head, which are not trained; another part of "auto".
    include_prompt : bool
        Whether the pooling takes the tokens of the prompt; another part of "auto".
    missing : {"error", "empty"}
        Whether missing texts are an error, or empty texts.
    """

    pooling: str = "auto"
    prompt: str | None = "auto"
    pairs: str | None = "auto"
    normalize: bool = False
    layers: tuple[Layer, ...] = ()
    include_prompt: bool = True
    missing: str = "error"

    found: ClassVar[dict[str, str]] = {
        "pooling_": "pooling",
        "prompt_": "prompt",
        "pairs_": "pairs",
        "_normalize": "normalize",
    }
    found_lately: ClassVar[dict[str, str]] = {"_layers": "layers", "_include_prompt": "include_prompt"}

    found_types: ClassVar[dict[str, Any]] = {
        "pooling_": POOLING,
        "prompt_": str,
        "pairs_": one_of("joint", "separate") | None,
        "_normalize": bool,
        "_layers": tuple[Any, ...],
        "_include_prompt": bool,
    }

    def check_found(self, n_features: int | None) -> None:
        check_layers(self.layers)
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
        is_own = self.pooling == "auto"
        pooling = settings.pooling if is_own else self.pooling
        pairs = None if column.pairs is None else self.pairs
        if pairs == "auto":
            pairs = "separate" if settings.is_sentence_model else "joint"
        layers = settings.layers if is_own else ()
        if is_own and settings.truncate_dim is not None:
            layers = (*layers, {"kind": "Truncate", "width": settings.truncate_dim})
        prompt = settings.prompt if self.prompt == "auto" else self.prompt or ""
        return replace(
            super().read_as(settings, column),
            pooling=pooling,
            prompt=prompt,
            pairs=pairs,
            normalize=settings.normalize and (is_own or pooling != "cls"),
            layers=layers,
            include_prompt=settings.include_prompt or not is_own or not prompt,
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
        names = (*given, "normalize", "layers", "include_prompt")
        return replace(self, **{name: getattr(earlier, name) for name in names})

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

    def of_vectors(self, settings: SentenceSettings) -> Self:
        """Return this task as a head on the vectors of a model, by its settings, reads texts; two are read together.

        Raises
        ------
        ValueError
            If a parameter says something else.
        """
        for name, now, theirs in (("pooling", self.pooling, settings.pooling), ("pairs", self.pairs, "joint")):
            if now not in ("auto", theirs):
                raise ValueError(f"its head is for {name}={theirs!r}, and cannot be used with {name}={now!r}.")
        return replace(
            self,
            pooling=settings.pooling,
            pairs="joint",
            prompt=settings.prompt if self.prompt == "auto" else self.prompt or "",
            normalize=settings.normalize,
            layers=settings.layers,
            include_prompt=settings.include_prompt,
        )

    def pretrained(self, config: XLMRobertaXLConfig) -> tuple[Self, np.ndarray | None]:
        return self.of_reference().of_outputs(config, None)

    def of_outputs(self, config: XLMRobertaXLConfig, classes: list[Any] | None) -> tuple[Self, np.ndarray | None]:
        """Return this task with what the outputs of a trained head are, and their order; see `pretrained`.

        Parameters
        ----------
        config : XLMRobertaXLConfig
        classes : list or None
            The labels of the outputs, of their own types; None for those of the config, which are texts.
        """
        raise NotImplementedError

    def prompted(self, column: TextColumn) -> TextColumn:
        if not self.prompt:
            return column
        texts, pairs = [self.prompt + text for text in column.texts], column.pairs
        if self.pairs == "separate" and pairs is not None:
            pairs = [self.prompt + text for text in pairs]
        return replace(column, texts=texts, pairs=pairs)

    @property
    def prompts_alone(self) -> tuple[str, ...]:
        return () if self.include_prompt or not self.prompt else (self.prompt,)

    def plan(self, backbone: Backbone, column: TextColumn) -> WindowPlan:
        plan = plan_pairs if self.pairs == "separate" else plan_texts
        left_out = "" if self.include_prompt else self.prompt or ""
        return plan(backbone, self.prompted(column), self.windows, left_out)

    @property
    def has_head_of_reference(self) -> bool:
        """Whether the head is that of the reference, on the first token, and not one on the vectors of texts."""
        return self.pooling == "cls" and not self.normalize and not self.layers and self.include_prompt

    def head(self, config: XLMRobertaXLConfig, files: CheckpointFiles | None = None) -> nn.Module:
        """Make a linear head on the vectors, or with plain "cls" pooling that of the reference."""
        layers = SentenceLayers(self.layers, config.hidden_size * len(self.pooling.split("+")))
        if self.pairs == "separate":
            return PairHead(config, self.n_outputs, True, layers)
        if self.has_head_of_reference:
            return ClassificationHead(config, self.n_outputs)
        return PooledHead(config, self.n_outputs, self.normalize, layers)

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
        if self.has_head_of_reference:
            return Export(
                XLMRobertaXLForSequenceClassification,
                lambda head: {"classifier": head},
                self.export_config,
                "SEQ_CLS",
                prompt=self.prompt or "",
            )
        return Export(
            None,
            lambda head: {},
            self.export_config,
            has_adapter=False,
            prompt=self.prompt or "",
            include_prompt=self.include_prompt,
        )

    def served(self, kind: str, output: str, finish: Callable[[Tensor], Tensor], entries: dict[str, Any]) -> Serving:
        """Return what a graph for serving computes, with how this task reads texts."""
        return Serving(kind, output, finish, entries, self.pooling, self.prompt or "", self.include_prompt, self.pairs)
