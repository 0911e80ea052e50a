"""Attributes of the tokenizer that can be read and set: its settings, and the special tokens, which cannot change."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Generic, TypeVar, overload

from skxlmr.checkpoints.tokenizer_settings import SETTINGS
from skxlmr.text.new_tokens import EXTRA_NAMES, OWN_NAMES, check_own

T = TypeVar("T")

# Options of the reference that are missing here, and what to do in their place.
REFUSED = {
    "use_fast": "leave it out: there is one tokenizer, which has all that the fast one has",
    "use_auth_token": "its name is 'token'",
    "trust_remote_code": "leave it out: code of a model is never run",
    "force_download": "remove the model from the cache of huggingface_hub",
    "proxies": "set the environment variable HTTPS_PROXY",
    "do_lower_case": "call lowercased() of the tokenizer",
    "max_len": "its name is 'model_max_length'",
}


class Setting(Generic[T]):
    """An attribute that is a setting of the tokenizer; setting it to an invalid value raises ValueError."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, tokenizer: None, owner: type) -> Setting[T]: ...

    @overload
    def __get__(self, tokenizer: object, owner: type) -> T: ...

    def __get__(self, tokenizer: Any, owner: type) -> Any:
        return self if tokenizer is None else getattr(tokenizer.settings, self.name)

    def __set__(self, tokenizer: Any, value: T) -> None:
        tokenizer.settings = replace(tokenizer.settings, **{self.name: value})


class OwnToken:
    """An attribute that is one of XLM-RoBERTa's special tokens; setting it to another raises ValueError."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, tokenizer: Any, owner: type) -> str:
        return OWN_NAMES[self.name]

    def __set__(self, tokenizer: Any, value: Any) -> None:
        check_own(self.name, value)


class OwnTokenId:
    """An attribute that is the id of one of XLM-RoBERTa's special tokens."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name.removesuffix("_id")

    @overload
    def __get__(self, tokenizer: None, owner: type) -> OwnTokenId: ...

    @overload
    def __get__(self, tokenizer: object, owner: type) -> int: ...

    def __get__(self, tokenizer: Any, owner: type) -> Any:
        if tokenizer is None:
            return self
        (index,) = tokenizer.vocabulary.to_ids([OWN_NAMES[self.name]])
        return index

    def __set__(self, tokenizer: Any, value: Any) -> None:
        if value != self.__get__(tokenizer, type(tokenizer)):
            check_own(self.name, tokenizer.vocabulary.to_tokens([value])[0])


def check_options(names: Iterable[str], function: Callable[..., object]) -> None:
    """Raise TypeError unless all options of `from_pretrained`, the function, are settings or special tokens.

    The message has the parameter that may be meant, or what to do in place of an option of transformers.
    """
    own = {name for name, p in inspect.signature(function).parameters.items() if p.kind is p.KEYWORD_ONLY}
    known = SETTINGS | {*OWN_NAMES, *EXTRA_NAMES}
    described = []
    for name in names:
        if name in REFUSED:
            described.append(f"{name!r} ({REFUSED[name]})")
        elif name not in known:
            close = difflib.get_close_matches(name, sorted(known | own), n=1)
            described.append(f"{name!r}" + (f" (did you mean {close[0]!r}?)" if close else ""))
    if described:
        raise TypeError(
            f"XLMRobertaXLTokenizer.from_pretrained has no parameter {', '.join(described)}: it takes "
            f"{', '.join(sorted(own | SETTINGS | {EXTRA_NAMES[0]}))}."
        )
