"""The tokenizer of XLM-RoBERTa, with the interface of the reference: sentencepiece pieces with the ids of fairseq."""

from __future__ import annotations

import copy
import functools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, overload

import numpy as np

from skxlmr.checkpoints.added_tokens import AddedToken
from skxlmr.checkpoints.layout import TOKENIZER as VOCABULARY_FILE
from skxlmr.checkpoints.layout import TOKENIZER_JSON
from skxlmr.checkpoints.resolve import resolve
from skxlmr.checkpoints.tokenizer_files import ADDED_TOKENS as ADDED_TOKENS_FILE
from skxlmr.checkpoints.tokenizer_files import CONFIG as CONFIG_FILE
from skxlmr.checkpoints.tokenizer_files import added_tokens_config, read_tokenizer_files
from skxlmr.checkpoints.tokenizer_json import Steps
from skxlmr.system import atomic
from skxlmr.text.batch_encoding import BatchEncoding, as_tensors, check_texts, pad_rows
from skxlmr.text.call_options import TRUNCATIONS, check_options
from skxlmr.text.offsets import SPACE
from skxlmr.text.piece_encoder import PieceEncoder, cut, join
from skxlmr.text.segments import Pieces
from skxlmr.text.vocabulary import BOS, EOS, PAD, UNK, Vocabulary
from skxlmr.text.windows import Range, plan_truncation, plan_windows

MAX_LENGTH = 512  # XLM-R has 514 rows of positions, of which the first two belong to padding

P = ParamSpec("P")
R = TypeVar("R")


def _of_piece_encoder(
    method: Callable[Concatenate[PieceEncoder, P], R],
) -> Callable[Concatenate[XLMRobertaXLTokenizer, P], R]:
    """Give the tokenizer a method of its piece encoder, with the same signature and documentation."""

    @functools.wraps(method)
    def call(tokenizer: XLMRobertaXLTokenizer, *args: P.args, **kwargs: P.kwargs) -> R:
        return method(tokenizer.piece_encoder, *args, **kwargs)

    return call


