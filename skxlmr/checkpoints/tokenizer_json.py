"""The file tokenizer.json of transformers: pieces as a sentencepiece model, its normaliser, its added tokens."""

from __future__ import annotations

import base64
import binascii
import json
import re
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from skxlmr.checkpoints.added_tokens import AddedToken, added_token
from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.checkpoints.files import parse_json, read_limited
from skxlmr.checkpoints.sentencepiece_file import NORMALIZER, RULES, delimited, rules_of, unigram_model

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")  # the first ids of XLM-RoBERTa; <mask> is the last
MASK = "<mask>"
MAX_JSON_BYTES = 2**27  # that of XLM-RoBERTa has 17 MB

PRECOMPILED = {"type": "Precompiled"}  # the rules of the sentencepiece model
LOWERCASE = {"type": "Lowercase"}
SPLIT_AT_WHITESPACE = {"type": "WhitespaceSplit"}  # of the pre-tokenizer, which follows the normaliser
STEPS = ("Lowercase", "NFC", "NFD", "NFKC", "NFKD", "StripAccents")  # without settings
REPEATED_SPACES = re.compile(r" (\{\d+,\}|\+)")  # as a regular expression in a tokenizer.json

Steps = tuple[dict[str, Any], ...]


def read_settings(path: Path) -> tuple[list[AddedToken], Steps, Any, Any]:
    """Read added tokens, steps of the normaliser, truncation and padding; not the pieces if they come last, as usual.

    Raises CheckpointError if the file is damaged, or one of them is not supported.
    """
    content = _head(path)
    try:
        added = [added_token(token, token["id"]) for token in content.get("added_tokens") or ()]
        return added, _steps(content, path), content.get("truncation"), content.get("padding")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _unreadable(path, error) from error


def read_model(path: Path) -> bytes:
    """Convert the pieces and the compiled rules of a tokenizer.json to a sentencepiece model.

    Raises CheckpointError if the file is damaged, or the tokenizer not like that of XLM-RoBERTa: a unigram model with
    the special ids of fairseq.
    """
    content = parse_json(read_limited(path, MAX_JSON_BYTES), path)
    try:
        model = content["model"]
        if model.get("type") != "Unigram":
            raise CheckpointError(f"{path} is a tokenizer of type {model.get('type')!r}, not 'Unigram' as XLM-RoBERTa.")
        if model.get("byte_fallback"):
            raise CheckpointError(f"{path} encodes unknown characters as bytes, which is not supported.")
        names, scores = zip(*model["vocab"], strict=True)
        if names[:4] != SPECIAL or names[-1] != MASK:
            raise CheckpointError(f"{path} has other ids of special tokens than XLM-RoBERTa.")
        compiled = {
            step["precompiled_charsmap"] for step in _flat(content["normalizer"]) if step["type"] == "Precompiled"
        }
        if len(compiled) > 1:
            raise CheckpointError(f"{path} has a normaliser with several sets of compiled rules: not supported.")
        rules = b"".join(base64.b64decode(text, validate=True) for text in compiled)
        normalizer = delimited(NORMALIZER, delimited(RULES, rules) if rules else b"")
        return unigram_model([name.encode() for name in names[4:-1]], scores[4:-1], normalizer)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, struct.error, binascii.Error) as error:
        raise _unreadable(path, error) from error


def own_tokens(mask_id: int) -> list[AddedToken]:
    """Return the special tokens of XLM-RoBERTa; a mask includes the white space before it."""
    ids = {**{name: i for i, name in enumerate(SPECIAL)}, MASK: mask_id}
    return [AddedToken(i, name, lstrip=name == MASK, normalized=False, special=True) for name, i in ids.items()]


def with_lowercase(steps: Steps) -> Steps:
    """Return the steps of a normaliser that puts texts in lower case before all else."""
    if LOWERCASE in steps:
        return steps
    return (LOWERCASE, *(steps or (PRECOMPILED, SPLIT_AT_WHITESPACE)))


def as_tokenizer_json(
    pieces: Sequence[str], scores: Sequence[float], model: bytes, added: Iterable[AddedToken] = (), steps: Steps = ()
) -> dict[str, Any]:
    """Return the content of a tokenizer.json for a sentencepiece unigram model, of which the normaliser is used.

    The pieces and scores are those of the model without the first three, which are special. `steps` are those of the
    normaliser; none are the compiled rules of the model alone.
    """
    vocabulary = [*((name, 0.0) for name in SPECIAL), *zip(pieces, scores, strict=True), (MASK, 0.0)]
    ids = {name: i for i, name in enumerate(SPECIAL)} | {MASK: len(vocabulary) - 1}
    # Old versions of transformers know `add_prefix_space` only, new ones `prepend_scheme` only.
    spaces = {"replacement": "▁", "add_prefix_space": True, "prepend_scheme": "always", "split": True}
    begin, end = ({"SpecialToken": {"id": name, "type_id": 0}} for name in ("<s>", "</s>"))
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    special = own_tokens(ids[MASK])
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [vars(token) for token in sorted([*special, *added], key=lambda token: token.id)],
        "normalizer": _normalizer(model, steps),
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [SPLIT_AT_WHITESPACE, {"type": "Metaspace", **spaces}]},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [begin, first, end],
            "pair": [begin, first, end, end, second, end],
            "special_tokens": {name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in ("<s>", "</s>")},
        },
        "decoder": {"type": "Metaspace", **spaces},
        "model": {"type": "Unigram", "unk_id": ids["<unk>"], "vocab": vocabulary, "byte_fallback": False},
    }


