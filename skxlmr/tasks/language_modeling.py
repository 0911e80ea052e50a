"""What a language model learns from: masked words, or each next token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from torch import Tensor
from typing_extensions import Self

from skxlmr.checkpoints.resolve import CheckpointFiles
from skxlmr.columns import TextColumn, check_one_text
from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLForCausalLM, XLMRobertaXLForMaskedLM, XLMRobertaXLTokenizer
from skxlmr.model.lm_head import LMHead, read_lm_head
from skxlmr.model.loading_report import warn_of_new_parts
from skxlmr.model.pretrained import PretrainedModel
from skxlmr.model.segments import segment_sum
from skxlmr.runtime.backbone import Backbone
from skxlmr.runtime.feature_cache import Keep
from skxlmr.runtime.finetuned import Finetuned
from skxlmr.runtime.plan import PiecePlan, WindowPlan
from skxlmr.runtime.run import Batch, HostBatch, run
from skxlmr.tasks.base import Task
from skxlmr.tasks.exports import Export
from skxlmr.text.words import word_starts
from skxlmr.training.callbacks import Callback
from skxlmr.training.gradients import Losses
from skxlmr.training.learnable import Objective
from skxlmr.training.loop import Trainer
from skxlmr.training.rows import Rows

# Of the tokens to predict, the shares that are masked and that become any other; the rest stay as they are
# (Devlin et al., arXiv:1810.04805).
MASKED, REPLACED = 0.8, 0.1


@dataclass(frozen=True, eq=False, kw_only=True)
class Examples(PiecePlan):
    """Windows as the model reads them; from the states at their positions it predicts `targets`, token ids."""

    targets: list[np.ndarray]


@dataclass(frozen=True, eq=False)
class LanguageModeling(Task[TextColumn]):
    """Base class of the tasks without y: the texts say what is to be predicted.

    The head is the checkpoint's own, and is trained, too; its decoder only where the word embedding is. `repeats` says
    whether the examples are the same in each epoch; `model_class` is the class of the reference in which it is
    exported. `missing` is "error" or "empty", see `skxlmr.columns.check_text_column`.
    """

    missing: str = field(default="error", kw_only=True)

    needs_y: ClassVar[bool] = False
    repeats: ClassVar[bool] = False
    model_class: ClassVar[type[PretrainedModel]] = XLMRobertaXLForMaskedLM

    def check_found(self, n_features: int | None) -> None:
        if n_features not in (1, None):
            raise ValueError(f"X had {n_features} columns, but one of texts is read")

    def examples(self, plan: WindowPlan, tokenizer: XLMRobertaXLTokenizer, random: np.random.RandomState) -> Examples:
        """Draw what is to be predicted in each window of a plan."""
        raise NotImplementedError

    def read(self, X: Any) -> TextColumn:
        return check_one_text(X, self.missing)

    def find(self, y: None, column: TextColumn, weights: np.ndarray) -> tuple[Self, np.ndarray]:
        return self, self.targets(y, column)

    def pretrained(self, config: XLMRobertaXLConfig) -> tuple[Self, None]:
        return self, None

    def targets(self, y: None, column: TextColumn, name: str = "y") -> np.ndarray:
        return np.zeros(len(column.texts))

    def rows(
        self, backbone: Backbone, column: TextColumn, targets: np.ndarray, sample_weight: np.ndarray | None = None
    ) -> Rows:
        """Tokenise rows, without those of weight zero, and those without a word."""
        rows = super().rows(backbone, column, targets, sample_weight)
        n_pieces = np.bincount(rows.plan.text_of_window, rows.plan.lengths - 2)  # beside <s> and </s>
        rows = rows.take(np.flatnonzero(n_pieces[rows.plan.text_of_row]))
        if not len(rows.numbers):
            raise ValueError(
                "X (or X_val) has no text with a word in it and a weight above 0: there is nothing to predict."
            )
        return rows

    def head(self, config: XLMRobertaXLConfig, files: CheckpointFiles | None = None) -> LMHead:
        head = LMHead(config)
        if files is not None:
            pretrained = read_lm_head(files, config)
            if pretrained is None:
                warn_of_new_parts(files.name, ["lm_head"])
            else:
                head.load_state_dict(pretrained.state_dict())
        return head

    def objective(
        self, finetuned: Finetuned, backbone: Backbone, rows: Rows, batch_tokens: int, memory: object, verbose: int
    ) -> Objective:
        packs, window_weights = self._pack(backbone, rows)
        drawing = Drawing(self, packs.plan, window_weights, backbone.tokenizer)
        return Objective(packs, language_losses(finetuned, backbone, drawing), [drawing])

    def evaluate(
        self,
        finetuned: Finetuned,
        backbone: Backbone,
        rows: Rows,
        batch_tokens: int,
        memory: object = None,
        keep: Keep | None = None,
        verbose: int = 0,
    ) -> dict[str, float]:
        """Return the mean loss, and minus it as the score; each call draws the same words to predict."""
        packs, window_weights = self._pack(backbone, rows)
        examples = self.examples(packs.plan, backbone.tokenizer, np.random.RandomState(0))
        losses = losses_of(finetuned, backbone, examples, batch_tokens, verbose)
        loss = float(np.average(losses, weights=np.repeat(window_weights, examples.counts)))
        return {"validation_score": -loss, "validation_loss": loss}

    def _pack(self, backbone: Backbone, rows: Rows) -> tuple[Rows, np.ndarray]:
        return pack(rows, self.windows.resolve(backbone)[0])

    @property
    def export(self) -> Export:
        return Export(self.model_class, lambda head: {"lm_head": head}, has_adapter=False)


@dataclass(frozen=True, eq=False)
class Masking(LanguageModeling):
    """Predict words from their context; other words in each epoch.

    All pieces of a word are predicted together (whole-word masking). `probability` is the share of words to predict; at
    least one word of each window is drawn.
    """

    probability: float = 0.15

    language_model: ClassVar[str] = "masked"

    def examples(self, plan: WindowPlan, tokenizer: XLMRobertaXLTokenizer, random: np.random.RandomState) -> Examples:
        ids = np.concatenate(plan.windows).astype(np.int64)
        window = np.repeat(np.arange(len(plan.windows)), plan.lengths)
        chosen = self._choose(ids, window, tokenizer, random)
        chance = random.random_sample(len(ids))
        inputs = np.where(chosen & (chance < MASKED), tokenizer.mask_token_id, ids)
        other = random.randint(tokenizer.unk_token_id + 1, tokenizer.mask_token_id, len(ids))  # no special token
        inputs = np.where(chosen & (chance >= 1 - REPLACED), other, inputs).astype(np.int32)
        ends = np.cumsum(plan.lengths)[:-1]
        positions = [np.flatnonzero(of_window) for of_window in np.split(chosen, ends)]
        targets = np.split(ids[chosen], np.cumsum(np.bincount(window[chosen], minlength=len(plan.windows)))[:-1])
        return Examples(
            np.split(inputs, ends), plan.text_of_window, plan.text_of_row, positions=positions, targets=targets
        )

    def _choose(
        self, ids: np.ndarray, window: np.ndarray, tokenizer: XLMRobertaXLTokenizer, random: np.random.RandomState
    ) -> np.ndarray:
        """Draw the tokens to predict, (n_tokens,) bool."""
        inside = can_be_masked(ids, tokenizer)
        after_special = np.concatenate([[True], ~inside[:-1]])
        starts = inside & (word_starts(tokenizer.vocabulary, ids) | after_special)
        window_of_word = window[starts]
        n_words = np.bincount(window_of_word, minlength=window[-1] + 1)
        n_chosen = np.floor(self.probability * n_words + random.random_sample(len(n_words)))  # right on average
        n_chosen = np.maximum(n_chosen, 1)
        order = np.lexsort((random.random_sample(len(window_of_word)), window_of_word))  # shuffled in each window
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order)) - np.repeat(np.cumsum(n_words) - n_words, n_words)
        word_is_chosen = rank < n_chosen[window_of_word]
        chosen = np.zeros(len(ids), bool)
        chosen[inside] = word_is_chosen[np.cumsum(starts)[inside] - 1]
        return chosen


@dataclass(frozen=True, eq=False)
class NextToken(LanguageModeling):
    """Predict each token from those before it, and the end of the text."""

    causal: ClassVar[bool] = True
    language_model: ClassVar[str] = "causal"
    repeats: ClassVar[bool] = True
    model_class: ClassVar[type[PretrainedModel]] = XLMRobertaXLForCausalLM

    def plan(self, backbone: Backbone, column: TextColumn) -> WindowPlan:
        """Tokenise into windows; `</s>` stays only where a text ends, not where a window or truncation cuts it."""
        plan = super().plan(backbone, column)
        is_cut = np.append(plan.text_of_window[1:] == plan.text_of_window[:-1], False)
        if self.windows.truncation:
            is_cut = plan.lengths == self.windows.resolve(backbone)[0]
        windows = [ids[:-1] if cut else ids for ids, cut in zip(plan.windows, is_cut, strict=True)]
        return replace(plan, windows=windows)

    def examples(self, plan: WindowPlan, tokenizer: XLMRobertaXLTokenizer, random: np.random.RandomState) -> Examples:
        positions = [np.arange(len(window) - 1) for window in plan.windows]
        targets = [window[1:].astype(np.int64) for window in plan.windows]
        return Examples(plan.windows, plan.text_of_window, plan.text_of_row, positions=positions, targets=targets)


def can_be_masked(ids: np.ndarray, tokenizer: XLMRobertaXLTokenizer) -> np.ndarray:
    """Whether each token is a piece of a text, an unknown one included; (n,) -> (n,) bool."""
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    return ~np.isin(ids, list(special))


def pack(rows: Rows, max_length: int) -> tuple[Rows, np.ndarray]:
    """Join neighbouring rows that together fill `max_length` tokens: packs, which are the rows of a training.

    So a step learns from about as many tokens whatever the lengths of the texts. Windows stay as they are: a text does
    not see the others of its pack. Packs are named by the first and the last row that they hold. Also returns the
    weight of each window, that of its row, (n_windows,).
    """
    windows, place = rows.plan.windows_of_rows(np.arange(len(rows.numbers)))
    lengths = rows.plan.lengths[windows]
    pack_of_window, pack_number, tokens = np.empty(len(windows), np.int64), 0, 0
    for i, length in enumerate(lengths):
        if tokens and tokens + length > max_length:
            pack_number, tokens = pack_number + 1, 0
        tokens += length
        pack_of_window[i] = pack_number
    n_packs = pack_number + 1
    numbers = rows.numbers[place]
    first = np.searchsorted(pack_of_window, np.arange(n_packs))
    last = np.searchsorted(pack_of_window, np.arange(n_packs), side="right") - 1
    names = [f"{a}" if a == b else f"{a}-{b}" for a, b in zip(numbers[first], numbers[last], strict=True)]
    plan = WindowPlan([rows.plan.windows[i] for i in windows], pack_of_window, np.arange(n_packs))
    return Rows(plan, np.zeros(n_packs), np.ones(n_packs), np.array(names, object)), rows.weights[place]


class Drawing(Callback):
    """Draw before each epoch what is to be predicted in it; a row of the training counts by how much that is.

    The sum of a window's losses is multiplied by its entry of `factors`, (n_windows,), so that all of a step add up to
    their weighted mean.
    """

    def __init__(
        self, task: LanguageModeling, plan: WindowPlan, window_weights: np.ndarray, tokenizer: XLMRobertaXLTokenizer
    ) -> None:
        self.task, self.plan, self.window_weights, self.tokenizer = task, plan, window_weights, tokenizer

    def on_epoch_begin(self, trainer: Trainer) -> None:
        random = np.random.RandomState([trainer.seed, trainer.epoch, 1])
        self.examples = self.task.examples(self.plan, self.tokenizer, random)
        of_row, counts = self.plan.text_of_window, self.examples.counts
        trainer.row_weights = np.bincount(of_row, self.window_weights * counts)
        # The trainer shares a row's weight among its windows.
        self.factors = self.window_weights * self.plan.windows_per_text[of_row] / trainer.row_weights[of_row]


def language_losses(finetuned: Finetuned, backbone: Backbone, drawing: Drawing) -> Losses:
    """Return the losses that a trainer minimises: the cross-entropy of the targets that are drawn."""
    keep = Keep() if drawing.task.repeats else None  # what is drawn anew is not worth caching

    def losses(windows: np.ndarray, of_rows: np.ndarray, recompute: bool) -> Tensor:
        examples = drawing.examples
        counts = examples.counts[windows]
        more = [np.cumsum(counts) - counts, drawing.factors[windows]]
        batch = _batch(finetuned, backbone, examples, windows, more).to(backbone.model.device)
        each = _token_losses(finetuned, backbone, batch, keep=keep, recompute=recompute)
        _, starts, factors = batch.more
        sums = segment_sum(each[:, None], starts)[:, 0]
        return sums * factors.to(sums)

    return losses


def losses_of(
    finetuned: Finetuned, backbone: Backbone, examples: Examples, batch_tokens: int, verbose: int = 0
) -> np.ndarray:
    """Return the cross-entropy of each target, one window after the other; (n_targets,) float32, in nats."""
    finetuned.to(backbone.model.device)
    on = finetuned.on_each_device()

    def compute(base: Backbone, batch: HostBatch) -> Tensor:
        device = base.model.device
        return _token_losses(on(device), base, batch.to(device))[:, None]

    return run(
        backbone.on_each(compute),
        lambda batch: _batch(finetuned, backbone, examples, batch),
        examples.lengths,
        counts=examples.counts,
        batch_tokens=batch_tokens,
        verbose=verbose,
        description="score",
    )[:, 0]


def _batch(
    finetuned: Finetuned, backbone: Backbone, examples: Examples, windows: np.ndarray, more: Sequence[np.ndarray] = ()
) -> HostBatch:
    """Prepare windows with their targets, which are the first of what is uploaded beside them."""
    inputs, positions = [examples.windows[i] for i in windows], [examples.positions[i] for i in windows]
    targets = np.concatenate([examples.targets[i] for i in windows])
    return finetuned.batch(backbone, inputs, positions, more=[targets, *more])


def _token_losses(
    finetuned: Finetuned, backbone: Backbone, batch: Batch, keep: Keep | None = None, recompute: bool = False
) -> Tensor:
    """Compute the cross-entropy of each target of a `_batch`, (n_targets,)."""
    hidden = finetuned.embed(backbone, batch, keep=keep, recompute=recompute)
    assert isinstance(finetuned.head, LMHead)
    return finetuned.head.losses(hidden, finetuned.words(backbone.model), batch.more[0])
