"""Constructor parameters that are declared once, as dataclass fields.

A group of parameters is a class whose fields hold their defaults and valid values, and whose docstring documents them.
An estimator inherits from the groups that it has.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from string import Template
from typing import Any, ClassVar, TypeVar

from typing_extensions import Self, dataclass_transform

from skxlmr.system.links import API_PAGE

Class = TypeVar("Class")

# The names of parameters in other libraries: Keras, transformers, peft, sentence-transformers, SetFit, PyTorch.
OTHER_NAMES = {
    "model": "checkpoint model_id model_name model_name_or_path pretrained_model_name_or_path",
    "max_epochs": "epochs max_iter n_epochs num_epochs num_train_epochs",
    "max_length": "max_seq_length",
    "batch_size": "per_device_train_batch_size",
    "learning_rate": "learning_rate_init lr",
    "lr_schedule": "lr_scheduler_type",
    "max_grad_norm": "gradient_clip_val",
    "warmup": "warmup_ratio",
    "optimizer": "optim",
    "n_iter_no_change": "patience",
    "random_state": "seed",
    "dtype": "torch_dtype",
    "pooling": "pooling_mode",
    "rank": "r",
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "targets": "target_modules",
    "layers": "layers_to_transform",
    "rslora": "use_rslora",
}

# Other names of values, and what to write for them.
OTHER_VALUES = {
    "fp16": "'float16'",
    "half": "'float16'",
    "bf16": "'bfloat16'",
    "fp32": "'float32'",
    "float": "'float32'",
    "average": "'mean'",
    "avg": "'mean'",
    "qlora": "'lora' with load_in_4bit=True",
    "frozen": "'head'",
    "linear_probe": "'head'",
    "all": "'full'",
}


def parameter(*, default: Any, valid: list[Any] | None = None, kw_only: bool = True, order: int = 99) -> Any:
    """Declare a constructor parameter, as a dataclass field.

    `valid` is its entry in scikit-learn's `_parameter_constraints`, None for no check. `order` sorts the parameters.
    """
    return dataclasses.field(default=default, kw_only=kw_only, metadata={"valid": valid, "order": order})


@dataclass_transform(kw_only_default=True, eq_default=False, field_specifiers=(parameter,))
def parameter_group(cls: type[Class]) -> type[Class]:
    """Make a class a group of parameters to inherit from; it has no constructor of its own."""
    return dataclasses.dataclass(init=False, repr=False, eq=False)(cls)


@dataclass_transform(kw_only_default=True, eq_default=False, field_specifiers=(parameter,))
def declare_parameters(cls: type[Class]) -> type[Class]:
    """Generate the constructor, constraints and documentation of the parameters of a class, including inherited ones.

    Its docstring documents the parameters that it declares itself; `$parameters` stands for all of them, and `$name`
    for the entry `name` of the class attribute `_documentation`.
    """
    declared: Any = dataclasses.dataclass(repr=False, eq=False)(cls)  # Any: attributes are added to it
    fields = sorted(dataclasses.fields(declared), key=lambda field: field.metadata["order"])
    declared._parameter_constraints = {
        field.name: field.metadata["valid"] for field in fields if field.metadata["valid"]
    }
    if declared.__doc__:  # python -OO has none
        doc = inspect.cleandoc(declared.__doc__)
        texts = {name: text for base in reversed(declared.__mro__) for name, text in _own_texts(base).items()}
        listed = "\n".join(_describe(field, texts[field.name]) for field in fields)
        doc = doc.replace(_section(doc, "Parameters") or "$parameters", listed)
        declared.__doc__ = Template(doc).safe_substitute(getattr(cls, "_documentation", {}))
    declared.__init__ = _explain_unknown(declared.__init__, [field.name for field in fields])
    return declared


@functools.cache
def _own_texts(cls: type) -> dict[str, str]:
    """The documentation of the parameters that a class declares itself, by name."""
    if not dataclasses.is_dataclass(cls):
        return {}
    section = _section(inspect.cleandoc(cls.__doc__ or ""), "Parameters")
    return dict(re.findall(r"^(\w+) : (.*(?:\n .*)+)", section, re.MULTILINE))


def _section(doc: str, title: str) -> str:
    found = re.search(rf"{title}\n-+\n((?:.+\n?)+)", doc)
    return found[1].rstrip() if found else ""


def _describe(field: dataclasses.Field, doc: str) -> str:
    kind, _, text = doc.partition("\n")
    default = f'"{field.default}"' if isinstance(field.default, str) else repr(field.default).replace("'", '"')
    return f"{field.name} : {kind}, default={default}\n{text}"


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


@contextmanager
def suggesting_values(constraints: Mapping[str, Any], parameters: Mapping[str, Any]) -> Iterator[None]:
    """Let scikit-learn's error for the value of a parameter suggest one that is valid; its traceback begins here.

    Parameters
    ----------
    constraints : mapping
        scikit-learn's constraints of each parameter.
    parameters : mapping
        The values.
    """
    try:
        yield
    except ValueError as error:
        found = re.match(r"The '(\w+)' parameter of", str(error))
        hint = suggest_value(parameters[found[1]], constraints.get(found[1], [])) if found else ""
        raise type(error)(f"{error}{hint}") from None


def suggest_value(value: object, constraints: Iterable[object]) -> str:
    """Suggest what was meant by a value; "" if nothing is close.

    Examples
    --------
    >>> suggest_value("1e-4", [float])
    ' Did you mean 0.0001, a number instead of a str?'
    """
    if value is None:
        return ""
    constraints = list(constraints)
    options = sorted({str(option) for each in constraints for option in getattr(each, "options", ())})
    written = str(value).removeprefix("torch.").lower()  # a dtype of torch, too
    other = OTHER_VALUES.get(written)
    if other is not None and other.split("'")[1] in options:
        return f" Did you mean {other}?"
    close = difflib.get_close_matches(written, options, n=1)
    if close and written:
        return f" Did you mean {close[0]!r}?"
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return ""
        if any(isinstance(each, type) or hasattr(each, "closed") for each in constraints):
            return f" Did you mean {number:.12g}, a number instead of a str?"
    if list in constraints:
        return " Put it into a list."
    return ""


class DeclaredParameters:
    """Mixin for scikit-learn estimators whose parameters are declared."""

    # Notebooks show parameters with links to the page of the class. Classes of other packages have none.
    _doc_link_module: ClassVar[str] = "skxlmr"
    _doc_link_template: ClassVar[str] = API_PAGE

    # Classes by the strings that stand for their default objects, such as "lora", by parameter: with `tuning="lora"`,
    # `tuning__rank` is a parameter, too.
    _named: ClassVar[dict[str, dict[str, type]]] = {}

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters; with `deep`, also those of nested objects, as `name__parameter`.

        Parameters
        ----------
        deep : bool, default=True

        Returns
        -------
        dict
        """
        params = super().get_params(deep)  # type: ignore[misc]
        for name, classes in self._named.items() if deep else ():
            if isinstance(params[name], str) and params[name] in classes:
                nested = classes[params[name]]().get_params()
                params |= {f"{name}__{key}": value for key, value in nested.items()}
        return params

    def set_params(self, **params: Any) -> Self:
        """Set parameters, those of nested objects as `name__parameter`.

        A name that stands for an object, such as `tuning="lora"`, is replaced by the object if a parameter of it is
        set: `set_params(tuning__rank=4)` makes it `LoRA(rank=4)`.

        Parameters
        ----------
        **params
            Names and values.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If there is no such parameter; the message suggests one. Or if it is one of an object, but the parameter
            of its name is not an object.
        """
        names = list(inspect.signature(type(self)).parameters)
        for key in list(params):
            name, nested, _ = key.partition("__")
            if name not in names:
                raise ValueError(
                    f"Invalid parameter {name!r} for estimator {type(self).__name__}. {suggest(name, names)}"
                )
            value = params.get(name, getattr(self, name))
            if nested and isinstance(value, str) and value in self._named.get(name, {}):
                params[name] = self._named[name][value]()
            elif nested and not hasattr(value, "set_params"):
                raise ValueError(
                    f"{key!r} cannot be set, since {name}={value!r} has no parameters. {self._objects_of(name)}"
                )
        return super().set_params(**params)  # type: ignore[misc]

    @classmethod
    def _objects_of(cls, name: str) -> str:
        """Say which objects with parameters of their own a parameter may be."""
        valid = getattr(cls, "_parameter_constraints", {}).get(name, [])
        kinds = list(cls._named.get(name, {}).values()) or [kind for kind in valid if hasattr(kind, "set_params")]
        if not kinds:
            return f"{name} is never an object."
        return f"Pass an object: {name}={' or '.join(f'{kind.__name__}(...)' for kind in kinds)}."


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
    meant = [ours for ours, others in OTHER_NAMES.items() if name in others.split() and ours in known]
    similar = meant or difflib.get_close_matches(name, known, n=1)
    if similar:
        return f"Did you mean {similar[0]!r}?"
    return f"Its parameters are {', '.join(known)}." if known else "It has no parameters."
