"""What a language model learns from: masked words, or each next token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from skxlmr.model import XLMRobertaXLTokenizer
from skxlmr.runtime.feature_cache import moment
from skxlmr.runtime.finetuned import Learned
from skxlmr.runtime.plan import WindowPlan
from skxlmr.runtime.run import run
from skxlmr.text.words import word_starts
from skxlmr.training.callbacks import Callback
from skxlmr.training.gradients import Losses
from skxlmr.training.rows import Rows

if TYPE_CHECKING:
    from skxlmr.runtime.backbone import Backbone
    from skxlmr.training.loop import Trainer

# Of the tokens to predict, the shares that are masked and that become any other; the rest stay as they are
# (Devlin et al., arXiv:1810.04805).
MASKED, REPLACED = 0.8, 0.1


@dataclass(frozen=True)
class Examples(WindowPlan):
    """Windows as the model is to read them; from the states at their positions it predicts targets.

    Attributes
    ----------
    targets : list of ndarray, int64
        Of each window, a token id for each of its positions.
    """

    targets: list[np.ndarray] | None = None


@dataclass(frozen=True)
class LanguageTask:
    """A task without y, as `skxlmr.tasks.base` has those with one: the texts say what is to be predicted.

    Attributes
    ----------
    n_outputs : None
        The head has as many as the base has words.
    repeats : bool
        Whether the examples are the same in each epoch.
    """

    n_outputs = None
    repeats = False

    @property
    def attributes(self) -> dict[str, Any]:
        return {}

    def strata(self, targets: np.ndarray) -> None:
        return None

    def examples(self, plan: WindowPlan, tokenizer: XLMRobertaXLTokenizer, random: np.random.RandomState) -> Examples:
        """Draw what is to be predicted in each window of a plan."""
        raise NotImplementedError


@dataclass(frozen=True)
class Masking(LanguageTask):
    """Predict words from all around them; other words in each epoch.

    All pieces of a word are predicted together (whole-word masking). Of each window at least one word is drawn.

    Attributes
    ----------
    probability : float
        Share of the words that are predicted.
    """

    probability: float

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
        return Examples(np.split(inputs, ends), plan.text_of_window, plan.text_of_row, positions, targets=targets)

    def _choose(
        self, ids: np.ndarray, window: np.ndarray, tokenizer: XLMRobertaXLTokenizer, random: np.random.RandomState
    ) -> np.ndarray:
        """The tokens to predict, (n_tokens,) bool."""
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


@dataclass(frozen=True)
class NextToken(LanguageTask):
    """Predict each token from those before it, and the end of the text."""

    repeats = True

    def examples(self, plan: WindowPlan, tokenizer: XLMRobertaXLTokenizer, random: np.random.RandomState) -> Examples:
        positions = [np.arange(len(window) - 1) for window in plan.windows]
        targets = [window[1:].astype(np.int64) for window in plan.windows]
        return Examples(plan.windows, plan.text_of_window, plan.text_of_row, positions, targets=targets)


def can_be_masked(ids: np.ndarray, tokenizer: XLMRobertaXLTokenizer) -> np.ndarray:
    """Whether a token is a piece of a text, be it one that is unknown; (n,) -> (n,) bool."""
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    return ~np.isin(ids, list(special))


def pack(rows: Rows, max_length: int) -> tuple[Rows, np.ndarray]:
    """Put neighbouring rows together that fill `max_length` tokens: packs, the rows of a training.

    So a step learns from about as many tokens whatever the lengths of the texts. Windows stay what they are: a text
    does not see the others of its pack.

    Returns
    -------
    packs : Rows
        They are called by the first and the last row that they hold.
    weights : ndarray of shape (n_windows,)
        Of each window in the packs' plan, that of its row.
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

    Parameters
    ----------
    task : LanguageTask
    plan : WindowPlan
    window_weights : ndarray of shape (n_windows,)
    tokenizer : XLMRobertaXLTokenizer

    Attributes
    ----------
    examples : Examples
    factors : ndarray of shape (n_windows,)
        What the sum of a window's losses is multiplied by, so that all of a step add up to their weighted mean.
    """

    def __init__(
        self, task: LanguageTask, plan: WindowPlan, window_weights: np.ndarray, tokenizer: XLMRobertaXLTokenizer
    ) -> None:
        self.task, self.plan, self.window_weights, self.tokenizer = task, plan, window_weights, tokenizer

    def on_epoch_begin(self, trainer: Trainer) -> None:
        random = np.random.RandomState([trainer.seed, trainer.epoch, 1])
        self.examples = self.task.examples(self.plan, self.tokenizer, random)
        of_row, counts = self.plan.text_of_window, self.examples.counts
        trainer.row_weights = np.bincount(of_row, self.window_weights * counts)
        # The trainer shares a row's weight among its windows.
        self.factors = self.window_weights * self.plan.windows_per_text[of_row] / trainer.row_weights[of_row]


def language_losses(learned: Learned, backbone: Backbone, drawing: Drawing) -> Losses:
    """Return the losses that a trainer minimises: the cross-entropy of the targets that are drawn."""
    base = backbone.model
    keep = moment() if drawing.task.repeats else None  # what is drawn anew is not worth remembering

    def losses(windows: np.ndarray, of_rows: np.ndarray, recompute: bool) -> Tensor:
        examples = drawing.examples
        each = _token_losses(learned, backbone, examples, windows, keep=keep, recompute=recompute)
        window = np.repeat(np.arange(len(windows)), examples.counts[windows])
        sums = each.new_zeros(len(windows)).index_add(0, torch.from_numpy(window).to(base.device), each)
        return sums * torch.from_numpy(drawing.factors[windows]).to(sums)

    return losses


def losses_of(
    learned: Learned, backbone: Backbone, examples: Examples, batch_tokens: int, verbose: int = 0
) -> np.ndarray:
    """Return the cross-entropy of each target, one window after the other; (n_targets,) float32, in nats."""
    learned.to(backbone.model.device)
    return run(
        lambda batch: _token_losses(learned, backbone, examples, batch)[:, None],
        examples.lengths,
        counts=examples.counts,
        batch_tokens=batch_tokens,
        verbose=verbose,
        description="score",
    )[:, 0]


def _token_losses(
    learned: Learned, backbone: Backbone, examples: Examples, windows: np.ndarray, **how: int | bool | None
) -> Tensor:
    """The cross-entropy of the targets in some windows, (n_targets,)."""
    inputs, positions = [examples.windows[i] for i in windows], [examples.positions[i] for i in windows]
    hidden = learned.embed(backbone, inputs, positions, **how)
    targets = torch.from_numpy(np.concatenate([examples.targets[i] for i in windows])).to(hidden.device)
    return learned.head.losses(hidden, learned.words(backbone.model), targets)
