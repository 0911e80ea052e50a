"""Masked language modelling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.utils import Tags
from sklearn.utils._param_validation import Interval
from torch import Tensor

from skxlmr.columns import TextColumn, as_objects, list_of_texts, name_row
from skxlmr.estimators.language_model import XLMRXLLanguageModel
from skxlmr.estimators.masks import MASK, OTHER_MASKS, filled, target_ids
from skxlmr.model.lm_head import LMHead, read_lm_head
from skxlmr.model.reference.logits_processors import only_real_tokens
from skxlmr.runtime.backbone import Backbone
from skxlmr.runtime.base_choice import load_base
from skxlmr.runtime.finetuned import Finetuned
from skxlmr.runtime.plan import PiecePlan, Windows, rows_of
from skxlmr.runtime.run import HostBatch, run
from skxlmr.system.integers import check_integer
from skxlmr.system.parameters import declare_parameters, parameter
from skxlmr.tasks.language_modeling import Masking
from skxlmr.tasks.tagging.sentences import plan_pieces
from skxlmr.text.batching import deduplicate
from skxlmr.text.offsets import SPACE
from skxlmr.tuning import Head

MASKS_AT_ONCE = 64  # each has a probability for every piece of the vocabulary: a megabyte for XL


@declare_parameters
class XLMRXLMaskedLM(XLMRXLLanguageModel):
    """Fill masks in texts, and continue the pretraining of XLM-RoBERTa-XL on your own texts.

    `fit` masks other words in each epoch and learns to predict them: whole words, in scripts without spaces single
    pieces. `export_pretrained` then writes a model that can be the `model` of every other estimator. Without `fit` the
    checkpoint is used as it is.

    Parameters
    ----------
    mlm_probability : float
        Share of the words that are to be predicted. The default is BERT's (arXiv:1810.04805), as is what happens to
        them: 80 % are masked, 10 % replaced by any other token, 10 % left as they are.

    Attributes
    ----------
    $history

    Examples
    --------
    >>> from skxlmr import XLMRXLMaskedLM
    >>> lm = XLMRXLMaskedLM("nano", max_epochs=1, random_state=0)
    >>> lm.fill_mask(["The film was very <mask>."], top_k=2).columns.tolist()
    ['row', 'mask', 'token', 'score', 'text']

    Adapt a model to your texts first, then train it for your task:

    >>> import tempfile
    >>> from skxlmr import XLMRXLClassifier
    >>> adapted = tempfile.mkdtemp()
    >>> lm.fit(["A lovely film.", "The plot is thin."]).export_pretrained(adapted)
    >>> clf = XLMRXLClassifier(adapted, max_epochs=1, random_state=0).fit(["lovely", "thin"], ["good", "bad"])
    """

    mlm_probability: float = parameter(default=0.15, valid=[Interval(Real, 0, 1, closed="right")], order=20)

    _language_model = "masked"

    def _new_task(self) -> Masking:
        windows = Windows(self.max_length, self.stride, self.truncation)
        return Masking(windows, self.mlm_probability, missing=self.missing)

    def _check_fitted_column(self, X: Any) -> TextColumn:
        return super()._check_fitted_column(X) if hasattr(self, "_finetuned") else self._check_column(X)

    def _ready(self) -> tuple[Backbone, Finetuned]:
        """Return what was trained, or before `fit` the checkpoint as it is."""
        if hasattr(self, "_finetuned"):
            return super()._ready()
        backbone = load_base(self)
        head = read_lm_head(backbone.files, backbone.model.config)
        if head is None:
            raise ValueError(
                f"{backbone.name!r} has no weights for predicting words (lm_head). Call fit to train some, or use a "
                f"checkpoint that has them, such as facebook/xlm-roberta-xl."
            )
        return backbone, Finetuned(Head(), backbone.model, head).eval().requires_grad_(False)

    def fill_mask(
        self, X: Any, top_k: int | None = None, *, targets: str | Sequence[str] | None = None
    ) -> pd.DataFrame:
        """Return the most probable pieces for each "<mask>", or the probabilities of some words.

        If a text has several masks, each is filled by itself, with the others left as masks.

        Parameters
        ----------
        X : text column of shape (n_samples,)
            Each text has at least one "<mask>".
        top_k : int, default=None
            Pieces for each mask; None is 5, or all `targets`.
        targets : str or list of str, default=None
            Words to compare. Each must be a single piece of the vocabulary. It is the piece that would stand in the
            place of the mask: after a space "good" is "▁good", which begins a word (the pipeline of transformers takes
            "good", the inside of a word, if there is this piece). If the vocabulary has only one of both, it is that;
            "▁good" is itself everywhere.

        Returns
        -------
        DataFrame
            One row per piece, the most probable first: row (its position in X), mask (its number in the text, from 0),
            token, score (its probability among all pieces), and text, with the token in place of this mask.

        Raises
        ------
        TypeError, ValueError
            If a text has no mask, or X is not a column of texts; the message names the row. If a target is not a single
            piece.
        """
        if top_k is not None:
            check_integer("top_k", top_k, 1)
        column = self._check_fitted_column(X)
        for row, text in enumerate(column.texts):
            if MASK not in text:
                where = name_row(row, X.index if isinstance(X, pd.Series | pd.DataFrame) else None)
                other = next((mask for mask in OTHER_MASKS if mask in text), None)
                remedy = "Write it where a word goes." if other is None else f"Write {MASK} in place of {other}."
                raise ValueError(f"X, {where}: there is no {MASK} in {text!r:.60}. {remedy}")
        first, text_of_row = deduplicate(column.texts)
        parts = [column.texts[i].split(MASK) for i in first]
        if targets is None:
            pieces, scores = self._likeliest(parts, 5 if top_k is None else top_k)
        else:
            pieces, scores = self._of_targets(parts, list_of_texts(targets, "targets", or_one=True), top_k)
        of_masks = zip(pieces, scores, strict=True)
        tables: list[list[tuple[int, str, float, str]]] = []  # of each distinct text
        for of_text in parts:
            n_masks = len(of_text) - 1
            tables.append([])
            for mask in range(n_masks):
                for piece, score in zip(*next(of_masks), strict=True):
                    text = filled(of_text, [piece if i == mask else None for i in range(n_masks)])
                    tables[-1].append((mask, piece.replace(SPACE, " ").strip(), score, text))
        found = [(row, *of_piece) for row, text in enumerate(text_of_row.tolist()) for of_piece in tables[text]]
        return pd.DataFrame(found, columns=["row", "mask", "token", "score", "text"])

    def predict(self, X: Any) -> np.ndarray:
        """Return the texts with the most probable piece in place of each "<mask>".

        Parameters
        ----------
        X : text column of shape (n_samples,)

        Returns
        -------
        ndarray of shape (n_samples,) of str
        """
        column = self._check_fitted_column(X)
        first, text_of_row = deduplicate(column.texts)
        parts = [column.texts[i].split(MASK) for i in first]
        best = (piece for (piece,) in self._likeliest(parts, top_k=1)[0])
        return as_objects([filled(of_text, [next(best) for _ in of_text[1:]]) for of_text in parts])[text_of_row]

    def _plan_masks(self, backbone: Backbone, parts: list[list[str]]) -> PiecePlan:
        """Plan windows over texts that are split at their masks; the positions are the masks."""
        tokenizer = backbone.tokenizer
        encoded = iter(tokenizer.encode_batch([part for of_text in parts for part in of_text]))
        mask, texts, masks = np.array([tokenizer.mask_token_id], np.int32), [], []
        for of_text in parts:
            pieces = [next(encoded) for _ in of_text]
            lengths = np.array([len(ids) for ids in pieces])
            texts.append(np.concatenate([ids for part in pieces for ids in (part, mask)][:-1]))
            masks.append(np.cumsum(lengths + 1)[:-1] - 1)
        max_length, stride = self._window(backbone)
        return plan_pieces(tokenizer, texts, masks, max_length=max_length, stride=stride)

    def pseudo_log_likelihood(self, X: Any) -> np.ndarray:
        """Return the pseudo-log-likelihood of each text: the sum of its pieces' log-probabilities, each masked alone.

        Salazar et al., "Masked Language Model Scoring" (arXiv:1910.14659). A text of n pieces is read n times.

        Parameters
        ----------
        X : text column of shape (n_samples,)

        Returns
        -------
        ndarray of shape (n_samples,), float64
            In nats; 0 for a text without pieces.
        """
        return self._sum_over_pieces(*self._log_probabilities(self._check_fitted_column(X)))

    def token_pseudo_log_likelihood(self, X: Any) -> pd.DataFrame:
        """Return the log-probability of each piece of each text, when it alone is masked.

        Parameters
        ----------
        X : text column of shape (n_samples,)

        Returns
        -------
        DataFrame
            One row per piece, in order: row (its position in X), token, start, end, log_probability, in nats.
            `X[row][start:end]` are the characters of the token; of a token that is only a space there are none. The sum
            over a text is its `pseudo_log_likelihood`.

        Examples
        --------
        >>> from skxlmr import XLMRXLMaskedLM
        >>> table = XLMRXLMaskedLM("nano").token_pseudo_log_likelihood(["A good film.", "Very good!"])
        >>> table[table.row == 1].token.tolist()
        ['Ver', 'y', 'good', '!']
        """
        column = self._check_fitted_column(X)
        return self._table_of_pieces(column, *self._log_probabilities(column))

    def _log_probabilities(self, column: TextColumn) -> tuple[np.ndarray, PiecePlan]:
        backbone, finetuned = self._ready()
        plan = self._plan_every_piece(backbone, column)
        return -self._losses_of_pieces(finetuned, backbone, plan), plan

    def _losses_of_pieces(self, finetuned: Finetuned, backbone: Backbone, plan: PiecePlan) -> np.ndarray:
        """Compute minus the log-probability of each of a plan's positions, masked alone."""
        window = np.repeat(np.arange(len(plan.windows)), plan.counts)
        if not len(window):
            return np.empty(0)
        position = np.concatenate(plan.positions)
        mask = backbone.tokenizer.mask_token_id

        def prepare(batch: np.ndarray) -> HostBatch:
            masked = [plan.windows[i].copy() for i in window[batch]]
            targets = [ids[at] for ids, at in zip(masked, position[batch], strict=True)]
            for ids, at in zip(masked, position[batch], strict=True):
                ids[at] = mask
            return finetuned.batch(backbone, masked, list(position[batch, None]), more=[np.array(targets, np.int64)])

        def compute(base: Backbone, batch: HostBatch) -> Tensor:
            here, on_device = on(base.model.device), batch.to(base.model.device)
            assert isinstance(here.head, LMHead)
            return here.head.losses(here.embed(base, on_device), here.words(base.model), on_device.more[0])[:, None]

        on, batch_tokens = finetuned.on_each_device(), backbone.batch_tokens(self.batch_tokens)
        lengths, computes = plan.lengths[window], backbone.on_each(compute)
        return run(computes, prepare, lengths, batch_tokens=batch_tokens, verbose=self.verbose)[:, 0]

    def _likeliest(self, parts: list[list[str]], top_k: int) -> tuple[list[list[str]], list[list[float]]]:
        """Return the most probable pieces at each mask of split texts, and their probabilities."""
        backbone, finetuned = self._ready()
        tokenizer = backbone.tokenizer
        top_k = min(top_k, len(tokenizer) - len(tokenizer.all_special_ids))

        plan = self._plan_masks(backbone, parts)
        special = np.tile(np.array(tokenizer.all_special_ids), (plan.counts.sum(), 1))  # the same at each mask

        def likeliest(probabilities: Tensor, special: Tensor) -> Tensor:
            highest, ids = probabilities.scatter_(1, special, -1.0).topk(top_k)  # special tokens are not pieces
            return torch.cat([ids.float(), highest], 1)  # ids are below 2 ** 24

        found = self._at_masks(backbone, finetuned, plan, special, likeliest)
        ids, probabilities = found[:, :top_k].astype(np.int64), found[:, top_k:]
        return [tokenizer.convert_ids_to_tokens(of_mask) for of_mask in ids], probabilities.tolist()

    def _of_targets(
        self, parts: list[list[str]], targets: Sequence[str], top_k: int | None
    ) -> tuple[list[list[str]], list[list[float]]]:
        """Return the target pieces at each mask of split texts, the most probable first, and their probabilities."""
        backbone, finetuned = self._ready()
        tokenizer = backbone.tokenizer
        ids = target_ids(tokenizer, parts, targets)  # (n_masks, n_targets)

        plan = self._plan_masks(backbone, parts)
        scores = self._at_masks(backbone, finetuned, plan, ids, lambda probabilities, ids: probabilities.gather(1, ids))
        order = np.argsort(-scores, axis=1, kind="stable")
        pieces, found = [], []
        for of_mask, of_targets, places in zip(ids, scores, order, strict=True):
            score_of_id = {int(of_mask[i]): float(of_targets[i]) for i in places}  # two targets may be one piece
            pieces.append(tokenizer.convert_ids_to_tokens(list(score_of_id)[:top_k]))
            found.append(list(score_of_id.values())[:top_k])
        return pieces, found

    def _at_masks(
        self,
        backbone: Backbone,
        finetuned: Finetuned,
        plan: PiecePlan,
        ids: np.ndarray,
        select: Callable[[Tensor, Tensor], Tensor],
    ) -> np.ndarray:
        """Return what `select` takes from the probabilities (n, V) of some masks and their rows of `ids`, (n, k).

        `ids` are (n_masks, k), int64; returns (n_masks, ...) float32.
        """
        on = finetuned.on_each_device()

        def prepare(batch: np.ndarray) -> HostBatch:
            windows, positions = [plan.windows[i] for i in batch], [plan.positions[i] for i in batch]
            return finetuned.batch(backbone, windows, positions, more=[ids[rows_of(batch, plan.counts)]])

        def compute(base: Backbone, batch: HostBatch) -> Tensor:
            here, on_device = on(base.model.device), batch.to(base.model.device)

            def selected(hidden: Tensor, of_masks: Tensor) -> Tensor:
                logits = here.head(hidden, here.words(base.model))
                return select(only_real_tokens(logits, len(base.tokenizer)).softmax(-1), of_masks)

            hidden = here.embed(base, on_device).split(MASKS_AT_ONCE)
            return torch.cat(list(map(selected, hidden, on_device.more[0].split(MASKS_AT_ONCE))))

        batch_tokens = backbone.batch_tokens(self.batch_tokens)
        return run(
            backbone.on_each(compute),
            prepare,
            plan.lengths,
            counts=plan.counts,
            batch_tokens=batch_tokens,
            verbose=self.verbose,
        )

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        return tags