class XLMRobertaXLTokenizer:
    """Converts text to ids and back, as XLM-RoBERTa, XL and XXL were trained.

    ``<s>`` is 0, ``<pad>`` 1, ``</s>`` 2, ``<unk>`` 3, any other piece its sentencepiece id + 1, and ``<mask>`` comes
    last (250001 for XLM-R). A text becomes ``<s> A </s>``, a pair ``<s> A </s></s> B </s>``.

    It has two interfaces. That of the reference is the call and the conversions between text, tokens and ids: "<mask>"
    or "</s>" in a text is the special token. That of the estimators is `encode_batch`, `encode_with_offsets`,
    `build_inputs`, `windows` and `truncate`: arrays, several threads, and nothing in a text is a special token.

    The tokenizer can be pickled and copied, and several threads can use it at once.

    Parameters
    ----------
    vocab_file : str, path or bytes
        The sentencepiece model: a file, or the content of one.
    model_max_length : int, default=512
        Maximum number of ids, special tokens included; the default of `max_length` in a call.
    added_tokens : iterable of AddedToken, default=()
        Tokens beside the pieces and XLM-RoBERTa's five special ones, ascending by id; see
        `skxlmr.checkpoints.added_tokens`. Both interfaces find them in texts.
    normalizer : tuple of dict, default=()
        Steps of a normaliser as in ``tokenizer.json``, if it does more than the rules of the sentencepiece model.

    Attributes
    ----------
    vocabulary : Vocabulary
        The tokens and their ids.
    piece_encoder : PieceEncoder
        Encodes texts in which nothing is a special token.
    padding_side : {"right", "left"}
        Where a call fills rows by default: "right", unless it is set to another side.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If it is not a sentencepiece model, or its first three pieces are not ``<unk>``, ``<s>``, ``</s>``.

    Examples
    --------
    >>> from skxlmr.model import XLMRobertaXLTokenizer
    >>> tokenizer = XLMRobertaXLTokenizer.from_pretrained("nano")
    >>> encoding = tokenizer(["a good <mask>", "good"], padding=True, return_tensors="np")
    >>> tokenizer.batch_decode(encoding.input_ids)
    ['<s> a good<mask></s>', '<s> good</s><pad><pad>']

    For an estimator there is no special token in the same text:

    >>> tokenizer.mask_token_id in tokenizer.encode_batch(["a good <mask>"])[0]
    False

    Long texts are cut into windows; this one has 10 pieces:

    >>> [(window.start, window.stop) for window in tokenizer.windows(range(4, 14), max_length=8, stride=2)]
    [(0, 6), (4, 10)]
    """

    bos_token, bos_token_id = "<s>", BOS
    cls_token, cls_token_id = "<s>", BOS
    pad_token, pad_token_id = "<pad>", PAD
    eos_token, eos_token_id = "</s>", EOS
    sep_token, sep_token_id = "</s>", EOS
    unk_token, unk_token_id = "<unk>", UNK
    mask_token = "<mask>"
    padding_side = "right"

    def __init__(
        self,
        vocab_file: str | os.PathLike[str] | bytes,
        *,
        model_max_length: int = MAX_LENGTH,
        added_tokens: Iterable[AddedToken] = (),
        normalizer: Steps = (),
    ) -> None:
        self.vocabulary = Vocabulary(vocab_file, added_tokens, normalizer)
        self.piece_encoder = PieceEncoder(self.vocabulary)
        self.model_max_length = model_max_length

    def __repr__(self) -> str:
        return f"{type(self).__name__}(vocab_size={self.vocab_size}, model_max_length={self.model_max_length})"

    def __len__(self) -> int:
        return len(self.vocabulary)

    @property
    def vocab_size(self) -> int:
        """Number of ids without added tokens, which `len` counts, too; special tokens included (250002 for XLM-R)."""
        return self.vocabulary.n_pieces

    @property
    def mask_token_id(self) -> int:
        """Id of ``<mask>``, the last one before added tokens."""
        return self.vocabulary.mask_id

    @property
    def all_special_tokens(self) -> list[str]:
        """The special tokens, in the order of their ids."""
        return list(self.vocabulary.special_tokens.values())

    @property
    def all_special_ids(self) -> list[int]:
        """The ids of `all_special_tokens`."""
        return list(self.vocabulary.special_tokens)

    encode_batch = _of_piece_encoder(PieceEncoder.encode_batch)
    encode_with_offsets = _of_piece_encoder(PieceEncoder.encode_with_offsets)
    build_inputs = _of_piece_encoder(PieceEncoder.build_inputs)
    windows = _of_piece_encoder(PieceEncoder.windows)
    truncate = _of_piece_encoder(PieceEncoder.truncate)
    num_special_tokens_to_add = _of_piece_encoder(PieceEncoder.num_special_tokens_to_add)

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
        # A directory may hold a tokenizer without a model.
        if any((Path(model) / name).exists() for name in (VOCABULARY_FILE, TOKENIZER_JSON)):
            return cls.from_directory(model)
        files = resolve(model, revision=revision, local_files_only=local_files_only)
        return cls.from_directory(files.directory)

    @classmethod
    def from_directory(cls, directory: str | os.PathLike[str]) -> XLMRobertaXLTokenizer:
        """Load a tokenizer from a directory.

        It reads ``sentencepiece.bpe.model``, or ``tokenizer.json`` if that is missing; the normaliser and added tokens
        of ``tokenizer.json``, or else the tokens of ``tokenizer_config.json`` or ``added_tokens.json``.

        Parameters
        ----------
        directory : str or path
            As written by `save_pretrained` or by the reference.

        Returns
        -------
        XLMRobertaXLTokenizer
            `model_max_length` is the configured one, or 512 if none is configured.

        Raises
        ------
        FileNotFoundError
            If the directory or a tokenizer in it is missing.
        ValueError
            If the sentencepiece model is damaged.
        CheckpointError
            If one of the JSON files is damaged, or ``tokenizer.json`` is of another kind of tokenizer: with another
            model, pre-tokenizer, or normaliser than those that are supported.
        """
        content = read_tokenizer_files(Path(directory))
        return cls(
            content.vocabulary,
            model_max_length=content.model_max_length or MAX_LENGTH,
            added_tokens=content.added,
            normalizer=content.steps,
        )

    def save_pretrained(self, directory: str | os.PathLike[str]) -> list[Path]:
        """Write the sentencepiece model, byte for byte, and what transformers reads.

        Parameters
        ----------
        directory : str or path
            Created if missing. The files of an earlier tokenizer are replaced together.

        Returns
        -------
        list of Path
            ``sentencepiece.bpe.model``, ``tokenizer_config.json``, ``tokenizer.json`` if it is a unigram model, and
            ``added_tokens.json`` if there are such tokens.
        """
        directory, content = Path(directory), self.files()
        size, own = sum(map(len, content.values())), {TOKENIZER_JSON, ADDED_TOKENS_FILE}
        with atomic.replacing_whole(directory, size=size, is_obsolete=own.__contains__) as new:
            for name, data in content.items():
                new.add(name, [data])
        return [directory / name for name in content]

    def files(self) -> dict[str, bytes]:
        """Return the content of the files that `save_pretrained` writes, by name."""
        names = ("bos_token", "cls_token", "pad_token", "eos_token", "sep_token", "unk_token", "mask_token")
        config = {
            "tokenizer_class": "XLMRobertaTokenizer",
            "model_max_length": self.model_max_length,
            **{name: getattr(self, name) for name in names},
            **added_tokens_config(self.vocabulary.added, self.mask_token_id),
        }
        content = {VOCABULARY_FILE: self.vocabulary.model, CONFIG_FILE: (json.dumps(config, indent=2) + "\n").encode()}
        if (tokenizer := self.vocabulary.as_tokenizer_json()) is not None:
            content[TOKENIZER_JSON] = json.dumps(tokenizer, ensure_ascii=False).encode()
        following = {token.content: token.id for token in self.vocabulary.added if token.id > self.mask_token_id}
        if following:
            content[ADDED_TOKENS_FILE] = json.dumps(following, ensure_ascii=False).encode()
        return content

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
        padding_side: str | None = None,
        pad_to_multiple_of: int | None = None,
    ) -> BatchEncoding:
        """Encode a text, a pair, or a list of either for the model.

        ``<s>``, ``<pad>``, ``</s>``, ``<unk>`` and ``<mask>`` in a text are read as the special tokens.

        Parameters
        ----------
        text, text_pair : str or list of str
            The texts, or the first and second texts of pairs.
        padding : bool or {"longest", "max_length"}, default=False
            Fill rows at `padding_side` with ``<pad>``, up to the longest row (also True) or up to `max_length`.
        truncation : bool or {"longest_first", "only_first", "only_second"}, default=False
            Cut rows longer than `max_length`, and of a pair this text; True is "longest_first".
        max_length : int, optional
            Number of ids, special tokens included, for `truncation` and `padding`; by default `model_max_length`.
        stride : int, default=0
            Number of pieces that windows share, with `return_overflowing_tokens`.
        return_tensors : {"pt", "np"}, optional
            Return int64 torch tensors or NumPy arrays, with one row for a single text, instead of lists.
        return_offsets_mapping : bool, default=False
            Add `offset_mapping`: ``start, stop`` of each id as from `encode_with_offsets`, but with the white space
            that added tokens take; (0, 0) for ``<s>``, ``</s>`` and padding.
        return_attention_mask : bool, default=True
            Add `attention_mask`: 1 for ids, 0 for padding.
        return_token_type_ids : bool, default=False
            Add `token_type_ids`, which are 0 everywhere.
        add_special_tokens : bool, default=True
            Add ``<s>`` and ``</s>``.
        return_overflowing_tokens : bool, default=False
            Return all windows (see `windows`) of a text that `truncation` would cut, each as a row, and add
            `overflow_to_sample_mapping`, the index of the text that each row belongs to.
        padding_side : {"left", "right"}, optional
            Where `padding` fills rows: "left" for `generate`. None is the attribute of the tokenizer, "right" at first.
        pad_to_multiple_of : int, optional
            Round the length of padded rows up to a multiple of this number.

        Returns
        -------
        BatchEncoding
            `input_ids` and whatever else was requested. Lists are nested unless `text` is a string and
            `return_overflowing_tokens` is False.

        Raises
        ------
        TypeError
            If a text is not a string.
        ValueError
            If an option is unknown or would have no effect, or rows of unequal length would become one tensor.
        """
        check_options(
            padding, truncation, max_length, stride, return_tensors, return_overflowing_tokens, padding_side,
            pad_to_multiple_of,
        )  # fmt: skip
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
            pad_rows(
                rows, self.pad_token_id, limit if padding == "max_length" else None,
                side=padding_side or self.padding_side, multiple_of=pad_to_multiple_of,
            )  # fmt: skip
        if return_overflowing_tokens:
            rows["overflow_to_sample_mapping"] = owners
        if return_tensors is not None:
            return BatchEncoding(as_tensors(rows, return_tensors))
        if isinstance(text, str) and not return_overflowing_tokens:
            return BatchEncoding({name: values[0] for name, values in rows.items()})
        return BatchEncoding(rows)

    def tokenize(self, text: str) -> list[str]:
        """Split a text into tokens as the call does, without adding special tokens.

        Parameters
        ----------
        text : str

        Returns
        -------
        list of str
            An unknown piece is returned as it is in the text, not as ``<unk>``.
        """
        (text,) = check_texts([text])
        return self.piece_encoder.segmenter.tokenize(text)

    @overload
    def convert_ids_to_tokens(self, ids: int, skip_special_tokens: bool = False) -> str: ...

    @overload
    def convert_ids_to_tokens(self, ids: Iterable[int], skip_special_tokens: bool = False) -> list[str]: ...

    def convert_ids_to_tokens(self, ids: int | Iterable[int], skip_special_tokens: bool = False) -> str | list[str]:
        """Return the token of each id.

        Parameters
        ----------
        ids : int or array-like of int, 1-D
            List, array or tensor.
        skip_special_tokens : bool, default=False
            Leave special tokens out, unless a single id is given.

        Returns
        -------
        str or list of str
            A single token for a single id.

        Raises
        ------
        ValueError
            If an id is not in the vocabulary.
        """
        plain = _as_list(ids)
        if isinstance(plain, int):
            return self.vocabulary.to_tokens([plain])[0]
        tokens = self.vocabulary.to_tokens(plain)
        if not skip_special_tokens:
            return tokens
        special = self.vocabulary.special_tokens
        return [token for index, token in zip(plain, tokens, strict=True) if index not in special]

    @overload
    def convert_tokens_to_ids(self, tokens: str) -> int: ...  # type: ignore[overload-overlap]

    @overload
    def convert_tokens_to_ids(self, tokens: Iterable[str]) -> list[int]: ...

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> int | list[int]:
        """Return the id of each token, that of ``<unk>`` for those that are not in the vocabulary.

        Parameters
        ----------
        tokens : str or iterable of str
            Tokens as from `tokenize`: "▁Hello", "<mask>".

        Returns
        -------
        int or list of int
            A single id for a single token.
        """
        return self.vocabulary.to_ids([tokens])[0] if isinstance(tokens, str) else self.vocabulary.to_ids(tokens)

    def decode(self, ids: int | Iterable[int], skip_special_tokens: bool = False) -> str:
        """Join the tokens of ids to a text.

        It is the normalised text: what the normaliser changed (full-width letters, repeated spaces) or the vocabulary
        lacks is not restored.

        Parameters
        ----------
        ids : int or array-like of int, 1-D
            List, array or tensor.
        skip_special_tokens : bool, default=False
            Leave special tokens out.

        Returns
        -------
        str

        Raises
        ------
        ValueError
            If an id is not in the vocabulary.
        """
        plain = _as_list(ids)
        tokens = self.convert_ids_to_tokens([plain] if isinstance(plain, int) else plain, skip_special_tokens)
        return "".join(tokens).replace(SPACE, " ").removeprefix(" ")

    def batch_decode(self, ids: Iterable[Iterable[int]], skip_special_tokens: bool = False) -> list[str]:
        """Apply `decode` to each row.

        Parameters
        ----------
        ids : iterable of 1-D array-like, or 2-D array or tensor
            One row per text.
        skip_special_tokens : bool, default=False
            Leave special tokens out.

        Returns
        -------
        list of str
        """
        return [self.decode(row, skip_special_tokens) for row in ids]

    def get_special_tokens_mask(self, ids: Iterable[int]) -> list[int]:
        """Mark special tokens, including padding, ``<unk>`` and ``<mask>``.

        Parameters
        ----------
        ids : array-like of int
            Of any shape.

        Returns
        -------
        list of int
            1 for the id of a special token, otherwise 0; nested as `ids`.
        """
        return np.isin(_as_list(ids), self.all_special_ids).astype(int).tolist()

    def lowercased(self) -> XLMRobertaXLTokenizer:
        """Return a tokenizer that puts texts in lower case before all else.

        Returns
        -------
        XLMRobertaXLTokenizer
            With the same ids. Offsets are those of the original text.
        """
        lower = copy.copy(self)
        lower.vocabulary = self.vocabulary.lowercased()
        lower.piece_encoder = PieceEncoder(lower.vocabulary)
        return lower

    def trim(self, used: Iterable[int]) -> tuple[XLMRobertaXLTokenizer, np.ndarray]:
        """Return a tokenizer with only the pieces that are used, single characters, special and added tokens.

        A text is encoded as before if all its pieces are kept: the better segmentations are still there. A piece that
        is dropped is encoded as smaller ones, down to characters.

        Parameters
        ----------
        used : array-like of int
            Ids, in any order; they may repeat.

        Returns
        -------
        tokenizer : XLMRobertaXLTokenizer
            Its ids are contiguous, with the special tokens where XLM-R has them.
        kept : ndarray of shape (len(tokenizer),), int64
            The id here of each of its ids, ascending.

        Raises
        ------
        ValueError
            If an id is not in the vocabulary, or if the sentencepiece model is not a unigram model.

        Examples
        --------
        >>> from skxlmr.text.tokenizer import XLMRobertaXLTokenizer
        >>> whole = XLMRobertaXLTokenizer.from_pretrained("nano")
        >>> small, kept = whole.trim(whole.encode_batch(["good morning"])[0])
        >>> small.decode(small.encode_batch(["good morning"])[0])
        'good morning'
        >>> len(small) < len(whole) / 2
        True
        """
        small = copy.copy(self)
        small.vocabulary, kept = self.vocabulary.trim(np.asarray(_as_list(used), np.int64))
        small.piece_encoder = PieceEncoder(small.vocabulary)
        return small, kept

    def _plan(
        self,
        sample: tuple[Pieces, ...],
        truncation: bool | str,
        max_length: int,
        stride: int,
        add_special_tokens: bool,
        return_overflowing_tokens: bool,
    ) -> list[tuple[Range, ...]]:
        """Return the ranges of pieces that become rows: all pieces, those left by truncation, or all windows."""
        lengths = tuple(len(pieces.ids) for pieces in sample)
        if not truncation:
            return [tuple((0, length) for length in lengths)]
        room, only = self.piece_encoder.room(max_length, len(sample), add_special_tokens), TRUNCATIONS[truncation]
        if return_overflowing_tokens:
            return plan_windows(lengths, room, stride, only)[0]
        return [plan_truncation(lengths, room, only)]

    def _read_samples(
        self, text: str | Sequence[str], text_pair: str | Sequence[str] | None, with_offsets: bool
    ) -> Iterator[tuple[Pieces, ...]]:
        """Encode the texts, or the pairs, of a call."""
        encode = partial(self.piece_encoder.segmenter.encode, special_tokens=True, with_offsets=with_offsets)
        given = {"text": text} if text_pair is None else {"text": text, "text_pair": text_pair}
        if len({isinstance(column, str) for column in given.values()}) > 1:
            raise TypeError("text and text_pair must both be strings or both be lists of strings")
        columns = {name: check_texts([c] if isinstance(c, str) else c, name) for name, c in given.items()}
        if len(set(map(len, columns.values()))) > 1:
            lengths = " and ".join(f"{len(column)} in {name}" for name, column in columns.items())
            raise ValueError(f"text and text_pair must have the same length: there are {lengths}")
        return zip(*(encode(column) for column in columns.values()), strict=True)


def _as_list(ids: Any) -> Any:
    """Turn arrays, tensors and other iterables into nested lists of Python numbers; return a number as it is."""
    if hasattr(ids, "tolist"):
        return ids.tolist()
    is_nested = isinstance(ids, Iterable) and not isinstance(ids, str)
    return [_as_list(row) for row in ids] if is_nested else ids
