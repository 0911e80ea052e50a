"""Constructor parameters, each declared once: its default, its valid values and its documentation in one statement."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import textwrap
from collections.abc import Callable, Iterable
from string import Template
from typing import Any, TypeVar

from typing_extensions import dataclass_transform

Class = TypeVar("Class", bound=type)

# Parameters are listed by subject, whichever class declares them.
GROUPS = ("model", "reading", "training", "stopping", "continuing", "vocabulary", "base", "memory", "random")

# What other libraries call a parameter: Keras, transformers, peft, sentence-transformers, SetFit, PyTorch.
OTHER_NAMES = {
    "checkpoint": "model",
    "epochs": "max_epochs",
    "gradient_clip_val": "max_grad_norm",
    "learning_rate_init": "learning_rate",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "lr": "learning_rate",
    "lr_scheduler_type": "lr_schedule",
    "max_iter": "max_epochs",
    "max_seq_length": "max_length",
    "model_id": "model",
    "model_name": "model",
    "model_name_or_path": "model",
    "n_epochs": "max_epochs",
    "num_epochs": "max_epochs",
    "num_train_epochs": "max_epochs",
    "optim": "optimizer",
    "patience": "n_iter_no_change",
    "per_device_train_batch_size": "batch_size",
    "pooling_mode": "pooling",
    "pretrained_model_name_or_path": "model",
    "r": "rank",
    "seed": "random_state",
    "target_modules": "targets",
    "torch_dtype": "dtype",
    "warmup_ratio": "warmup",
}


def parameter(
    *, default: Any, kind: str, text: str, valid: list[Any] | None = None, group: str = "", kw_only: bool = True
) -> Any:
    """Declare a constructor parameter, as a dataclass field.

    Parameters
    ----------
    default : object
    kind : str
        Its type, as the documentation names it.
    text : str
        Its documentation.
    valid : list, default=None
        Its entry in scikit-learn's `_parameter_constraints`; None does not check it.
    group : str, default=""
        One of `GROUPS`, by which parameters are ordered; others come last.
    kw_only : bool, default=True
    """
    metadata = {"kind": kind, "text": text, "valid": valid, "group": group}
    return dataclasses.field(default=default, kw_only=kw_only, metadata=metadata)


@dataclass_transform(kw_only_default=True, eq_default=False, field_specifiers=(parameter,))
def declare_parameters(cls: Class) -> Class:
    """Give a class the constructor, the constraints and the documentation that its declared parameters ask for.

    In its docstring `$parameters` stands for the documentation of all of them, and `$name` for the entry `name` of
    the class attribute `_documentation`.
    """
    cls = dataclasses.dataclass(repr=False, eq=False)(cls)
    fields = sorted(dataclasses.fields(cls), key=_group_number)
    cls._parameter_constraints = {field.name: field.metadata["valid"] for field in fields if field.metadata["valid"]}
    if cls.__doc__:  # python -OO has none
        parts = {"parameters": "\n".join(map(_describe, fields)), **getattr(cls, "_documentation", {})}
        cls.__doc__ = Template(inspect.cleandoc(cls.__doc__)).safe_substitute(parts)
    cls.__init__ = _explain_unknown(cls.__init__, [field.name for field in fields])
    return cls


def _group_number(field: dataclasses.Field) -> int:
    group = field.metadata["group"]
    return GROUPS.index(group) if group in GROUPS else len(GROUPS)


def _describe(field: dataclasses.Field) -> str:
    default = f'"{field.default}"' if isinstance(field.default, str) else repr(field.default).replace("'", '"')
    text = textwrap.indent(inspect.cleandoc(field.metadata["text"]), " " * 4)
    return f"{field.name} : {field.metadata['kind']}, default={default}\n{text}"


def _explain_unknown(init: Callable[..., None], names: list[str]) -> Callable[..., None]:
    """Wrap a constructor so that an unknown parameter raises a TypeError that suggests the right one."""
    signature = inspect.signature(init)
    order = ["self", *names]
    parameters = sorted(signature.parameters.values(), key=lambda p: order.index(p.name))

    @functools.wraps(init)
    def checked(self: Any, *args: Any, **given: Any) -> None:
        for name in given:
            if name not in signature.parameters:
                raise TypeError(f"{type(self).__name__} has no parameter {name!r}. {suggest(name, names)}")
        init(self, *args, **given)

    checked.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return checked


class DeclaredParameters:
    """Mixin for scikit-learn estimators whose parameters are declared: `set_params` suggests names, too."""

    def set_params(self, **params: Any) -> Any:
        """Set parameters, those of nested objects as `name__parameter`.

        Raises
        ------
        ValueError
            If there is no such parameter; the message suggests one.
        """
        names = list(inspect.signature(type(self)).parameters)
        for key in params:
            name = key.partition("__")[0]
            if name not in names:
                raise ValueError(
                    f"Invalid parameter {name!r} for estimator {type(self).__name__}. {suggest(name, names)}"
                )
        return super().set_params(**params)  # type: ignore[misc]


def suggest(name: str, known: Iterable[str]) -> str:
    """Say which of the known parameters was probably meant.

    Examples
    --------
    >>> suggest("epochs", ["batch_size", "max_epochs"])
    "Did you mean 'max_epochs'?"
    >>> suggest("colour", ["batch_size", "max_epochs"])
    'Its parameters are batch_size, max_epochs.'
    """
    known = list(known)
    meant = OTHER_NAMES.get(name)
    similar = [meant] if meant in known else difflib.get_close_matches(name, known, n=1)
    if similar:
        return f"Did you mean {similar[0]!r}?"
    return f"Its parameters are {', '.join(known)}." if known else "It has no parameters."
