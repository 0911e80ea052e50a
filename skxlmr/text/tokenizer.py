"""The tokenizer of XLM-RoBERTa, with the interface of the reference: sentencepiece pieces with the ids of fairseq."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from skxlmr.checkpoints.added_tokens import AddedToken
from skxlmr.checkpoints.resolve import resolve_tokenizer
from skxlmr.checkpoints.tokenizer_files import read_tokenizer_files
from skxlmr.checkpoints.tokenizer_json import Steps
from skxlmr.checkpoints.tokenizer_settings import MAX_LENGTH, SETTINGS, Side, TokenizerSettings
from skxlmr.text.calls import Calls
from skxlmr.text.conversions import Conversions
from skxlmr.text.copies import Copies
from skxlmr.text.delegation import PropertyOf, methods_of
from skxlmr.text.new_tokens import Additions
from skxlmr.text.piece_encoder import PieceEncoder
from skxlmr.text.token_table import TokenTable
from skxlmr.text.tokenizer_attributes import OwnToken, OwnTokenId, Setting, check_options
from skxlmr.text.tokenizer_content import TokenizerFiles
from skxlmr.text.vocabulary import Vocabulary


def _pieces(tokenizer: XLMRobertaXLTokenizer) -> PieceEncoder:
    return tokenizer.piece_encoder


def _calls(tokenizer: XLMRobertaXLTokenizer) -> Calls:
    return Calls(tokenizer.piece_encoder, tokenizer.settings)


def _conversions(tokenizer: XLMRobertaXLTokenizer) -> Conversions:
    return Conversions(tokenizer.vocabulary, tokenizer.settings)


def _table(tokenizer: XLMRobertaXLTokenizer) -> TokenTable:
    return TokenTable(tokenizer.vocabulary)


def _files(tokenizer: XLMRobertaXLTokenizer) -> TokenizerFiles:
    return TokenizerFiles(tokenizer.vocabulary, tokenizer.settings)


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
    def max_len_single_sentence(self) -> int:
        """Maximum number of ids of a text without special tokens."""
        return self.model_max_length - self.num_special_tokens_to_add()

    @property
    def max_len_sentences_pair(self) -> int:
        """Maximum number of ids of a pair without special tokens."""
        return self.model_max_length - self.num_special_tokens_to_add(pair=True)

    __call__ = methods_of(_calls)(Calls.__call__)
    encode_plus = batch_encode_plus = __call__  # the names of earlier versions of transformers
    encode = methods_of(_calls, options=Calls.__call__)(Calls.encode)
    tokenize = methods_of(_calls, options=Calls.__call__)(Calls.tokenize)
    pad = methods_of(_calls)(Calls.pad)

    encode_batch = methods_of(_pieces)(PieceEncoder.encode_batch)
    encode_with_offsets = methods_of(_pieces)(PieceEncoder.encode_with_offsets)
    build_inputs = methods_of(_pieces)(PieceEncoder.build_inputs)
    windows = methods_of(_pieces)(PieceEncoder.windows)
    truncate = methods_of(_pieces)(PieceEncoder.truncate)
    num_special_tokens_to_add = methods_of(_pieces)(PieceEncoder.num_special_tokens_to_add)

    convert_ids_to_tokens = methods_of(_conversions)(Conversions.convert_ids_to_tokens)
    convert_tokens_to_ids = methods_of(_conversions)(Conversions.convert_tokens_to_ids)
    convert_tokens_to_string = methods_of(_conversions)(Conversions.convert_tokens_to_string)
    decode = methods_of(_conversions)(Conversions.decode)
    batch_decode = methods_of(_conversions)(Conversions.batch_decode)
    get_special_tokens_mask = methods_of(_conversions)(Conversions.get_special_tokens_mask)
    build_inputs_with_special_tokens = methods_of(_conversions)(Conversions.build_inputs_with_special_tokens)
    create_token_type_ids_from_sequences = methods_of(_conversions)(Conversions.create_token_type_ids_from_sequences)

    special_tokens_map = PropertyOf(_table, TokenTable.special_tokens_map)
    extra_special_tokens = PropertyOf(_table, TokenTable.extra_special_tokens)
    extra_special_tokens_ids = PropertyOf(_table, TokenTable.extra_special_tokens_ids)
    all_special_tokens = PropertyOf(_table, TokenTable.all_special_tokens)
    all_special_ids = PropertyOf(_table, TokenTable.all_special_ids)
    added_tokens_decoder = PropertyOf(_table, TokenTable.added_tokens_decoder)
    added_tokens_encoder = PropertyOf(_table, TokenTable.added_tokens_encoder)
    # The names of earlier versions of transformers.
    additional_special_tokens = PropertyOf(_table, TokenTable.extra_special_tokens)
    additional_special_tokens_ids = PropertyOf(_table, TokenTable.extra_special_tokens_ids)
    vocab = PropertyOf(_table, TokenTable.get_vocab)
    get_vocab = methods_of(_table)(TokenTable.get_vocab)
    get_added_vocab = methods_of(_table)(TokenTable.get_added_vocab)

    add_tokens = methods_of(Additions)(Additions.add_tokens)
    add_special_tokens = methods_of(Additions)(Additions.add_special_tokens)

    lowercased = methods_of(Copies)(Copies.lowercased)
    trim = methods_of(Copies)(Copies.trim)

    files = methods_of(_files)(TokenizerFiles.files)
    save_pretrained = methods_of(_files)(TokenizerFiles.save_pretrained)
    save_vocabulary = methods_of(_files)(TokenizerFiles.save_vocabulary)

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
        check_options(settings, cls.from_pretrained)
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
