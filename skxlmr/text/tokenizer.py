"""The tokenizer of XLM-RoBERTa, with the interface of the reference: sentencepiece pieces with the ids of fairseq."""

from __future__ import annotations

import copy
import functools
import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np

from skxlmr.checkpoints.added_tokens import AddedToken
from skxlmr.checkpoints.layout import TOKENIZER
from skxlmr.checkpoints.resolve import resolve_tokenizer
from skxlmr.checkpoints.tokenizer_files import read_tokenizer_files
from skxlmr.checkpoints.tokenizer_json import Steps, own_tokens
from skxlmr.checkpoints.tokenizer_settings import MAX_LENGTH, SETTINGS, Side, TokenizerSettings
from skxlmr.system import atomic
from skxlmr.text.calls import Calls
from skxlmr.text.conversions import Conversions
from skxlmr.text.new_tokens import OWN_NAMES, special_contents, with_new_tokens
from skxlmr.text.padding import as_list
from skxlmr.text.piece_encoder import PieceEncoder
from skxlmr.text.tokenizer_attributes import OwnToken, OwnTokenId, Setting, check_options
from skxlmr.text.tokenizer_content import MAY_BE_OBSOLETE, tokenizer_files
from skxlmr.text.vocabulary import Vocabulary

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")


def _of(
    part: Callable[[XLMRobertaXLTokenizer], T],
) -> Callable[[Callable[Concatenate[T, P], R]], Callable[Concatenate[XLMRobertaXLTokenizer, P], R]]:
    """Give the tokenizer a method of one of its parts, with the same signature and documentation."""

    def of_tokenizer(method: Callable[Concatenate[T, P], R]) -> Callable[Concatenate[XLMRobertaXLTokenizer, P], R]:
        @functools.wraps(method)
        def call(tokenizer: XLMRobertaXLTokenizer, *args: P.args, **kwargs: P.kwargs) -> R:
            return method(part(tokenizer), *args, **kwargs)

        return call

    return of_tokenizer


def _of_piece_encoder(
    method: Callable[Concatenate[PieceEncoder, P], R],
) -> Callable[Concatenate[XLMRobertaXLTokenizer, P], R]:
    return _of(lambda tokenizer: tokenizer.piece_encoder)(method)


def _of_calls(method: Callable[Concatenate[Calls, P], R]) -> Callable[Concatenate[XLMRobertaXLTokenizer, P], R]:
    return _of(lambda tokenizer: Calls(tokenizer.piece_encoder, tokenizer.settings))(method)


def _of_conversions(
    method: Callable[Concatenate[Conversions, P], R],
) -> Callable[Concatenate[XLMRobertaXLTokenizer, P], R]:
    return _of(lambda tokenizer: Conversions(tokenizer.vocabulary, tokenizer.settings))(method)


