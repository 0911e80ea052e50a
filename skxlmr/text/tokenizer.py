"""XLM-RoBERTa's tokenizer, called as the reference's: sentencepiece pieces under fairseq's ids."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np

from skxlmr.checkpoints.files import read_json
from skxlmr.checkpoints.layout import TOKENIZER as VOCABULARY_FILE
from skxlmr.checkpoints.layout import TOKENIZER_JSON
from skxlmr.checkpoints.resolve import resolve
from skxlmr.checkpoints.sentencepiece_file import read_tokenizer_json
from skxlmr.system import atomic
from skxlmr.text.batch_encoding import BatchEncoding, as_tensors, check_texts, pad_rows
from skxlmr.text.piece_encoder import PieceEncoder, cut, join, without_surrogates
from skxlmr.text.windows import Only, Range, plan_truncation, plan_windows

CONFIG_FILE = "tokenizer_config.json"
MAX_LENGTH = 512  # XLM-R has 514 rows of positions, of which the first two belong to padding

_SPECIAL_TOKEN = re.compile("(<s>|<pad>|</s>|<unk>|<mask>)")
_TRUNCATIONS: dict[bool | str, Only] = {
    True: "longest",
    "longest_first": "longest",
    "only_first": "first",
    "only_second": "second",
}


class _Pieces(NamedTuple):
    """One text's pieces: ids (n,), and offsets (n, 2) where they are asked for."""

    ids: np.ndarray
    offsets: np.ndarray | None


