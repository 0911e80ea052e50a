"""Text generation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.utils import check_random_state
from torch import Tensor

from skxlmr.columns import TextColumn, list_of_texts
from skxlmr.estimators.language_model import XLMRXLLanguageModel
from skxlmr.model import XLMRobertaXLTokenizer
from skxlmr.model.generation_config import OUTPUTS, GenerationConfig, read_generation_config
from skxlmr.model.reference.decoding import Past
from skxlmr.model.reference.generation import generate
from skxlmr.model.reference.generation_options import DEFAULT_NEW_TOKENS, GenerationOptions
from skxlmr.model.reference.logits_processors import only_real_tokens
from skxlmr.model.reference.outputs import ModelOutput
from skxlmr.model.transfer import upload
from skxlmr.runtime.backbone import Backbone
from skxlmr.runtime.finetuned import Finetuned
from skxlmr.runtime.plan import PiecePlan, Windows
from skxlmr.system.forks import gate
from skxlmr.system.integers import check_integer
from skxlmr.system.parameters import declare_parameters
from skxlmr.system.warn import warn
from skxlmr.tasks.language_modeling import Examples, NextToken, losses_of
from skxlmr.text.batching import deduplicate, token_batches
from skxlmr.text.offsets import SPACE
from skxlmr.text.words import stands_alone

LENGTHS_WITH_TEXT = ("max_length", "min_length")


@declare_parameters
class XLMRXLGenerator(XLMRXLLanguageModel):
    """Continue texts, by training XLM-RoBERTa-XL to predict each next token.

    Each token attends only to those before it. XLM-RoBERTa-XL was pretrained to attend in both directions, so `fit`
    needs many texts, and a tuning that trains most of the layers. Texts longer than `max_length` are learned in
    windows.

    Parameters
    ----------
    $parameters

    Attributes
    ----------
    $history

    Examples
    --------
    >>> from skxlmr import XLMRXLGenerator
    >>> texts = ["The sea is blue.", "The sky is blue."] * 4
    >>> writer = XLMRXLGenerator("nano", max_epochs=20, learning_rate=5e-3, random_state=0).fit(texts)
    >>> writer.generate(["The sea"], max_new_tokens=5).shape
    (1,)
    >>> writer.generate(["The sea"], max_new_tokens=5, num_beams=3, num_return_sequences=2).shape
    (1, 2)
    >>> writer.token_log_likelihood(["The sky"]).columns.tolist()
    ['row', 'token', 'start', 'end', 'log_probability']
    """

    _language_model = "causal"

    def _new_task(self) -> NextToken:
        return NextToken(Windows(self.max_length, self.stride, self.truncation), missing=self.missing)

    def predict(self, X: Any) -> np.ndarray:
        """Return one continuation of each text: `generate` with its defaults, by which it is the most probable.

        Parameters
        ----------
        X : text column of shape (n_samples,)

        Returns
        -------
        ndarray of shape (n_samples,) of str
        """
        return self.generate(X, num_return_sequences=1)

    def generate(
        self,
        X: Any,
        max_new_tokens: int | None = None,
        *,
        min_new_tokens: int | None = None,
        do_sample: bool | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        num_beams: int | None = None,
        length_penalty: float | None = None,
        early_stopping: bool | str | None = None,
        repetition_penalty: float | None = None,
        no_repeat_ngram_size: int | None = None,
        bad_words: Sequence[str] | None = None,
        stop_strings: str | Sequence[str] | None = None,
        num_return_sequences: int | None = None,
    ) -> np.ndarray:
        """Return a continuation of each text, or several.

        Of arguments that are None, the generation_config.json of the base model has the defaults, if there is one;
        where it says nothing, they are those named below.

        Parameters
        ----------
        X : text column of shape (n_samples,)
        max_new_tokens : int, default=None
            Maximum number of pieces in a continuation; it ends earlier if the model ends the text. None is 20.
        min_new_tokens : int, default=None
            Number of pieces below which the model may not end a text. None is 0.
        do_sample : bool, default=None
            Sample each piece by its probability (with `random_state`) instead of taking the most probable one. The
            samples of a text do not depend on the other texts; a text that X has several times has several. None is
            False.
        temperature : float, default=None
            Temperature of the sampling; values below 1 favour the probable pieces. None is 1.0.
        top_k : int, default=None
            Sample among this many of the most probable pieces; None or 0 is all.
        top_p : float, default=None
            Sample among the fewest most probable pieces whose probabilities sum to this (arXiv:1904.09751).
        min_p : float, default=None
            Sample among the pieces that are at least this times as probable as the most probable one.
        num_beams : int, default=None
            Above 1, search for the continuation that is most probable as a whole, by keeping so many in each step.
            None is 1.
        length_penalty : float, default=None
            With `num_beams`, the log-probability of a continuation is divided by its length to the power of this; above
            0 it favours long ones. None is 1.0.
        early_stopping : bool or "never", default=None
            With `num_beams`, whether to stop when so many continuations have ended; False and "never" go on while
            better ones are likely, or possible. None is False.
        repetition_penalty : float, default=None
            Above 1, pieces that a text has already are less probable (arXiv:1909.05858). None is 1.0.
        no_repeat_ngram_size : int, default=None
            Above 0, no run of so many pieces occurs in a text twice. None is 0.
        bad_words : list of str, default=None
            Words that are not generated, as the tokenizer spells them: "Film" does not exclude "film", but it excludes
            longer words that begin with the same pieces.
        stop_strings : str or list of str, default=None
            Texts that end a continuation, which has them, and the rest of the piece in which they end.
        num_return_sequences : int, default=None
            Continuations of each text: samples, or the best of `num_beams`, best first. None is 1.

        Returns
        -------
        ndarray of shape (n_samples,) of str, or (n_samples, num_return_sequences) if that is above 1
            Without the texts themselves: `X + generate(X)` is the whole.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        TypeError, ValueError
            If a parameter is not valid, or does nothing with the others.

        Warns
        -----
        UserWarning
            Once, with the count, if texts are too long to be read whole; then only their ends are read. If the
            generation_config.json has entries that would change the result in transformers, and are not supported, or
            a `max_length` or `min_length`, which count the texts.
        """
        if max_new_tokens is not None:
            check_integer("max_new_tokens", max_new_tokens, 1)
        column = self._check_fitted_column(X)
        backbone, finetuned = self._ready()
        defaults = _generation_defaults(backbone, finetuned)
        given = {
            "max_new_tokens": max_new_tokens, "min_new_tokens": min_new_tokens, "do_sample": do_sample,
            "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p,
            "num_beams": num_beams, "length_penalty": length_penalty, "early_stopping": early_stopping,
            "repetition_penalty": repetition_penalty, "no_repeat_ngram_size": no_repeat_ngram_size,
            "bad_words_ids": bad_words_ids(backbone.tokenizer, bad_words),
            "stop_strings": None if stop_strings is None else list_of_texts(stop_strings, "stop_strings", or_one=True),
            "num_return_sequences": num_return_sequences,
        }  # fmt: skip
        arguments = {"max_new_tokens": DEFAULT_NEW_TOKENS} | defaults.completed(given)
        options = GenerationOptions(**arguments, tokenizer=backbone.tokenizer)
        texts = self._continue(backbone, finetuned, column, options)
        return texts[:, 0] if options.num_return_sequences == 1 else texts

    def _continue(
        self, backbone: Backbone, finetuned: Finetuned, column: TextColumn, options: GenerationOptions
    ) -> np.ndarray:
        """Return the continuations of texts, (n_samples, num_return_sequences)."""

        def step(ids: Tensor, mask: Tensor, positions: Tensor, past: Past | None) -> tuple[Tensor, ModelOutput]:
            with gate.inside():
                hidden, past = finetuned.decode(backbone, ids, mask, positions, past)
                logits = finetuned.head(hidden[:, -1], finetuned.words(backbone.model))
                more = ModelOutput(last_hidden_state=hidden, past_key_values=past)
                return only_real_tokens(logits, len(backbone.tokenizer)), more

        assert options.max_new_tokens is not None
        prompts = self._prompts(backbone, column, options.max_new_tokens)
        n_each = options.num_return_sequences
        seeds = text_seeds(column.texts, check_random_state(self.random_state)) if options.do_sample else []
        # Equal texts have equal continuations, unless these are sampled.
        first, row_of_text = deduplicate(column.texts) if not seeds else (range(len(prompts)), np.arange(len(prompts)))
        lengths = np.array([len(prompts[i]) for i in first]) + options.max_new_tokens
        texts = np.empty((len(prompts), n_each), object)
        batch_tokens = backbone.batch_tokens(self.batch_tokens)
        for places in token_batches(lengths * options.rows_per_text, batch_tokens):
            batch = [first[place] for place in places]
            ids, mask = _padded_left([prompts[i] for i in batch], backbone)
            generators = [torch.Generator().manual_seed(seeds[i]) for i in batch] if seeds else None
            of_batch = replace(options, generator=generators)
            ids = generate(step, finetuned.decoder_config, ids, mask, of_batch).sequences.cpu()
            for k, new in enumerate(ids[:, mask.shape[1] :]):
                i = batch[k // n_each]
                pieces = backbone.tokenizer.convert_ids_to_tokens(new, True)
                texts[i, k % n_each] = _continuation(column.texts[i], pieces)
        return texts[np.asarray(first)[row_of_text]]

    def log_likelihood(self, X: Any) -> np.ndarray:
        """Return the log-likelihood of each text: the sum of the log-probabilities of its pieces, given those before.

        Parameters
        ----------
        X : text column of shape (n_samples,)

        Returns
        -------
        ndarray of shape (n_samples,), float64
            In nats; 0 for a text without pieces.
        """
        return self._sum_over_pieces(*self._log_probabilities(self._check_fitted_column(X)))

    def token_log_likelihood(self, X: Any) -> pd.DataFrame:
        """Return the log-probability of each piece of each text, given those before.

        Parameters
        ----------
        X : text column of shape (n_samples,)

        Returns
        -------
        DataFrame
            One row per piece, in order: row (its position in X), token, start, end, log_probability, in nats.
            `X[row][start:end]` are the characters of the token; of a token that is only a space there are none. The sum
            over a text is its `log_likelihood`.
        """
        column = self._check_fitted_column(X)
        return self._table_of_pieces(column, *self._log_probabilities(column))

    def _log_probabilities(self, column: TextColumn) -> tuple[np.ndarray, PiecePlan]:
        backbone, finetuned = self._ready()
        plan = self._plan_every_piece(backbone, column, causal=True)
        targets = [ids[at].astype(np.int64) for ids, at in zip(plan.windows, plan.positions, strict=True)]
        before = [at - 1 for at in plan.positions]
        examples = Examples(plan.windows, plan.text_of_window, plan.text_of_row, positions=before, targets=targets)
        losses = losses_of(finetuned, backbone, examples, backbone.batch_tokens(self.batch_tokens), self.verbose)
        return -losses, plan

    def _prompts(self, backbone: Backbone, column: TextColumn, max_new_tokens: int) -> list[np.ndarray]:
        """Return the ids of the texts after `<s>`; the end of those that are too long."""
        room = self._window(backbone)[0] - max_new_tokens
        if room < 1:
            raise ValueError(
                f"max_new_tokens={max_new_tokens} leaves no room for a text in max_length={room + max_new_tokens}: "
                f"lower it, or raise max_length."
            )
        encoded = backbone.tokenizer.encode_batch(column.texts)
        n_long = sum(len(ids) > room for ids in encoded)
        if n_long:
            warn(
                f"{n_long} of {len(encoded)} texts are too long to be continued whole: of these the last {room} pieces "
                f"are read. Lower max_new_tokens for more."
            )
        return [backbone.tokenizer.build_inputs(ids[-room:])[:-1] for ids in encoded]


def _generation_defaults(backbone: Backbone, finetuned: Finetuned) -> GenerationConfig:
    """Return what the base model's generation_config.json says about arguments of `generate`; warn of what is unused.

    It has no lengths that count the texts, and no outputs beside the texts.
    """
    found = read_generation_config(backbone.files, finetuned.config)
    not_supported = found.not_supported(LENGTHS_WITH_TEXT)
    if not_supported:
        warn(
            f"The generation_config of the base model has {not_supported}, which generate does not support: it is not "
            f"used. Lengths are set by max_new_tokens and min_new_tokens."
        )
    unused: dict[str, Any] = dict.fromkeys((*LENGTHS_WITH_TEXT, *OUTPUTS, "use_cache", "return_dict_in_generate"))
    return replace(found, **unused)


def _padded_left(rows: Sequence[np.ndarray], backbone: Backbone) -> tuple[Tensor, Tensor]:
    """Return the ids and the mask of a batch, (B, S) each, padded on the left."""
    width = max(map(len, rows))
    ids = np.full((len(rows), width), backbone.tokenizer.pad_token_id)
    mask = np.zeros((len(rows), width), np.int64)
    for i, row in enumerate(rows):
        ids[i, width - len(row) :], mask[i, width - len(row) :] = row, 1
    on_device = upload([ids, mask], backbone.model.device)
    return on_device[0], on_device[1]


def text_seeds(texts: Sequence[str], random: np.random.RandomState) -> list[int]:
    """Return a seed for each text, which depends on this text, and on how many equal ones there are before it."""
    seed, seen = random.randint(2**31 - 1), Counter[str]()
    seeds = []
    for text in texts:
        of_text = f"{seed} {seen[text]} {text}".encode("utf-8", "surrogatepass")
        seeds.append(int.from_bytes(blake2b(of_text, digest_size=7).digest(), "little"))
        seen[text] += 1
    return seeds


def _continuation(text: str, pieces: Sequence[str]) -> str:
    """Join pieces to what follows a text; without a space if the text ends with one."""
    follows = "".join(pieces).replace(SPACE, " ")
    return follows.removeprefix(" ") if not text or text[-1].isspace() else follows


def bad_words_ids(tokenizer: XLMRobertaXLTokenizer, words: Sequence[str] | None) -> list[list[int]] | None:
    """Return the pieces of words that are not to be generated: after a space, and where words need none, without."""
    if words is None:
        return None
    words, found = list_of_texts(words, "bad_words"), []
    for word, ids in zip(words, tokenizer.encode_batch(words), strict=True):
        pieces = tokenizer.convert_ids_to_tokens(ids)
        if not "".join(pieces).strip(SPACE):
            raise ValueError(f"bad_words: {word!r} has no word in it. Leave it out.")
        found.append(ids.tolist())
        if stands_alone("".join(pieces[:2])):
            unspaced = [piece for piece in (pieces[0].lstrip(SPACE), *pieces[1:]) if piece]
            found.append(tokenizer.convert_tokens_to_ids(unspaced))
    # What has no piece in the vocabulary is never generated.
    return [ids for ids in found if tokenizer.unk_token_id not in ids]
