"""Calls of the tokenizer: texts to rows of ids for the model, and rows that are filled to one length."""

from __future__ import annotations

from typing import Any

from skxlmr.checkpoints.tokenizer_settings import TokenizerSettings
from skxlmr.system.warn import warn
from skxlmr.text.batch_encoding import BatchEncoding
from skxlmr.text.call_options import PADDINGS, TENSORS, CallOptions, check_padding, chosen
from skxlmr.text.padding import Features, Padding, pad_rows
from skxlmr.text.piece_encoder import PieceEncoder
from skxlmr.text.rows import Row, RowEncodings, plan_rows
from skxlmr.text.samples import Texts, check_texts, read_samples
from skxlmr.text.segments import SpecialTokens
from skxlmr.text.vocabulary import PAD


class Calls:
    """Calls of a tokenizer with some settings. The tokenizer exposes these methods as its own."""

    def __init__(self, piece_encoder: PieceEncoder, settings: TokenizerSettings) -> None:
        self.piece_encoder, self.settings = piece_encoder, settings

    def __call__(
        self,
        text: Texts | None = None,
        text_pair: Texts | None = None,
        *,
        text_target: Texts | None = None,
        text_pair_target: Texts | None = None,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        split_special_tokens: bool | None = None,
        verbose: bool = True,
    ) -> BatchEncoding:
        """Encode a text, a pair, or a list of either for the model.

        ``<s>``, ``<pad>``, ``</s>``, ``<unk>`` and ``<mask>`` in a text are read as the special tokens.

        Parameters
        ----------
        text, text_pair : str or list of str
            The texts, or the first and second texts of pairs. `text` alone may be a list of pairs ``(first, second)``.
            With `is_split_into_words`, a list of words in the place of each string.
        text_target, text_pair_target : str or list of str, optional
            Texts that a model is to generate, encoded with the same options: their ids become `labels`, or without
            `text` the result.
        add_special_tokens : bool, default=True
            Add ``<s>`` and ``</s>``.
        padding : bool or {"longest", "max_length", "do_not_pad"}, default=False
            Fill rows at `padding_side` with ``<pad>``, up to the longest row (also True) or up to `max_length`.
        truncation : bool or {"longest_first", "only_first", "only_second", "do_not_truncate"}, optional
            Cut rows longer than `max_length` at `truncation_side`, and of a pair this text; True is "longest_first".
            None is True if `max_length` is given and `padding` is False, otherwise False.
        max_length : int, optional
            Number of ids, special tokens included, for `truncation` and `padding`; by default `model_max_length`.
        stride : int, default=0
            Number of pieces that windows share, with `return_overflowing_tokens`.
        is_split_into_words : bool, default=False
            Whether texts are lists of words; `BatchEncoding.word_ids` then tells the word of each token.
        pad_to_multiple_of : int, optional
            Round the length of padded rows up to a multiple of this number.
        padding_side : {"left", "right"}, optional
            Where `padding` fills rows: "left" for `generate`. None is the attribute of the tokenizer.
        return_tensors : {"pt", "np"}, optional
            Return int64 torch tensors or NumPy arrays, with one row for a single text, instead of lists.
        return_token_type_ids : bool, optional
            Add `token_type_ids`, which are 0 everywhere. None: if `model_input_names` has them.
        return_attention_mask : bool, optional
            Add `attention_mask`: 1 for ids, 0 for padding. None: if `model_input_names` has it.
        return_overflowing_tokens : bool, default=False
            Return all windows (see `windows`) of a text that `truncation` would cut, each as a row, and add
            `overflow_to_sample_mapping`, the index of the text that each row belongs to. If both texts of a pair are
            windowed, transformers combines each window of one with each of the other, this tokenizer those at the same
            relative position.
        return_special_tokens_mask : bool, default=False
            Add `special_tokens_mask`: 1 for ``<s>`` and ``</s>`` that the call adds, and padding, otherwise 0.
        return_offsets_mapping : bool, default=False
            Add `offset_mapping`: ``start, stop`` of each id as from `encode_with_offsets`, but with the white space
            that added tokens take; (0, 0) for ``<s>``, ``</s>`` and padding. With `is_split_into_words` they are
            positions in the word.
        return_length : bool, default=False
            Add `length`, the number of ids of each row, padding included.
        split_special_tokens : bool, optional
            Read the names of special tokens as ordinary text, also "<mask>" and "</s>", which transformers does not,
            since they are pieces of its vocabulary. None is the attribute of the tokenizer.
        verbose : bool, default=True
            Warn if a row is longer than `model_max_length` and neither `truncation` nor `max_length` is given.

        Returns
        -------
        BatchEncoding
            `input_ids` and whatever else was requested. Lists are nested unless `text` is a single text or pair and
            `return_overflowing_tokens` is False; `length` always is a list.

        Raises
        ------
        TypeError
            If a text is not a string, or not a list of strings with `is_split_into_words`.
        ValueError
            If an option is unknown or would have no effect, or rows of unequal length would become one tensor.

        Warns
        -----
        UserWarning
            If a row is longer than the model reads, see `verbose`.
        """
        options = CallOptions(
            add_special_tokens=add_special_tokens, padding=padding, truncation=truncation, max_length=max_length,
            stride=stride, is_split_into_words=is_split_into_words, pad_to_multiple_of=pad_to_multiple_of,
            padding_side=padding_side, return_tensors=return_tensors, return_token_type_ids=return_token_type_ids,
            return_attention_mask=return_attention_mask, return_overflowing_tokens=return_overflowing_tokens,
            return_special_tokens_mask=return_special_tokens_mask, return_offsets_mapping=return_offsets_mapping,
            return_length=return_length, split_special_tokens=split_special_tokens, verbose=verbose,
        )  # fmt: skip
        if text_target is None:
            return self._encoded(text, text_pair, options)
        target = self._encoded(text_target, text_pair_target, options)
        if text is None:
            return target
        encoding = self._encoded(text, text_pair, options)
        encoding["labels"] = target["input_ids"]
        return encoding

    def _encoded(self, text: Any, text_pair: Any, options: CallOptions) -> BatchEncoding:
        """Encode a text, a pair, or a list of either."""
        samples = read_samples(text, text_pair, options.is_split_into_words)
        if options.only == "second" and len(samples.columns) == 1:
            raise ValueError("truncation='only_second' needs pairs: give text_pair, or use truncation=True")
        splits = options.split_special_tokens
        splits = self.settings.split_special_tokens if splits is None else splits
        special_tokens: SpecialTokens = "none" if splits else "all"
        limit, add = options.limit(self.settings.model_max_length), options.add_special_tokens
        planned = plan_rows(
            self.piece_encoder, samples, options, limit=limit, truncation_side=self.settings.truncation_side,
            special_tokens=special_tokens, with_offsets=options.return_offsets_mapping,
        )  # fmt: skip
        rows = list(planned)
        side = options.padding_side or self.settings.padding_side
        result = self._values(rows, options)
        _pad(result, options.padding, Padding(limit, side, options.pad_to_multiple_of or 1))
        lengths = [len(row) for row in result["input_ids"]]
        if options.return_length:
            result["length"] = lengths
        if options.return_overflowing_tokens:
            result["overflow_to_sample_mapping"] = [row.sample for row in rows]
        segmenter = self.piece_encoder.segmenter
        encodings = RowEncodings(segmenter, samples, special_tokens, add, rows, lengths, side)
        if samples.is_batch or options.return_overflowing_tokens or options.return_tensors is not None:
            return BatchEncoding(result, encodings, options.return_tensors)
        single = {name: values[0] if isinstance(values[0], list) else values for name, values in result.items()}
        return BatchEncoding(single, encodings)

    def _values(self, rows: list[Row], options: CallOptions) -> dict[str, list]:
        """Return the values of rows that a call requests, before they are padded."""
        add = options.add_special_tokens
        result: dict[str, list] = {"input_ids": [row.ids(add) for row in rows]}
        if options.verbose and options.only is None and options.max_length is None:
            self._warn_of_long_rows(result["input_ids"])
        if self._wants("token_type_ids", options.return_token_type_ids):
            result["token_type_ids"] = [[0] * len(row) for row in result["input_ids"]]
        if self._wants("attention_mask", options.return_attention_mask):
            result["attention_mask"] = [[1] * len(row) for row in result["input_ids"]]
        if options.return_special_tokens_mask:
            result["special_tokens_mask"] = [row.is_special(add) for row in rows]
        if options.return_offsets_mapping:
            result["offset_mapping"] = [row.offsets(add) for row in rows]
        return result

    def encode(self, text: Texts, text_pair: Texts | None = None, **options: Any) -> Any:
        """Encode a text or a pair, and return only the ids.

        Parameters
        ----------
        text, text_pair : str, or list of str with `is_split_into_words`
            The text, or the first and the second text of a pair.
        **options
            Those of the call of the tokenizer: `add_special_tokens`, `truncation`, `max_length`, `padding`,
            `return_tensors` and so on.

        Returns
        -------
        list of int, or tensor of shape (1, n_ids)
            The ids, as a tensor with `return_tensors`.

        Examples
        --------
        >>> from skxlmr.model import XLMRobertaXLTokenizer
        >>> tokenizer = XLMRobertaXLTokenizer.from_pretrained("nano")
        >>> tokenizer.decode(tokenizer.encode("a good day"))
        '<s> a good day</s>'
        """
        return self.__call__(text, text_pair, **options)["input_ids"]

    def pad(
        self,
        encoded_inputs: Any,
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
    ) -> BatchEncoding:
        """Fill encoded texts to one length, as data collators do.

        Parameters
        ----------
        encoded_inputs : BatchEncoding, dict, or list of either
            One or several encoded texts, in which `input_ids` are lists, arrays or tensors. `attention_mask`,
            `token_type_ids`, `special_tokens_mask` and `offset_mapping` are filled, too; other values are kept.
        padding : bool or {"longest", "max_length", "do_not_pad"}, default=True
            Fill rows up to the longest (also True) or up to `max_length`.
        max_length : int, optional
            Length for "max_length"; by default `model_max_length`. Longer rows are not cut.
        pad_to_multiple_of : int, optional
            Round the length up to a multiple of this number.
        padding_side : {"left", "right"}, optional
            Where rows are filled. None is the attribute of the tokenizer.
        return_attention_mask : bool, optional
            Whether the result has `attention_mask`, which is made if the texts have none. None: if
            `model_input_names` has it.
        return_tensors : {"pt", "np"}, optional
            Return tensors or arrays; None keeps what `input_ids` are.

        Returns
        -------
        BatchEncoding
            A new one; the inputs do not change.

        Raises
        ------
        TypeError
            If `encoded_inputs` are not encoded texts.
        ValueError
            If an option is unknown or would have no effect, a row lacks what others have, or values of unequal length
            that are not filled, such as labels of tokens, would become one tensor.

        Examples
        --------
        >>> from skxlmr.model import XLMRobertaXLTokenizer
        >>> tokenizer = XLMRobertaXLTokenizer.from_pretrained("nano")
        >>> rows = [tokenizer("good"), tokenizer("a good day")]
        >>> tokenizer.pad(rows, return_tensors="np").attention_mask
        array([[1, 1, 1, 0, 0, 0],
               [1, 1, 1, 1, 1, 1]])
        """
        check_padding(padding, max_length, padding_side, pad_to_multiple_of)
        chosen("return_tensors", return_tensors, TENSORS)
        features = Features(encoded_inputs)
        rows = features.rows
        if not self._wants("attention_mask", return_attention_mask):
            rows.pop("attention_mask", None)
        elif "attention_mask" not in rows:
            rows["attention_mask"] = [[1] * len(row) for row in rows["input_ids"]]
        length, side = max_length or self.settings.model_max_length, padding_side or self.settings.padding_side
        _pad(rows, padding, Padding(length, side, pad_to_multiple_of or 1))
        result = rows if features.is_batch else {name: values[0] for name, values in rows.items()}
        return BatchEncoding(result, tensor_type=return_tensors or features.tensors)

    def tokenize(
        self, text: str, pair: str | None = None, add_special_tokens: bool = False, **options: Any
    ) -> list[str]:
        """Split a text into tokens as the call does.

        Parameters
        ----------
        text : str
            The text, or a list of words with `is_split_into_words`.
        pair : str, optional
            The second text of a pair, whose tokens follow.
        add_special_tokens : bool, default=False
            Add ``<s>`` and ``</s>``.
        **options
            Others of the call, such as `truncation`, `max_length` and `split_special_tokens`.

        Returns
        -------
        list of str
            An unknown piece is returned as it is in the text, not as ``<unk>``.
        """
        if not options.get("is_split_into_words"):
            check_texts([text])
        return self.__call__(text, pair, add_special_tokens=add_special_tokens, **{"verbose": False} | options).tokens()

    def _wants(self, name: str, requested: bool | None) -> bool:
        return name in self.settings.model_input_names if requested is None else requested

    def _warn_of_long_rows(self, rows: list[list[int]]) -> None:
        long = [row for row, ids in enumerate(rows) if len(ids) > self.settings.model_max_length]
        if long:
            warn(
                f"row {long[0]} has {len(rows[long[0]])} ids"
                + (f", and {len(long) - 1} others are as long" if len(long) > 1 else "")
                + f", more than model_max_length={self.settings.model_max_length}: the model cannot read it. Pass "
                f"truncation=True, or verbose=False to hide this warning"
            )


def _pad(rows: dict[str, list], padding: bool | str, how: Padding) -> None:
    """Fill rows up to the longest or to a length, or not at all."""
    to = PADDINGS[chosen("padding", padding, PADDINGS)]
    if to is not None:
        pad_rows(rows, PAD, how, to_longest=to == "longest")