class XLMRobertaXLTokenizer:
    """Converts text to ids and back, as XLM-RoBERTa, XL and XXL were trained.

    ``<s>`` is 0, ``<pad>`` 1, ``</s>`` 2, ``<unk>`` 3, any other piece its sentencepiece id + 1, and ``<mask>`` comes
    last (250001 for XLM-R). A text becomes ``<s> A </s>``, a pair ``<s> A </s></s> B </s>``.

    It has two interfaces. That of the reference is the call, `pad` and the conversions between text, tokens and ids:
    "<mask>" or "</s>" in a text is the special token. That of the estimators is `encode_batch`, `encode_with_offsets`,
    `build_inputs`, `windows` and `truncate`: arrays, several threads, and nothing in a text is a special token.

    The tokenizer can be pickled and copied, and several threads can use it at once. The data collators of transformers
    work with it.

    Parameters
    ----------
    vocab_file : str, path or bytes
        The sentencepiece model: a file, or the content of one.
    model_max_length : int, default=512
        Maximum number of ids, special tokens included; the default of `max_length` in a call.
    padding_side : {"right", "left"}, default="right"
        Where a call and `pad` fill rows: "left" for `generate`.
    truncation_side : {"right", "left"}, default="right"
        Where a call removes tokens: "left" keeps the end of a text.
    model_input_names : sequence of str, default=("input_ids", "attention_mask")
        What a call returns if it is not told; "token_type_ids" may be added.
    clean_up_tokenization_spaces : bool, default=False
        Whether `decode` removes spaces before punctuation.
    split_special_tokens : bool, default=False
        Whether a call reads "<mask>", "</s>" and special tokens that were added as ordinary text.
    added_tokens : iterable of AddedToken, default=()
        Tokens beside the pieces and XLM-RoBERTa's five special ones, ascending by id; see
        `skxlmr.checkpoints.added_tokens`. Both interfaces find them in texts.
    normalizer : tuple of dict, default=()
        Steps of a normaliser as in ``tokenizer.json``, if it does more than the rules of the sentencepiece model.
    name_or_path : str, default=""
        The model or directory that the tokenizer is from.

    Attributes
    ----------
    vocabulary : Vocabulary
        The tokens and their ids. It is replaced when tokens are added.
    piece_encoder : PieceEncoder
        Encodes texts in which nothing is a special token.
    settings : TokenizerSettings
        `model_max_length` and the other parameters up to `split_special_tokens`, which are attributes, too, can be set,
        and are saved by `save_pretrained`.
    bos_token, eos_token, unk_token, sep_token, pad_token, cls_token, mask_token : str
        The special tokens, which cannot be changed; their ids are `bos_token_id` and so on.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If it is not a sentencepiece model, or its first three pieces are not ``<unk>``, ``<s>``, ``</s>``, or if a
        setting is invalid.

    Examples
    --------
    >>> from skxlmr.model import XLMRobertaXLTokenizer
    >>> tokenizer = XLMRobertaXLTokenizer.from_pretrained("nano")
    >>> encoding = tokenizer(["a good <mask>", "good"], padding=True, return_tensors="np")
    >>> tokenizer.batch_decode(encoding.input_ids)
    ['<s> a good<mask></s>', '<s> good</s><pad><pad>']

    The words of a text that is split into them, of which each token belongs to one:

    >>> encoding = tokenizer(["Wolfgang", "lives"], is_split_into_words=True)
    >>> encoding.word_ids()
    [None, 0, 0, 0, 0, 0, 1, 1, None]

    For an estimator there is no special token in the same text:

    >>> tokenizer.mask_token_id in tokenizer.encode_batch(["a good <mask>"])[0]
    False

    Long texts are cut into windows; this one has 10 pieces:

    >>> [(window.start, window.stop) for window in tokenizer.windows(range(4, 14), max_length=8, stride=2)]
    [(0, 6), (4, 10)]
    """

    model_max_length = Setting[int]()
    padding_side = Setting[Side]()
    truncation_side = Setting[Side]()
    model_input_names = Setting[tuple[str, ...]]()
    clean_up_tokenization_spaces = Setting[bool]()
    split_special_tokens = Setting[bool]()

    bos_token, bos_token_id = OwnToken(), OwnTokenId()
    eos_token, eos_token_id = OwnToken(), OwnTokenId()
    unk_token, unk_token_id = OwnToken(), OwnTokenId()
    sep_token, sep_token_id = OwnToken(), OwnTokenId()
    pad_token, pad_token_id = OwnToken(), OwnTokenId()
    cls_token, cls_token_id = OwnToken(), OwnTokenId()
    mask_token, mask_token_id = OwnToken(), OwnTokenId()
    pad_token_type_id = 0
    is_fast = True  # words and characters of tokens are known

    def __init__(
        self,
        vocab_file: str | os.PathLike[str] | bytes,
        *,
        model_max_length: int = MAX_LENGTH,
        padding_side: Side = "right",
        truncation_side: Side = "right",
        model_input_names: Iterable[str] = ("input_ids", "attention_mask"),
        clean_up_tokenization_spaces: bool = False,
        split_special_tokens: bool = False,
        added_tokens: Iterable[AddedToken] = (),
        normalizer: Steps = (),
        name_or_path: str = "",
    ) -> None:
        self.settings = TokenizerSettings(
            model_max_length=model_max_length,
            padding_side=padding_side,
            truncation_side=truncation_side,
            model_input_names=tuple(model_input_names),
            clean_up_tokenization_spaces=clean_up_tokenization_spaces,
            split_special_tokens=split_special_tokens,
        )
        self.piece_encoder = PieceEncoder(Vocabulary(vocab_file, added_tokens, normalizer))
        self.name_or_path = name_or_path

    def __repr__(self) -> str:
        return f"{type(self).__name__}(vocab_size={self.vocab_size}, model_max_length={self.model_max_length})"

    def __len__(self) -> int:
        return len(self.vocabulary)

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokens and their ids."""
        return self.piece_encoder.vocabulary

    @property
    def vocab_size(self) -> int:
        """Number of ids without added tokens, which `len` counts, too; special tokens included (250002 for XLM-R)."""
        return self.vocabulary.n_pieces

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """The special tokens of XLM-RoBERTa by the names of their attributes."""
        return dict(OWN_NAMES)

    @property
    def extra_special_tokens(self) -> list[str]:
        """The special tokens that were added, in the order of their ids."""
        return [token.content for token in self.vocabulary.added if token.special]

    @property
    def extra_special_tokens_ids(self) -> list[int]:
        """The ids of `extra_special_tokens`."""
        return [token.id for token in self.vocabulary.added if token.special]

    # The names of earlier versions of transformers.
    additional_special_tokens, additional_special_tokens_ids = extra_special_tokens, extra_special_tokens_ids

    @property
    def all_special_tokens(self) -> list[str]:
        """The special tokens, each once, in the order of `special_tokens_map`; added ones follow."""
        return list(dict.fromkeys([*OWN_NAMES.values(), *self.extra_special_tokens]))

    @property
    def all_special_ids(self) -> list[int]:
        """The ids of `all_special_tokens`."""
        return self.vocabulary.to_ids(self.all_special_tokens)

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """The tokens that are found in texts before these are cut into pieces, by id, special ones included."""
        every = [*own_tokens(self.mask_token_id), *self.vocabulary.added]
        return {token.id: token for token in sorted(every, key=lambda token: token.id)}

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        """The ids of the tokens in `added_tokens_decoder`."""
        return {token.content: index for index, token in self.added_tokens_decoder.items()}

    @property
    def max_len_single_sentence(self) -> int:
        """Maximum number of ids of a text without special tokens."""
        return self.model_max_length - self.num_special_tokens_to_add()

    @property
    def max_len_sentences_pair(self) -> int:
        """Maximum number of ids of a pair without special tokens."""
        return self.model_max_length - self.num_special_tokens_to_add(pair=True)

    __call__ = _of_calls(Calls.__call__)
    encode_plus = batch_encode_plus = __call__  # the names of earlier versions of transformers
    encode = _of_calls(Calls.encode)
    tokenize = _of_calls(Calls.tokenize)
    pad = _of_calls(Calls.pad)

    encode_batch = _of_piece_encoder(PieceEncoder.encode_batch)
    encode_with_offsets = _of_piece_encoder(PieceEncoder.encode_with_offsets)
    build_inputs = _of_piece_encoder(PieceEncoder.build_inputs)
    windows = _of_piece_encoder(PieceEncoder.windows)
    truncate = _of_piece_encoder(PieceEncoder.truncate)
    num_special_tokens_to_add = _of_piece_encoder(PieceEncoder.num_special_tokens_to_add)

    convert_ids_to_tokens = _of_conversions(Conversions.convert_ids_to_tokens)
    convert_tokens_to_ids = _of_conversions(Conversions.convert_tokens_to_ids)
    convert_tokens_to_string = _of_conversions(Conversions.convert_tokens_to_string)
    decode = _of_conversions(Conversions.decode)
    batch_decode = _of_conversions(Conversions.batch_decode)
    get_special_tokens_mask = _of_conversions(Conversions.get_special_tokens_mask)
    build_inputs_with_special_tokens = _of_conversions(Conversions.build_inputs_with_special_tokens)
    create_token_type_ids_from_sequences = _of_conversions(Conversions.create_token_type_ids_from_sequences)

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str],
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        subfolder: str = "",
        **settings: Any,
    ) -> XLMRobertaXLTokenizer:
        """Load the tokenizer of a checkpoint; of a hub model only the files of the tokenizer are downloaded.

        Parameters
        ----------
        model : str or path
            "nano" (bundled), a local directory, or the id of a model on the hub.
        revision : str, default=None
            Branch, tag or commit of a hub model.
        cache_dir : str or path, default=None
            Where hub models are kept; None is the cache of huggingface_hub.
        token : str or bool, default=None
            Token for private models of the hub; None or True is the one of `hf auth login`, False none.
        local_files_only : bool, default=False
            Use only what the hub cache holds.
        subfolder : str, default=""
            Folder of the model, on the hub or local, that has the files.
        **settings
            `model_max_length`, `padding_side`, `truncation_side`, `model_input_names`, `clean_up_tokenization_spaces`
            and `split_special_tokens`, which replace those of the checkpoint, and special tokens as for
            `add_special_tokens`, which are added to its own.

        Returns
        -------
        XLMRobertaXLTokenizer

        Raises
        ------
        ModelNotFoundError
            If there is no such model.
        TypeError
            If a parameter is unknown; the message suggests the nearest one.
        ValueError
            If a setting is invalid.

        Examples
        --------
        >>> tokenizer = XLMRobertaXLTokenizer.from_pretrained("nano", padding_side="left")
        >>> tokenizer.batch_decode(tokenizer(["good", "a good day"], padding=True).input_ids)
        ['<pad><pad><pad><s> good</s>', '<s> a good day</s>']
        """
        own = {
            name for name, p in inspect.signature(cls.from_pretrained).parameters.items() if p.kind is p.KEYWORD_ONLY
        }
        check_options(settings, own)
        directory = resolve_tokenizer(
            model, revision=revision, cache_dir=cache_dir, token=token, local_files_only=local_files_only,
            subfolder=subfolder,
        )  # fmt: skip
        tokenizer = cls.from_directory(directory)
        tokenizer.name_or_path = os.fspath(model)
        tokens = {name: settings.pop(name) for name in [*settings] if name not in SETTINGS}
        tokenizer.settings = replace(tokenizer.settings, **settings)
        tokenizer.add_special_tokens(tokens)
        return tokenizer

    @classmethod
    def from_directory(cls, directory: str | os.PathLike[str]) -> XLMRobertaXLTokenizer:
        """Load a tokenizer from a directory.

        It reads ``sentencepiece.bpe.model``, or ``tokenizer.json`` if that is missing; the normaliser and added tokens
        of ``tokenizer.json``, or else the tokens of ``tokenizer_config.json`` or ``added_tokens.json``; and the
        settings of ``tokenizer_config.json``.

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
            If one of the JSON files is damaged, ``tokenizer.json`` is of another kind of tokenizer (with another
            model, pre-tokenizer, or normaliser than those that are supported), or ``tokenizer_config.json`` has an
            invalid setting or other special tokens than XLM-RoBERTa.
        """
        content = read_tokenizer_files(Path(directory))
        tokenizer = cls(
            content.vocabulary,
            added_tokens=content.added,
            normalizer=content.steps,
            name_or_path=os.fspath(directory),
            **vars(content.settings),
        )
        known = {token.content for token in content.added}
        tokenizer.add_tokens([name for name in content.extra_special_tokens if name not in known], special_tokens=True)
        return tokenizer

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
        size = sum(map(len, content.values()))
        with atomic.replacing_whole(directory, size=size, is_obsolete=MAY_BE_OBSOLETE.__contains__) as new:
            for name, data in content.items():
                new.add(name, [data])
        return [directory / name for name in content]

    def save_vocabulary(
        self, save_directory: str | os.PathLike[str], filename_prefix: str | None = None
    ) -> tuple[Path, ...]:
        """Write the sentencepiece model alone, byte for byte; `save_pretrained` also writes added tokens and settings.

        Parameters
        ----------
        save_directory : str or path
            Created if missing.
        filename_prefix : str, optional
            What the name of the file begins with, before "-".

        Returns
        -------
        tuple of one Path
            ``sentencepiece.bpe.model``.
        """
        path = Path(save_directory) / (f"{filename_prefix}-{TOKENIZER}" if filename_prefix else TOKENIZER)
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_bytes(path, self.vocabulary.model)
        return (path,)

    def files(self) -> dict[str, bytes]:
        """Return the content of the files that `save_pretrained` writes, by name."""
        return tokenizer_files(self.vocabulary, self.settings)

    def get_vocab(self) -> dict[str, int]:
        """Return the id of each token.

        Returns
        -------
        dict of str to int
            With special and added tokens.
        """
        return self.vocabulary.get_vocab()

    vocab = property(get_vocab)

    def get_added_vocab(self) -> dict[str, int]:
        """Return the ids of special and added tokens.

        Returns
        -------
        dict of str to int
            Those that are found in texts before these are cut into pieces.
        """
        return self.added_tokens_encoder

    def add_tokens(self, new_tokens: Any, special_tokens: bool = False) -> int:
        """Add tokens that are found in texts before these are cut into pieces.

        The word embedding of the model needs a row for each of them:
        ``model.resize_token_embeddings(len(tokenizer))``.

        Parameters
        ----------
        new_tokens : str, AddedToken, or list of either
            Tokens; an `AddedToken` of the library tokenizers has flags. One that is a piece of the vocabulary already
            keeps its id. XLM-RoBERTa's own special tokens do not change.
        special_tokens : bool, default=False
            Whether they are special: `decode` and `convert_ids_to_tokens` can leave them out, and they are found before
            the text is normalised, unless they are an `AddedToken` that is special itself and says otherwise.

        Returns
        -------
        int
            The number of tokens that were not there, or with other flags.

        Examples
        --------
        >>> tokenizer = XLMRobertaXLTokenizer.from_pretrained("nano")
        >>> tokenizer.add_tokens(["covid19"])
        1
        >>> tokenizer.tokenize("covid19 spreads")[:1]
        ['covid19']
        """
        is_one = isinstance(new_tokens, str) or not isinstance(new_tokens, Iterable)
        tokens = [new_tokens] if is_one else list(new_tokens)
        vocabulary, count = with_new_tokens(self.vocabulary, tokens, special_tokens)
        if count:
            self.piece_encoder = PieceEncoder(vocabulary)
        return count

    def add_special_tokens(self, special_tokens_dict: Mapping[str, Any]) -> int:
        """Add special tokens.

        Parameters
        ----------
        special_tokens_dict : dict
            A list of tokens as `extra_special_tokens` or `additional_special_tokens`, which join those that were added
            before. "bos_token" and the other names of XLM-RoBERTa's own special tokens may only have these.

        Returns
        -------
        int
            The number of tokens that were not there, or were not special.

        Raises
        ------
        ValueError
            If a name is unknown, or one of XLM-RoBERTa's own special tokens would change.
        """
        return self.add_tokens(special_contents(special_tokens_dict), special_tokens=True)

    def lowercased(self) -> XLMRobertaXLTokenizer:
        """Return a tokenizer that puts texts in lower case before all else.

        Returns
        -------
        XLMRobertaXLTokenizer
            With the same ids. Offsets are those of the original text.
        """
        lower = copy.copy(self)
        lower.piece_encoder = PieceEncoder(self.vocabulary.lowercased())
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
        vocabulary, kept = self.vocabulary.trim(np.asarray(as_list(used), np.int64))
        small.piece_encoder = PieceEncoder(vocabulary)
        return small, kept
