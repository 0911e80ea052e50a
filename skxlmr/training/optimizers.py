"""AdamW, with its state in 32 bits, or in 8 bits by bitsandbytes."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import unwrap
from typing import Any

import torch
from torch import Tensor, nn

from skxlmr.system.bitsandbytes import bitsandbytes_ops
from skxlmr.system.schema import shown

# Numbers for JSON, and tensors, both by "parameter.name".
OptimizerState = tuple[dict[str, Any], dict[str, Tensor]]

# The names of the classes in bitsandbytes.optim; None is torch's AdamW.
OPTIMIZERS = {"adamw": None, "adamw8bit": "AdamW8bit", "paged_adamw8bit": "PagedAdamW8bit"}


class AdamW(torch.optim.AdamW):
    """AdamW of torch, without the wrappers around its methods for torch.compile.

    The wrappers import the compiler, which takes longer than the first epoch of a small model, and no step is compiled.
    """

    add_param_group = unwrap(torch.optim.AdamW.add_param_group)
    zero_grad = unwrap(torch.optim.AdamW.zero_grad)
    state_dict = unwrap(torch.optim.AdamW.state_dict)
    load_state_dict = unwrap(torch.optim.AdamW.load_state_dict)
    step = torch.no_grad()(unwrap(torch.optim.AdamW.step))


OF_PARAMETERS = {"exp_avg", "exp_avg_sq"}  # what AdamW remembers of a parameter, in its shape


def make_optimizer(name: str, parameters: list[nn.Parameter], weight_decay: float) -> torch.optim.Optimizer:
    """Make an optimizer that decays matrices, but not biases and LayerNorms; the trainer sets the learning rate.

    Raises ValueError for an 8-bit optimizer off CUDA, and ImportError without bitsandbytes.
    """
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    class_name = OPTIMIZERS[name]
    if class_name is None:
        return AdamW(groups, lr=0.0)
    device = parameters[0].device.type
    if device != "cuda":
        raise ValueError(f"optimizer={name!r} needs a CUDA device, but this is {device!r}. Use optimizer='adamw'.")
    bitsandbytes_ops()
    import bitsandbytes.optim

    return getattr(bitsandbytes.optim, class_name)(groups, lr=0.0)


def optimizer_state(optimizer: torch.optim.Optimizer) -> OptimizerState:
    """Return the state of an optimizer."""
    numbers: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for i, of_parameter in optimizer.state_dict()["state"].items():
        for name, value in of_parameter.items():
            (tensors if isinstance(value, Tensor) else numbers)[f"{i}.{name}"] = value
    return numbers, tensors


def load_optimizer_state(optimizer: torch.optim.Optimizer, numbers: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Load a copy of an `optimizer_state`."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in (numbers | tensors).items():
        i, name = key.split(".", 1)
        state.setdefault(int(i), {})[name] = value.clone() if isinstance(value, Tensor) else value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def check_same_shapes(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str) -> None:
    """Raise a ValueError unless tensors from a file have the names, shapes and dtypes of others."""
    have, need = ({name: (tuple(t.shape), t.dtype) for name, t in each.items()} for each in (tensors, expected))
    if have != need:
        wrong = sorted(name for name in have.keys() | need.keys() if have.get(name) != need.get(name))
        raise ValueError(f"its tensors {what}/{shown(wrong[0])} are not those of this training")


def check_optimizer_state(
    optimizer: torch.optim.Optimizer, numbers: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Raise a ValueError if a state from a file is not one of this optimizer."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    names: dict[str, set[str]] = {str(i): set() for i in range(len(parameters))}
    for key in (*numbers, *tensors):
        i, _, name = key.partition(".")
        if i not in names:
            raise ValueError(f"its optimizer has {shown(key)}, which is not a parameter of this training")
        names[i].add(name)
        value = tensors.get(key)
        if value is not None and name in OF_PARAMETERS and value.shape != parameters[int(i)].shape:
            raise ValueError(f"its optimizer has {shown(key)} of shape {tuple(value.shape)}, which is wrong")
    complete = [set(), OF_PARAMETERS | {"step"}] if isinstance(optimizer, torch.optim.AdamW) else list(names.values())
    if any(of_parameter not in complete for of_parameter in names.values()):
        raise ValueError("the state of its optimizer is not complete")