def for_serving(content: dict[str, Any], max_length: int, pad_id: int) -> dict[str, Any]:
    """Return the content of a tokenizer.json with which the library tokenizers encodes texts as the estimators do.

    Texts are cut after `max_length` tokens, and padded to the longest one of a batch. Nothing in a text is one of
    XLM-RoBERTa's own special tokens: their names in the vocabulary begin with a control character.
    """
    own = {*SPECIAL, MASK}
    vocabulary = [(f"\x01{name}" if name in own else name, score) for name, score in content["model"]["vocab"]]
    return {
        **content,
        "truncation": {"direction": "Right", "max_length": max_length, "strategy": "LongestFirst", "stride": 0},
        "padding": {
            "strategy": "BatchLongest",
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": pad_id,
            "pad_type_id": 0,
            "pad_token": "<pad>",
        },
        "added_tokens": [token for token in content["added_tokens"] if token["content"] not in own],
        "model": {**content["model"], "vocab": vocabulary},
    }


def _head(path: Path) -> dict[str, Any]:
    """Read a tokenizer.json up to its model, of which nothing but the pieces is needed."""
    data = read_limited(path, MAX_JSON_BYTES)
    at = data.find(b'"model"')
    if at > 0:
        # Cut at the first place where this is a key of the outermost object: what comes before is an object then.
        head = data[:at].rstrip()
        if head.endswith(b","):
            try:
                content = json.loads(head[:-1] + b"}")
            except (ValueError, RecursionError):
                content = {}
            if content.keys() >= {"added_tokens", "normalizer", "pre_tokenizer"}:
                return parse_json(head[:-1] + b"}", path)
    return parse_json(data, path)


def _steps(content: dict[str, Any], path: Path) -> Steps:
    """Return the steps of a normaliser; none where they are the compiled rules and how sentencepiece treats spaces."""
    splits = _splits_at_whitespace(content.get("pre_tokenizer"), path)
    steps = [_step(step, path) for step in _flat(content["normalizer"])]
    if not splits and not any(map(_is_about_spaces, steps)):
        raise CheckpointError(f"{path} keeps repeated spaces, which is not supported: sentencepiece removes them.")
    if [step for step in steps if not _is_about_spaces(step)] == [PRECOMPILED]:
        return ()
    return (*steps, SPLIT_AT_WHITESPACE) if splits else tuple(steps)


def _splits_at_whitespace(pre_tokenizer: dict[str, Any] | None, path: Path) -> bool:
    """Return whether texts are split at all white space and not only at spaces; check that words begin with "▁"."""
    match pre_tokenizer and pre_tokenizer.get("pretokenizers", [pre_tokenizer]):
        case [*before, {"type": "Metaspace", "replacement": "▁"} as spaces] if before in ([], [SPLIT_AT_WHITESPACE]):
            always = "always" if spaces.get("add_prefix_space", True) else "never"
            if spaces.get("prepend_scheme", always) == "always":
                return bool(before)
    raise CheckpointError(
        f'{path} has a pre-tokenizer that is not XLM-RoBERTa\'s, which puts "▁" before each word: not supported.'
    )


def _flat(normalizer: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return the steps of a normaliser, those within sequences too."""
    if normalizer is None:
        return []
    if normalizer["type"] == "Sequence":
        return [step for part in normalizer["normalizers"] for step in _flat(part)]
    return [normalizer]


def _step(step: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return a step of a normaliser with all its settings."""
    match step:
        case {"type": "Precompiled"}:
            return PRECOMPILED
        case {"type": kind} if kind in STEPS:
            return {"type": kind}
        case {"type": "Strip"}:
            return {"type": "Strip", **{side: bool(step.get(side, True)) for side in ("strip_left", "strip_right")}}
        case {"type": "Prepend", "prepend": str(text)}:
            return {"type": "Prepend", "prepend": text}
        case {"type": "Replace", "pattern": {"String": str(_)} as pattern, "content": str(text)}:
            return {"type": "Replace", "pattern": pattern, "content": text}
        case {"type": "Replace", "pattern": {"Regex": str(regex)} as pattern, "content": str(text)}:
            if REPEATED_SPACES.fullmatch(regex):
                return {"type": "Replace", "pattern": pattern, "content": text}
            raise CheckpointError(
                f"{path} has a normaliser that replaces the regular expression {regex!r}, which is not supported."
            )
    raise CheckpointError(
        f"{path} has a normaliser with the step {step.get('type')!r}, which is not supported; supported are "
        f"Precompiled, Strip, Prepend, Replace, {', '.join(STEPS)}."
    )


def _is_about_spaces(step: dict[str, Any]) -> bool:
    """Whether a step does only what sentencepiece does anyway: remove spaces at the ends, and repeated ones."""
    if step["type"] == "Replace":
        return "Regex" in step["pattern"] and step["content"] in (" ", "▁")
    return step["type"] == "Strip"


def _normalizer(model: bytes, steps: Steps) -> dict[str, Any] | None:
    """Return a normaliser in the format of tokenizer.json; None if it has no rules."""
    rules = rules_of(model)
    compiled = {**PRECOMPILED, "precompiled_charsmap": base64.b64encode(rules).decode()}
    if not steps:
        return compiled if rules else None
    steps = tuple(compiled if step == PRECOMPILED else step for step in steps if step != SPLIT_AT_WHITESPACE)
    return {"type": "Sequence", "normalizers": list(steps)}


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    if isinstance(error, CheckpointError):
        return error
    return CheckpointError(f"{path} cannot be read as a tokenizer: {error!r}")