class XLMRobertaXLTokenizer(PieceEncoder):
    """Text to ids and back, as XLM-RoBERTa, XL and XXL were trained.

    ``<s>`` is 0, ``<pad>`` 1, ``</s>`` 2, ``<unk>`` 3, any other piece its sentencepiece id + 1, and ``<mask>`` comes
    last (250001 for XLM-R). A text becomes ``<s> A </s>``, a pair ``<s> A </s></s> B </s>``.

    It has two faces. `encode_batch`, `encode_with_offsets`, `build_inputs`, `windows` and `truncate` serve the
    estimators: arrays, several threads, and a user's text is only ever text. The call and the conversions between text,
    tokens and ids are those of the reference: there "<mask>" or "</s>" in a text is the special token.

    The tokenizer can be pickled and copied, and several threads can use one.

    Parameters
    ----------
    vocab_file : str, path or bytes
        The sentencepiece model: a file, or the content of one.
    model_max_length : int, default=512
        Number of ids that the model takes, special tokens included; the default of `max_length` in a call.

    Attributes
    ----------
    vocab_size : int
        Number of ids, special tokens included (250002 for XLM-R; a checkpoint may have more rows than that).
    mask_token_id : int
        Id of ``<mask>``, the last one.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not a sentencepiece model, or one whose first three pieces are not ``<unk>``, ``<s>``, ``</s>``.

    Examples
    --------
    A vocabulary of a few pieces, trained on the spot:

    >>> import io
    >>> from sentencepiece import SentencePieceTrainer
    >>> from skxlmr.text.tokenizer import XLMRobertaXLTokenizer
    >>> model = io.BytesIO()
    >>> SentencePieceTrainer.train(
    ...     sentence_iterator=iter(["a b c d"]), model_writer=model, vocab_size=8, hard_vocab_limit=False, minloglevel=2
    ... )
    >>> tokenizer = XLMRobertaXLTokenizer(model.getvalue())
    >>> encoding = tokenizer(["a b <mask>", "a"], padding=True, return_tensors="np")
    >>> encoding.input_ids.shape == encoding.attention_mask.shape
    True
    >>> tokenizer.batch_decode(encoding.input_ids)
    ['<s> a b<mask></s>', '<s> a</s><pad><pad><pad>']

    For an estimator the same text holds no special token:

    >>> (ids,) = tokenizer.encode_batch(["a b <mask>"])
    >>> tokenizer.mask_token_id in ids
    False

    Long texts are cut into windows; here is one of 10 pieces:

    >>> [(window.start, window.stop) for window in tokenizer.windows(range(4, 14), max_length=8, stride=2)]
    [(0, 6), (4, 10)]
    """

    def __init__(self, vocab_file: str | os.PathLike[str] | bytes, *, model_max_length: int = MAX_LENGTH) -> None:
        super().__init__(vocab_file)
        self.model_max_length = model_max_length

    def __repr__(self) -> str:
        return f"{type(self).__name__}(vocab_size={self.vocab_size}, model_max_length={self.model_max_length})"

    @classmethod
    def from_pretrained(
        cls, model: str | os.PathLike[str], *, revision: str | None = None, local_files_only: bool = False
    ) -> XLMRobertaXLTokenizer:
        """Load the tokenizer of a checkpoint.

        Parameters
        ----------
        model : str or path
            "nano" (bundled), a local directory, or the id of a model on the hub.
        revision : str, default=None
            Branch, tag or commit of a hub model.
        local_files_only : bool, default=False
            Use only what the hub cache holds.

        Returns
        -------
        XLMRobertaXLTokenizer

        Raises
        ------
        ModelNotFoundError
            If there is no such model.
        """
        # A tokenizer may lie in a directory of its own.
        if any((Path(model) / name).exists() for name in (VOCABULARY_FILE, TOKENIZER_JSON)):
            return cls.from_directory(model)
        files = resolve(model, revision=revision, local_files_only=local_files_only)
        return cls.from_directory(files.directory)

    @classmethod
    def from_directory(cls, directory: str | os.PathLike[str]) -> XLMRobertaXLTokenizer:
        """Load a tokenizer from a directory.

        That is ``sentencepiece.bpe.model``, or ``tokenizer.json`` where this is missing, and ``tokenizer_config.json``
        where there is one.

        Parameters
        ----------
        directory : str or path
            What `save_pretrained`, or the reference, has written.

        Returns
        -------
        XLMRobertaXLTokenizer
            `model_max_length` is the configured one, or 512 where none is set.

        Raises
        ------
        FileNotFoundError
            If the directory or a tokenizer in it is missing.
        ValueError
            If the sentencepiece model is broken.
        CheckpointError
            If ``tokenizer_config.json`` or ``tokenizer.json`` is, or the latter is of another kind of tokenizer.
        """
        directory = Path(directory)
        vocabulary: Path | bytes = directory / VOCABULARY_FILE
        if not vocabulary.exists():
            if not (directory / TOKENIZER_JSON).exists():
                raise FileNotFoundError(
                    f"{directory} has no {VOCABULARY_FILE} and no {TOKENIZER_JSON}. Copy one of them from the model "
                    f"that this one was made from."
                )
            vocabulary = read_tokenizer_json(directory / TOKENIZER_JSON)
        config = read_json(directory / CONFIG_FILE) if (directory / CONFIG_FILE).exists() else {}
        length = config.get("model_max_length")
        known = type(length) is int and 0 < length < 10**9  # the reference writes 10**30 for "not known"
        return cls(vocabulary, model_max_length=length if known else MAX_LENGTH)

    def save_pretrained(self, directory: str | os.PathLike[str]) -> list[Path]:
        """Write the sentencepiece model, byte for byte, and what transformers reads.

        Parameters
        ----------
        directory : str or path
            Made if it is missing. Each file is replaced as a whole or left as it was.

        Returns
        -------
        list of Path
            ``sentencepiece.bpe.model``, ``tokenizer_config.json``, and ``tokenizer.json`` if it is a unigram model.
        """
        names = ("bos_token", "cls_token", "pad_token", "eos_token", "sep_token", "unk_token", "mask_token")
        config = {
            "tokenizer_class": "XLMRobertaTokenizer",
            "model_max_length": self.model_max_length,
            **{name: getattr(self, name) for name in names},
        }
        content = {VOCABULARY_FILE: self._model, CONFIG_FILE: (json.dumps(config, indent=2) + "\n").encode()}
        if (whole := self.as_tokenizer_json()) is not None:
            content[TOKENIZER_JSON] = json.dumps(whole, ensure_ascii=False).encode()
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        for name, data in content.items():
            atomic.write_bytes(directory / name, data)
        return [directory / name for name in content]

    def __call__(
        self,
        text: str | Sequence[str],
        text_pair: str | Sequence[str] | None = None,
        *,
        padding: bool | str = False,
        truncation: bool | str = False,
        max_length: int | None = None,
        stride: int = 0,
        return_tensors: str | None = None,
        return_offsets_mapping: bool = False,
        return_attention_mask: bool = True,
        return_token_type_ids: bool = False,
        add_special_tokens: bool = True,
        return_overflowing_tokens: bool = False,
    ) -> BatchEncoding:
        """Encode a text, a pair, or a list of either for the model.

        ``<s>``, ``<pad>``, ``</s>``, ``<unk>`` and ``<mask>`` in a text are read as the special tokens.

        Parameters
        ----------
        text, text_pair : str or list of str
            The texts, and the second text of each where they are pairs.
        padding : bool or {"longest", "max_length"}, default=False
            Fill rows on the right with ``<pad>``, up to the longest (also True) or up to `max_length`.
        truncation : bool or {"longest_first", "only_first", "only_second"}, default=False
            Cut what is longer than `max_length`; which text of a pair is cut, True being "longest_first".
        max_length : int, optional
            Number of ids, special tokens included, for `truncation` and `padding`; `model_max_length` by default.
        stride : int, default=0
            Number of pieces that windows share, with `return_overflowing_tokens`.
        return_tensors : {"pt", "np"}, optional
            int64 torch tensors or NumPy arrays, of one row for a single text, instead of lists.
        return_offsets_mapping : bool, default=False
            Add `offset_mapping`: for each id ``start, stop`` as from `encode_with_offsets`, (0, 0) for what was added.
        return_attention_mask : bool, default=True
            Add `attention_mask`: 1 for ids to look at, 0 for padding.
        return_token_type_ids : bool, default=False
            Add `token_type_ids`, which are 0 everywhere.
        add_special_tokens : bool, default=True
            Put ``<s>`` and ``</s>`` around.
        return_overflowing_tokens : bool, default=False
            Where `truncation` would cut a text, give all its windows (see `windows`) as rows of their own, and add
            `overflow_to_sample_mapping`, the index of the text that each row belongs to.

        Returns
        -------
        BatchEncoding
            `input_ids` and what was asked for beside it. Lists are nested unless `text` is a string and there is no
            `return_overflowing_tokens`.

        Raises
        ------
        TypeError
            If a text is not a string.
        ValueError
            If an option is unknown or would have no effect, or rows of unequal length are to become one tensor.
        """
        _check_options(padding, truncation, max_length, stride, return_tensors, return_overflowing_tokens)
        limit = self.model_max_length if max_length is None else max_length
        bos, eos = np.array([[self.bos_token_id], [self.eos_token_id]])[:, : int(add_special_tokens)]
        nowhere = np.zeros((int(add_special_tokens), 2), dtype=np.int32)

        rows: dict[str, list] = {"input_ids": []}
        offset_mapping, owners = [], []
        for index, sample in enumerate(self._read_samples(text, text_pair, with_offsets=return_offsets_mapping)):
            for ranges in self._plan(sample, truncation, limit, stride, add_special_tokens, return_overflowing_tokens):
                rows["input_ids"].append(join(cut([pieces.ids for pieces in sample], ranges), bos, eos).tolist())
                owners.append(index)
                if return_offsets_mapping:
                    offsets = join(cut([pieces.offsets for pieces in sample], ranges), nowhere, nowhere)
                    offset_mapping.append([(start, stop) for start, stop in offsets.tolist()])

        if return_token_type_ids:
            rows["token_type_ids"] = [[0] * len(row) for row in rows["input_ids"]]
        if return_attention_mask:
            rows["attention_mask"] = [[1] * len(row) for row in rows["input_ids"]]
        if return_offsets_mapping:
            rows["offset_mapping"] = offset_mapping
        if padding:
            pad_rows(rows, self.pad_token_id, limit if padding == "max_length" else None)
        if return_overflowing_tokens:
            rows["overflow_to_sample_mapping"] = owners
        if return_tensors is not None:
            return BatchEncoding(as_tensors(rows, return_tensors))
        if isinstance(text, str) and not return_overflowing_tokens:
            return BatchEncoding({name: values[0] for name, values in rows.items()})
        return BatchEncoding(rows)

    def tokenize(self, text: str) -> list[str]:
        """Cut a text into tokens as the call does, without adding special tokens.

        Parameters
        ----------
        text : str

        Returns
        -------
        list of str
            An unknown piece is given as it stands in the text, not as ``<unk>``.
        """
        (text,) = check_texts([text])
        parts = _SPECIAL_TOKEN.split(without_surrogates(text))
        return [
            token
            for i, part in enumerate(parts)
            for token in ([part] if i % 2 else self._processor.encode(part, out_type=str))
        ]

    def _plan(
        self,
        sample: tuple[_Pieces, ...],
        truncation: bool | str,
        max_length: int,
        stride: int,
        add_special_tokens: bool,
        return_overflowing_tokens: bool,
    ) -> list[tuple[Range, ...]]:
        """Choose the ranges of pieces that become rows: all of them, what truncation leaves, or every window."""
        lengths = tuple(len(pieces.ids) for pieces in sample)
        if not truncation:
            return [tuple((0, length) for length in lengths)]
        room, only = self.room(max_length, len(sample), add_special_tokens), _TRUNCATIONS[truncation]
        if return_overflowing_tokens:
            return plan_windows(lengths, room, stride, only)[0]
        return [plan_truncation(lengths, room, only)]

    def _read_samples(
        self, text: str | Sequence[str], text_pair: str | Sequence[str] | None, with_offsets: bool
    ) -> Iterator[tuple[_Pieces, ...]]:
        """Encode the texts, or the pairs, of a call."""
        columns = {"text": text} if text_pair is None else {"text": text, "text_pair": text_pair}
        if len({isinstance(column, str) for column in columns.values()}) > 1:
            raise TypeError("text and text_pair must both be strings or both be lists of strings")
        columns = {name: check_texts([c] if isinstance(c, str) else c, name) for name, c in columns.items()}
        if len(set(map(len, columns.values()))) > 1:
            lengths = " and ".join(f"{len(column)} in {name}" for name, column in columns.items())
            raise ValueError(f"each text of a pair needs its partner: there are {lengths}")
        return zip(*(self._read(column, with_offsets) for column in columns.values()), strict=True)

    def _read(self, texts: list[str], with_offsets: bool) -> list[_Pieces]:
        """Encode texts in which the names of special tokens stand for these.

        Like the reference, `<mask>` takes the whitespace on its left: sentencepiece drops it at the end of a segment.
        """
        split = [_SPECIAL_TOKEN.split(text) for text in texts]  # text, special token, text, ..., text
        segments = [segment for parts in split for segment in parts[::2]]
        if with_offsets:
            encoded = iter([_Pieces(*self.encode_with_offsets(segment)) for segment in segments])
        else:
            encoded = iter([_Pieces(ids, None) for ids in self.encode_batch(segments)])
        return [self._stitch(parts, encoded, with_offsets) for parts in split]

    def _stitch(self, parts: list[str], encoded: Iterator[_Pieces], with_offsets: bool) -> _Pieces:
        """Put one text together again from its encoded segments and the special tokens between them."""
        ids, offsets = [], []
        stops = list(accumulate(map(len, parts)))
        for i, (part, stop) in enumerate(zip(parts, stops, strict=True)):
            start = stop - len(part)
            if i % 2:
                pieces = _Pieces(np.array([self.convert_tokens_to_ids(part)]), np.array([[0, len(part)]]))
            else:
                pieces = next(encoded)
            ids.append(pieces.ids)
            if with_offsets:
                offsets.append(pieces.offsets + start)
        return _Pieces(np.concatenate(ids), np.concatenate(offsets) if with_offsets else None)


def _check_options(
    padding: bool | str,
    truncation: bool | str,
    max_length: int | None,
    stride: int,
    return_tensors: str | None,
    return_overflowing_tokens: bool,
) -> None:
    """Refuse what is unknown, and what would silently have no effect."""
    choices = {
        "padding": (padding, (False, True, "longest", "max_length")),
        "truncation": (truncation, (False, *_TRUNCATIONS)),
        "return_tensors": (return_tensors, (None, "pt", "np")),
    }
    for name, (value, allowed) in choices.items():
        if value not in allowed:
            raise ValueError(f"{name}={value!r} must be one of {', '.join(map(repr, allowed))}")
    if max_length is not None and not truncation and padding != "max_length":
        raise ValueError(f"max_length={max_length} has no effect: add truncation=True or padding='max_length'")
    if return_overflowing_tokens and not truncation:
        raise ValueError("return_overflowing_tokens=True has no effect: add truncation=True, which then cuts nothing")
    if stride and not return_overflowing_tokens:
        raise ValueError(f"stride={stride} has no effect: add return_overflowing_tokens=True")
